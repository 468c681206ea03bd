"""Layers that are prepared for many short calls: one step at a time, without gradients."""

from typing import Any

import torch
from torch import Tensor

from . import arguments
from .cell import RNNCell
from .ops import NONLINEARITIES
from .ops.library import pack_layer, run_prepared
from .ops.modes import is_fake, is_transformed, outside_graphs
from .ops.nonlinearity import check_nonlinearity
from .ops.tokens import is_ids
from .rnn import RNN
from .special_inputs import has_hooks
from .token_rnn import TokenRNN

_SINGLE_STEP = -1  # of the ops' time_dim


def prepare(module: RNN | RNNCell) -> "PreparedRNN":
    """Checks a layer and packs its weights once, for programs that feed one step at a time.

    Args:
        module: an :class:`rnnfused.RNN`, ``TokenRNN`` or ``RNNCell`` on the CPU, of any number of layers, in one
            direction and with one head. It runs as in evaluation mode, without dropout.

    Returns:
        An object that keeps the packed weights and the state, until it is deleted. Its results have the bits of
        the module's (of its op's: see :func:`torch.use_deterministic_algorithms` for single steps).

    Raises:
        TypeError: another module, a dtype that no loop takes, or several.
        ValueError: two directions, heads, an overridden forward, a hook, a parametrized weight, another device, or
            a wrong shape.

    Example::

        rnn = rnnfused.prepare(module)
        for x in stream:  # (B, I)
            y = rnn.step(x)  # (B, H)
    """
    return PreparedRNN(module)


