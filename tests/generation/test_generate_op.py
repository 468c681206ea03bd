"""Generation by the op: against the loop in Python, and independent of chunks, batches and threads."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from models import VOCAB, by_loop, by_op, make, prefixes, raw

import rnnfused
from rnnfused.generation import generate, generate_by_steps

CHOICES = {
    "greedy": {"temperature": 0},
    "cool": {"temperature": 0.6},
    "top_k": {"top_k": 5},
    "top_k of all": {"top_k": 1000},
    "top_p": {"top_p": 0.7},
    "both": {"temperature": 1.3, "top_k": 7, "top_p": 0.8},
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(params=CHOICES)
def choice(request):
    # With some seeds a random number lies within 1e-7 of the border between two symbols, where rounding decides.
    return {"seed": 4, **CHOICES[request.param]}


def check_equal(model, ids, count, **options):
    rnn, head, embedding = model
    with by_op():
        got = generate(rnn, head, ids, count, embedding=embedding, **options)
    with by_loop():
        expected = generate(rnn, head, ids, count, embedding=embedding, **options)
    assert got[0].dtype == torch.int64 and got[0].shape == expected[0].shape
    assert torch.equal(got[0], expected[0])
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(got[1].dtype, 0.02)
    torch.testing.assert_close(got[1], expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("features", [None, 9])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize(("layers", "batch"), [(1, 1), (3, 5), (2, 40)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_loop(dtype, layers, batch, nonlinearity, features, choice):
    model = make(layers=layers, nonlinearity=nonlinearity, features=features, dtype=dtype)
    check_equal(model, prefixes(batch), 25, **choice)


@pytest.mark.parametrize(
    ("hidden", "vocab"), [*itertools.product([1, 7, 16, 33, 100], [1, 2, 9, 31, 65])]
)
def test_equals_the_loop_at_every_size(hidden, vocab):
    for batch, dtype in itertools.product((1, 3), (torch.float64, torch.bfloat16)):
        model = make(hidden=hidden, vocab=vocab, dtype=dtype, layers=2)
        check_equal(model, prefixes(batch, vocab=vocab), 12, seed=1, top_p=0.9)


@pytest.mark.parametrize("capability", ["default", "avx512", "avx512_bf16"])
def test_on_other_instruction_sets(run_on_capability, capability):
    run_on_capability(capability, "every_size or of_equal_logits or top_p", 500)


def test_the_loop_of_single_steps_is_the_textbooks():
    # An oracle of the oracle: greedy, in plain operations.
    rnn, head, _ = make(layers=2, dtype=torch.float64)
    ids = prefixes(3)
    text = ids
    for _ in range(10):
        output, _ = rnn(text.t())
        text = torch.cat([text, head(output[-1]).argmax(1, keepdim=True)], 1)
    with by_loop():
        assert torch.equal(generate(rnn, head, ids, 10, temperature=0)[0], text[:, 4:])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [torch.nn.RNN, rnnfused.RNN])
def test_one_hot_rows(kind, batch_first):
    _, head, _ = make()
    rnn = kind(VOCAB, 40, batch_first=batch_first)
    check_equal((rnn, head, None), prefixes(3), 30, seed=0)


def test_without_biases_and_with_a_pair_as_head(choice):
    rnn, head, _ = make(layers=2, bias=False)
    check_equal((rnn, (head.weight, None), None), prefixes(2), 20, **choice)
    # Tied to the lowest layer's weight: a transposed view.
    rnn, head, _ = make(vocab=40)
    check_equal((rnn, (rnn.weight_ih_l0.t(), head.bias), None), prefixes(2), 20, **choice)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_depends_on_its_stream_alone(threads, choice, restore_threads):
    torch.set_num_threads(threads)
    rnn, head, _ = make(layers=2, hidden=150)
    ids = prefixes(1).expand(33, -1)
    together, states = generate(rnn, head, ids, 300, **choice)
    for row in (0, 5, 32):
        alone, state = generate(rnn, head, ids[:1], 300, streams=torch.tensor([row]), **choice)
        assert torch.equal(alone[0], together[row])
        assert torch.equal(state[:, 0], states[:, row])
    if choice.get("temperature") != 0:
        assert len({tuple(row) for row in together.tolist()}) > 20


def test_chunks_do_not_matter(choice):
    rnn, head, _ = make(layers=2)
    ids, streams = torch.tensor([3, 8]), torch.tensor([4, 1])
    numbers = (choice.get("temperature", 1.0), choice.get("top_k", 0), choice.get("top_p", 1.0), 7)
    state = torch.rand(2, 2, 40)
    expected, last = raw(rnn, head, state, ids, streams, 60, 10, numbers)
    pieces, step = [], 10
    for count in (1, 20, 0, 38, 1):
        symbols, state = raw(rnn, head, state, ids, streams, count, step, numbers)
        pieces.append(symbols)
        ids, step = symbols[:, -1].contiguous() if count else ids, step + count
    assert torch.equal(torch.cat(pieces, 1), expected)
    assert torch.equal(state, last)


def test_a_call_goes_on_where_another_ended(choice):
    rnn, head, _ = make(layers=2)
    ids = prefixes(3)
    expected, last = generate(rnn, head, ids, 50, **choice)
    first, h_n = generate(rnn, head, ids, 20, **choice)
    second, h_n = generate(rnn, head, first[:, -1:], 30, h_0=h_n, first_step=20, **choice)
    assert torch.equal(torch.cat([first, second], 1), expected)
    assert torch.equal(h_n, last)


def test_initial_states_matter():
    rnn, head, _ = make(layers=2)
    h_0 = torch.rand(2, 3, 40)
    ids = prefixes(3, 1)
    got, _ = generate(rnn, head, ids, 5, h_0=h_0, temperature=0)
    assert not torch.equal(got, generate(rnn, head, ids, 5, temperature=0)[0])
    check_equal((rnn, head, None), ids, 5, h_0=h_0, seed=0)


def test_unbatched():
    rnn, head, _ = make(layers=2)
    ids = prefixes(1)
    symbols, h_n = generate(rnn, head, ids[0], 9, seed=0)
    assert symbols.shape == (9,) and h_n.shape == (2, 40)
    batched, states = generate(rnn, head, ids, 9, seed=0)
    assert torch.equal(symbols, batched[0]) and torch.equal(h_n, states[:, 0])
    again, _ = generate(rnn, head, symbols[-1:], 9, h_0=h_n, seed=0)
    assert again.shape == (9,)


def test_no_symbols_and_no_rows():
    rnn, head, _ = make(layers=2)
    ids = prefixes(3)
    for context in (by_op, by_loop):
        with context():
            symbols, h_n = generate(rnn, head, ids, 0)
            assert symbols.shape == (3, 0)
            torch.testing.assert_close(h_n, rnn(ids[:, :-1].t())[1])
            symbols, h_n = generate(rnn, head, ids[:, :1], 0)
            assert torch.equal(h_n, torch.zeros(2, 3, 40))
            symbols, h_n = generate(rnn, head, ids[:0], 5)
            assert symbols.shape == (0, 5) and h_n.shape == (2, 0, 40)


def test_excluded_ids_are_never_chosen():
    rnn, head, _ = make()
    with torch.no_grad():
        head.bias[[2, 5]] = 100
    for options in CHOICES.values():
        for context in (by_op, by_loop):
            with context():
                symbols, _ = generate(
                    rnn, head, prefixes(2), 100, exclude=[2, 5], seed=0, **options
                )
                assert not torch.isin(symbols, torch.tensor([2, 5])).any()
    assert head.bias[2] == 100
    check_equal((rnn, (head.weight, None), None), prefixes(2), 50, exclude=(1,), seed=0)


def test_of_equal_logits_greedy_takes_the_lowest():
    rnn, head, _ = make(vocab=50)
    torch.nn.init.zeros_(head.weight)
    for best in ([0, 49], [17, 18, 40], [33, 48], [49]):
        torch.nn.init.zeros_(head.bias)
        with torch.no_grad():
            head.bias[best] = 1
        check_equal((rnn, head, None), prefixes(1), 4, temperature=0)
        assert (generate(rnn, head, prefixes(1), 4, temperature=0)[0] == best[0]).all()


def test_of_equal_logits_the_lower_ids_are_kept():
    rnn, head, _ = make(dtype=torch.float64)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    for options, kept in (({"top_k": 4}, 4), ({"top_p": 0.5}, 12), ({"top_k": 8, "top_p": 0.5}, 4)):
        check_equal((rnn, head, None), prefixes(2), 300, seed=0, **options)
        symbols, _ = generate(rnn, head, prefixes(2), 300, seed=0, **options)
        assert sorted(set(symbols.flatten().tolist())) == list(range(kept))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [5e-324, 1e-200, 1e-30])
def test_tiny_temperatures_are_greedy(dtype, temperature):
    rnn, head, _ = make(dtype=dtype)
    expected = generate(rnn, head, prefixes(2), 50, temperature=0)[0]
    assert torch.equal(generate(rnn, head, prefixes(2), 50, temperature=temperature)[0], expected)
    check_equal((rnn, head, None), prefixes(2), 50, temperature=temperature, seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_temperatures_draw_among_equal_logits(dtype):
    rnn, head, _ = make(dtype=dtype)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias[[3, 20]] = 1
    for temperature in (5e-324, 1e-30):
        check_equal((rnn, head, None), prefixes(2), 50, temperature=temperature, seed=0)
        symbols, _ = generate(rnn, head, prefixes(2), 50, temperature=temperature, seed=0)
        assert set(symbols.flatten().tolist()) == {3, 20}


def test_large_temperatures_are_uniform():
    rnn, head, _ = make()
    check_equal((rnn, head, None), prefixes(2), 50, temperature=1e300, seed=0)
    counts = generate(rnn, head, prefixes(1), 4000, temperature=1e300, seed=0)[0][0].bincount(
        minlength=VOCAB
    )
    assert counts.min() > 100


def test_long_texts_in_many_chunks_equal_one_call():
    rnn, head, _ = make()
    got, _ = generate(rnn, head, prefixes(1, 1), 200_000, seed=7)
    expected, _ = raw(
        rnn, head, torch.zeros(1, 1, 40), prefixes(1, 1)[0], torch.tensor([0]), 200_000
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(bias):
    rnn, head, _ = make(layers=2)
    for parameter in [*rnn.parameters(), *head.parameters()]:
        parameter.requires_grad_(False)
    table = (rnn.weight_ih_l0.t() + rnn.bias_ih_l0).contiguous()
    weights_hh = torch.stack([rnn.weight_hh_l0, rnn.weight_hh_l1])
    others = (rnn.weight_ih_l1.unsqueeze(0), rnn.bias_ih_l1.unsqueeze(0))
    arguments = (table, weights_hh, *others, head.weight, head.bias if bias else None)
    torch.library.opcheck(torch.ops.rnnfused.pack_generator, arguments)
    packed = torch.ops.rnnfused.pack_generator(*arguments)
    ids = torch.tensor([1, 2, 3])
    states = torch.rand(2, 3, 40)
    others = (VOCAB, 0, 5, 0, 0.8, 3, 0.9, 11)
    torch.library.opcheck(torch.ops.rnnfused.generate, (packed, states, ids, ids, *others))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(8, dtype=torch.uint8), "packed must be"),
        (0, torch.zeros(8), "packed must be"),
        (1, torch.zeros(1, 2, 39), "packed must be"),
        (1, torch.zeros(2, 40), "states must be"),
        (2, torch.tensor([0, VOCAB]), "outside the vocabulary"),
        (2, torch.tensor([0, -1]), "outside the vocabulary"),
        (2, torch.tensor([0]), "ids and streams"),
        (3, torch.tensor([0, 1], dtype=torch.int32), "ids and streams"),
        (4, 2**62, "packed must be"),
        (4, 0, "vocab_size"),
        (5, 2, "nonlinearity"),
        (6, -1, "num_symbols"),
        (7, -1, "first_step"),
        (8, -1.0, "temperature"),
        (8, float("nan"), "temperature"),
        (9, -1, "top_k"),
        (10, 0.0, "top_p"),
        (10, float("nan"), "top_p"),
    ],
)
def test_the_op_refuses_what_would_read_out_of_bounds(position, value, message):
    rnn, head, _ = make()
    packed = rnnfused.generation.model.weights_of(rnn, head, None, prefixes(1)).pack([])
    ids = torch.tensor([0, 1])
    arguments = [packed, torch.zeros(1, 2, 40), ids, ids, VOCAB, 0, 3, 0, 1.0, 0, 1.0, 0]
    torch.ops.rnnfused.generate(*arguments)
    arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.rnnfused.generate(*arguments)


def test_by_steps_takes_any_model():
    # A Markov chain, whose state is the number of its calls.
    table = torch.eye(5).roll(1, 1).log()

    def step(ids, state):
        return table[ids[:, -1]], (state or 0) + 1

    symbols, state = generate_by_steps(step, torch.tensor([[4, 2], [1, 0]]), 6, seed=0)
    assert symbols.tolist() == [[3, 4, 0, 1, 2, 3], [1, 2, 3, 4, 0, 1]]
    assert state == 6
    with pytest.raises(ValueError, match="ids must be integers of shape"):
        generate_by_steps(step, torch.tensor([4, 2]), 6)


def test_logits_beside_16_bit_weights_are_float32():
    # Two logits that bfloat16 would round to the same number.
    rnn, head, _ = make(dtype=torch.bfloat16)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    with torch.no_grad():
        rnn.weight_ih_l0.zero_()
        rnn.weight_hh_l0.zero_()
        rnn.bias_ih_l0.fill_(5)  # states of 1
        head.weight[3, 0], head.weight[4, 0], head.weight[4, 1] = 256, 256, 0.5
    assert F.linear(torch.ones(1, 40).bfloat16(), head.weight, head.bias).argmax() == 3
    for context in (by_op, by_loop):
        with context():
            assert generate(rnn, head, prefixes(1), 1, temperature=0)[0].tolist() == [[4]]
