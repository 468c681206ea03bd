"""Compiles the drivers of this folder on demand, and calls them. A driver runs a C library's RNN as a peer."""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "build_tools"))
from compiled import compiled  # noqa: E402

COMPILE = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fopenmp"]


class Library(NamedTuple):
    name: str
    package: str  # of Debian 12
    header: str
    condition: str  # of the preprocessor: the version has the interface that the driver calls
    links: tuple[str, ...]


LIBRARIES = {
    "onednn": Library(
        "oneDNN 2", "libdnnl-dev", "oneapi/dnnl/dnnl.hpp", "DNNL_VERSION_MAJOR == 2", ("-ldnnl",)
    ),
    "libxsmm": Library(
        "LIBXSMM 1.17",
        "libxsmm-dev",
        "libxsmm_dnn_rnncell.h",
        "1",
        ("-Wl,--wrap=tanh", "-lxsmm", "-lxsmmnoblas", "-ldl", "-lrt"),
    ),
}


def missing(peer) -> str | None:
    """Returns a sentence that says what this peer needs and the system lacks, or None."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        return f"The peer {peer} needs a C++ compiler, and there is no {compiler}."
    library = LIBRARIES[peer]
    test = f"#include <{library.header}>\n#if !({library.condition})\n#error\n#endif\n"
    command = [compiler, "-x", "c++", "-E", "-"]
    if subprocess.run(command, input=test, capture_output=True, text=True).returncode:
        return f"The peer {peer} needs {library.name}: install Debian's package {library.package}."
    return None


@functools.cache
def driver(peer) -> ctypes.CDLL:
    """Returns the peer's compiled driver.

    Raises RuntimeError where the library or a compiler is missing, or the driver does not compile.
    """
    reason = missing(peer)
    if reason:
        raise RuntimeError(reason)
    compiler = os.environ.get("CXX", "g++")
    source = HERE / f"{peer}.cpp"
    command = [compiler, *COMPILE, str(source), *LIBRARIES[peer].links]
    library = ctypes.CDLL(str(compiled(f"{peer}.so", command, [source, HERE / "peer.h"])))
    library.peer_destroy.restype = None
    for call in ("create", "forward", "forward_backward", "copy_gradients"):
        getattr(library, f"peer_{call}").restype = ctypes.c_char_p
    return library


SIZES = ("num_steps", "batch_size", "input_size", "hidden_size", "num_threads")
INPUTS = ("x", "gradient", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
ARRAYS = (*INPUTS, "states", "grad_weight_ih", "grad_weight_hh", "grad_bias")


class Layer(ctypes.Structure):
    """The struct of peer.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_void_p) for name in ARRAYS),
    ]


class Peer:
    """A layer of this library with nn.RNN's parameters `state`, on float32 `x` (T, B, I).

    `states` (T, B, H) holds the result of `forward()` and `forward_backward()`. `gradient` is that of `states`.
    """

    def __init__(self, name, state, x, gradient):
        self.driver = driver(name)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        parameters = [state[each].detach() for each in names]
        # The initial state lies before the states.
        self.states = gradient.new_zeros(len(gradient) + 1, *gradient.shape[1:])[1:]
        self.gradients = [torch.empty_like(each) for each in parameters[:3]]
        # The driver keeps the addresses of these, and the peer keeps them alive.
        self.arrays = [x, gradient, *parameters, self.states, *self.gradients]
        assert all(a.is_contiguous() and a.dtype == torch.float32 for a in self.arrays)
        sizes = (*x.shape, gradient.size(2), torch.get_num_threads())
        layer = Layer(*sizes, *(array.data_ptr() for array in self.arrays))
        self.handle = ctypes.c_void_p()
        check(self.driver.peer_create(ctypes.byref(layer), ctypes.byref(self.handle)))

    def __del__(self):
        if getattr(self, "handle", None):
            self.driver.peer_destroy(self.handle)

    def forward(self):
        check(self.driver.peer_forward(self.handle))
        return self.states

    def forward_backward(self):
        check(self.driver.peer_forward_backward(self.handle))

    def parameter_gradients(self):
        """Returns the gradients of weight_ih, weight_hh and either bias, of the last `forward_backward()`."""
        check(self.driver.peer_copy_gradients(self.handle))
        return self.gradients


def check(message):
    if message is not None:
        raise RuntimeError(message.decode())


def ways(name, state, x, gradient):
    """Both ways of a peer, as in peers.py."""
    peer = Peer(name, state, x, gradient)
    return {"forward": peer.forward, "forward_backward": peer.forward_backward}
