"""PyTorch's own module tests on rnnfused's classes, with the inputs that PyTorch generates for them."""

import copy
import functools
import io
import itertools
import pickle

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

import rnnfused

pytest.importorskip("expecttest", reason="torch.testing._internal imports it")
common_modules = pytest.importorskip(
    "torch.testing._internal.common_modules", reason="this torch lacks the inputs of its own tests"
)

pytestmark = pytest.mark.usefixtures("one_thread")

OURS = {torch.nn.RNN: rnnfused.RNN, torch.nn.RNNCell: rnnfused.RNNCell}
# PyTorch lists no 16-bit types; rnnfused supports them too.
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCES = {
    torch.float64: dict(rtol=1e-9, atol=1e-11),
    torch.float32: dict(rtol=1e-5, atol=1e-6),
}


@functools.cache  # generation takes longer than a test
def generated(info, dtype, training, errors=False):
    torch.manual_seed(0)
    kwargs = dict(device="cpu", dtype=dtype, requires_grad=not errors, training=training)
    if errors:
        return info.module_error_inputs_func(info, **kwargs)
    if info.module_cls is torch.nn.RNN:
        kwargs["with_packed_sequence"] = True
    return info.module_inputs_func(info, **kwargs)


INFOS = [info for info in common_modules.module_db if info.module_cls in OURS]
over_infos = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)


def over_samples(dtypes=DTYPES, trainings=(True, False), every=1):
    """Parametrizes with ``(info, index of the sample, dtype, training)``; takes every ``every``-th sample of RNN."""
    params = []
    for info, dtype, training in itertools.product(INFOS, dtypes, trainings):
        mode = "train" if training else "eval"
        for i in range(len(generated(info, torch.float32, training))):
            if i % every == 0 or info.module_cls is torch.nn.RNNCell:
                name = f"{info.name}-{i}-{dtype}-{mode}"
                params.append(pytest.param(info, i, dtype, training, id=name))
    return pytest.mark.parametrize("info, index, dtype, training", params)


def mapped(value, change):
    """Returns the value with ``change`` applied to its tensor, if it has one."""
    if isinstance(value, PackedSequence):
        return value._replace(data=change(value.data))
    return change(value) if isinstance(value, torch.Tensor) else value


def tensors_of(values):
    values = values if isinstance(values, (list, tuple)) else [values]
    data = [v.data if isinstance(v, PackedSequence) else v for v in values]
    return [v for v in data if isinstance(v, torch.Tensor)]


def results_of(value):
    """Returns a module's results as tensors: a cell's state, or the output (its data, if packed) and h_n."""
    return [value] if isinstance(value, torch.Tensor) else tensors_of([*value])


class Sample:
    """One of PyTorch's module inputs, for rnnfused's class and torch's."""

    def __init__(self, info, index, dtype, training):
        self.info, self.dtype, self.training = info, dtype, training
        self.sample = generated(info, dtype, training)[index]
        forward = self.sample.forward_input
        assert not forward.kwargs
        self.args = [mapped(v, lambda t: t.detach()) for v in forward.args]

    def build(self, cls=None, **kwargs):
        inputs = self.sample.constructor_input
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed every device
        factory = dict(device="cpu", dtype=self.dtype) | kwargs
        cls = cls or OURS[self.info.module_cls]
        return cls(*inputs.args, **inputs.kwargs, **factory).train(self.training)

    def leaves(self):
        return [mapped(v, lambda t: t.clone().requires_grad_()) for v in self.args]

    def differentiated(self, module, args, leaves=None):
        """Returns the results, and the gradients of arguments and parameters."""
        wanted = [*tensors_of(leaves or args), *module.parameters()]
        results = results_of(module(*args))
        # The loss is linear: in 16 bits, other gradients would depend on the rounding of results.
        weights = [torch.arange(r.numel()).view(r.shape).cos().to(r.dtype) for r in results]
        loss = sum((r * w).sum() for r, w in zip(results, weights))
        return [*results, *torch.autograd.grad(loss, wanted)]

    def close(self, got, expected, exact=None):
        """Asserts closeness. In 16 bits, the error may be a few times torch's error against the exact results."""
        assert len(got) == len(expected) > 0
        is_relu = self.sample.constructor_input.kwargs.get("nonlinearity") == "relu"
        count = 2 if self.info.module_cls is torch.nn.RNN else 1  # of results; gradients follow
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            if self.dtype in TOLERANCES:
                torch.testing.assert_close(a, b, **TOLERANCES[self.dtype])
                continue
            assert a.dtype == b.dtype and a.shape == b.shape and a.isfinite().all()
            if is_relu and i >= count:
                continue  # rounding moves units across the kink of relu, where gradients jump
            error, of_torch = ((v.double() - exact[i]).abs().max() for v in (a, b))
            assert error <= 4 * of_torch + torch.finfo(self.dtype).eps * exact[i].abs().max()

    def exact(self, module):
        """Returns :meth:`differentiated` of torch's class in float64, with the same weights and inputs."""
        theirs = self.build(self.info.module_cls, dtype=torch.float64)
        theirs.load_state_dict(module.state_dict())
        leaves = [mapped(v, lambda t: t.double().requires_grad_()) for v in self.args]
        return self.differentiated(theirs, leaves)


