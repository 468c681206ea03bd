"""rnnfused.scratch against the textbook's loops, and its checks of wrong input, which the textbook lacks."""

import math

import pytest
import torch
import torch.nn.functional as F
from textbook import TimeMachine, Trainer, Vocab, language_model_loss, parity, rnn

import rnnfused
from rnnfused.scratch import RNNLMScratch, RNNScratch, RNNScratchCell, clip_gradients

pytestmark = pytest.mark.usefixtures("device")

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]
VOCAB = Vocab("abcdefgh ")


@pytest.fixture
def cell():
    torch.manual_seed(0)
    return RNNScratch(len(VOCAB), 7, sigma=0.5)


@pytest.fixture
def model(cell):
    return RNNLMScratch(cell, len(VOCAB), lr=1)


def test_parameters_equal_the_textbooks(cell, model):
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    of_rnn = {"rnn.W_xh": (10, 7), "rnn.W_hh": (7, 7), "rnn.b_h": (7,)}
    assert shapes == {**of_rnn, "W_hq": (7, 10), "b_q": (10,)}
    big = RNNScratch(300, 400)
    assert big.W_xh.std().item() == pytest.approx(0.01, rel=0.02)
    assert big.W_hh.std().item() == pytest.approx(0.01, rel=0.02)
    assert not big.b_h.any() and not model.b_q.any()


def check_rnn(cell, inputs, dense_inputs, state=None, given_as=None):
    parameters = list(cell.parameters())
    outputs, last = cell(inputs, state if given_as is None else given_as)
    expected, expected_last = rnn(dense_inputs, *parameters, state)
    torch.testing.assert_close(outputs, expected)
    stacked, _ = cell(inputs, state if given_as is None else given_as, stacked=True)
    torch.testing.assert_close(stacked, torch.stack(expected))
    torch.testing.assert_close(last, expected_last)
    loss, expected_loss = (torch.stack(o).sin().sum() for o in (outputs, expected))
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected_loss, parameters)
    )


def test_rnn_equals_the_loop(cell):
    inputs = torch.randn(5, 3, 10)
    check_rnn(cell, inputs, inputs)
    check_rnn(cell, list(inputs), inputs)
    check_rnn(cell, inputs, inputs, state := torch.randn(3, 7))
    check_rnn(cell, inputs, inputs, state, given_as=(state,))
    outputs, _ = cell(inputs)
    assert len(outputs) == 5 and outputs[0].shape == (3, 7)  # as code for a list of steps expects


@pytest.mark.parametrize("dtype", INTEGERS)
def test_ids_equal_one_hot_inputs(cell, dtype):
    for shape in ((6, 4), (1, 1)):
        ids = torch.randint(0, 10, shape)
        check_rnn(cell, ids.to(dtype), F.one_hot(ids, 10).float())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_returned_state_can_be_fed_back(cell, batch):
    inputs = torch.randn(6, batch, 10)
    whole, last = cell(inputs)
    for wrap in (lambda s: s, lambda s: (s,)):
        first, state = cell(inputs[:2])
        second, end = cell(inputs[2:], wrap(state))
        torch.testing.assert_close([*first, *second], whole)
        torch.testing.assert_close(end, last)


def test_one_state_serves_every_row(cell):
    inputs, state = torch.randn(2, 3, 10), torch.randn(1, 7)
    torch.testing.assert_close(cell(inputs, state)[0], cell(inputs, state.expand(3, 7))[0])


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("steps", [1, 3])
def test_subclasses_of_tensor(cell, steps):
    x, state = torch.randn(steps, 2, 10), torch.randn(2, 7)
    expected = cell(x, state)
    for inputs, h in ((x.as_subclass(Subclass), state), (x, state.as_subclass(Subclass))):
        outputs, last = cell(inputs, h)
        torch.testing.assert_close(outputs[-1].as_subclass(torch.Tensor), expected[0][-1])
        last.sum().backward()


