"""RNN and RNNCell under autograd's modes and hooks and on the meta device; the tensors that they save."""

import pickle
import warnings

import pytest
import torch
from test_state import (
    TOLERANCE,
    built,
    check_as_torchs,
    check_close,
    each_class,
    gradients,
    output_of,
    pair,
    sample,
)
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.checkpoint import checkpoint

import rnnfused


@each_class
def test_inference_mode_no_grad_and_eval(theirs):
    ours, expected = pair(theirs)
    x = sample(ours)
    with torch.inference_mode():
        inside = output_of(ours, x)
        assert inside.is_inference()
    with torch.no_grad():
        assert not output_of(ours, x).requires_grad
    torch.testing.assert_close(inside.clone(), output_of(expected, x).detach(), **TOLERANCE)
    check_as_torchs(ours.eval(), expected.eval())  # gradients in eval mode


@each_class
def test_enable_grad_inside_inference_mode(theirs):
    ours, expected = pair(theirs)
    with torch.inference_mode(), torch.enable_grad():
        x = sample(ours)
        got, wanted = output_of(ours, x), output_of(expected, x)
        assert got.is_inference() and not got.requires_grad
        torch.testing.assert_close(got, wanted, **TOLERANCE)


@each_class
def test_gradients_share_no_memory(theirs):
    ours, _ = pair(theirs)
    parameters = list(ours.parameters())
    for create_graph in (False, True):
        loss = output_of(ours, sample(ours)).sum()
        grads = torch.autograd.grad(loss, parameters, create_graph=create_graph)
        assert len({grad.data_ptr() for grad in grads}) == len(parameters)


def test_fake_tensors():
    with FakeTensorMode():
        output, h_n = rnnfused.TokenRNN(4, 6)(torch.randint(0, 4, (5, 3)))
        assert isinstance(output, FakeTensor)
        assert output.shape == (5, 3, 6) and h_n.shape == (1, 3, 6)
        for lengths in ([1, 2, 3], torch.tensor([1, 2, 3])):
            output, h_n = rnnfused.RNN(4, 6)(torch.randn(5, 3, 4), lengths=lengths)
            assert output.shape == (5, 3, 6) and h_n.shape == (1, 3, 6)
            output.sum().backward()


def test_lengths_are_on_the_cpu_under_any_default_device():
    ours, x = rnnfused.RNN(4, 6), torch.randn(5, 3, 4)
    with torch.device("meta"):
        output, _ = ours(x, lengths=[2, 5, 3])
    torch.testing.assert_close(output, ours(x, lengths=[2, 5, 3])[0], rtol=0, atol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", ["lengths", "packed"])
def test_complex_rows_under_any_default_device(form, bidirectional):
    """Complex layers go the way of layers on other devices, whose sizes are tensors too."""
    ours = rnnfused.RNN(4, 6, bidirectional=bidirectional, dtype=torch.complex64)
    x = torch.randn(5, 3, 4, dtype=torch.complex64, requires_grad=True)
    packed = PackedSequence(torch.randn(5, 4, dtype=torch.complex64), torch.tensor([2, 2, 1]))

    def run():
        output = ours(packed)[0].data if form == "packed" else ours(x, lengths=[2, 5, 3])[0]
        return output, *torch.autograd.grad(output.abs().sum(), tuple(ours.parameters()))

    expected = run()
    with torch.device("meta"):
        found = run()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@each_class
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(theirs, use_reentrant):
    def run(module, x):
        result = checkpoint(module, x, use_reentrant=use_reentrant)
        return result[0] if isinstance(result, tuple) else result

    ours, expected = pair(theirs)
    check_close(gradients(ours, sample(ours), run), gradients(expected, sample(expected)))


def test_checkpoint_draws_the_same_masks_again():
    ours, results = rnnfused.RNN(4, 5, 3, dropout=0.5, dtype=torch.float64), []
    for again in (False, True):
        torch.manual_seed(0)
        run = (lambda m, x: checkpoint(m, x, use_reentrant=False)[0]) if again else output_of
        results.append(gradients(ours, sample(ours), run))
    check_close(*results)


def packed_run(module, x):
    return module(pack_sequence([x[:2, 0], x[:, 1]], enforce_sorted=False))[0].data


@pytest.mark.parametrize("run", [output_of, packed_run])
def test_saved_tensor_hooks(run):
    # The hooks return other tensors than those saved.
    ours, expected = pair()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: pickle.dumps(t.detach()), lambda b: pickle.loads(b)
    ):
        got = gradients(ours, sample(ours), run)
    with torch.autograd.graph.save_on_cpu():
        check_close(gradients(ours, sample(ours), run), got)
    check_close(got, gradients(expected, sample(expected), run))


@each_class
def test_anomaly_and_deterministic_mode(theirs):
    ours, expected = pair(theirs)
    was = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        with warnings.catch_warnings(), torch.autograd.detect_anomaly():
            warnings.simplefilter("error")
            check_as_torchs(ours, expected)
    finally:
        torch.use_deterministic_algorithms(was)


@pytest.mark.parametrize("run", [output_of, packed_run])
def test_anomaly_mode_finds_a_nan(run):
    for module in pair():
        torch.nn.init.zeros_(module.weight_hh_l0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="nan"):
                (run(module, sample(module)) * float("inf")).sum().backward()  # inf * 0 in backward


@each_class
def test_meta_device(theirs):
    ours, expected = pair(theirs, device="meta")
    x = torch.empty_like(sample(built(theirs, 4, 5)), device="meta", dtype=torch.float64)
    for got, wanted in zip(ours(x), expected(x), strict=True):
        assert got.is_meta and got.shape == wanted.shape and got.dtype == wanted.dtype
    output_of(ours, x).sum().backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in ours.parameters())
    ours.to_empty(device="cpu").reset_parameters()
    assert output_of(ours, torch.randn(x.shape, dtype=x.dtype)).isfinite().all()


@each_class
def test_noncontiguous_weights_do_not_warn(theirs):
    ours, expected = pair(theirs)
    for module in (ours, expected):
        for weight in module.parameters():
            weight.data = torch.stack([weight.data, weight.data], -1)[..., 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_as_torchs(ours, expected)


def test_saves_little_for_backward():
    module, x = rnnfused.RNN(128, 128), torch.randn(200, 16, 128, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        module(x)
    assert len(saved) <= 7
    known = {p.data_ptr() for p in (x, *module.parameters())}
    own = {t.data_ptr(): t.numel() for t in saved if t.data_ptr() not in known}
    assert sum(own.values()) <= x.numel()  # the output alone
