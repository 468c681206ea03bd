"""``prepare`` gives the bits of the op, names the wrong argument, refuses changed weights and frees its memory."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations

import rnnfused

# I, H, B, layers: of one panel and several, in one tile and several, with weights that exceed a cache.
SIZES = [(1, 1, 1, 1), (5, 7, 3, 2), (28, 33, 1, 1), (64, 256, 17, 3), (300, 700, 2, 2)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def deterministic():
    """Modules run single steps by the op, so bits are comparable."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_as_the_module(dtype, sizes, nonlinearity, bias, threads, restore_threads):
    torch.set_num_threads(threads)
    inputs, hidden, batch, layers = sizes
    module = rnnfused.RNN(inputs, hidden, layers, nonlinearity, bias, dtype=dtype)
    prepared = rnnfused.prepare(module)
    for steps in (1, 4, 120):
        x = torch.randn(steps, batch, inputs).to(dtype)
        with torch.no_grad():
            output, h_n = module(x)
        prepared.reset()
        assert torch.equal(prepared.run(x), output) and torch.equal(prepared.state, h_n)
        prepared.reset()
        got = torch.stack([prepared.step(each) for each in x[:5]])
        assert torch.equal(got, output[:5])
        prepared.reset()
        parts = [prepared.run(part) for part in x.split(50)]
        assert torch.equal(torch.cat(parts), output) and torch.equal(prepared.state, h_n)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [rnnfused.RNN, rnnfused.TokenRNN])
def test_layouts(batch_first, kind):
    module = kind(6, 40, 2, batch_first=batch_first)
    has_ids = kind is rnnfused.TokenRNN
    x = torch.randint(6, (5, 3)) if has_ids else torch.randn(5, 3, 6)
    expected = module(x.transpose(0, 1) if batch_first else x)[0].detach()
    prepared = rnnfused.prepare(module)
    assert torch.equal(prepared.run(x.transpose(0, 1) if batch_first else x), expected)
    prepared.reset()
    steps = torch.stack([prepared.step(each) for each in x], int(batch_first))
    assert torch.equal(steps, expected)
    # One row, without a dimension for it.
    prepared.reset()
    row = expected[0] if batch_first else expected[:, 0]
    torch.testing.assert_close(prepared.run(x[:, 0]), row)
    prepared.reset()
    assert torch.equal(prepared.step(x[0, 0]), row[0]) and prepared.state.shape == (2, 1, 40)


def test_strided_inputs():
    module = rnnfused.RNN(6, 40)
    prepared, x = rnnfused.prepare(module), torch.randn(5, 6, 3)
    for strided in (
        x.transpose(1, 2),
        x.transpose(0, 2)[:, :, :1].expand(3, 6, 6),
        x[:1, :1].expand(5, 6, 3)[..., :1].expand(5, 6, 6),
    ):
        prepared.reset()
        assert torch.equal(
            prepared.run(strided), rnnfused.prepare(module).run(strided.contiguous())
        )


def test_the_cell():
    cell = rnnfused.RNNCell(6, 20)
    prepared, h = rnnfused.prepare(cell), None
    for x in torch.randn(4, 3, 6):
        h = cell(x, h)
        assert torch.equal(prepared.step(x), h)
    assert not prepared.step(x).requires_grad


def test_states_are_given_and_taken():
    module, x = rnnfused.RNN(6, 20, 2), torch.randn(4, 3, 6)
    prepared, other = rnnfused.prepare(module), rnnfused.prepare(module)
    assert prepared.state is None
    h_0 = torch.randn(2, 3, 20)
    prepared.state = given = h_0.clone()
    given.zero_()
    assert torch.equal(prepared.run(x), module(x, h_0)[0])
    other.state = prepared.state
    assert torch.equal(other.step(x[0]), prepared.step(x[0]))
    prepared.state = None
    assert torch.equal(prepared.run(x), module(x)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: torch.optim.SGD(m.parameters(), 0.1).step(),
        lambda m: m.load_state_dict(rnnfused.RNN(6, 20).state_dict()),
        lambda m: torch.nn.init.zeros_(m.bias_hh_l0),
        lambda m: setattr(m, "bias_ih_l0", torch.nn.Parameter(torch.zeros(20))),
        lambda m: m.load_state_dict(rnnfused.RNN(6, 20).state_dict(), assign=True),
        lambda m: setattr(m.weight_hh_l0, "data", torch.zeros(20, 20)),
    ],
    ids=["step", "load", "init", "replace", "assign", "data"],
)
def test_a_changed_weight_is_refused(change):
    module = rnnfused.RNN(6, 20)
    prepared, x = rnnfused.prepare(module), torch.randn(3, 6)
    prepared.step(x)
    state = prepared.state
    module(x[None])[0].sum().backward()
    change(module)
    with pytest.raises(RuntimeError, match=r"changed since prepare\(\): prepare the module again"):
        prepared.step(x)
    assert torch.equal(prepared.state, state)
    assert torch.equal(rnnfused.prepare(module).step(x), module(x[None])[0][0])


