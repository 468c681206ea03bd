"""A language model: text -> ids -> ``CharLM`` -> text.

``train`` is the whole training program, ``generate`` samples, and ``load_checkpoint`` loads a
trained model. ``evaluate_text`` measures it. On the command line: ``rnnfused train``,
``rnnfused eval`` and ``rnnfused sample``. Training, plotting, checkpoints and texts in files need
the extra ``rnnfused[lm]``.
"""

from .bigram import Bigram, fit_bigram
from .checkpoint import (
    Checkpoint,
    CheckpointError,
    FolderBusyError,
    FolderLostError,
    UnfinishedRunError,
    load_checkpoint,
    save_checkpoint,
)
from .corpus import Corpus, EncodedText, build_corpus, encode_text
from .data import StreamBatches, default_text, letters_only, read_text, split_text
from .distributed import LostWorkerError
from .evaluate import Evaluation, StuckStream, evaluate, evaluate_ids, evaluate_text, perplexity
from .generate import generate
from .gradient_profile import gradient_profile
from .interrupt import Interrupted
from .model import CharLM, CharLMConfig
from .random_windows import RandomWindows
from .reading import TextError
from .settings import TrainSettings
from .timemachine import DownloadError, fetch_timemachine
from .train import train
from .vocab import Vocab
from .vocabulary import vocabulary_from_json
from .words import WordVocab

__all__ = [
    "Bigram",
    "CharLM",
    "CharLMConfig",
    "Checkpoint",
    "CheckpointError",
    "Corpus",
    "DownloadError",
    "EncodedText",
    "Evaluation",
    "FolderBusyError",
    "FolderLostError",
    "Interrupted",
    "LostWorkerError",
    "RandomWindows",
    "StreamBatches",
    "StuckStream",
    "TextError",
    "TrainSettings",
    "UnfinishedRunError",
    "Vocab",
    "WordVocab",
    "build_corpus",
    "default_text",
    "encode_text",
    "evaluate",
    "evaluate_ids",
    "evaluate_text",
    "fetch_timemachine",
    "fit_bigram",
    "generate",
    "gradient_profile",
    "letters_only",
    "load_checkpoint",
    "perplexity",
    "read_text",
    "save_checkpoint",
    "split_text",
    "train",
    "vocabulary_from_json",
]