def test_one_step_cell():
    cell = RNNScratchCell(4, 6, sigma=0.5).double()
    shapes = {name: tuple(p.shape) for name, p in cell.named_parameters()}
    assert shapes == {"Wx": (4, 6), "Wh": (6, 6), "b": (6,)}
    x, h = torch.randn(3, 4).double(), torch.randn(3, 6).double()
    torch.testing.assert_close(cell(x, h), torch.tanh(x @ cell.Wx + h @ cell.Wh + cell.b))
    torch.testing.assert_close(cell(x), torch.tanh(x @ cell.Wx + cell.b))
    assert cell(x).dtype == torch.float64 and cell(x).shape == (3, 6)
    assert torch.autograd.gradcheck(lambda x, h, *_: cell(x, h), (x.requires_grad_(), h))


def test_one_hot_and_output_layer(model):
    X = torch.randint(0, 10, (3, 5))
    one_hot = model.one_hot(X)
    assert torch.equal(one_hot, F.one_hot(X.t(), 10).float())
    steps = [torch.randn(3, 7) for _ in range(5)]
    logits = model.output_layer(steps)
    expected = torch.stack([h @ model.W_hq + model.b_q for h in steps], 1)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(model.output_layer(torch.stack(steps)), expected)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_loss_and_gradients_equal_the_loops(model, dtype):
    X, Y = torch.randint(0, 10, (2, 4, 6))
    model.double()
    loss = model.training_step((X.to(dtype), Y.to(dtype)))
    expected = language_model_loss(model, X, Y)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    )
    assert model(X).shape == (4, 6, 10)


class ConciseRNN(torch.nn.Module):
    """The textbook's concise wrapper around torch.nn.RNN."""

    def __init__(self, num_inputs, num_hiddens):
        super().__init__()
        self.num_hiddens = num_hiddens
        self.rnn = torch.nn.RNN(num_inputs, num_hiddens)

    def forward(self, inputs, H=None):
        return self.rnn(inputs, H)


def test_other_rnns_can_be_used():
    X = torch.randint(0, 10, (3, 5))
    theirs = RNNLMScratch(ConciseRNN(10, 7), 10)
    ours = RNNLMScratch(rnnfused.TokenRNN(10, 7), 10)
    ours.rnn.load_state_dict(theirs.rnn.rnn.state_dict())
    ours.load_state_dict({"W_hq": theirs.W_hq, "b_q": theirs.b_q}, strict=False)
    torch.testing.assert_close(ours(X), theirs(X))
    assert ours.predict("abc", 9, VOCAB) == theirs.predict("abc", 9, VOCAB)


