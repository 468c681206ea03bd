"""Layouts of the op ``layer``: time first, batch first, unbatched, a single step."""

import pytest
import torch
from raw_ops import RELU, TANH, loop_arguments

from rnnfused import reference
from rnnfused.ops import composite, stepwise

composite_layer = composite.layer_by(stepwise.forward)
composite_backward = composite.layer_backward_by(stepwise.backward)

T, B, INPUT, HIDDEN = 4, 3, 2, 5
# Shape of the sequence without its features, time_dim, shape of a state without the hidden size.
LAYOUTS = {
    "time first": ((T, B), 0, (1, B)),
    "batch first": ((B, T), 1, (1, B)),
    "unbatched": ((T,), 0, (1,)),
    "step": ((B,), -1, (B,)),
    "unbatched step": ((), -1, ()),
}


def arguments(layout, *, ids=False, reverse=False, clip=None):
    """Returns float64 arguments of the op ``layer``; its tensors require gradients."""
    torch.manual_seed(0)
    rows, time_dim, states = LAYOUTS[layout]
    new = {"dtype": torch.float64, "requires_grad": True}
    input = torch.randint(INPUT, rows) if ids else torch.randn(*rows, INPUT, **new)
    weights = [
        torch.randn(n, **new) for n in ((HIDDEN, INPUT), (HIDDEN, HIDDEN), (HIDDEN,), (HIDDEN,))
    ]
    h_0 = torch.randn(*states, HIDDEN, **new)
    return [input, *weights, h_0, None, None, time_dim, TANH, reverse, clip]


def by_reference(input, weight_ih, weight_hh, bias_ih, bias_hh, h_0, *options):
    """Computes the op with the reference loop, which takes the layout (T, B, ..) alone."""
    _, _, time_dim, _, reverse, clip = options
    if not input.is_floating_point():
        input = torch.nn.functional.one_hot(input, INPUT).double()
    projections = input @ weight_ih.T + bias_ih + bias_hh
    shape = projections.shape
    if time_dim == 1:
        projections = projections.transpose(0, 1)
    elif len(shape) < 3:
        projections = projections.reshape(*((-1, 1) if time_dim == 0 else (1, -1)), HIDDEN)
    output, h_n = reference.rnn(
        projections, weight_hh, h_0.reshape(-1, HIDDEN), reverse=reverse, state_grad_clip=clip
    )
    output = output.transpose(0, 1) if time_dim == 1 else output.reshape(shape)
    return output, h_n.reshape(h_0.shape)


def results_and_gradients(layer, arguments):
    leaves = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    output, h_n = layer(*arguments)
    loss = output.sin().sum() + h_n.square().sum()
    return [output, h_n, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_reference(layout, ids, reverse, clip):
    args = arguments(layout, ids=ids, reverse=reverse, clip=clip)
    got = results_and_gradients(torch.ops.rnnfused.layer, args)
    torch.testing.assert_close(got, results_and_gradients(by_reference, args))
    for result in got[:2]:
        assert result.is_contiguous()


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout, ids):
    args = arguments(layout, ids=ids)
    torch.library.opcheck(torch.ops.rnnfused.layer, args)
    with torch.no_grad():
        output, h_n = torch.ops.rnnfused.layer(*args)
        input, weight_ih, weight_hh, _, _, h_0, *rest = args
        gradients = torch.randn_like(output), torch.randn_like(h_n)
        for needs in ((not ids, True, True, True, True), (False,) * 5):
            backward = (*gradients, output, input, weight_ih, weight_hh, h_0, *rest, *needs)
            torch.library.opcheck(torch.ops.rnnfused.layer_backward, backward)


@pytest.mark.parametrize("layout", ["time first", "batch first", "unbatched"])
def test_strides_of_the_input_do_not_matter(layout):
    args = arguments(layout)
    expected = results_and_gradients(torch.ops.rnnfused.layer, args)
    for dims in ((0, 1), (0, 2), (1, 2)) if args[0].dim() == 3 else ((0, 1),):
        strided = args[0].detach().transpose(*dims).contiguous().transpose(*dims)
        if strided.stride(-1) == 1:
            args[0] = strided.requires_grad_()
            got = results_and_gradients(torch.ops.rnnfused.layer, args)
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_composite_ops_equal_the_fused_ones(layout, ids, lengths):
    """Devices without a fused layer run the composite ops: same numbers, shapes and strides."""
    if lengths is not None and layout not in ("time first", "batch first"):
        pytest.skip("lengths are for a batch")
    args = arguments(layout, ids=ids)
    args[7] = None if lengths is None else torch.tensor(lengths)
    with torch.no_grad():
        expected = torch.ops.rnnfused.layer(*args)
        got = composite_layer(*args)
        check_alike(got, expected)
        assert not any(result._is_view() for result in got)
        output, h_n = expected
        input, weight_ih, weight_hh, _, _, h_0, *rest = args
        gradients = torch.randn_like(output), torch.randn_like(h_n)
        for needs in ((not ids, True, True, True, True), (False, False, True, False, False)):
            backward = (*gradients, output, input, weight_ih, weight_hh, h_0, *rest, *needs)
            check_alike(composite_backward(*backward), torch.ops.rnnfused.layer_backward(*backward))


