"""rnnfused: vanilla RNNs for PyTorch whose whole time loop is one fused op, forward and backward.

Layers: ``RNN``, ``RNNCell``, ``TokenRNN``. Function: ``functional.rnn``. Swap in a model: ``replace_rnn``. Symbols
from a model: ``generation``. Textbook classes: ``scratch``. Language model: ``rnnfused.lm``, imported separately.
"""

from importlib.metadata import PackageNotFoundError, version

from . import cuda, functional, generation, reference, scratch
from .cell import RNNCell
from .clip import clip_gradients
from .ops import cpu_capability
from .replace import replace_rnn, restore_rnn
from .rnn import RNN, TokenRNN

try:
    __version__ = version("rnnfused")
except PackageNotFoundError:  # the source tree on sys.path, not installed
    __version__ = "0+unknown"

__all__ = [
    "RNN",
    "RNNCell",
    "TokenRNN",
    "__version__",
    "clip_gradients",
    "cpu_capability",
    "cuda",
    "functional",
    "generation",
    "reference",
    "replace_rnn",
    "restore_rnn",
    "scratch",
]