def test_perplexity_is_recorded_and_plotted(model, tmp_path):
    batch = torch.randint(0, 10, (2, 4, 6))
    losses = [model.training_step(batch).item() for _ in range(2)]
    points = model.board.points
    assert [x for x, _ in points["train_ppl"]] == [1, 2]
    # One point per validation: the perplexity over the symbols of all its batches.
    small = torch.randint(0, 10, (2, 1, 6))
    nats = model.validation_step(batch) * 24 + model.validation_step(small) * 6
    assert points["val_ppl"] == [(2, pytest.approx(math.exp(nats.item() / 30), rel=1e-5))]
    assert points["train_ppl"][0][1] == pytest.approx(math.exp(losses[0]))
    pytest.importorskip("matplotlib")
    model.board.save(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_validations_are_separate_and_empty_batches_do_not_count(model):
    empty, batch = torch.zeros(2, 0, 6).long(), torch.randint(0, 10, (2, 4, 6))
    model.training_step(empty)
    assert "train_ppl" not in model.board.points
    for _ in range(2):
        model.validation_step(empty)
        loss = model.validation_step(batch)
        _, perplexity = model.board.points["val_ppl"][-1]
        assert perplexity == pytest.approx(loss.exp().item(), rel=1e-5)
        model.training_step(batch)
        model.W_hq.data *= 3


def test_an_rnn_without_parameters():
    class Copies(torch.nn.Module):
        num_hiddens = 10

        def forward(self, inputs, state):
            return inputs, state

    model = RNNLMScratch(Copies(), 10)
    assert model(torch.randint(0, 10, (3, 5))).shape == (3, 5, 10)


def test_a_batch_first_rnn_is_refused():
    with pytest.raises(ValueError, match="batch_first=True"):
        RNNLMScratch(rnnfused.TokenRNN(10, 7, batch_first=True), 10)


def test_output_layer_and_board_can_be_replaced():
    class Linear(RNNLMScratch):
        def init_params(self):
            self.linear = torch.nn.Linear(7, self.vocab_size)

        def output_layer(self, hiddens):
            return self.linear(hiddens).swapaxes(0, 1)

    class Drawn(list):
        def draw(self, x, y, label, every_n=1):
            self.append((x, label))

    model = Linear(ConciseRNN(10, 7), 10)
    model.board = Drawn()
    batch = torch.randint(0, 10, (2, 4, 6))
    mean = model.training_step(batch)
    model.validation_step(batch)
    assert model.board == [(1, "train_ppl"), (1, "val_ppl")]
    each = model.loss(model(batch[0]), batch[1], averaged=False)
    assert each.shape == (24,)
    torch.testing.assert_close(each.mean(), mean)
    assert len(model.predict("abc", 4, VOCAB)) >= 7


def greedy_by_full_recomputation(model, prefix, num_preds):
    ids = [VOCAB[token] for token in prefix]
    for _ in range(num_preds):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return "".join(VOCAB.idx_to_token[i] for i in ids)


@pytest.mark.parametrize("prefix", ["a", "bad cab", ["h", "e"]])
@pytest.mark.parametrize("num_preds", [0, 1, 12])
def test_prediction_carries_the_state(model, prefix, num_preds, device):
    # Larger weights, so that the prediction depends on more than the last symbol.
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    got = model.predict(prefix, num_preds, VOCAB)
    assert got == greedy_by_full_recomputation(model, prefix, num_preds)
    assert model.predict(prefix, num_preds, VOCAB, torch.device(device)) == got


def test_numbers_of_numpy(model):
    numpy = pytest.importorskip("numpy")
    expected = model.predict("ab", 3, VOCAB)
    for kind in (numpy.int64, numpy.uint8):
        assert model.predict("ab", kind(3), VOCAB) == expected
    for wrong in (numpy.float64(3), True, "3"):
        with pytest.raises(TypeError, match="num_preds must be an int, got"):
            model.predict("ab", wrong, VOCAB)


class StrictVocab(dict):
    idx_to_token = VOCAB.idx_to_token


class ListVocab:
    """Looks tokens up in a list, which raises ValueError for one that it lacks."""

    idx_to_token = VOCAB.idx_to_token

    def __getitem__(self, token):
        return self.idx_to_token.index(token)


@pytest.mark.parametrize("vocab", [VOCAB, StrictVocab(VOCAB.token_to_idx), ListVocab()])
def test_prediction_refuses_wrong_prefixes(model, vocab):
    with pytest.raises(ValueError, match="prefix must not be empty"):
        model.predict("", 3, vocab)
    with pytest.raises(ValueError, match="'Z', which is not in the vocabulary"):
        model.predict("abZ", 3, vocab)
    with pytest.raises(ValueError, match="the symbol 3, which is not in the vocabulary"):
        model.predict(["a", 3], 3, vocab)
    with pytest.raises(ValueError, match="num_preds must be at least 0, got -1"):
        model.predict("ab", -1, vocab)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: m.rnn(torch.randn(5, 10)),
            ValueError,
            r"\(num_steps, batch, 10\), got \(5, 10\)",
        ),
        (lambda m: m.rnn(torch.randn(5, 3, 9)), ValueError, r"got \(5, 3, 9\)"),
        (lambda m: m.rnn(torch.randn(5, 3, 10).double()), TypeError, "got torch.float64"),
        (lambda m: m.rnn(torch.ones(5, 3, 10).long()), ValueError, r"\(num_steps, batch\), got"),
        (lambda m: m.rnn(torch.ones(5, 3).long() * 10), IndexError, r"\[0, 10\)"),
        (lambda m: m.rnn(torch.randn(5, 3, 10), torch.zeros(2, 7)), ValueError, "state must be"),
        (lambda m: m.rnn(torch.randn(5, 3, 10), torch.zeros(1, 3, 7)), ValueError, "state must be"),
        (lambda m: m.rnn(torch.randn(5, 3, 10), (1, 2)), ValueError, "1-tuple"),
        (
            lambda m: m(torch.ones(5).long()),
            ValueError,
            r"\(batch, num_steps\) .* got shape \(5,\)",
        ),
        (lambda m: m(torch.ones(5, 3)), TypeError, "X must be token ids of an integer dtype"),
        (lambda m: m(torch.full((5, 3), -1)), IndexError, "vocabulary"),
        (lambda m: m([[1, 2]]), TypeError, "X must be token ids .* got list"),
        (
            lambda m: m(torch.ones(5, 0).long()),
            ValueError,
            r"at least one step, got shape \(5, 0\)",
        ),
        (lambda m: m(torch.ones(5, 3, device="meta").long()), ValueError, "on .* got meta"),
        (lambda m: m.loss(torch.randn(5, 3, 10), torch.ones(3, 5).long()), ValueError, "Y must be"),
        (lambda m: m.loss(torch.randn(5, 3, 10), torch.ones(15).long()), ValueError, "Y must be"),
        (lambda m: m.loss(torch.randn(5, 3, 10), torch.ones(5, 3)), TypeError, "Y must be"),
        (lambda m: m.loss(torch.randn(5, 3, 10), -100 * torch.ones(5, 3).long()), IndexError, "Y"),
        (lambda m: m.rnn([]), ValueError, "a step, got an empty list"),
        (lambda m: m.rnn(torch.randn(5, 3, 10, device="meta")), ValueError, "inputs .* got meta"),
        (lambda m: RNNScratchCell(4, 6)(torch.randn(3, 4, device="meta")), ValueError, "got meta"),
        (lambda m: m.predict("a", 2, Vocab("ab")), ValueError, "of 10 tokens, got one of 3"),
        (lambda m: m.rnn(None), TypeError, "inputs must be .* got NoneType"),
        (lambda m: m.rnn(torch.randn(5, 3, 10), 3), TypeError, "state must be .* got int"),
        (lambda m: RNNScratchCell(4, 6)([1.0]), TypeError, "x must be a Tensor, got list"),
        (lambda m: m.predict("ab", 1.5, VOCAB), TypeError, "num_preds must be an int, got 1.5"),
        (lambda m: m.predict("ab", 10**15, VOCAB), MemoryError, "num_preds must be smaller: 1 x"),
        (lambda m: m.predict("xyz", 2, Vocab("a lot of words xyz")), ValueError, "vocab must be"),
        (lambda m: m.predict("ab", 2, VOCAB, "meta"), ValueError, "device must .* got 'meta'"),
        (lambda m: m.predict("ab", 2, VOCAB, "foo"), ValueError, "model's, 'DEVICE', got 'foo'"),
        (lambda m: m.predict("ab", 2, VOCAB, [1]), TypeError, "device must .* got list"),
        (lambda m: m.predict("ab", 2, None), TypeError, "vocab must .* got NoneType"),
        (lambda m: m.predict(3, 2, VOCAB), TypeError, "prefix must .* got int"),
        (lambda m: m.predict(b"ab", 2, VOCAB), TypeError, "prefix must be a str or a .* got bytes"),
        (lambda m: m.predict({"a", "b"}, 2, VOCAB), TypeError, "prefix must .* got set"),
        (lambda m: m.predict({"a": 1}, 2, VOCAB), TypeError, "prefix must .* got dict"),
        (lambda m: m.predict([3], 2, VOCAB), ValueError, "the symbol 3, which is not in the voc"),
        (lambda m: m.one_hot(torch.ones(5, 3)), TypeError, "integer dtype"),
        (lambda m: RNNScratchCell(4, 6)(torch.randn(3, 5)), ValueError, r"x must be \(batch, 4\)"),
        (
            lambda m: RNNScratchCell(4, 6)(torch.randn(3, 4).double()),
            TypeError,
            "got torch.float64",
        ),
    ],
)
def test_wrong_input_is_named(model, call, error, message):
    with pytest.raises(error, match=message.replace("DEVICE", str(model.b_q.device))):
        call(model)


