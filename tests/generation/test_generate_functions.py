"""generate(): which way it takes, its checks, callbacks and interruption."""

import math
import signal
import time

import pytest
import torch
from models import VOCAB, by_loop, by_op, make, prefixes

import rnnfused
from rnnfused.generation import functions, generate, generate_by_steps

FAR = torch.tensor([5, 2**64 - 1], dtype=torch.uint64)  # as int64, -1


class Custom(rnnfused.TokenRNN):
    pass


class Heads(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, hidden):
        return self.linear(hidden)


@pytest.mark.parametrize("change", ["hook", "subclass", "autocast", "module as head", "heads"])
def test_what_the_op_cannot_run_goes_step_by_step(change):
    rnn, head, _ = make()
    expected = generate(rnn, head, prefixes(3), 30, temperature=0)[0]
    calls = []
    if change == "hook":
        rnn.register_forward_hook(lambda *_: calls.append(1))
    elif change == "subclass":
        custom = Custom(VOCAB, 40)
        custom.load_state_dict(rnn.state_dict())
        rnn = custom
    elif change == "module as head":
        head = Heads(head)
    elif change == "heads":
        rnn = rnnfused.TokenRNN(VOCAB, 40, heads=2)
    with torch.autocast("cpu", enabled=change == "autocast"):
        with pytest.raises(AssertionError, match="the op was not used"), by_op():
            generate(rnn, head, prefixes(3), 3)
        got = generate(rnn, head, prefixes(3), 30, temperature=0)[0]
    if change not in ("autocast", "heads"):
        assert torch.equal(got, expected)
    assert len(calls) >= (30 if change == "hook" else 0)


def test_modules_on_another_device_go_step_by_step():
    rnn, head, _ = make()
    rnn, head = rnn.to("meta"), head.to("meta")
    with pytest.raises(AssertionError, match="the op was not used"), by_op():
        generate(rnn, head, prefixes(3).to("meta"), 3)


@pytest.mark.parametrize("context", [by_op, by_loop])
@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_stays(context, training):
    rnn, head, _ = make(layers=2, dropout=0.5)
    expected = generate(rnn.eval(), head, prefixes(2), 40, temperature=0)[0]
    rnn.train(training)
    with context():
        assert torch.equal(generate(rnn, head, prefixes(2), 40, temperature=0)[0], expected)
        assert rnn.training == training
        with torch.no_grad():
            head.bias.fill_(math.nan)
        with pytest.raises(ValueError, match="not finite"):
            generate(rnn, head, prefixes(2), 40)
    assert rnn.training == training


@pytest.mark.parametrize("context", [by_op, by_loop])
@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize(
    ("value", "fails"),
    [(math.nan, True), (math.inf, True), (-math.inf, False), ("all -inf", True)],
)
def test_logits_that_are_not_finite(value, fails, temperature, context):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for place in (0, 9, VOCAB - 1):
            rnn, head, _ = make(dtype=dtype)
            with torch.no_grad():
                if fails and value == "all -inf":
                    head.bias.fill_(-math.inf)
                else:
                    head.bias[place] = value
            with context():
                if fails:
                    with pytest.raises(ValueError, match="row 0 for symbol 0 are not finite"):
                        generate(rnn, head, prefixes(3), 20, temperature=temperature)
                else:
                    symbols, _ = generate(rnn, head, prefixes(3), 20, temperature=temperature)
                    assert not (symbols == place).any()


@pytest.mark.parametrize("context", [by_op, by_loop])
def test_a_state_that_overflows_on_the_way_is_reported_where_it_does(context):
    rnn, head, _ = make(nonlinearity="relu", hidden=1)
    with torch.no_grad():
        for parameter in [*rnn.parameters(), *head.parameters()]:
            parameter.fill_(1)
        rnn.weight_hh_l0.fill_(1e10)  # 1e10 at symbol 1, .., 1e40 > 3.4e38 at symbol 4
    with context(), pytest.raises(ValueError, match="row 0 for symbol [3-4] are not finite"):
        generate(rnn, head, prefixes(2, 1), 20)


@pytest.mark.parametrize("context", [by_op, by_loop])
def test_logits_that_are_finite_again_do_not_hide_the_failure(context):
    rnn, head, _ = make(nonlinearity="relu")
    with torch.no_grad():
        rnn.weight_hh_l0.zero_()
        rnn.weight_ih_l0[:, 5] = 1e38
        head.weight.fill_(100)  # infinite logits after symbol 5 alone
        head.bias[5] = -math.inf
    with context(), pytest.raises(ValueError, match="row 1 for symbol 0 are not finite"):
        generate(rnn, head, torch.tensor([[2], [5]]), 9)


def test_a_broken_row_does_not_disturb_others():
    rnn, head, _ = make()
    h_0 = torch.zeros(1, 3, 40)
    h_0[0, 1] = math.nan
    for context in (by_op, by_loop):
        with context(), pytest.raises(ValueError, match="row 1 for symbol 0 are not finite"):
            generate(rnn, head, prefixes(3), 20, h_0=h_0)


