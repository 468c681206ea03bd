"""This folder's checks can fail: each detects the one mistake that a subclass of RNN makes."""

import pickle

import pytest
import torch
from test_errors import CALLS, check_same_error
from test_state import check_pickles, check_state_dict_both_ways, check_tied
from test_values import FIXED, check_same
from torch.nn.utils.rnn import PackedSequence

import rnnfused


def mutant(change_arguments=None, change_results=None, change_module=None):
    """Returns a subclass that changes its arguments, its results, or itself when constructed."""

    class Mutant(rnnfused.RNN):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if change_module is not None:
                change_module(self)

        def forward(self, input, hx=None):
            if change_arguments is not None:
                input, hx = change_arguments(self, input, hx)
            output, h_n = super().forward(input, hx)
            if change_results is None:
                return output, h_n
            return change_results(self, input, output, h_n)

    return Mutant


def on_data(change):
    """Applies ``change`` to the output's tensor, packed or not."""

    def changed(module, input, output, h_n):
        if isinstance(output, PackedSequence):
            return output._replace(data=change(output.data)), h_n
        return change(output), h_n

    return changed


def with_dropout_in_eval(module, input, hx):
    module.train()
    return input, hx


def with_other_masks(module, input, hx):
    torch.rand(1)
    return input, hx


def with_ones_as_h_0(module, input, hx):
    if hx is None:
        states = module.num_layers * (2 if module.bidirectional else 1)
        hx = input.new_ones(states, input.size(0 if module.batch_first else 1), module.hidden_size)
    return input, hx


def as_if_contiguous(module, input, hx):
    return torch.as_strided(input, input.shape, torch.empty(input.shape).stride()), hx


def without_second_derivative(output):
    if output.requires_grad:
        output.register_hook(lambda g: g.detach())
    return output


def in_packed_order(module, input, output, h_n):
    if isinstance(input, PackedSequence) and input.sorted_indices is not None:
        h_n = h_n.index_select(1, input.sorted_indices)
    return output, h_n


def swapped_directions(output):
    return torch.cat(output.chunk(2, -1)[::-1], -1)


def hooked(name, change):
    return lambda module: getattr(module, name).register_hook(change)


VALUE_MUTANTS = {
    "output off by 1e-3": (mutant(change_results=on_data(lambda o: o + 1e-3)), "plain"),
    "output off by 1e-8": (mutant(change_results=on_data(lambda o: o + 1e-8)), "plain"),
    "h_0 detached": (mutant(lambda m, x, h: (x, None if h is None else h.detach())), "plain"),
    "input detached": (mutant(lambda m, x, h: (x.detach(), h)), "plain"),
    "h_n detached": (mutant(change_results=lambda m, x, o, h: (o, h.detach())), "only_h_n"),
    "a bias's gradient doubled": (
        mutant(change_module=hooked("bias_hh_l0", lambda g: 2 * g)),
        "plain",
    ),
    "W_hh's gradient transposed": (
        mutant(change_module=hooked("weight_hh_l0", lambda g: g.mT)),
        "plain",
    ),
    "dropout ignored": (
        mutant(change_module=lambda m: setattr(m, "dropout", 0.0)),
        "dropout",
    ),
    "dropout in eval mode": (mutant(with_dropout_in_eval), "dropout_in_eval"),
    "other dropout masks": (mutant(with_other_masks), "dropout"),
    "other masks if batch_first": (
        mutant(lambda m, x, h: with_other_masks(m, x, h) if m.batch_first else (x, h)),
        "dropout_batch_first",
    ),
    "second derivative gone": (
        mutant(change_results=on_data(without_second_derivative)),
        "second_order",
    ),
    "directions swapped": (
        mutant(change_results=on_data(swapped_directions)),
        "both_directions",
    ),
    "packed h_n not unpermuted": (mutant(change_results=in_packed_order), "packed"),
    "h_n's layers reversed": (
        mutant(change_results=lambda m, x, o, h: (o, h.flip(0))),
        "layers",
    ),
    "output time first": (
        mutant(change_results=on_data(lambda o: o.transpose(0, 1))),
        "batch_first",
    ),
    "relu as tanh": (
        mutant(change_module=lambda m: setattr(m, "nonlinearity", "tanh")),
        "relu",
    ),
    "h_0 of ones": (mutant(with_ones_as_h_0), "no_h_0"),
    "input's strides ignored": (mutant(as_if_contiguous), "strides"),
    "h_n keeps a batch of one": (
        mutant(change_results=lambda m, x, o, h: (o, h.unsqueeze(1))),
        "unbatched",
    ),
    "an empty batch gets a row": (
        mutant(change_results=lambda m, x, o, h: (torch.cat([o, o.new_zeros(4, 1, 5)], 1), h)),
        "empty_batch",
    ),
}


