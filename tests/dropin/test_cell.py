"""``RNNCell`` against ``torch.nn.RNNCell``: export, copies, sizes of zero, modes that other tests leave out."""

import copy
import io
import pickle

import pytest
import torch

import rnnfused


def pair(**options):
    torch.manual_seed(0)
    ours, theirs = rnnfused.RNNCell(6, 5, **options), torch.nn.RNNCell(6, 5, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("options", [dict(), dict(bias=False), dict(nonlinearity="relu")])
def test_script_and_back_from_a_file(options):
    ours, theirs = pair(**options)
    replaced = rnnfused.replace_rnn(torch.nn.Sequential(copy.deepcopy(theirs)))
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(ours), file)
    file.seek(0)
    for script in (torch.jit.script(ours), torch.jit.script(replaced)[0], torch.jit.load(file)):
        x, h = torch.randn(3, 6, requires_grad=True), torch.randn(3, 5)
        for arguments in ((x,), (x, h), (x[0],), (x[0], h[0])):
            torch.testing.assert_close(script(*arguments), theirs(*arguments))
        (got,) = torch.autograd.grad(script(x, h).sin().sum(), x)
        torch.testing.assert_close(got, torch.autograd.grad(theirs(x, h).sin().sum(), x)[0])
        for wrong in (torch.randn(2, 3, 6), torch.randn(3, 7)):
            with pytest.raises((RuntimeError, ValueError, torch.jit.Error)):
                script(wrong)


def test_scripted_parameters_are_shared():
    ours, _ = pair()
    script = torch.jit.script(ours)
    with torch.no_grad():
        ours.weight_hh.zero_()
    x, h = torch.randn(3, 6), torch.randn(3, 5)
    torch.testing.assert_close(script(x, h), ours(x, h))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_trace_export_and_fx():
    ours, theirs = pair()
    x, h = torch.randn(3, 6), torch.randn(3, 5)
    traced = torch.jit.trace(ours, (x, h))
    exported = torch.export.export(ours, (x, h)).module()
    symbolic = torch.fx.symbolic_trace(torch.nn.Sequential(ours))
    assert [node.op for node in symbolic.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(symbolic(x), theirs(x))
    for other in (traced, exported):
        torch.testing.assert_close(other(x, h), theirs(x, h))


@pytest.mark.parametrize("shape", [(10, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_sizes_of_zero(shape, batch):
    ours, theirs = rnnfused.RNNCell(*shape), torch.nn.RNNCell(*shape)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(batch, shape[0], requires_grad=True)
    results = []
    for cell in (ours, theirs):
        h = cell(x)
        results.append([h, *torch.autograd.grad(h.sum(), [x, *cell.parameters()])])
    torch.testing.assert_close(*results)


def test_zero_hidden_units_elsewhere():
    projections = torch.randn(4, 3, 0, requires_grad=True)
    output, h_n = rnnfused.functional.rnn(projections, torch.randn(0, 0), lengths=[4, 0, 1])
    assert output.shape == (4, 3, 0) and h_n.shape == (3, 0)
    output.sum().backward()
    assert projections.grad.shape == (4, 3, 0)
    outputs, state = rnnfused.scratch.RNNScratch(6, 0)(x := torch.randn(4, 3, 6))
    assert len(outputs) == 4 and outputs[0].shape == state.shape == (3, 0)
    x.requires_grad_()
    (grad_x,) = torch.autograd.grad(rnnfused.RNNCell(6, 0)(x[0]).sum(), x)
    assert not grad_x.any()


def test_pickle_and_copies():
    ours, theirs = pair()
    x = torch.randn(3, 6)
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        torch.testing.assert_close(other(x), theirs(x))


def test_compile_with_every_size():
    ours, theirs = pair()
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (3, 7, 2):
        x = torch.randn(batch, 6)
        torch.testing.assert_close(compiled(x), theirs(x))


def test_results_can_be_changed_in_place():
    ours, _ = pair()
    with torch.no_grad():
        h = ours(torch.randn(3, 6))
    h *= torch.rand(3, 5)
    h = ours(torch.randn(3, 6))
    h.detach_()
    assert not h.requires_grad


def test_autocast_and_second_derivatives():
    ours, theirs = pair()
    x = torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == theirs(x).dtype == torch.bfloat16
    for first in (True, False):
        h = [cell(x) for cell in (ours, theirs)]
        grads = [torch.autograd.grad(y.sin().sum(), x, create_graph=first)[0] for y in h]
        torch.testing.assert_close(*grads)
    second = []
    for cell in (ours, theirs):
        (grad,) = torch.autograd.grad(cell(x).sin().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), [x, cell.weight_ih, cell.bias_hh]))
    torch.testing.assert_close(*second)