@pytest.mark.parametrize("context", [by_op, by_loop])
@pytest.mark.parametrize("every", [1, 7, 20, 100, None])
def test_the_callback_receives_every_symbol_once(every, context):
    rnn, head, _ = make()
    pieces = []
    with context():
        symbols, _ = generate(
            rnn, head, prefixes(2), 45, seed=0, callback=pieces.append, every=every
        )
    assert torch.equal(torch.cat(pieces, 1), symbols)
    if every:
        sizes = [piece.size(1) for piece in pieces]
        assert sizes[:-1] == [every] * ((45 - 1) // every)
    unbatched = []
    generate(rnn, head, prefixes(1)[0], 5, callback=unbatched.append, every=2)
    assert [piece.shape for piece in unbatched] == [(2,), (2,), (1,)]


def test_what_a_callback_raises_ends_the_call():
    rnn, head, _ = make()
    pieces = []

    def stop(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        generate(rnn, head, prefixes(1), 10**6, callback=stop, every=5)
    assert len(pieces) == 3


class Alarm(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs Unix signals")
@pytest.mark.parametrize(("hidden", "batch"), [(8, 1), (512, 1), (512, 200)])
def test_a_signal_is_handled_within_a_tenth_of_a_second(hidden, batch):
    rnn, head, _ = make(hidden=hidden, vocab=60)
    ids = prefixes(batch, vocab=60)

    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    latencies = []
    try:
        for _ in range(5):  # other processes may take the processor for a while
            signal.setitimer(signal.ITIMER_REAL, 0.4)
            started = time.perf_counter()
            with pytest.raises(Alarm):
                generate(rnn, head, ids, 10**9 // batch // 20)
            latencies.append(time.perf_counter() - started - 0.4)
            if min(latencies) < 0.1:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert min(latencies) < 0.1, latencies


def test_without_a_seed_the_global_generator_decides():
    rnn, head, _ = make()

    def draw(**options):
        return generate(rnn, head, prefixes(1), 40, **options)[0].tolist()

    torch.manual_seed(5)
    first = draw()
    assert draw() != first
    torch.manual_seed(5)
    assert draw() == first
    state = torch.get_rng_state()
    draw(seed=1)
    draw(temperature=0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_symbols": -1}, ValueError, "num_symbols must be at least 0, got -1"),
        ({"num_symbols": 2.0}, TypeError, "num_symbols must be an int, got 2.0"),
        ({"temperature": -1}, ValueError, "temperature must be finite and at least 0, got -1"),
        ({"temperature": math.nan}, ValueError, "temperature must be finite"),
        ({"temperature": "1"}, TypeError, "temperature must be a float"),
        ({"temperature": None}, TypeError, "temperature must be a float, got None"),
        ({"num_symbols": 10**15}, MemoryError, f"num_symbols must be smaller: 2 x {10**15} "),
        ({"num_symbols": 2**63 - 1}, MemoryError, "num_symbols must be smaller"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"top_k": 1.5}, TypeError, "top_k must be an int"),
        ({"top_k": True}, TypeError, "top_k must be an int, got True"),
        ({"exclude": [1.5]}, TypeError, "exclude must hold ids, ints, got 1.5"),
        ({"top_p": 0.0}, ValueError, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, ValueError, "top_p must lie in"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": 2**63}, ValueError, "seed must lie in 0 .. 2"),
        ({"first_step": -1}, ValueError, "first_step must be at least 0"),
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"callback": 3}, TypeError, "callback must be callable"),
        ({"streams": [0, 1]}, TypeError, "streams must be a tensor of integers"),
        ({"streams": torch.tensor([0])}, ValueError, r"streams must be \(2,\), one per row"),
        ({"streams": torch.tensor([0, -1])}, ValueError, "streams must be at least 0, got -1"),
        ({"streams": FAR}, ValueError, rf"streams must lie in 0 .. 2 \*\* 63 - 1, got {2**64 - 1}"),
        ({"ids": FAR[None]}, IndexError, f"got values from 5 to {2**64 - 1}"),
        ({"exclude": [VOCAB]}, IndexError, "exclude must hold ids"),
        ({"exclude": [-1]}, IndexError, "exclude must hold ids"),
        ({"exclude": [0.0]}, TypeError, "exclude must hold ids, ints"),
        ({"exclude": 5}, TypeError, "exclude must hold ids, got 5"),
        ({"exclude": range(VOCAB)}, ValueError, "exclude must leave a symbol"),
        ({"exclude": torch.arange(VOCAB)}, ValueError, "exclude must leave a symbol"),
        ({"ids": torch.zeros(2, 0, dtype=torch.long)}, ValueError, "with T >= 1"),
        ({"ids": torch.zeros(2, 2)}, TypeError, "ids must be a tensor of an integer dtype"),
        ({"ids": torch.tensor([[VOCAB]])}, IndexError, f"got values from {VOCAB}"),
        ({"ids": torch.zeros(1, 1, 1, dtype=torch.long)}, ValueError, "ids must be"),
        ({"h_0": torch.zeros(1, 3, 40)}, ValueError, r"h_0 must be \(1, 2, 40\)"),
        ({"h_0": torch.zeros(1, 2, 40).double()}, ValueError, "h_0 must be"),
        ({"h_0": 3}, TypeError, "h_0 must be a Tensor, got int"),
        ({"rnn": torch.nn.LSTM(VOCAB, 40)}, TypeError, "rnn must be an RNN with tanh or relu"),
        (
            {"rnn": rnnfused.TokenRNN(VOCAB, 40, bidirectional=True)},
            ValueError,
            "rnn must not be bidirectional",
        ),
        ({"head": torch.nn.Linear(39, VOCAB)}, ValueError, "head must have a weight"),
        (
            {"head": torch.nn.Linear(40, 7)},
            ValueError,
            "a logit for each id that the rnn takes, 23, got 7",
        ),
        (
            {"head": torch.nn.Linear(40, VOCAB).double()},
            ValueError,
            "head must have a weight torch",
        ),
        ({"head": (torch.zeros(VOCAB, 40), torch.zeros(3))}, ValueError, "head must have a bias"),
        ({"head": 3}, TypeError, "head must be a module or a pair"),
        (
            {"head": Heads(torch.nn.Linear(40, VOCAB + 3))},
            ValueError,
            r"head must return logits \(2, 23\), .* got \(2, 26\)",
        ),
        (
            {"head": Heads(torch.nn.Linear(40, VOCAB - 3)), "exclude": [VOCAB - 2]},
            ValueError,
            r"head must return logits \(2, 23\), .* got \(2, 20\)",
        ),
        (
            {"head": Heads(lambda hidden: [hidden])},
            TypeError,
            "head must return logits as a Tensor, got list",
        ),
        ({"embedding": torch.zeros(VOCAB, 3)}, ValueError, "embedding must be None for a TokenRNN"),
        (
            {"rnn": rnnfused.RNN(5, 40), "embedding": torch.zeros(VOCAB, 3)},
            ValueError,
            "embedding must have the rnn's 5 features, got 3",
        ),
        (
            {"rnn": rnnfused.RNN(1, 40), "embedding": torch.zeros(VOCAB, 3)},
            ValueError,
            "embedding must have the rnn's 1 feature, got 3",
        ),
        ({"rnn": rnnfused.RNN(5, 40), "embedding": 3}, TypeError, "embedding must be a module"),
    ],
)
def test_wrong_arguments(options, error, message):
    rnn, head, _ = make()
    arguments = {"rnn": rnn, "head": head, "ids": prefixes(2), "num_symbols": 5, **options}
    with pytest.raises(error, match=message):
        generate(**arguments)


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (None, TypeError, "step must be callable, got None"),
        (lambda ids, state: None, TypeError, r"a pair \(logits, state\), got NoneType"),
        (lambda ids, state: torch.zeros(2, VOCAB), TypeError, "a pair .*, got Tensor"),
        (lambda ids, state: (torch.zeros(2, 3), 0, 0), TypeError, "a pair .*, got 3 values"),
        (lambda ids, state: (torch.zeros(2, 3),), TypeError, "a pair .*, got 1 value$"),
        (lambda ids, state: ([0.0], state), TypeError, "logits as a Tensor, got list"),
        (lambda ids, state: (torch.zeros(VOCAB), state), ValueError, r"\(2, V\).*got \(23,\)"),
        (lambda ids, state: (torch.zeros(2, 4, 3), state), ValueError, r"got \(2, 4, 3\)"),
        (lambda ids, state: (torch.zeros(1, VOCAB), state), ValueError, r"got \(1, 23\)"),
        (lambda ids, state: (torch.zeros(2, 0), state), ValueError, r"got \(2, 0\)"),
    ],
)
def test_wrong_steps(step, error, message):
    with pytest.raises(error, match=message):
        generate_by_steps(step, prefixes(2), 3)