@parity
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parity_on_the_time_machine(seed):
    """The textbook's settings reach validation perplexity 7.1 to 7.6 and training perplexity 6.1 to 6.4.

    Both are rounded to one decimal, because every rounding error changes the result of a seed.
    """
    torch.manual_seed(seed)
    data = TimeMachine()
    model = RNNLMScratch(RNNScratch(len(data.vocab), 32), len(data.vocab), lr=1)
    trainer = Trainer(100, 1, clip_gradients)
    trainer.fit(model, data)
    assert 6.1 <= round(trainer.train_perplexity, 1) <= 6.4
    assert 7.1 <= round(trainer.val_perplexity, 1) <= 7.6
    assert model.predict("it has", 20, data.vocab).startswith("it has")
    assert [x for x, _ in model.board.points["val_ppl"]] == list(range(1, 101))
    assert model.board.points["val_ppl"][-1][1] == pytest.approx(trainer.val_perplexity)
    assert model.board.points["train_ppl"][-1][0] == pytest.approx(100, abs=0.2)


class Stacked(torch.nn.Module):
    """Stacked layers as in chapter 10.3: each takes the stacked outputs of the layer below."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            RNNScratch(*pair, sigma=0.3) for pair in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, inputs, states=None):
        states = states or [None] * len(self.layers)
        for i, layer in enumerate(self.layers):
            outputs, states[i] = layer(inputs, states[i])
            inputs = torch.stack(outputs, 0)
        return inputs, states


def test_stacked_as_in_the_textbook():
    model = Stacked([10, 7, 5])
    inputs = torch.randn(5, 3, 10)
    outputs, states = model(inputs)
    for layer, state in zip(model.layers, states, strict=True):
        steps, expected_state = rnn(inputs, *layer.parameters())
        inputs = torch.stack(steps)
        torch.testing.assert_close(state, expected_state)
    torch.testing.assert_close(outputs, inputs)


def test_both_directions_as_in_the_textbook():
    """Chapter 10.4: the backward layer takes ``reversed`` inputs, and its outputs are ``reversed`` again."""
    forward, backward = (RNNScratch(10, 7, sigma=0.3) for _ in range(2))
    inputs = torch.randn(5, 3, 10)
    steps = rnn(inputs.flip(0), *backward.parameters())[0]
    expected = [
        torch.cat(pair, -1) for pair in zip(rnn(inputs, *forward.parameters())[0], steps[::-1])
    ]
    for given in (inputs, list(inputs)):
        outputs, _ = forward(given)
        others, _ = backward(reversed(given))
        got = [torch.cat(pair, -1) for pair in zip(outputs, reversed(others), strict=True)]
        torch.testing.assert_close(got, expected)


def test_a_subclass_returns_a_list_to_the_language_model():
    """Only RNNScratch itself gets the option ``stacked``; a subclass's forward may lack it."""

    class Doubled(RNNScratch):
        def forward(self, inputs, state=None):
            outputs, state = super().forward(inputs, state)
            return [2 * output for output in outputs], state

    model = RNNLMScratch(Doubled(10, 7, sigma=0.3), 10)
    ids = torch.randint(10, (3, 5))
    outputs, _ = RNNScratch.forward(model.rnn, ids.t())
    expected = torch.stack([2 * h @ model.W_hq + model.b_q for h in outputs], 1)
    torch.testing.assert_close(model(ids), expected)


