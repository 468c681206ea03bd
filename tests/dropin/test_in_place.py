"""Results, inputs and states changed in place between forward and backward: the right gradient, or an error.

A compiler that saves a view for backward misses changes of its base. So no function returns an op's result as a view,
and none saves a view of an argument.
"""

import itertools

import pytest
import torch
import torch._inductor.utils
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import rnnfused
from rnnfused import functional, scratch

T, B, INPUT, HIDDEN = 4, 3, 6, 5


class Call(nn.Module):
    """Makes a module of a function of ``(module, x, h)`` that returns a tuple."""

    def __init__(self, call, **modules):
        super().__init__()
        self.call = call
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x, h):
        return self.call(self, x, h)


def layer(kind=rnnfused.RNN, *, batched=True, **options):
    module = kind(INPUT, HIDDEN, **options)
    rows = ((B, T) if module.batch_first else (T, B)) if batched else (T,)
    states = module.num_layers * (2 if module.bidirectional else 1)
    x = torch.randint(INPUT, rows) if kind is rnnfused.TokenRNN else torch.randn(*rows, INPUT)
    return module, x, torch.randn(states, *rows[:0], *([B] if batched else []), HIDDEN)


def with_lengths(batch_first):
    module, x, h = layer(batch_first=batch_first)
    lengths = torch.tensor([4, 1, 2])
    return Call(lambda m, x, h: m.rnn(x, h, lengths=lengths), rnn=module), x, h


def packed():
    def call(m, x, h):
        result, h_n = m.rnn(PackedSequence(x, torch.tensor([3, 2, 1])), h)
        return result.data, h_n

    return Call(call, rnn=layer()[0]), torch.randn(6, INPUT), torch.randn(1, B, HIDDEN)


def cell(*rows):
    module = Call(lambda m, x, h: (m.cell(x, h),), cell=rnnfused.RNNCell(INPUT, HIDDEN))
    return module, torch.randn(*rows, INPUT), torch.randn(*rows, HIDDEN)


def function(batch_first):
    weight = nn.Linear(HIDDEN, HIDDEN)
    x = torch.randn(*((B, T) if batch_first else (T, B)), HIDDEN)

    def call(m, x, h):
        return functional.rnn(x, m.linear.weight, h, batch_first=batch_first)

    return Call(call, linear=weight), x, torch.randn(B, HIDDEN)


def layer_function(batch_first):
    x = torch.randn(*((B, T) if batch_first else (T, B)), INPUT)

    def call(m, x, h):
        return functional.rnn_layer(x, m.ih.weight, m.hh.weight, None, h, batch_first=batch_first)

    modules = {"ih": nn.Linear(INPUT, HIDDEN), "hh": nn.Linear(HIDDEN, HIDDEN)}
    return Call(call, **modules), x, torch.randn(B, HIDDEN)


def from_scratch():
    def call(m, x, h):
        outputs, state = m.rnn(x, h)
        return (*outputs, state)

    rnn = scratch.RNNScratch(INPUT, HIDDEN, sigma=0.5)
    return Call(call, rnn=rnn), torch.randn(T, B, INPUT), torch.randn(B, HIDDEN)


def language_model():
    model = scratch.RNNLMScratch(scratch.RNNScratch(INPUT, HIDDEN, sigma=0.5), INPUT)
    module = Call(lambda m, x, h: (m.model(x, h),), model=model)
    return module, torch.randint(INPUT, (B, T)), torch.randn(B, HIDDEN)