WRONG = {
    "a list": (TypeError, lambda p: p.step([1.0]), "x must be a Tensor, got list"),
    "run a list": (TypeError, lambda p: p.run([1.0]), "x must be a Tensor, got list"),
    "features": (ValueError, lambda p: p.step(torch.randn(3, 5)), r"x must be \(B, 6\) or \(6\), got shape \(3, 5\)"),
    "steps": (ValueError, lambda p: p.step(torch.randn(2, 3, 6)), r"x must be \(B, 6\) or \(6\), got shape \(2, 3, 6\)"),
    "dimensions": (ValueError, lambda p: p.run(torch.randn(6)), r"x must be \(T, B, 6\) or \(T, 6\), got shape \(6,\)"),
    "more": (ValueError, lambda p: p.run(torch.randn(1, 2, 3, 6)), r"x must be \(T, B, 6\)"),
    "scalar": (ValueError, lambda p: p.step(torch.tensor(1.0)), "x must be"),
    "no step": (ValueError, lambda p: p.run(torch.randn(0, 3, 6)), "x must have a step"),
    "dtype": (TypeError, lambda p: p.step(torch.randn(3, 6).double()), "x must be torch.float32 like the weights, got torch.float64"),
    "ids": (TypeError, lambda p: p.step(torch.randint(3, (3,))), "x must be torch.float32"),
    "meta": (ValueError, lambda p: p.step(torch.randn(3, 6, device="meta")), "x must be on the CPU, got meta"),
    "sparse": (TypeError, lambda p: p.step(torch.randn(3, 6).to_sparse()), "x must be a dense tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_wrong_input_is_named(name, is_first):
    error, call, message = WRONG[name]
    prepared = rnnfused.prepare(rnnfused.RNN(6, 20))
    if not is_first:
        prepared.step(torch.randn(3, 6))
    state = prepared.state
    with pytest.raises(error, match=message):
        call(prepared)
    after = prepared.state
    assert after is state is None if is_first else torch.equal(after, state)


def test_the_state_that_one_reads_is_a_copy():
    prepared, x = rnnfused.prepare(rnnfused.RNN(6, 20)), torch.randn(3, 6)
    prepared.step(x)
    before = prepared.state
    prepared.state.fill_(3)
    prepared.state.resize_(0)
    assert torch.equal(prepared.state, before)
    prepared.step(x)


def test_other_rows_than_the_states():
    prepared = rnnfused.prepare(rnnfused.RNN(6, 20))
    prepared.step(torch.randn(3, 6))
    for call, rows in ((prepared.step, (2,)), (prepared.run, (5, 4))):
        with pytest.raises(ValueError, match="x must have the 3 rows of the state, got"):
            call(torch.randn(*rows, 6))
    prepared.reset()
    prepared.step(torch.randn(2, 6))


@pytest.mark.parametrize("value", [-1, 6, 2**40])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_wrong_id_is_named(value, is_first):
    prepared = rnnfused.prepare(rnnfused.TokenRNN(6, 20))
    if not is_first:
        prepared.step(torch.tensor([0, 1]))
    with pytest.raises(IndexError, match=rf"x must be ids in \[0, 6\), got values from .*{value}"):
        prepared.step(torch.tensor([0, value]))
    with pytest.raises(
        TypeError, match="x must be token ids of dtype torch.int64, got torch.int32"
    ):
        prepared.step(torch.tensor([0, 1], dtype=torch.int32))


def changed(name, value):
    module = rnnfused.RNN(6, 20, 2)
    is_tensor = isinstance(value, torch.Tensor)
    setattr(module, name, torch.nn.Parameter(value) if is_tensor else value)
    return module


def mixed():
    module = rnnfused.RNN(6, 20, 2)
    for name, weight in list(module.named_parameters()):
        if name.endswith("l1"):
            setattr(module, name, torch.nn.Parameter(weight.detach().double()))
    return module


class Overridden(rnnfused.RNN):
    def forward(self, *arguments):
        return super().forward(*arguments)


def hooked():
    module = rnnfused.RNN(6, 20)
    module.register_forward_pre_hook(lambda module, arguments: None)
    return module


@pytest.mark.parametrize(
    ("error", "make", "message"),
    [
        (TypeError, lambda: torch.nn.RNN(6, 20), "module must be an rnnfused.RNN.*got RNN"),
        (TypeError, lambda: None, "module must be .*got NoneType"),
        (ValueError, lambda: rnnfused.RNN(6, 20, bidirectional=True), "one direction"),
        (ValueError, lambda: rnnfused.RNN(6, 20, heads=2), "one head, got 2"),
        (ValueError, lambda: rnnfused.RNN(6, 20, device="meta"), "on the CPU, got weight_ih_l0 on meta"),
        (TypeError, lambda: rnnfused.RNN(6, 20, dtype=torch.complex64), "weight_ih_l0 must be float32"),
        (ValueError, lambda: changed("nonlinearity", "gelu"), "nonlinearity"),
        (ValueError, lambda: changed("weight_hh_l1", torch.zeros(20, 9)), r"weight_hh_l1 must have shape \(20, 20\), got \(20, 9\)"),
        (ValueError, lambda: changed("weight_ih_l1", torch.zeros(20, 6)), r"weight_ih_l1 must have shape \(20, 20\), got \(20, 6\)"),
        (ValueError, lambda: changed("bias_ih_l0", torch.tensor(1.0)), r"bias_ih_l0 must have shape \(20,\), got \(\)"),
        (TypeError, lambda: changed("bias_ih_l1", torch.zeros(20).double()), "one dtype, got torch.float32 and, in layer 1, torch.float32, torch.float64"),
        (TypeError, mixed, "one dtype, got torch.float32 and, in layer 1, torch.float64"),
        (TypeError, lambda: changed("weight_hh_l1", torch.zeros(20, 20).to_sparse()), "weight_hh_l1 must be a dense tensor"),
        (ValueError, lambda: Overridden(6, 20), "no forward of its own and no hooks.*got Overridden"),
        (ValueError, hooked, "no forward of its own and no hooks"),
        (ValueError, lambda: parametrizations.weight_norm(rnnfused.RNN(6, 20), "weight_hh_l0"), "weight_hh_l0 as a plain"),
    ],
)  # fmt: skip
def test_a_wrong_module_is_named(error, make, message):
    with pytest.raises(error, match=message):
        rnnfused.prepare(make())


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (TypeError, 1, "state must be a Tensor or None, got int"),
        (TypeError, torch.zeros(2, 3, 20).double(), "state must be torch.float32"),
        (
            ValueError,
            torch.zeros(1, 3, 20),
            r"state must be \(num_layers, B, hidden_size\) = \(2, B, 20\)",
        ),
        (ValueError, torch.zeros(2, 20), r"got shape \(2, 20\)"),
        (ValueError, torch.zeros(2, 3, 20, device="meta"), "state must be on the CPU"),
        (TypeError, torch.zeros(2, 3, 20).to_sparse(), "state must be a dense tensor"),
    ],
)
def test_a_wrong_state_is_named(error, state, message):
    prepared = rnnfused.prepare(rnnfused.RNN(6, 20, 2))
    with pytest.raises(error, match=message):
        prepared.state = state