def test_no_result_is_a_view():
    outputs, state = RNNScratch(10, 7)(torch.randn(5, 3, 10))
    logits = RNNLMScratch(RNNScratch(10, 7), 10)(torch.randint(10, (3, 5)))
    for result in (*outputs, state, RNNScratchCell(10, 7)(torch.randn(3, 10)), logits):
        assert not result._is_view()
        result.detach_()


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (3, TypeError, "inputs must be a Tensor or a list, got int"),
        ([], ValueError, "inputs must have a step, got an empty list"),
        (iter([]), ValueError, "inputs must have a step"),
        ([1, 2], TypeError, "inputs must be a Tensor or a list of Tensors"),
    ],
)
def test_inputs_without_steps(inputs, error, message):
    with pytest.raises(error, match=message):
        RNNScratch(10, 7)(inputs)
    with pytest.raises(ValueError, match="inputs must have a step, got shape"):
        RNNScratch(10, 7)(torch.empty(0, 3, 10))


def steps_of(module):
    return torch.randn(3, 10) if isinstance(module, RNNScratchCell) else torch.randn(5, 3, 10)


@pytest.mark.parametrize("kind", [RNNScratch, RNNScratchCell])
def test_an_input_of_autocasts_dtype(kind, device):
    """As a layer in front makes it."""
    module = kind(10, 7)
    with torch.autocast(device, torch.bfloat16):
        x = torch.nn.Linear(10, 10)(steps_of(module))
        torch.testing.assert_close(module(x), module(x.float()), rtol=0, atol=0)
    with pytest.raises(
        TypeError, match="must be torch.float32 like the weights, got torch.bfloat16"
    ):
        module(x)


