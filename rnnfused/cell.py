"""``RNNCell``, a drop-in for :class:`torch.nn.RNNCell`: one step, in one call of the fused op."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import arguments, layers, single_step
from .ops import autocast
from .ops.nonlinearity import check_nonlinearity
from .special_inputs import is_checked_by_op, is_special, run_specially
from .weights import weight_of


class RNNCell(torch.nn.RNNCell):
    """One step of an Elman RNN; takes the place of ``nn.RNNCell``.

    Same constructor, parameters, state dict, arguments and results as :class:`torch.nn.RNNCell`::

        h' = f(x W_ih^T + b_ih + h W_hh^T + b_hh)

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of features of h.
        bias: whether ``b_ih`` and ``b_hh`` exist.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        device, dtype: of the parameters, as those of :class:`rnnfused.RNN`.

    Use :class:`rnnfused.RNN` where several steps are known at once: it runs them in one call.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The state after the step.

        Args:
            input: (B, I), or (I,) unbatched.
            hx: (B, H), or (H,); zeros if None.

        Returns:
            (B, H), or (H,).

        Raises:
            TypeError: input or hx is no tensor, or not dense.
            ValueError: input or hx lacks 1 or 2 dimensions.
            RuntimeError: another mistake in a shape or a dtype, or an unknown nonlinearity.
        """
        weight_hh: Any = self._parameters.get("weight_hh")
        if is_checked_by_op(input, hx, weight_hh):
            try:
                return self._step(input, hx, weight_hh)
            except (RuntimeError, TypeError, ValueError, IndexError):
                arguments.explain(self._check, input, hx)
                arguments.explain(self._check_weights)
                raise
        if is_special(input, hx, weight_hh):
            result: Tensor = run_specially(self, input, hx)
            if result is not NotImplemented:
                return result
        return self._step(input, hx, self._check(input, hx))

    def _step(self, input: Tensor, hx: Tensor | None, weight_hh: Tensor) -> Tensor:
        biases: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.bias:
            biases = (weight_of(self, "bias_ih"), weight_of(self, "bias_hh"))
        weight_ih, nonlinearity = weight_of(self, "weight_ih"), self.nonlinearity
        if (
            single_step.suits_cell(input, hx, weight_ih, weight_hh, biases)
            and nonlinearity in single_step.CELLS
        ):
            if hx is None:
                hx = input.new_zeros(input.size(0), self.hidden_size)
            return single_step.CELLS[nonlinearity](input, hx, weight_ih, weight_hh, *biases)
        h, _ = layers.run_layer(input, weight_ih, weight_hh, *biases, hx, nonlinearity, -1, False)
        return h

    def _check(self, input: Any, hx: Any) -> Tensor:
        """The weight of the states, after all checks."""
        for name, value in (("input", input), ("hx", hx)):
            if not (isinstance(value, Tensor) or (name == "hx" and value is None)):
                raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}")
        arguments.check_layout("input", input)
        if hx is not None:
            arguments.check_layout("hx", hx)
        if input.dim() not in (1, 2) or hx is not None and hx.dim() not in (1, 2):
            shapes = [None if x is None else tuple(x.shape) for x in (input, hx)]
            raise ValueError(
                "input and hx must have 1 (unbatched) or 2 dimensions, "
                f"got shapes {shapes[0]} and {shapes[1]}"
            )
        try:
            check_nonlinearity(self.nonlinearity)
        except ValueError as error:
            raise RuntimeError(str(error)) from None
        weight_hh = weight_of(self, "weight_hh")
        batch = input.shape[:-1]
        self._check_like("input", input, (*batch, self.input_size), weight_hh)
        if hx is not None:
            self._check_like("hx", hx, (*batch, self.hidden_size), weight_hh)
        return weight_hh

    def _check_weights(self) -> None:
        """Checks the weights: a user may have replaced them."""
        hidden = self.hidden_size
        shapes = [(hidden, self.input_size), (hidden, hidden), (hidden,), (hidden,)]
        names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * self.bias
        weights = {name: weight_of(self, name) for name in names}
        arguments.check_weights(weights, shapes[: len(names)], weights["weight_hh"], "weight_hh")

    def forward_per_sample(self, input: Tensor, hx: Tensor | None) -> Tensor:
        """:meth:`forward` in operations for which torch has gradients per sample: (B, I) and (B, H) or None to (B, H)."""
        h = F.linear(input, self.weight_ih, self.bias_ih)
        if hx is None:
            hx = h.new_zeros(*input.shape[:-1], self.hidden_size)
        h = h + F.linear(hx, self.weight_hh, self.bias_hh)
        return torch.tanh(h) if self.nonlinearity == "tanh" else torch.relu(h)

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """The module that :func:`torch.jit.script` compiles in place of this one."""
        from .export.torchscript import ScriptableRNNCell

        return ScriptableRNNCell.of(self)

    def _check_like(
        self, name: str, tensor: Tensor, shape: tuple[int, int], weight: Tensor
    ) -> None:
        if tensor.shape != shape:
            raise RuntimeError(
                f"{name} must have shape {shape}, without the first unbatched, got {tuple(tensor.shape)}"
            )
        if tensor.dtype == weight.dtype and tensor.device == weight.device:
            return
        if autocast.dtype_of(tensor) != autocast.dtype_of(weight) or tensor.device != weight.device:
            raise RuntimeError(
                f"{name} must be {weight.dtype} on {weight.device} like the weights, "
                f"got {tensor.dtype} on {tensor.device}"
            )