def check_alike(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.shape == b.shape and (a.numel() == 0 or a.stride() == b.stride())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vmap(layout):
    args = arguments(layout)
    inputs = torch.randn(6, *args[0].shape, dtype=torch.float64)
    states = torch.randn(6, *args[5].shape, dtype=torch.float64)

    def call(input, h_0):
        return torch.ops.rnnfused.layer(input, *args[1:5], h_0, *args[6:])

    expected = [torch.stack(x) for x in zip(*map(call, inputs, states), strict=True)]
    torch.testing.assert_close(list(torch.vmap(call)(inputs, states)), expected)
    weights = torch.randn(6, HIDDEN, HIDDEN, dtype=torch.float64)

    def ensemble(input, weight_hh, h_0):
        return torch.ops.rnnfused.layer(input, args[1], weight_hh, *args[3:5], h_0, *args[6:])

    expected = zip(*map(ensemble, inputs, weights, states), strict=True)
    torch.testing.assert_close(
        list(torch.vmap(ensemble)(inputs, weights, states)), [torch.stack(x) for x in expected]
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_to_second_order(layout):
    """The layers call the op through this function, which has derivatives of any order and mode."""
    from rnnfused.ops.autograd import layer

    *leaves, _, _, time_dim, _, _, _ = arguments(layout)

    def call(*leaves):
        return layer(*leaves, None, None, time_dim, TANH, True, None)

    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_projections_as_the_input(layout):
    """With a null W_ih the input is the projections, and their gradient is the loop's d."""
    args = arguments(layout)
    rows, time_dim, states = LAYOUTS[layout]
    projections = torch.randn(*rows, HIDDEN, dtype=torch.float64, requires_grad=True)
    weight_hh, h_0 = args[2], args[5]
    args = loop_arguments(
        projections, weight_hh, h_0, time_dim=time_dim, reverse=True, nonlinearity=RELU
    )
    torch.library.opcheck(torch.ops.rnnfused.layer, args)
    eye, no_bias = torch.eye(HIDDEN, dtype=torch.float64), torch.zeros(HIDDEN).double()
    same = (projections, eye, weight_hh, no_bias, None, *args[5:])
    torch.testing.assert_close(
        results_and_gradients(torch.ops.rnnfused.layer, args),
        results_and_gradients(torch.ops.rnnfused.layer, same),
    )
    with torch.no_grad():
        output, h_n = torch.ops.rnnfused.layer(*args)
        check_alike(composite_layer(*args), (output, h_n))
        tensors = (torch.randn_like(output), torch.randn_like(h_n), output, None, None)
        for needs in ((True, False, True, False, True), (True, False, False, False, False)):
            backward = (*tensors, weight_hh, h_0, *args[6:], *needs)
            torch.library.opcheck(torch.ops.rnnfused.layer_backward, backward)
            check_alike(composite_backward(*backward), torch.ops.rnnfused.layer_backward(*backward))
        with pytest.raises(RuntimeError, match="biases are for an input with weight_ih"):
            torch.ops.rnnfused.layer(*args[:3], no_bias, *args[4:])


def test_opcheck_of_a_copy():
    torch.library.opcheck(torch.ops.rnnfused.copied, (torch.randn(3, 2, requires_grad=True)[1:],))


@pytest.mark.parametrize("time_dim", [-2, -1, 1, 2])
def test_a_wrong_time_dim_is_refused(time_dim):
    args = arguments("unbatched" if time_dim != -1 else "time first")
    args[8] = time_dim
    with pytest.raises(RuntimeError, match="rnnfused: .*time_dim"):
        torch.ops.rnnfused.layer(*args)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (2,), (1, 1), (1, B + 1), (1, 1, B)])
def test_a_wrong_state_shape_is_refused(layout, shape):
    args = arguments(layout)
    if args[5].shape == (*shape, HIDDEN):
        pytest.skip("the shape is right")
    args[5] = torch.randn(*shape, HIDDEN, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="rnnfused: h_0 has a wrong shape"):
        torch.ops.rnnfused.layer(*args)