class PreparedRNN:
    """What :func:`prepare` returns: layers with packed weights and a state of their own, for one thread.

    It has no gradients, can be neither copied nor pickled, and refuses to run once a weight has been changed or
    replaced: prepare the module again then. Changes that autograd does not count go unnoticed: through
    ``weight.data``, numpy, or an optimiser with ``fused=True``. Autocast has no effect. A NaN stays in the state until
    :meth:`reset`.
    """

    __slots__ = (
        "__weakref__",
        "_dtype",
        "_has_ids",
        "_hidden_size",
        "_input_size",
        "_nonlinearity",
        "_num_layers",
        "_packed",
        "_state",
        "_time_dim",
        "_watched",
    )

    def __init__(self, module: RNN | RNNCell):
        layers = _layers_of(module)
        self._has_ids = isinstance(module, TokenRNN)
        self._input_size, self._hidden_size = module.input_size, module.hidden_size
        self._num_layers = len(layers)
        self._dtype = layers[0][1].dtype
        self._nonlinearity = NONLINEARITIES[module.nonlinearity]
        self._time_dim = int(getattr(module, "batch_first", False))
        parameters = module._parameters
        # Tensors made in inference mode have no version, and cannot change outside of it.
        self._watched = [
            (parameters, name, weight, weight.data_ptr(), weight._version)
            for name, weight in parameters.items()
            if weight is not None and not weight.is_inference()
        ]
        packed = [pack_layer(*layer) for layer in layers]
        self._packed = packed[0] if len(packed) == 1 else torch.cat(packed)
        self._state: Tensor | None = None

    def step(self, x: Tensor) -> Tensor:
        """One step of all layers.

        Args:
            x: (B, I), or (I,) for one row; token ids (B,), or without a dimension, int64, for a ``TokenRNN``.

        Returns:
            (B, H), or (H,): the new state of the highest layer.

        Raises:
            TypeError, ValueError: a type, a dtype or a shape does not fit.
            IndexError: an id is outside the vocabulary.
            RuntimeError: a weight has changed.
        """
        return self._run(x, _SINGLE_STEP)

    def run(self, x: Tensor) -> Tensor:
        """Several steps of all layers.

        Args:
            x: (T, B, I), (B, T, I) if the module is ``batch_first``, or (T, I); without I for token ids.

        Returns:
            The states of the highest layer, laid out as x, with H features.

        Raises:
            As :meth:`step`.
        """
        dims = 2 if self._has_ids else 3
        return self._run(x, self._time_dim if isinstance(x, Tensor) and x.dim() == dims else 0)

    @property
    def state(self) -> Tensor | None:
        """(num_layers, B, H): a copy of the states after the last step; None before the first, or after a reset."""
        return None if self._state is None else self._state.clone()

    @state.setter
    def state(self, state: Tensor | None) -> None:
        if state is None:
            self._state = None
            return
        if not isinstance(state, Tensor):
            raise TypeError(f"state must be a Tensor or None, got {type(state).__name__}")
        arguments.check_layout("state", state)
        if state.dtype != self._dtype:
            raise TypeError(f"state must be {self._dtype} like the weights, got {state.dtype}")
        shape = (self._num_layers, "B", self._hidden_size)
        if state.dim() != 3 or (state.size(0), state.size(2)) != (shape[0], shape[2]):
            raise ValueError(
                f"state must be (num_layers, B, hidden_size) = ({shape[0]}, B, {shape[2]}), "
                f"got shape {tuple(state.shape)}"
            )
        if not state.is_cpu:
            raise ValueError(f"state must be on the CPU, got {state.device}")
        self._state = state.detach().clone(memory_format=torch.contiguous_format)

    def reset(self) -> None:
        """Starts anew from states of zeros, for any number of rows."""
        self._state = None

    @outside_graphs
    def _run(self, x: Tensor, time_dim: int) -> Tensor:
        for parameters, name, weight, address, version in self._watched:
            if (
                parameters.get(name) is not weight
                or weight.data_ptr() != address
                or weight._version != version
            ):
                raise RuntimeError(f"{name} has changed since prepare(): prepare the module again")
        if is_transformed():
            raise RuntimeError(
                "step() and run() have no derivatives and no batches of calls: under torch.func, call the module"
            )
        state = self._state
        # The op takes ids and features alike.
        if state is None or type(x) is not Tensor or is_ids(x) != self._has_ids:
            self._check(x, time_dim)
        if state is None:
            shape = self._num_layers, self._rows(x, time_dim), self._hidden_size
            state = torch.zeros(shape, dtype=self._dtype, device="cpu")
        try:
            output: Tensor
            output, self._state = run_prepared(
                self._packed, x, state, self._input_size, time_dim, self._nonlinearity
            )
        except (RuntimeError, TypeError, ValueError):
            arguments.explain(self._check, x, time_dim)
            raise
        return output

    def _rows(self, x: Tensor, time_dim: int) -> int:
        batch_dims = x.dim() - (not self._has_ids) - (time_dim >= 0)
        return x.size(1 if time_dim == 0 else 0) if batch_dims == 1 else 1

    def _check(self, x: Any, time_dim: int) -> None:
        """Raises the error that explains a wrong x."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        if is_fake(x):
            raise TypeError("x must have values, got a FakeTensor")
        arguments.check_layout("x", x)
        if not x.is_cpu:
            raise ValueError(f"x must be on the CPU, got {x.device}")
        if self._has_ids and not is_ids(x):
            raise TypeError(f"x must be token ids of dtype torch.int64, got {x.dtype}")
        if not self._has_ids and x.dtype != self._dtype:
            raise TypeError(f"x must be {self._dtype} like the weights, got {x.dtype}")
        features = () if self._has_ids else (self._input_size,)
        least = len(features) + (time_dim >= 0)
        shapes = [
            [*rows, *map(str, features)]
            for rows in (
                [["T", "B"] if time_dim == 0 else ["B", "T"], ["T"]]
                if time_dim >= 0
                else [["B"], []]
            )
        ]
        wanted = " or ".join(f"({', '.join(shape)})" for shape in shapes)
        if not least <= x.dim() <= least + 1 or (features and x.size(-1) != self._input_size):
            raise ValueError(f"x must be {wanted}, got shape {tuple(x.shape)}")
        if time_dim >= 0 and x.size(time_dim) == 0:
            raise ValueError(f"x must have a step, got shape {tuple(x.shape)}")
        rows = self._rows(x, time_dim)
        if self._state is not None and rows != self._state.size(1):
            raise ValueError(
                f"x must have the {self._state.size(1)} rows of the state, got {rows}: reset() starts anew"
            )
        if self._has_ids and x.numel():
            low, high = arguments.value_range(x)
            if low < 0 or high >= self._input_size:
                raise IndexError(
                    f"x must be ids in [0, {self._input_size}), got values from {low} to {high}"
                )

    def __repr__(self) -> str:
        return (
            f"PreparedRNN({self._input_size}, {self._hidden_size}, num_layers={self._num_layers})"
        )

    def __reduce__(self) -> Any:
        raise TypeError(
            "a PreparedRNN holds weights in this process's own layout: prepare the module again"
        )


def _layers_of(module: Any) -> list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    """The weights and biases of each layer, after all checks."""
    if not isinstance(module, RNN | RNNCell):
        raise TypeError(
            "module must be an rnnfused.RNN, TokenRNN or RNNCell (replace_rnn makes them of torch's), "
            f"got {type(module).__name__}"
        )
    if type(module).forward not in (RNN.forward, RNNCell.forward) or has_hooks(module):
        raise ValueError(
            f"module must have no forward of its own and no hooks, which would not run, got {type(module).__name__}"
        )
    if getattr(module, "bidirectional", False):
        raise ValueError("module must run in one direction: a step lacks the steps after it")
    if getattr(module, "heads", 1) != 1:
        raise ValueError(f"module must have one head, got {module.heads}")
    check_nonlinearity(module.nonlinearity)
    num_layers: Any = module.num_layers if isinstance(module, RNN) else 0
    suffixes = [f"_l{i}" for i in range(num_layers)] or [""]  # those of a cell
    hidden, inputs = module.hidden_size, module.input_size
    layers: Any = []
    for suffix in suffixes:
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (hidden, inputs),
            "weight_hh": (hidden, hidden),
        }
        if module.bias:
            shapes |= {"bias_ih": (hidden,), "bias_hh": (hidden,)}
        weights = [_weight_of(module, name + suffix, shape) for name, shape in shapes.items()]
        layers.append((*weights, *[None] * (4 - len(weights))))
        inputs = hidden
        if weights[0].dtype != layers[0][0].dtype or any(
            w.dtype != weights[0].dtype for w in weights
        ):
            raise TypeError(
                f"module must have one dtype, got {layers[0][0].dtype} and, in layer {len(layers) - 1}, "
                f"{', '.join(sorted({str(w.dtype) for w in weights}))}"
            )
    found: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = layers
    return found


def _weight_of(module: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    weight: Tensor | None = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"module must have {name} as a plain parameter")
    arguments.check_layout(name, weight)
    if not weight.is_cpu:
        raise ValueError(f"module must be on the CPU, got {name} on {weight.device}")
    if weight.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(weight.shape)}")
    arguments.check_dtype(name, weight)
    return weight.detach()