@over_samples()
def test_forward_backward_and_factory_arguments(info, index, dtype, training):
    sample = Sample(info, index, dtype, training)
    module = sample.build()
    assert all(p.dtype == dtype and p.device.type == "cpu" for p in module.parameters())
    got, exact = sample.differentiated(module, sample.leaves()), sample.exact(module)
    theirs = sample.build(info.module_cls)
    sample.close(got, sample.differentiated(theirs, sample.leaves()), exact)
    assert repr(module) == repr(theirs) == str(module)
    reference = sample.sample.reference_fn
    if reference is not None and not isinstance(sample.args[0], PackedSequence):
        expected = results_of(reference(module, *sample.args))
        sample.close(got[: len(expected)], expected, exact)


@over_samples(dtypes=(torch.float32,))
def test_pickle_and_deepcopy(info, index, dtype, training):
    sample = Sample(info, index, dtype, training)
    module = sample.build()
    expected = sample.differentiated(module, sample.leaves())
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)
    for other in (*loaded, copy.deepcopy(module), copy.copy(module)):
        assert type(other) is type(module) and other.training == training
        results = sample.differentiated(other, sample.leaves())
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@over_samples(dtypes=(torch.float64,), trainings=(True,))
@pytest.mark.parametrize("which", ["arguments", "gradients", "weights"])
def test_noncontiguous(info, index, dtype, training, which):
    def spread(tensor):  # strided: every second value of a larger tensor
        return torch.stack([tensor, tensor], -1)[..., 0]

    sample = Sample(info, index, dtype, training)
    module = sample.build()
    expected = sample.differentiated(module, sample.leaves())
    leaves = sample.leaves()
    args = [mapped(v, spread) for v in leaves] if which == "arguments" else leaves
    if which == "weights":
        for parameter in module.parameters():
            parameter.data = spread(parameter.data)
    if which == "gradients":
        results = results_of(module(*args))
        wanted = [*tensors_of(leaves), *module.parameters()]
        incoming = [
            spread(torch.arange(r.numel()).view(r.shape).cos().to(r.dtype)) for r in results
        ]
        got = [*results, *torch.autograd.grad(results, wanted, incoming)]
    else:
        assert which == "weights" or not any(t.is_contiguous() for t in tensors_of(args))
        got = sample.differentiated(module, args, leaves)
    sample.close(got, expected)


@over_samples(dtypes=(torch.float64,), trainings=(True,), every=5)
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives_are_those_of_differences(info, index, dtype, training, check):
    sample = Sample(info, index, dtype, training)
    module = sample.build()
    names = [name for name, _ in module.named_parameters()]
    leaves = sample.leaves()
    count = len(tensors_of(leaves))

    def run(*tensors):
        tensors = [*tensors]
        given = iter(tensors[:count])
        args = tuple(mapped(v, lambda _: next(given)) for v in leaves)
        weights = dict(zip(names, tensors[count:], strict=True))
        return tuple(results_of(torch.func.functional_call(module, weights, args)))

    weights = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert check(run, [*tensors_of(leaves), *weights], fast_mode=True)


@over_samples(dtypes=(torch.float32,))
def test_train_and_eval(info, index, dtype, training):
    sample = Sample(info, index, dtype, training)
    module = sample.build()
    expected = results_of(sample.build()(*sample.args))
    for _ in range(2):
        assert module.train(not training).training is not training
        module(*sample.args)
        assert module.train(training).training is training
        got = results_of(module(*sample.args))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@over_samples(trainings=(True,), every=5)
def test_to_another_dtype(info, index, dtype, training):
    sample = Sample(info, index, dtype, training)
    module = Sample(info, index, torch.float32, training).build(dtype=torch.float32)
    module(*[mapped(v, lambda t: t.float()) for v in sample.args])
    parameters = [*module.parameters()]
    assert module.to(dtype) is module
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    theirs = sample.build(info.module_cls)
    theirs.load_state_dict(module.state_dict())
    sample.close(
        sample.differentiated(module, sample.leaves()),
        sample.differentiated(theirs, sample.leaves()),
        sample.exact(module),
    )


@over_samples(dtypes=(torch.float32, torch.float64), trainings=(True,))
@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_of_each_sample_both_ways(info, index, dtype, training, assign):
    sample = Sample(info, index, dtype, training)
    ours, theirs = sample.build(), sample.build(info.module_cls)
    for source, target in ((ours, theirs), (theirs, ours)):
        source.reset_parameters()
        assert str(target.load_state_dict(source.state_dict(), strict=True, assign=assign)) == (
            "<All keys matched successfully>"
        )
        sample.close(results_of(target(*sample.args)), results_of(source(*sample.args)))


@over_samples(dtypes=(torch.float32,), trainings=(True,), every=3)
def test_built_under_a_device(info, index, dtype, training):
    sample = Sample(info, index, dtype, training)
    with torch.device("meta"):
        module = sample.build(device=None)
        assert all(p.is_meta for p in module.parameters())
    module.to_empty(device="cpu").load_state_dict(sample.build().state_dict())
    sample.close(results_of(module(*sample.args)), results_of(sample.build()(*sample.args)))


@over_infos
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors(info, training, dtype):
    samples = generated(info, dtype, training, errors=True)
    assert len(samples) > 5
    for sample in samples:
        inputs = sample.module_error_input
        build, run = inputs.constructor_input, inputs.forward_input
        cls = OURS[info.module_cls]
        if sample.error_on is common_modules.ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(sample.error_type):
                cls(*build.args, **build.kwargs)
        else:
            module = cls(*build.args, **({"dtype": dtype} | build.kwargs))
            with pytest.raises(sample.error_type):
                module(*run.args, **run.kwargs)