@pytest.mark.parametrize("name", VALUE_MUTANTS)
def test_value_checks_detect(name):
    cls, case = VALUE_MUTANTS[name]
    with pytest.raises(AssertionError):
        check_same(cls, FIXED[case])


def test_a_subclass_that_changes_nothing_passes():
    for case in {case for _, case in VALUE_MUTANTS.values()}:
        check_same(mutant(), FIXED[case])
    for call in CALLS.values():
        check_same_error(mutant(), torch.nn.RNN, call[0])


def to_dtype_of_weights(module, input, hx):
    return input.to(module.weight_hh_l0.dtype), hx


def broadcast_hx(module, input, hx):
    return input, None if hx is None else hx.expand(-1, input.size(1), -1)


def cut_features(module, input, hx):
    return input[..., : module.input_size], hx


def raise_another(module, input, hx):
    if input.dim() not in (2, 3):
        raise RuntimeError("input must have 2 or 3 dimensions")
    return input, hx


class WithoutChecks(rnnfused.RNN):
    def __init__(self, *args, **kwargs):
        try:
            super().__init__(*args, **kwargs)
        except (TypeError, ValueError):
            super().__init__(4, 5)


class WithoutMessages(rnnfused.RNN):
    def forward(self, input, hx=None):
        try:
            return super().forward(input, hx)
        except Exception as error:
            raise type(error)() from None


ERROR_MUTANTS = {
    "any dtype accepted": (mutant(to_dtype_of_weights), "input float64"),
    "hx is broadcast": (mutant(broadcast_hx), "hx would broadcast"),
    "features are cut off": (mutant(cut_features), "input features"),
    "another exception": (mutant(raise_another), "4-D input"),
    "no message": (WithoutMessages, "hx batch"),
    "dropout unchecked": (WithoutChecks, "dropout 1.5"),
    "hidden_size unchecked": (WithoutChecks, "hidden_size 0"),
    "proj_size unchecked": (WithoutChecks, "proj_size"),
}


@pytest.mark.parametrize("name", ERROR_MUTANTS)
def test_error_checks_detect(name):
    cls, call = ERROR_MUTANTS[name]
    with pytest.raises(AssertionError):
        check_same_error(cls, torch.nn.RNN, *CALLS[call])


class WithBuffer(rnnfused.RNN):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("steps", torch.zeros(()))


class WithLambda(rnnfused.RNN):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.f = lambda x: x


class WithFrozenWeights(rnnfused.RNN):
    """Runs with its initial weights, whatever the parameters are."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__["first"] = {k: v.detach().clone() for k, v in self.named_parameters()}

    def forward(self, input, hx=None):
        for name, value in self.first.items():
            getattr(self, name).data = value
        return super().forward(input, hx)


@pytest.mark.parametrize(
    "cls, check, error",
    [
        (WithBuffer, check_state_dict_both_ways, RuntimeError),
        (WithFrozenWeights, check_state_dict_both_ways, AssertionError),
        (WithFrozenWeights, check_tied, AssertionError),
        (WithLambda, check_pickles, (AttributeError, pickle.PicklingError)),
    ],
)
def test_state_checks_detect(cls, check, error):
    with pytest.raises(error):
        check(cls)
