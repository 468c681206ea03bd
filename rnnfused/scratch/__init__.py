"""The textbook's from-scratch RNN language model, on the fused op.

Names, shapes and call signatures are those of *Dive into Deep Learning*, chapter 9.5 (Zhang,
Lipton, Li and Smola, https://d2l.ai), so its trainer and its vocabulary can drive these classes.
"""

from ..clip import clip_gradients
from .board import Board
from .language_model import RNNLMScratch
from .rnn import RNNScratch, RNNScratchCell

__all__ = ["Board", "RNNLMScratch", "RNNScratch", "RNNScratchCell", "clip_gradients"]