@pytest.mark.parametrize("context", [by_op, by_loop])
def test_a_callback_may_write_to_its_piece(context):
    rnn, head, _ = make()
    for ids in (prefixes(2), prefixes(1)[0]):
        with context():
            expected = generate(rnn, head, ids, 20, seed=0)[0]
            got = generate(rnn, head, ids, 20, seed=0, callback=lambda piece: piece.zero_())[0]
        assert torch.equal(got, expected) and got.any()


def test_excluded_ids_leave_the_head_s_own_tensor():
    rnn, head, _ = make()
    kept = torch.randn(2, VOCAB)
    before = kept.clone()
    generate(rnn, Heads(lambda hidden: kept), prefixes(2), 3, exclude=[4])
    assert torch.equal(kept, before)


def test_the_op_is_the_one_in_use():
    # The tests of this folder compare two ways; this one sees that they are two.
    assert functions.weights_of(*make(), prefixes(1)) is not None


def test_a_compiled_function_may_generate():
    rnn, head, _ = make()
    expected = generate(rnn, head, prefixes(2), 30, seed=0)[0]

    @torch.compile(backend="eager")
    def both(ids):
        return generate(rnn, head, ids + 0, 30, seed=0)[0] + 1

    assert torch.equal(both(prefixes(2)), expected + 1)