@pytest.mark.parametrize("kind", [RNNScratch, RNNScratchCell])
def test_a_replaced_parameter_of_a_wrong_shape_is_named(kind):
    module = kind(10, 7)
    x = steps_of(module)
    for name, parameter in list(module.named_parameters()):
        setattr(module, name, torch.nn.Parameter(parameter.repeat(*[1] * (parameter.dim() - 1), 2)))
        with pytest.raises(ValueError, match=f"^{name} must have shape"):
            module(x)
        setattr(module, name, parameter)


@pytest.mark.parametrize("kind", [RNNScratch, RNNScratchCell])
def test_a_state_of_another_dtype(kind):
    module = kind(10, 7)
    x = steps_of(module)
    name = "h" if isinstance(module, RNNScratchCell) else "state"
    with pytest.raises(TypeError, match=f"^{name} must be torch.float32 like the weights"):
        module(x, torch.randn(3, 7).double())


@pytest.mark.parametrize("kind", ["scratch", "layer", "list"])
def test_step_is_the_loss_of_the_logits(kind):
    """The fused step against the textbook's: logits, then their loss."""
    model = RNNLMScratch(_rnn_of(kind), 6)
    with torch.no_grad():
        model.W_hq.normal_()
        model.b_q.normal_()
    X, Y = torch.randint(6, (2, 4, 3))
    loss = model.training_step((X, Y))
    expected = model.loss(model(X), Y)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    )


def _rnn_of(kind):
    if kind == "layer":
        return rnnfused.TokenRNN(6, 5)
    if kind == "scratch":
        return RNNScratch(6, 5, sigma=1)

    class ListOfSteps(torch.nn.Module):
        hidden_size = 5

        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.RNN(6, 5)

        def forward(self, inputs, state=None):
            outputs, state = self.rnn(inputs, state)
            return list(outputs), state

    return ListOfSteps()


def test_step_obeys_a_subclass_and_hooks():
    X, Y = torch.randint(6, (2, 4, 3))

    class Doubled(RNNLMScratch):
        def output_layer(self, rnn_outputs):
            return 2 * super().output_layer(rnn_outputs)

    class Constant(RNNLMScratch):
        def loss(self, Y_hat, Y, averaged=True):
            return Y_hat.sum() * 0 + 7

    model = Doubled(RNNScratch(6, 5, sigma=1), 6)
    torch.testing.assert_close(model.training_step((X, Y)), model.loss(model(X), Y))
    assert Constant(RNNScratch(6, 5), 6).training_step((X, Y)) == 7
    model = RNNLMScratch(RNNScratch(6, 5), 6)
    model.register_forward_hook(lambda module, inputs, logits: logits * 0)
    torch.testing.assert_close(model.training_step((X, Y)), torch.tensor(6.0).log())


def test_step_refuses_wrong_targets():
    model = RNNLMScratch(RNNScratch(6, 5), 6)
    X = torch.zeros(4, 3, dtype=torch.long)
    for Y, error in [
        (X[:2], ValueError),
        (X + 6, IndexError),
        (X - 100, IndexError),
        (X.float(), TypeError),
    ]:
        with pytest.raises(error, match="Y must"):
            model.training_step((X, Y))