@pytest.mark.parametrize("use", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_neither_copied_nor_pickled(use):
    with pytest.raises(TypeError, match="prepare the module again"):
        use(rnnfused.prepare(rnnfused.RNN(6, 20)))


def test_its_memory_is_freed():
    module = rnnfused.RNN(6, 20)
    prepared = rnnfused.prepare(module)
    references = [weakref.ref(x) for x in (prepared, prepared._packed)]
    del prepared
    gc.collect()
    assert [each() for each in references] == [None, None]


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)], ids=str)
def test_sizes_of_zero(sizes):
    cell, x = rnnfused.RNNCell(*sizes), torch.randn(4, 3, sizes[0])
    prepared = rnnfused.prepare(cell)
    assert torch.equal(prepared.step(x[0]), cell(x[0]))
    assert prepared.run(x).shape == (4, 3, sizes[1])


def test_no_rows():
    prepared = rnnfused.prepare(rnnfused.RNN(6, 20))
    assert prepared.run(torch.randn(4, 0, 6)).shape == (4, 0, 20)


def test_inference_mode_and_compiled_callers():
    x = torch.randn(3, 6)
    with torch.inference_mode():
        module = rnnfused.RNN(6, 20)
        prepared = rnnfused.prepare(module)
        assert torch.equal(prepared.step(x), module(x[None])[0][0])
    prepared = rnnfused.prepare(rnnfused.RNN(6, 20))
    expected = 2 * prepared.step(x)
    prepared.reset()
    got = torch.compile(lambda x: 2 * prepared.step(x), backend="eager")(x)
    assert torch.equal(got, expected)


