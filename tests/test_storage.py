"""Tensors whose storage was resized, as sharded training frees parameters: no op reads past the end of one."""

import pytest
import torch
from op_calls import CALLS, OPS, POINTS, B, F, H, T, V, ids

import rnnfused


def missing(tensor, bytes=1):
    """The same tensor, whose storage then ends some bytes early."""
    tensor = tensor.clone()
    storage = tensor.untyped_storage()
    storage.resize_(storage.nbytes() - bytes)
    return tensor


@pytest.mark.parametrize("call, name", POINTS, ids=[f"{call}-{name}" for call, name in POINTS])
def test_an_op_refuses_a_shortened_storage(call, name):
    op, arguments = getattr(OPS, call.split()[0]), CALLS[call]()
    op(**arguments)
    said = "bias" if name.startswith("bias_") else name.removesuffix("_reverse")
    with pytest.raises(RuntimeError, match=f"{said} has a storage of .* bytes, too few"):
        op(**arguments | {name: missing(arguments[name])})


def test_strided_features_are_not_copied_from_a_shortened_storage():
    x = torch.randn(B, 2 * F)
    view = x[:, ::2]
    x.untyped_storage().resize_(4 * (2 * F * B - 2))
    with pytest.raises(RuntimeError, match="input has a storage"):
        OPS.project(view, torch.randn(H, F), None)


def test_a_storage_may_end_at_the_last_value():
    x = torch.randn(B, 2 * F)
    view = x[:, :F]
    x.untyped_storage().resize_(4 * (2 * F * B - F))
    weight = torch.randn(H, F)
    assert torch.equal(OPS.project(view, weight, None), OPS.project(view.clone(), weight, None))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_refuse_freed_storages(bidirectional):
    rnn = rnnfused.RNN(F, H, bidirectional=bidirectional)
    x = torch.randn(T, B, F)
    for parameter in rnn.parameters():
        values, storage = parameter.detach().clone(), parameter.untyped_storage()
        storage.resize_(0)
        with pytest.raises(RuntimeError, match="has a storage of 0 bytes"):
            rnn(x)
        storage.resize_(values.nbytes)
        parameter.data.copy_(values)
    rnn(x)
    prepared = rnnfused.prepare(rnnfused.RNN(F, H))
    freed = missing(x, x.nbytes)
    for call in (rnn, prepared.run):
        with pytest.raises(RuntimeError, match="input has a storage of 0 bytes"):
            call(freed)


def test_cross_entropy_refuses_freed_targets():
    target = ids(B)
    with pytest.raises(RuntimeError, match="target has a storage of 0 bytes"):
        rnnfused.functional.linear_cross_entropy(
            torch.randn(B, H), torch.randn(V, H), None, missing(target, target.nbytes)
        )
