"""rnnfused: vanilla RNNs for PyTorch whose whole time loop is one fused op, forward and backward.

``RNN``, ``RNNCell`` and ``TokenRNN`` are layers, ``replace_rnn`` puts them into a model in the place of
torch's, ``functional.rnn`` is the op for those who bring their own projections, ``scratch`` has the textbook's from-scratch classes; the character language model is
``rnnfused.lm``, imported by itself.
"""

from importlib.metadata import PackageNotFoundError, version

from . import cuda, functional, reference, scratch
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
    "reference",
    "replace_rnn",
    "restore_rnn",
    "scratch",
]
