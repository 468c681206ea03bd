"""torch.compile, torch.export, TorchScript, torch.fx and ONNX: each loop is one op, at any size."""

import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import rnnfused

SIZES = torch.tensor([7, 2, 5])


def layer(**options):
    torch.manual_seed(0)
    return rnnfused.RNN(6, 8, 2, bidirectional=True, **options)


def everything(module, call, x):
    """Returns a call's outputs, and the gradients of its input and of the module's parameters."""
    x = x.clone().requires_grad_()
    output, h_n = call(x)
    loss = output.sin().sum() + h_n.pow(2).sum()
    return output, h_n, *torch.autograd.grad(loss, [x, *module.parameters()])


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(batch_first=True, nonlinearity="relu"),
        dict(bias=False, heads=2, state_grad_clip=0.1),
        dict(dtype=torch.float64),
    ],
)
def test_compile_forward_and_backward(backend, options):
    module = layer(**options)
    x = torch.randn(7, 3, 6, dtype=options.get("dtype"))
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    torch.testing.assert_close(everything(module, compiled, x), everything(module, module, x))


@pytest.mark.parametrize("given", [False, True])
def test_compile_makes_one_graph_for_every_length_and_batch(given):
    module, counter = layer(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for time, batch in ((9, 5), (7, 5), (30, 3), (64, 11), (2, 12)):
        x = torch.randn(time, batch, 6)
        arguments = (x, torch.randn(4, batch, 8)) if given else (x,)
        output, h_n = compiled(*arguments)
        (output.sum() + h_n.sum()).backward()
        torch.testing.assert_close((output, h_n), module(*arguments))
    assert len([graph for graph in counter.graphs if len(graph.graph.nodes)]) == 1


def test_compile_of_lengths_and_packed_rows_and_ids():
    module, x = layer(), torch.randn(7, 3, 6)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    got = everything(module, lambda x: compiled(x, lengths=SIZES), x)
    torch.testing.assert_close(got, everything(module, lambda x: module(x, lengths=SIZES), x))

    packed = torch.nn.utils.rnn.pack_padded_sequence(x, SIZES, enforce_sorted=False)
    run = torch.compile(lambda p: module(p)[0].data, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(packed), module(packed)[0].data)

    tokens, ids = rnnfused.TokenRNN(11, 8), torch.randint(11, (5, 3))
    run = torch.compile(tokens, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(ids), tokens(ids))
    with pytest.raises(RuntimeError, match="outside the vocabulary"):
        run(ids + 11)


def test_compile_of_autocast_and_of_the_cell():
    module, x = layer(), torch.randn(7, 3, 6)

    def call(x):
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)[0]

    got = torch.compile(call, fullgraph=True, backend="aot_eager")(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, call(x))
    cell = rnnfused.RNNCell(6, 8)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x[0]), cell(x[0]))


