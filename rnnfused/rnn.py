"""The layers: ``RNN``, a drop-in for :class:`torch.nn.RNN`, and ``TokenRNN``, the same fed with token ids."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import autocast, functional
from .token_lookup import is_integer


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
        bias: whether there are ``b_ih`` and ``b_hh``.
        batch_first: input and output are (B, T, ..) instead of (T, B, ..). Runs without a copy.
        dropout: probability of zeroing an output between two layers, in training mode.
        bidirectional: also run from the last step to the first; the outputs are concatenated.
        device, dtype: of the parameters; float32, float64, bfloat16 or float16. Under
            :func:`torch.autocast` the layer runs in the dtype of that region.

    Raises:
        ValueError: an unknown nonlinearity, or as :class:`torch.nn.RNN`.
    """

    # Dimensions of the input that follow time and batch.
    _feature_dims = 1

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
        device=None,
        dtype=None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, device=device, dtype=dtype,
        )  # fmt: skip

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Runs all layers over the sequence.

        Args:
            input: (T, B, I), (B, T, I) with ``batch_first``, (T, I) unbatched, or a PackedSequence.
            hx: (num_layers * num_directions, B, H), without B if unbatched; zeros if None.

        Returns:
            ``(output, h_n)``: (T, B, num_directions * H) the last layer's states, in the layout of
            the input, and each layer's last state, shaped as ``hx``.

        Raises:
            TypeError: the input is neither a tensor nor a PackedSequence, or hx is no tensor.
            RuntimeError, ValueError: a shape or a dtype is wrong, as in :class:`torch.nn.RNN`.
        """
        if hx is not None and not isinstance(hx, Tensor):
            raise TypeError(f"hx must be a Tensor, got {type(hx).__name__}")
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, unsorted_indices = input
            if hx is not None:
                hx = self.permute_hidden(hx, sorted_indices)
            self._check(data, hx, batch_sizes)
            output, h_n = self._run_layers(data, hx, batch_sizes)
            packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
            return packed, self.permute_hidden(h_n, unsorted_indices)

        if not isinstance(input, Tensor):
            raise TypeError(
                f"input must be a Tensor or a PackedSequence, got {type(input).__name__}"
            )
        unbatched_dims = 1 + self._feature_dims
        if input.dim() not in (unbatched_dims, unbatched_dims + 1):
            raise ValueError(
                f"input must have {unbatched_dims} (unbatched) or {unbatched_dims + 1} dimensions, "
                f"got shape {tuple(input.shape)}"
            )
        batched = input.dim() > unbatched_dims
        hx_dims = 3 if batched else 2
        if hx is not None and hx.dim() != hx_dims:
            raise RuntimeError(
                f"hx must have {hx_dims} dimensions for input of shape {tuple(input.shape)}, "
                f"got shape {tuple(hx.shape)}"
            )
        batch_dim = 0 if self.batch_first else 1
        if not batched:
            input = input.unsqueeze(batch_dim)
            hx = None if hx is None else hx.unsqueeze(1)
        self._check(input, hx, None)
        output, h_n = self._run_layers(input, hx, None)
        if not batched:
            return output.squeeze(batch_dim), h_n.squeeze(1)
        return output, h_n

    def _check(self, input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None) -> None:
        self.check_input(input, batch_sizes)
        weight = self._weight("weight_hh_l0")
        functional.check_dtype("weight_hh_l0", weight)
        if input.device != weight.device:
            raise RuntimeError(
                f"input must be on {weight.device} like the weights, got {input.device}"
            )
        if batch_sizes is None and input.size(1 if self.batch_first else 0) == 0:
            raise RuntimeError(
                f"input must have at least one time step, got shape {tuple(input.shape)}"
            )
        if hx is not None:
            expected = self.get_expected_hidden_size(input, batch_sizes)
            self.check_hidden_size(hx, expected, "hx must have shape {}, got {}")
            if autocast.dtype_of(hx) != autocast.dtype_of(weight) or hx.device != weight.device:
                raise RuntimeError(
                    f"hx must be {weight.dtype} on {weight.device} like the weights, "
                    f"got {hx.dtype} on {hx.device}"
                )

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """As torch's, which under autocast leaves the dtype to what is called."""
        super().check_input(input, batch_sizes)
        weight = self._weight("weight_hh_l0")
        if input.dtype != weight.dtype and autocast.dtype_of(input) != autocast.dtype_of(weight):
            raise ValueError(
                f"input must be {weight.dtype} like the weights, or autocast to the same dtype, "
                f"got {input.dtype}"
            )

    def _weight(self, name: str) -> Tensor:
        # What a parametrization or functional_call put in a parameter's place comes from getattr, which is slow.
        weight = self._parameters.get(name)
        return getattr(self, name) if weight is None else weight

    def _run_layers(self, output, hx, batch_sizes) -> tuple[Tensor, Tensor]:
        states = []
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0:
                output = F.dropout(output, self.dropout, self.training)
            directions = []
            for suffix in suffixes:
                i = len(states)
                h_0 = hx if hx is None or len(hx) == 1 else hx[i : i + 1]
                states_of_direction, h_n = self._run_direction(
                    output, h_0, batch_sizes, f"_l{layer}{suffix}"
                )
                directions.append(states_of_direction)
                states.append(h_n)
            output = directions[0] if len(directions) == 1 else torch.cat(directions, -1)
        return output, states[0] if len(states) == 1 else torch.cat(states)

    def _run_direction(self, input, h_0, batch_sizes, suffix) -> tuple[Tensor, Tensor]:
        biases = (
            (self._weight(f"bias_ih{suffix}"), self._weight(f"bias_hh{suffix}"))
            if self.bias
            else (None, None)
        )
        return functional.run_layer(
            input, self._weight(f"weight_ih{suffix}"), self._weight(f"weight_hh{suffix}"), *biases,
            h_0, self.nonlinearity, self.batch_first and batch_sizes is None,
            suffix.endswith("_reverse"), batch_sizes,
        )  # fmt: skip


class TokenRNN(RNN):
    """An :class:`RNN` whose input is token ids: equal to ``RNN(vocab_size, ..)`` on one-hot rows.

    A one-hot row times ``W_ih`` is a column of ``W_ih``: it is looked up, and no (T, B, V) tensor exists.
    Parameters, state dict and results are those of :class:`RNN` with ``input_size=vocab_size``.
    ``forward`` takes ids (T, B), (B, T) with ``batch_first``, (T,) unbatched, or a PackedSequence
    of ids, of any integer dtype; its other arguments and its results are those of :meth:`RNN.forward`.

    Args:
        vocab_size: V, the number of tokens.
        hidden_size: H.
        **kwargs: as for :class:`RNN`.

    Raises:
        TypeError: (forward) the ids are not integers.
        RuntimeError, ValueError: (forward) a wrong shape, or ids that are not where the weights are.
        IndexError: (forward) an id is outside [0, V).
    """

    _feature_dims = 0

    def __init__(self, vocab_size: int, hidden_size: int, *args, **kwargs):
        super().__init__(vocab_size, hidden_size, *args, **kwargs)

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        if not is_integer(input):
            raise TypeError(f"input must be token ids of an integer dtype, got {input.dtype}")
