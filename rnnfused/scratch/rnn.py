"""The textbook's RNNs, whole sequences and single steps, with all steps in one fused op."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .. import arguments, layers, single_step
from ..ops import autocast
from ..ops.compiled import copy_of_view
from ..ops.sequence import without_step
from ..ops.tokens import is_integer
from ..token_rnn import TokenRNN
from ..weights import weight_of

State = Tensor | tuple[Tensor] | None


class RNNScratch(nn.Module):
    """The RNN: ``H_t = tanh(X_t W_xh + H_{t-1} W_hh + b_h)`` (equation 9.4.5), all steps fused.

    Args:
        num_inputs: I, the number of inputs.
        num_hiddens: H, the number of hidden units.
        sigma: the standard deviation of the initial weights; biases start at zero.

    Attributes:
        W_xh (I, H), W_hh (H, H), b_h (H,): the parameters.
    """

    def __init__(self, num_inputs: int, num_hiddens: int, sigma: float = 0.01):
        super().__init__()
        self.num_inputs, self.num_hiddens, self.sigma = num_inputs, num_hiddens, sigma
        self.W_xh, self.W_hh, self.b_h = _initial_parameters(num_inputs, num_hiddens, sigma)

    def forward(
        self, inputs: Tensor | Iterable[Tensor], state: State = None, *, stacked: bool = False
    ) -> tuple[list[Tensor] | Tensor, Tensor]:
        """Runs over the first dimension of ``inputs``.

        Args:
            inputs: (num_steps, batch, I) floating point, or a list or another iterable of steps
                (batch, I); or token ids (num_steps, batch) of any integer dtype, which stand for
                their one-hot rows.
            state: (batch, H), or (1, H) for all rows, bare or as a 1-tuple; zeros if None.
            stacked: return the outputs as one tensor, which saves a copy of each.

        Returns:
            ``(outputs, state)``: a list of num_steps tensors (batch, H), or one tensor
            (num_steps, batch, H) if ``stacked``; and the last state (batch, H). Of a single step, the state
            may be the tensor in the list, as in the textbook.

        Raises:
            ValueError: a shape or a device does not fit.
            TypeError: a type or a dtype does not fit.
            IndexError: a token id is outside [0, I).
        """
        if not isinstance(inputs, Tensor):
            inputs = _stack(inputs)
        weights = self._parameters  # attributes of a module are slow
        weight_hh: Any = weights.get("W_hh")
        if not stacked and single_step.suits(inputs, weight_hh) and _is_one_step(inputs):
            x, weight_xh = inputs.select(0, 0), weights.get("W_xh")
            h = single_step.textbook(x, weight_xh, weight_hh, weights.get("b_h"), state)
            if h is not None:
                return [h], h
        W_xh, W_hh, b_h = (weight_of(self, name) for name in ("W_xh", "W_hh", "b_h"))
        arguments.check_layout("inputs", inputs)
        if is_integer(inputs):
            if inputs.dim() != 2:
                raise ValueError(
                    f"inputs of token ids must be (num_steps, batch), got {tuple(inputs.shape)}"
                )
        else:
            if inputs.dim() != 3 or inputs.size(2) != self.num_inputs:
                raise ValueError(
                    f"inputs must be (num_steps, batch, {self.num_inputs}), "
                    f"got {tuple(inputs.shape)}"
                )
            _check_like_weights("inputs", inputs, W_xh)
        if inputs.size(0) == 0:
            raise ValueError(f"inputs must have a step, got shape {tuple(inputs.shape)}")
        h_0 = _unwrap_state("state", state, inputs.size(1), self.num_hiddens, W_hh)
        try:
            output, last = layers.run_layer(
                inputs,
                W_xh.t(),
                W_hh.t(),
                b_h,
                None,
                None if h_0 is None else copy_of_view(h_0.unsqueeze(0)),
                "tanh",
                0,
                False,
            )
        except (RuntimeError, TypeError, ValueError, IndexError):
            parameters = {"W_xh": W_xh, "W_hh": W_hh, "b_h": b_h}
            arguments.explain(_check_parameters, parameters, self.num_inputs, self.num_hiddens)
            raise
        # No result is a view, so that each can be changed in place.
        last = without_step(last)
        if stacked:
            return output, last
        # torch's stub says that unbind_copy returns None.
        steps: list[Tensor] = torch.unbind_copy(output)  # type: ignore
        return [copy_of_view(step) for step in steps], last

    def as_token_rnn(self) -> TokenRNN:
        """The same network as a :class:`rnnfused.TokenRNN` that shares the memory of the parameters."""
        rnn = TokenRNN(self.num_inputs, self.num_hiddens, device="meta")
        rnn.weight_ih_l0 = nn.Parameter(self.W_xh.detach().t())
        rnn.weight_hh_l0 = nn.Parameter(self.W_hh.detach().t())
        rnn.bias_ih_l0 = nn.Parameter(self.b_h.detach())
        rnn.bias_hh_l0 = nn.Parameter(torch.zeros_like(self.b_h))
        return rnn

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        return f"{self.num_inputs}, {self.num_hiddens}"


class RNNScratchCell(nn.Module):
    """One step: ``h' = tanh(x Wx + h Wh + b)``.

    Args:
        num_inputs: I, the number of inputs.
        num_hidden: H, the number of hidden units.
        sigma: the standard deviation of the initial weights; the bias starts at zero.

    Attributes:
        Wx (I, H), Wh (H, H), b (H,): the parameters.
    """

    def __init__(self, num_inputs: int, num_hidden: int, sigma: float = 0.01):
        super().__init__()
        self.num_inputs, self.num_hidden, self.sigma = num_inputs, num_hidden, sigma
        self.Wx, self.Wh, self.b = _initial_parameters(num_inputs, num_hidden, sigma)

    def forward(self, x: Tensor, h: State = None) -> Tensor:
        """One step from ``x`` (batch, I) and ``h`` (batch, H), zeros if None, to (batch, H).

        Raises:
            ValueError: a shape or a device does not fit.
            TypeError: a type or a dtype does not fit.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        weights = self._parameters  # attributes of a module are slow
        weight_h: Any = weights.get("Wh")
        if single_step.suits(x, weight_h) and x.dim() == 2:
            step = single_step.textbook(x, weights.get("Wx"), weight_h, weights.get("b"), h)
            if step is not None:
                return step
        Wx, Wh, b = (weight_of(self, name) for name in ("Wx", "Wh", "b"))
        if x.dim() != 2 or x.size(1) != self.num_inputs:
            raise ValueError(f"x must be (batch, {self.num_inputs}), got {tuple(x.shape)}")
        _check_like_weights("x", x, Wx)
        h = _unwrap_state("h", h, x.size(0), self.num_hidden, Wh)
        try:
            return layers.run_layer(x, Wx.t(), Wh.t(), b, None, h, "tanh", -1, False)[0]
        except (RuntimeError, TypeError, ValueError, IndexError):
            parameters = {"Wx": Wx, "Wh": Wh, "b": b}
            arguments.explain(_check_parameters, parameters, self.num_inputs, self.num_hidden)
            raise

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        return f"{self.num_inputs}, {self.num_hidden}"