def test_compile_of_vmap():
    module, x = layer(), torch.randn(2, 7, 3, 6)
    mapped = torch.vmap(lambda x: module(x)[0])
    compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), mapped(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_export_and_back_from_a_file(strict, batch_first):
    module, x = layer(batch_first=batch_first), torch.randn(7, 3, 6)
    shapes = ({0: torch.export.Dim("first"), 1: torch.export.Dim("second")},)
    program = torch.export.export(module, (x,), dynamic_shapes=shapes, strict=strict)
    ours = [node for node in program.graph.nodes if "rnnfused" in str(node.target)]
    assert len(ours) == 4  # two layers of two directions
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    x = torch.randn(19, 5, 6, requires_grad=True)
    torch.testing.assert_close(loaded(x), module(x))
    (got,) = torch.autograd.grad(loaded(x)[0].sin().sum(), x)
    (expected,) = torch.autograd.grad(module(x)[0].sin().sum(), x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_needs_the_compiled_library_alone(strict):
    """All ops of the program are registered in C++."""
    arguments = (torch.randn(7, 3, 6), torch.randn(4, 3, 8))
    program = torch.export.export(layer(), arguments, strict=strict)
    ours = {str(node.target) for node in program.graph.nodes if "rnnfused" in str(node.target)}
    assert ours == {"rnnfused.layer.default"}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_trace_and_back_from_a_file():
    module, hx = layer(), torch.randn(4, 3, 8)
    traced = torch.jit.trace(module, (torch.randn(7, 3, 6), hx))
    check_script(module, traced, hx)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("options", [dict(), dict(bias=False, batch_first=True, heads=2)])
def test_script_and_back_from_a_file(options):
    module = layer(**options)
    scripted = torch.jit.script(torch.nn.Sequential(module))
    x = torch.randn(3, 3, 6)
    torch.testing.assert_close(scripted(x), module(x))
    torch.testing.assert_close(scripted(x[0]), module(x[0]))
    if not options:
        check_script(module, torch.jit.script(module), torch.randn(4, 3, 8))
    tokens = rnnfused.TokenRNN(11, 8)
    ids = torch.randint(11, (5, 3))
    torch.testing.assert_close(torch.jit.script(tokens)(ids), tokens(ids))


def check_script(module, script, hx):
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    x = torch.randn(9, 3, 6)
    for parameter, other in zip(module.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(parameter, other)
    got = everything(loaded, lambda x: loaded(x, hx), x)
    torch.testing.assert_close(got, everything(module, lambda x: module(x, hx), x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_applies_dropout_between_layers_in_training_alone():
    module = rnnfused.RNN(6, 8, 2, dropout=0.5)
    scripted, x = torch.jit.script(module), torch.randn(7, 3, 6)
    torch.manual_seed(3)
    expected = module(x)
    torch.manual_seed(3)
    torch.testing.assert_close(scripted(x), expected)
    assert not torch.allclose(scripted.eval()(x)[0], expected[0])
    torch.testing.assert_close(scripted(x), module.eval()(x))


def test_fx_treats_the_module_as_a_leaf():
    model = torch.nn.Sequential(layer())
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    x = torch.randn(7, 3, 6)
    torch.testing.assert_close(traced(x), model(x))


def test_make_fx_records_the_op():
    module = layer()
    graph = torch.fx.experimental.proxy_tensor.make_fx(module)(torch.randn(7, 3, 6))
    assert sum("rnnfused.both_directions" in str(node.target) for node in graph.graph.nodes) == 2


class WithLengths(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = layer()

    def forward(self, x, lengths):
        return self.rnn(x, lengths=lengths)


ONNX_CASES = {
    "two layers": (
        layer,
        (torch.randn(7, 3, 6), torch.randn(4, 3, 8)),
        ({0: "T", 1: "B"}, {1: "B"}),
    ),
    "batch first": (
        lambda: rnnfused.RNN(6, 8, nonlinearity="relu", bias=False, batch_first=True),
        (torch.randn(7, 3, 6),),
        ({0: "B", 1: "T"},),
    ),
    "token ids": (
        lambda: rnnfused.TokenRNN(11, 8),
        (torch.randint(11, (7, 3)),),
        ({0: "T", 1: "B"},),
    ),
    "heads": (lambda: rnnfused.RNN(6, 8, heads=4), (torch.randn(7, 3, 6),), ({0: "T", 1: "B"},)),
    "lengths": (WithLengths, (torch.randn(7, 3, 6), SIZES), ({0: "T", 1: "B"}, {0: "B"})),
}


class Container(torch.nn.Module):
    """The old exporter passes keyword-only arguments of a top-level module by position, so this one wraps it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, other=None):
        return self.module(x) if other is None else self.module(x, other)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("case", ONNX_CASES)
def test_onnx_runtime_gives_the_same_numbers(case, dynamo, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx reads the file")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime runs the file")
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's exporter needs it")
    make, arguments, shapes = ONNX_CASES[case]
    module, path = make().eval(), tmp_path / "rnn.onnx"
    if dynamo:
        torch.onnx.export(
            module, arguments, path, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    else:
        names = ["x", "other"][: len(arguments)]
        options = {"input_names": names, "dynamic_axes": dict(zip(names, shapes, strict=True))}
        torch.onnx.export(Container(module).eval(), arguments, path, dynamo=False, **options)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "RNN" in kinds and not kinds & {"Tanh", "Relu", "Loop", "Scan", "MatMul", "Gemm"}
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sizes = {"T": 12, "B": 3} if case == "lengths" else {"T": 12, "B": 5}
    inputs = []
    for argument, dims in zip(arguments, shapes, strict=True):
        shape = list(argument.shape)
        for dim, name in dims.items():
            shape[dim] = sizes[name]
        if argument.is_floating_point():
            inputs.append(torch.randn(shape))
        else:  # lengths, or token ids
            inputs.append(argument if argument.dim() == 1 else torch.randint(11, shape))
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    got = [torch.from_numpy(x) for x in session.run(None, feed)]
    expected = module(*inputs)
    torch.testing.assert_close(got, list(expected), rtol=1e-5, atol=1e-5)
