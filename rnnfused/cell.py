"""``RNNCell``, a drop-in for :class:`torch.nn.RNNCell`: one step, in one call of the fused op."""

import torch
from torch import Tensor

from . import autocast, functional


class RNNCell(torch.nn.RNNCell):
    """One step of an Elman RNN; takes the place of ``nn.RNNCell``.

    Same constructor, parameters, state dict, arguments and results as :class:`torch.nn.RNNCell`::

        h' = f(x W_ih^T + b_ih + h W_hh^T + b_hh)

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of features of h.
        bias: whether there are ``b_ih`` and ``b_hh``.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        device, dtype: of the parameters, as those of :class:`rnnfused.RNN`.

    Where several steps are known at once, :class:`rnnfused.RNN` runs them in one call.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The state after the step.

        Args:
            input: (B, I), or (I,) unbatched.
            hx: (B, H), or (H,); zeros if None.

        Returns:
            (B, H), or (H,).

        Raises:
            ValueError: input or hx has not 1 or 2 dimensions.
            RuntimeError: another mistake in a shape or a dtype, or an unknown nonlinearity.
        """
        for name, tensor in {"input": input, "hx": hx}.items():
            if tensor is not None and tensor.dim() not in (1, 2):
                raise ValueError(
                    f"{name} must have 1 (unbatched) or 2 dimensions, got shape {tuple(tensor.shape)}"
                )
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"nonlinearity must be 'tanh' or 'relu', got {self.nonlinearity!r}")
        batched = input.dim() == 2
        if not batched:
            input = input.unsqueeze(0)
            hx = None if hx is None else hx.unsqueeze(0)
        self._check("input", input, (input.size(0), self.input_size))
        if hx is not None:
            self._check("hx", hx, (input.size(0), self.hidden_size))
        output, _ = functional.run_layer(
            input.unsqueeze(0), self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh,
            None if hx is None else hx.unsqueeze(0), self.nonlinearity, False, False,
        )  # fmt: skip
        output = output.squeeze(0)
        return output if batched else output.squeeze(0)

    def _check(self, name: str, tensor: Tensor, shape: tuple[int, int]) -> None:
        weight = self.weight_hh
        if tensor.shape != shape:
            raise RuntimeError(
                f"{name} must have shape {shape}, without the first unbatched, got {tuple(tensor.shape)}"
            )
        if autocast.dtype_of(tensor) != autocast.dtype_of(weight) or tensor.device != weight.device:
            raise RuntimeError(
                f"{name} must be {weight.dtype} on {weight.device} like the weights, "
                f"got {tensor.dtype} on {tensor.device}"
            )