def test_a_default_device_has_no_effect():
    prepared, x = rnnfused.prepare(rnnfused.RNN(6, 20)), torch.randn(3, 6)
    with torch.device("meta"):
        assert prepared.step(x).is_cpu


def test_transforms_and_fake_tensors_are_refused():
    prepared, x = rnnfused.prepare(rnnfused.RNN(6, 20)), torch.randn(5, 3, 6)
    calls = [
        lambda: torch.vmap(prepared.step)(x),
        lambda: torch.func.grad(lambda x: prepared.step(x).sum())(x[0]),
        lambda: torch.func.jvp(prepared.step, (x[0],), (x[0],)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"under torch\.func, call the module"):
            call()
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        pytest.raises(TypeError, match="FakeTensor"),
    ):
        prepared.step(mode.from_tensor(x[0]))
    assert prepared.state is None
    prepared.step(x[0])


def test_repr_and_misspelt_attributes():
    prepared = rnnfused.prepare(rnnfused.RNN(6, 20, 2))
    assert repr(prepared) == "PreparedRNN(6, 20, num_layers=2)"
    with pytest.raises(AttributeError):
        prepared.sate = None


def test_threads_with_objects_of_their_own():
    module, x = rnnfused.RNN(6, 64), torch.randn(200, 2, 6)
    expected = module(x)[0].detach()
    failures = []

    def work():
        prepared = rnnfused.prepare(module)
        for _ in range(20):
            prepared.reset()
            if not torch.equal(torch.stack([prepared.step(each) for each in x]), expected):
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_raw_op_refuses_what_does_not_fit():
    ops, module = torch.ops.rnnfused, rnnfused.RNN(6, 20)
    packed = rnnfused.prepare(module)._packed
    x, states = torch.randn(3, 6), torch.zeros(1, 3, 20)
    good = (packed, x, states, 6, -1, 0)
    ops.run_prepared(*good)
    for place, value in [
        (0, packed[:-1]),
        (0, packed.repeat(2)[::2]),
        (0, packed.float()),
        (1, x.double()),
        (1, x[:2]),
        (1, torch.randint(6, (3,)) - 1),
        (2, torch.zeros(2, 3, 20)),
        (2, torch.zeros(1, 1, 1).expand(1, 3, 20)),
        (2, torch.zeros(0, 3, 20)),
        (3, 5),
        (3, -1),
        (3, 2**62),
        (4, 2),
        (5, 2),
    ]:
        with pytest.raises((RuntimeError, IndexError)):
            ops.run_prepared(*good[:place], value, *good[place + 1 :])
    with pytest.raises(RuntimeError):
        ops.pack_layer(torch.zeros(1, 1).expand(20, 2**59), torch.randn(20, 20), None, None)
    with pytest.raises(RuntimeError):
        ops.pack_layer(torch.randn(20, 6), torch.randn(20, 19), None, None)
    with pytest.raises(RuntimeError):
        ops.pack_layer(torch.randn(20, 6), torch.randn(20, 20), torch.randn(19), None)