def _is_one_step(inputs: Tensor) -> bool:
    return 2 <= inputs.dim() <= 3 and inputs.size(0) == 1


def _initial_parameters(
    num_inputs: int, num_hiddens: int, sigma: float
) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """The weights of the inputs and of the state, normally distributed, and a zero bias."""
    return (
        nn.Parameter(torch.randn(num_inputs, num_hiddens) * sigma),
        nn.Parameter(torch.randn(num_hiddens, num_hiddens) * sigma),
        nn.Parameter(torch.zeros(num_hiddens)),
    )


def _stack(inputs: Iterable[Tensor]) -> Tensor:
    if not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be a Tensor or a list, got {type(inputs).__name__}")
    steps = list(inputs)
    if not steps:
        raise ValueError("inputs must have a step, got an empty list")
    if not all(isinstance(step, Tensor) for step in steps):
        raise TypeError("inputs must be a Tensor or a list of Tensors")
    return torch.stack(steps)


def _check_parameters(parameters: dict[str, Tensor], num_inputs: int, num_hiddens: int) -> None:
    """Checks the weights of inputs and states, and the bias: a user may have replaced them."""
    shapes = [(num_inputs, num_hiddens), (num_hiddens, num_hiddens), (num_hiddens,)]
    of_like, like = next(iter(parameters.items()))
    arguments.check_weights(parameters, shapes, like, of_like, ValueError, TypeError)


def _unwrap_state(
    name: str, state: State, batch: int, num_hiddens: int, weight: Tensor
) -> Tensor | None:
    """The state as (batch, num_hiddens), from any form that a caller may give."""
    if isinstance(state, (tuple, list)):
        if len(state) != 1:
            raise ValueError(f"{name} must be a tensor or a 1-tuple, got {len(state)} tensors")
        (state,) = state
    if state is None:
        return None
    if not isinstance(state, Tensor):
        raise TypeError(f"{name} must be a tensor or a 1-tuple, got {type(state).__name__}")
    if state.dim() != 2 or state.size(0) not in (1, batch) or state.size(1) != num_hiddens:
        raise ValueError(
            f"{name} must be (batch, H) = ({batch}, {num_hiddens}), got {tuple(state.shape)}"
        )
    _check_like_weights(name, state, weight)
    return state.expand(batch, num_hiddens)


def _check_like_weights(name: str, tensor: Tensor, weight: Tensor) -> None:
    arguments.check_layout(name, tensor)
    if autocast.dtype_of(tensor) != autocast.dtype_of(weight):
        raise TypeError(f"{name} must be {weight.dtype} like the weights, got {tensor.dtype}")
    if tensor.device != weight.device:
        raise ValueError(f"{name} must be on {weight.device} like the weights, got {tensor.device}")
