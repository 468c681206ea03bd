"""The layer ``RNN``, a drop-in for :class:`torch.nn.RNN`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import arguments, layers, single_step
from .ops import autocast
from .ops.compiled import copy_of_view
from .ops.modes import is_recorded
from .ops.nonlinearity import check_nonlinearity
from .ops.sequence import Extents
from .special_inputs import is_checked_by_op, is_special, run_specially
from .weights import weight_of


class RNN(torch.nn.RNNBase):
    """Elman RNN with tanh or ReLU, each layer and direction one fused loop; takes the place of ``nn.RNN``.

    Same constructor, parameters (names, shapes, order, initial values for the same seed), state dict,
    arguments and results as :class:`torch.nn.RNN`. For layer l, with x the output of the layer below::

        h_t = f(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh)

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of features of h.
        num_layers: layers, each fed with the outputs of the one below.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        bias: whether ``b_ih`` and ``b_hh`` exist.
        batch_first: input and output are (B, T, ..) instead of (T, B, ..). Runs without a copy.
        dropout: probability of zeroing an output between two layers, in training mode.
        bidirectional: also run from the last step to the first; the outputs are concatenated.
        proj_size: 0, as in :class:`torch.nn.RNN`.
        device, dtype: of the parameters; float32, float64, bfloat16 or float16, and step by step, without the
            fused loop, complex64 or complex128. Under :func:`torch.autocast` the layer runs in the dtype of
            that region.
        heads: n, ``W_hh`` is block-diagonal: the parameter has shape (n, H / n, H / n), and each block is a
            recurrence of its own features alone.
        state_grad_clip: c; every gradient that flows back through the loop is clipped to [-c, c]; see
            :func:`rnnfused.functional.rnn`.

    Raises:
        TypeError, ValueError: as :class:`torch.nn.RNN`; or ``heads`` or ``state_grad_clip`` is wrong.
    """

    # The input's dimensions after time and batch.
    _feature_dims = 1
    # Whether a user's subclass checks its input itself.
    _overrides_check_input = False
    # Modules pickled by older versions lack these.
    heads = 1
    state_grad_clip = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        heads: int = 1,
        state_grad_clip: float | None = None,
    ):
        if proj_size != 0:
            raise ValueError(
                f"proj_size must be 0: only an LSTM has projections, got {proj_size!r}"
            )
        check_nonlinearity(nonlinearity)
        state_grad_clip = arguments.check_state_grad_clip(state_grad_clip)
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity
        self.heads = _check_heads(heads, hidden_size)
        self.state_grad_clip = state_grad_clip
        if heads > 1:
            for name, weight in list(self.named_parameters()):
                if name.startswith("weight_hh"):
                    part = hidden_size // heads
                    setattr(self, name, torch.nn.Parameter(weight.new_empty(heads, part, part)))
            self.reset_parameters()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._overrides_check_input = "check_input" in vars(cls) or cls._overrides_check_input

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.heads != 1:
            text += f", heads={self.heads}"
        if self.state_grad_clip is not None:
            text += f", state_grad_clip={self.state_grad_clip}"
        return text

    def flatten_parameters(self) -> None:
        """Does nothing: only cuDNN needs its weights in one piece."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Runs all layers over the sequence.

        Args:
            input: (T, B, I), (B, T, I) with ``batch_first``, (T, I) unbatched, a PackedSequence, or a nested
                tensor (B, jagged T, I) of layout ``torch.jagged``.
            hx: (num_layers * num_directions, B, H), without B if unbatched; zeros if None.
            lengths: (B,), integers from 0 to T, a tensor or a list, in any order: row b of a padded batch
                ends after ``lengths[b]`` steps. Outputs past that are zero.

        Returns:
            ``(output, h_n)``: (T, B, num_directions * H) the last layer's states, in the layout of
            the input, and each layer's last state, at each row's end, shaped as ``hx``.

        Raises:
            TypeError: the input is neither a tensor nor a PackedSequence, hx is no tensor, or lengths are
                not integers.
            RuntimeError, ValueError: a shape or a dtype is wrong, as in :class:`torch.nn.RNN`.
        """
        weight = self._parameters.get("weight_hh_l0")
        feature_dims = self._feature_dims
        if not (self._overrides_check_input or lengths is not None) and is_checked_by_op(
            input, hx, weight, feature_dims == 0
        ):
            rows_dims = input.dim() - feature_dims
            if rows_dims == 2 or rows_dims == 1:
                time_dim = int(self.batch_first and rows_dims == 2)
                if input.size(time_dim) == 1:
                    step = single_step.of_layer(self, input, hx, weight, time_dim)
                    if step is not None:
                        return step
                try:
                    return self._run_layers(input, hx, _WHOLE, time_dim)
                except RuntimeError:
                    arguments.explain(self._check_dense, input, hx, None)
                    raise
        if is_special(input, hx, weight):
            result: tuple[Tensor, Tensor] = run_specially(self, input, hx, lengths=lengths)
            if result is not NotImplemented:
                return result
        if not isinstance(input, Tensor):
            return self._forward_packed(input, hx, lengths)
        if input.is_nested:
            return self._forward_nested(input, hx, lengths)
        return self._run_layers(input, hx, *self._check_dense(input, hx, lengths))

    def _check_dense(
        self, input: Tensor, hx: Tensor | None, lengths: Tensor | Sequence[int] | None
    ) -> tuple[Extents, int]:
        """The extents and the time dimension of a padded or unbatched input, after all checks."""
        arguments.check_layout("input", input)
        if hx is not None:
            _check_hx(hx)
        shape = input.shape
        unbatched_dims = 1 + self._feature_dims
        batched = len(shape) == unbatched_dims + 1
        if not batched and len(shape) != unbatched_dims:
            raise ValueError(
                f"input must have {unbatched_dims} (unbatched) or {unbatched_dims + 1} dimensions, "
                f"got shape {tuple(shape)}"
            )
        hx_dims = 3 if batched else 2
        if hx is not None and hx.dim() != hx_dims:
            raise RuntimeError(
                f"hx must have {hx_dims} dimensions for input of shape {tuple(shape)}, "
                f"got shape {tuple(hx.shape)}"
            )
        time_dim, batch_dim = (1, 0) if self.batch_first else (0, 1)
        if not batched:
            if lengths is not None:
                raise ValueError(f"lengths must be None for an unbatched input, {tuple(shape)}")
            time_dim = 0
        self._check(input, hx, None, shape[batch_dim : batch_dim + 1] if batched else ())
        if shape[time_dim] == 0:
            raise RuntimeError(f"input must have at least one time step, got shape {tuple(shape)}")
        if lengths is None:
            return _WHOLE, time_dim
        lengths = arguments.check_lengths(lengths, shape[batch_dim], shape[time_dim], "input")
        return Extents(lengths=lengths), time_dim

    def forward_per_sample(self, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        """:meth:`forward` in operations for which torch has gradients per sample.

        Args:
            input: (T, B, I), (B, T, I) with ``batch_first``, or (T, I) unbatched.
            hx: as for :meth:`forward`.

        Raises:
            NotImplementedError: ``heads`` or ``state_grad_clip`` are used.
        """
        if self.heads > 1 or self.state_grad_clip is not None:
            raise NotImplementedError("gradients per sample with heads or state_grad_clip")
        plain = torch.nn.RNN.__new__(torch.nn.RNN)
        plain.__dict__ = self.__dict__
        return plain.forward(input, hx)

    def _forward_packed(
        self, input: object, hx: Tensor | None, lengths: object
    ) -> tuple[PackedSequence, Tensor]:
        if not isinstance(input, PackedSequence):
            raise TypeError(
                f"input must be a Tensor or a PackedSequence, got {type(input).__name__}"
            )
        if lengths is not None:
            raise ValueError("lengths must be None for a PackedSequence, which has its own")
        data, batch_sizes, sorted_indices, unsorted_indices = input
        if hx is not None:
            _check_hx(hx)
            hx = self.permute_hidden(hx, sorted_indices)
        try:
            self._check(data, hx, batch_sizes, None)
            output, h_n = self._run_layers(data, hx, Extents(batch_sizes=batch_sizes), 0)
        except (RuntimeError, IndexError):
            rows = data if self._feature_dims else data.unsqueeze(-1)
            try:
                arguments.check_packed("input", "I", rows, False, batch_sizes)
            except ValueError as explanation:  # torch's type here
                raise RuntimeError(str(explanation)) from None
            raise
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, self.permute_hidden(h_n, unsorted_indices)

    def _forward_nested(
        self, input: Any, hx: Tensor | None, lengths: object
    ) -> tuple[Tensor, Tensor]:
        if lengths is not None:
            raise ValueError("lengths must be None for a nested tensor, which has its own")
        if hx is not None:
            _check_hx(hx)
        if input.layout != torch.jagged or input._ragged_idx != 1 or input.lengths() is not None:
            raise ValueError(
                "input, if nested, must be (batch, jagged time, ..) of layout torch.jagged without "
                f"holes, got {input.layout}"
            )
        if input.dim() != 2 + self._feature_dims:
            raise ValueError(
                f"input must have {2 + self._feature_dims} dimensions if nested, got {input.dim()}"
            )
        data, offsets = input.values(), input.offsets()
        if not is_recorded() and offsets[0] != 0:
            raise ValueError(
                f"input, if nested, must have offsets from 0 on, got {offsets.tolist()}"
            )
        lengths = arguments.check_lengths(offsets.diff(), None, data.size(0), "input")
        self._check(data, hx, None, lengths.shape)
        output, h_n = self._run_layers(data, hx, Extents(lengths=lengths), 0)
        return torch.nested.nested_tensor_from_jagged(output, offsets), h_n

    def _check(
        self,
        input: Tensor,
        hx: Tensor | None,
        batch_sizes: Tensor | None,
        batch: Sequence[int] | None,
    ) -> None:
        self.check_input(input, batch_sizes)
        weight = weight_of(self, "weight_hh_l0")
        # Cheap test first; the slow path decides and reports.
        if not (input.is_cpu and weight.is_cpu and weight.dtype in arguments.DTYPES):
            if not weight.is_complex():
                arguments.check_dtype("weight_hh_l0", weight)
            if input.device != weight.device:
                raise RuntimeError(
                    f"input must be on {weight.device} like the weights, got {input.device}"
                )
        if hx is not None:
            batch = (int(batch_sizes[0]),) if batch is None else batch  # type: ignore[index]
            directions = 2 if self.bidirectional else 1
            expected = (self.num_layers * directions, *batch, self.hidden_size)
            if hx.shape != expected:
                raise RuntimeError(f"hx must have shape {expected}, got {tuple(hx.shape)}")
            if autocast.dtype_of(hx) != autocast.dtype_of(weight) or hx.device != weight.device:
                raise RuntimeError(
                    f"hx must be {weight.dtype} on {weight.device} like the weights, "
                    f"got {hx.dtype} on {hx.device}"
                )

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """Raises ValueError for a wrong dtype, RuntimeError for a wrong number of features."""
        weight = weight_of(self, "weight_hh_l0")
        shape = input.shape
        if input.dtype is weight.dtype and shape[-1] == self.input_size:
            return
        if input.dtype != weight.dtype and autocast.dtype_of(input) != autocast.dtype_of(weight):
            raise ValueError(
                f"input must be {weight.dtype} like the weights, or autocast to the same dtype, "
                f"got {input.dtype}"
            )
        if shape[-1] != self.input_size:
            raise RuntimeError(
                f"input must have size {self.input_size}, input_size, in its last dimension, "
                f"got shape {tuple(shape)}"
            )

    def _run_layers(
        self, output: Tensor, hx: Tensor | None, extents: Extents, time_dim: int
    ) -> tuple[Tensor, Tensor]:
        num_directions = 2 if self.bidirectional else 1
        if self.num_layers == num_directions == 1:
            return self._run_layer(output, hx, extents, time_dim, 0)
        if hx is not None and hx.size(0) != self.num_layers * num_directions:
            raise RuntimeError(
                f"hx must have {self.num_layers * num_directions} states in its first dimension, "
                f"got shape {tuple(hx.shape)}"
            )
        states: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0 and self.training:
                output = self._drop(output, time_dim)
            h_0 = hx
            if hx is not None and self.num_layers > 1:
                h_0 = hx[layer * num_directions : (layer + 1) * num_directions]
                h_0 = h_0 if self.bidirectional else copy_of_view(h_0)
            output, h_n = self._run_layer(output, h_0, extents, time_dim, layer)
            states.append(h_n)
        return output, torch.cat(states) if self.num_layers > 1 else states[0]

    def _drop(self, output: Tensor, time_dim: int) -> Tensor:
        # Dropout draws in memory order: with time outside, as in torch's RNN, masks are the same.
        if time_dim == 1:
            output = output.transpose(0, 1).contiguous()
            return F.dropout(output, self.dropout).transpose(0, 1)
        return F.dropout(output, self.dropout)

    def _run_layer(
        self, input: Tensor, h_0: Tensor | None, extents: Extents, time_dim: int, layer: int
    ) -> tuple[Tensor, Tensor]:
        try:
            if self.bidirectional:
                return layers.run_both_directions(
                    input,
                    self._weights_of(2 * layer),
                    self._weights_of(2 * layer + 1),
                    h_0,
                    self.nonlinearity,
                    time_dim,
                    *extents,
                    self.state_grad_clip,
                )
            return layers.run_layer(  # type: ignore[call-arg]
                input,
                *self._weights_of(layer),
                h_0,
                self.nonlinearity,
                time_dim,
                False,
                *extents,
                self.state_grad_clip,
            )
        except (RuntimeError, TypeError, ValueError, IndexError):
            arguments.explain(self._check_weights, layer)
            raise

    def _weights_of(self, i: int) -> list[Any]:
        """W_ih, W_hh, b_ih and b_hh of the i-th of all directions of all layers."""
        parameter = self._parameters.get  # as weight_of, without a call for each
        weights = [
            weight_of(self, name) if (weight := parameter(name)) is None else weight
            for name in self._all_weights[i]
        ]
        return weights if self.bias else [*weights, None, None]

    def _check_weights(self, layer: int) -> None:
        """Checks the weights of a layer: a user may have replaced them."""
        directions = 2 if self.bidirectional else 1
        features = self.input_size if layer == 0 else self.hidden_size * directions
        part = self.hidden_size // self.heads
        shapes: list[tuple[int, ...]] = [
            (self.hidden_size, features),
            (part, part) if self.heads == 1 else (self.heads, part, part),
            (self.hidden_size,),
            (self.hidden_size,),
        ]
        like = weight_of(self, "weight_hh_l0")
        for names in self._all_weights[layer * directions : (layer + 1) * directions]:
            weights = {name: weight_of(self, name) for name in names}
            arguments.check_weights(weights, shapes[: len(names)], like, "weight_hh_l0")

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """The module that :func:`torch.jit.script` compiles in place of this one."""
        from .export.torchscript import ScriptableRNN

        return ScriptableRNN.of(self)


_WHOLE = Extents()  # made once, to save time in small calls


def _check_hx(hx: object) -> None:
    if not isinstance(hx, Tensor):
        raise TypeError(f"hx must be a Tensor, got {type(hx).__name__}")
    arguments.check_layout("hx", hx)


def _check_heads(heads: int, hidden_size: int) -> int:
    if isinstance(heads, bool) or not isinstance(heads, int):
        raise TypeError(f"heads must be an int, got {heads!r}")
    if heads < 1 or hidden_size % heads:
        raise ValueError(f"heads must divide hidden_size {hidden_size}, got {heads}")
    return heads


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Modules pickled by older versions name this place.
        if name == "TokenRNN":
            from .token_rnn import TokenRNN

            return TokenRNN
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