CASES = {
    "time first": layer,
    "batch first": lambda: layer(batch_first=True),
    "unbatched": lambda: layer(batched=False),
    "unbatched, batch first": lambda: layer(batched=False, batch_first=True),
    "two layers": lambda: layer(num_layers=2),
    "both directions": lambda: layer(bidirectional=True, batch_first=True),
    "both directions, unbatched": lambda: layer(bidirectional=True, batched=False),
    "heads": lambda: layer(heads=5, batch_first=True),
    "ids": lambda: layer(rnnfused.TokenRNN),
    "ids, batch first": lambda: layer(rnnfused.TokenRNN, batch_first=True),
    "ids, unbatched": lambda: layer(rnnfused.TokenRNN, batched=False),
    "lengths": lambda: with_lengths(False),
    "lengths, batch first": lambda: with_lengths(True),
    "packed": packed,
    "cell": lambda: cell(B),
    "cell, unbatched": cell,
    "function": lambda: function(False),
    "function, batch first": lambda: function(True),
    "layer function": lambda: layer_function(False),
    "layer function, batch first": lambda: layer_function(True),
    "from scratch": from_scratch,
    "language model": language_model,
}
# A selection, because inductor takes seconds for each.
INDUCTOR = [
    "batch first",
    "unbatched, batch first",
    "both directions",
    "ids, batch first",
    "lengths, batch first",
    "cell",
    "function, batch first",
    "layer function, batch first",
    "from scratch",
    "language model",
]
RUNS = [(name, mode) for mode in ("eager", "aot_eager") for name in CASES]
RUNS += [(name, "inductor") for name in INDUCTOR]


def gradients(run, module, inputs, change, in_place):
    """Returns the leaves' gradients after ``change``, made in place or by operations that return new tensors."""
    leaves = [x.clone().requires_grad_() if x.is_floating_point() else x.clone() for x in inputs]
    given = [x.clone() for x in leaves]
    results = list(run(*given))
    weights = [torch.linspace(0.5, 1.5, x.numel()).view(x.shape) for x in results]
    kind, which = change
    if kind == "argument" and in_place:
        with torch.no_grad():
            x = given[which]
            x.mul_(0.5) if x.is_floating_point() else x.copy_((x + 1) % INPUT)
    elif kind == "result":
        results[which] = results[which].mul_(0.5) if in_place else results[which] * 0.5
    elif kind == "detached":
        results[which] = results[which].detach_() if in_place else results[which].detach()
    loss = sum((x * w).sum() for x, w in zip(results, weights, strict=True))
    leaves = [x for x in leaves if x.is_floating_point()]
    return torch.autograd.grad(loss, [*leaves, *module.parameters()], allow_unused=True)


@pytest.fixture(autouse=True)
def fresh_compiler():
    # A cached graph may come from an earlier version of this package.
    with torch._inductor.utils.fresh_cache():
        torch._dynamo.reset()
        yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("case", "mode"), RUNS)
def test_the_right_gradient_or_an_error(case, mode):
    torch.manual_seed(0)
    module, *inputs = CASES[case]()
    run = module if mode == "eager" else torch.compile(module, backend=mode)
    count = len(run(*inputs))
    changes = [("argument", 0), ("argument", 1), ("result", 0), ("result", count - 1)]
    if count > 1:  # a single detached result leaves nothing to differentiate
        changes += [("detached", 0), ("detached", count - 1)]
    for change in changes:
        expected = gradients(module, module, inputs, change, in_place=False)
        try:
            got = gradients(run, module, inputs, change, in_place=True)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error), change
            assert change[0] != "detached"
        else:
            torch.testing.assert_close(got, expected, msg=lambda text: f"{change}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_no_result_is_a_view(case):
    module, *inputs = CASES[case]()
    for result in module(*inputs):
        assert not result._is_view()
    with torch.no_grad():
        results = module(*inputs)
    for result in results:
        # On a view made without gradients, this is an error.
        result *= torch.ones_like(result, requires_grad=True)


def test_complex_layers_return_no_view():
    for batch_first, batched in itertools.product([False, True], repeat=2):
        module = rnnfused.RNN(2, 3, batch_first=batch_first, dtype=torch.complex64)
        shape = (4, 5, 2) if batched else (4, 2)
        for result in module(torch.randn(shape, dtype=torch.complex64)):
            assert not result._is_view()
