"""Modules that TorchScript compiles in place of the layers; it cannot compile the layers' own Python."""

from typing import Any, Optional  # TorchScript reads no `Tensor | None`

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.nonlinearity import check_nonlinearity


class ScriptableRNN(torch.nn.RNNBase):
    """The layers of an RNN over a padded batch, each direction a call of the op; parameters are shared."""

    @classmethod
    def of(cls, rnn: Any) -> "ScriptableRNN":
        _check_not_complex(rnn.weight_hh_l0)
        self = cls.__new__(cls)
        self.__dict__ = {**rnn.__dict__, "heads": rnn.heads, "state_grad_clip": rnn.state_grad_clip}
        # Attributes, as TorchScript cannot look a class attribute or a dict up.
        self.has_ids = rnn._feature_dims == 0
        self.nonlinearity_number = check_nonlinearity(rnn.nonlinearity)
        return self

    def forward(self, input: Tensor, hx: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:  # noqa: UP045
        unbatched_dims = 1 if self.has_ids else 2
        if input.dim() != unbatched_dims and input.dim() != unbatched_dims + 1:
            raise ValueError(f"input must have {unbatched_dims} or {unbatched_dims + 1} dimensions")
        batched = input.dim() == unbatched_dims + 1
        batch_dim = 0 if self.batch_first else 1
        time_dim = 1 - batch_dim if batched else 0
        if self.has_ids:
            if input.is_floating_point() or input.is_complex() or input.dtype == torch.bool:
                raise TypeError("input must be token ids of an integer dtype")
            input = input.to(torch.int64)
        elif input.size(-1) != self.input_size:
            raise ValueError(
                f"input must have size {self.input_size}, input_size, in its last dimension, got {input.shape}"
            )
        if input.size(time_dim) == 0:
            raise ValueError(f"input must have at least one time step, got {input.shape}")
        num_directions = 2 if self.bidirectional else 1
        if hx is not None:
            batch = input.size(batch_dim) if batched else 1
            expected = (self.num_layers * num_directions, batch, self.hidden_size)
            if batched:
                self.check_hidden_size(hx, expected, "hx must have shape {}, got {}")
            else:
                self.check_hidden_size(hx.unsqueeze(1), expected, "hx must have shape {}, got {}")
        output = input.contiguous()
        states: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.training:
                output = F.dropout(output, self.dropout)
            directions: list[Tensor] = []
            for direction in range(num_directions):
                i = len(states)
                weights = self._flat_weights
                first = i * (4 if self.bias else 2)
                bias_ih: Optional[Tensor] = None  # noqa: UP045
                bias_hh: Optional[Tensor] = None  # noqa: UP045
                if self.bias:
                    bias_ih, bias_hh = weights[first + 2], weights[first + 3]
                h_0: Optional[Tensor] = None  # noqa: UP045
                if hx is not None:
                    h_0 = hx[i : i + 1].contiguous()
                weight_ih, weight_hh = weights[first], weights[first + 1]
                assert weight_ih is not None and weight_hh is not None
                of_direction, h_n = torch.ops.rnnfused.layer(
                    output,
                    weight_ih,
                    weight_hh,
                    bias_ih,
                    bias_hh,
                    h_0,
                    None,
                    None,
                    time_dim,
                    self.nonlinearity_number,
                    direction == 1,
                    self.state_grad_clip,
                )
                directions.append(of_direction)
                states.append(h_n)
            output = directions[0] if num_directions == 1 else torch.cat(directions, -1)
        return output, states[0] if len(states) == 1 else torch.cat(states)


class ScriptableRNNCell(torch.nn.RNNCell):
    """One step of an RNN, a call of the op; parameters are shared."""

    @classmethod
    def of(cls, cell: Any) -> "ScriptableRNNCell":
        _check_not_complex(cell.weight_hh)
        self = cls.__new__(cls)
        self.__dict__ = {
            **cell.__dict__,
            "nonlinearity_number": check_nonlinearity(cell.nonlinearity),
        }
        return self

    def forward(self, input: Tensor, hx: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        if input.dim() != 1 and input.dim() != 2:
            raise ValueError(f"input must have 1 (unbatched) or 2 dimensions, got {input.shape}")
        if input.size(-1) != self.input_size:
            raise ValueError(
                f"input must have size {self.input_size}, input_size, in its last dimension, got {input.shape}"
            )
        if hx is not None:
            expected = list(input.shape[:-1]) + [self.hidden_size]
            if list(hx.shape) != expected:
                raise ValueError(f"hx must have shape {expected}, got {hx.shape}")
            hx = hx.contiguous()
        output, _ = torch.ops.rnnfused.layer(
            input.contiguous(),
            self.weight_ih,
            self.weight_hh,
            self.bias_ih,
            self.bias_hh,
            hx,
            None,
            None,
            -1,
            self.nonlinearity_number,
            False,
            None,
        )
        return output


def _check_not_complex(weight: Tensor) -> None:
    if weight.is_complex():
        raise NotImplementedError(
            f"torch.jit.script needs real weights, got {weight.dtype}: use torch.jit.trace or torch.export"
        )
