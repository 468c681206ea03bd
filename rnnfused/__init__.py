"""rnnfused: vanilla RNNs for PyTorch whose whole time loop is one fused op, forward and backward.

Layers: ``RNN``, ``RNNCell``, ``TokenRNN``. Function: ``functional.rnn``. Swap in a model: ``replace_rnn``. Single
steps without gradients: ``prepare``. Symbols from a model: ``generation``. Textbook classes: ``scratch``. Language model: ``rnnfused.lm``, imported separately.
"""

import sys
from importlib.metadata import PackageNotFoundError, version

# ``python -m rnnfused`` imports this file, and by it torch, before ``__main__.py``. Only while Python
# looks for the module is the first argument "-m", also for ``-mrnnfused`` and ``-Bmrnnfused``.
if sys.argv[:1] == ["-m"]:
    _given = sys.orig_argv[-len(sys.argv)]
    if (_given.partition("m")[2] if _given[0] == "-" else _given) in (__name__, f"{__name__}.lm"):
        from rnnfused_command import guard

        guard()  # Ctrl-C ends the command quietly from here on

from . import torch_version  # noqa: F401, I001 (first: others do not load beside an old torch)
from . import cuda, functional, generation, reference, scratch
from .cell import RNNCell
from .clip import clip_gradients
from .ops import cpu_capability
from .prepared import PreparedRNN, prepare
from .replace import replace_rnn, restore_rnn
from .rnn import RNN
from .token_rnn import TokenRNN

try:
    __version__ = version("rnnfused")
except PackageNotFoundError:  # the source tree on sys.path, not installed
    __version__ = "0+unknown"

__all__ = [
    "RNN",
    "PreparedRNN",
    "RNNCell",
    "TokenRNN",
    "__version__",
    "clip_gradients",
    "cpu_capability",
    "cuda",
    "functional",
    "generation",
    "prepare",
    "reference",
    "replace_rnn",
    "restore_rnn",
    "scratch",
]
