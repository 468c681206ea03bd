"""The loops of every instruction set, around every tile edge, against NumPy in float64."""

import numpy as np
import pytest

# 2 vectors make a panel; 4, 8 or 16 lanes a vector. Sizes just below, at and above each edge.
HIDDEN_SIZES = [1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65, 97, 129]
# Tiles are 1 to 14 rows high (6 without AVX-512); more rows make several blocks.
BATCH_SIZES = [1, 2, 3, 4, 6, 7, 8, 13, 14, 15, 29]
# The smallest weights that count as too large for L2, which changes the order of the loops.
STREAMING_SIZE = {np.float32: 417, np.float64: 290}
TOLERANCE = {np.float32: 3e-5, np.float64: 1e-12}


def activate(x, relu):
    return np.maximum(x, 0) if relu else np.tanh(x)


class Case:
    """Random inputs of one call, in float64 and in the dtype of the kernel."""

    def __init__(self, steps, batch, hidden, dtype, *, with_h_0=True, relu=False, reverse=False,
                 batch_sizes=()):  # fmt: skip
        random = np.random.default_rng([steps, batch, hidden])
        shape = (sum(batch_sizes), hidden) if batch_sizes else (steps, batch, hidden)
        self.projections = random.standard_normal(shape).astype(dtype)
        self.weight = (random.standard_normal((hidden, hidden)) / hidden**0.5).astype(dtype)
        self.h_0 = random.standard_normal((batch, hidden)).astype(dtype) if with_h_0 else None
        self.grad_output = random.standard_normal(shape).astype(dtype)
        self.grad_h_n = random.standard_normal((batch, hidden)).astype(dtype)
        self.relu, self.reverse, self.batch_sizes = relu, reverse, list(batch_sizes)
        self.dtype, self.batch, self.hidden = dtype, batch, hidden
        sizes = self.batch_sizes or [batch] * steps
        starts = np.cumsum([0, *sizes])
        self.steps = [
            slice(starts[t], starts[t + 1]) if batch_sizes else t for t in range(len(sizes))
        ]
        self.sizes = sizes

    def exact(self):
        """output, h_n, grad_projections, grad_h_0 by the equations, in float64."""
        p, w = self.projections.astype(np.float64), self.weight.astype(np.float64)
        h = np.zeros((self.batch, self.hidden)) if self.h_0 is None else self.h_0.astype(np.float64)
        order = range(len(self.steps))[:: -1 if self.reverse else 1]
        output = np.empty_like(p)
        h = h.copy()
        for t in order:
            n = self.sizes[t]
            h[:n] = output[self.steps[t]] = activate(p[self.steps[t]] + h[:n] @ w.T, self.relu)
        d_state = self.grad_h_n.astype(np.float64).copy()  # arrives at each row's last step
        d = np.empty_like(p)
        for t in reversed(order):
            n, y = self.sizes[t], output[self.steps[t]]
            slope = (y > 0) if self.relu else 1 - y * y
            d[self.steps[t]] = (self.grad_output[self.steps[t]] + d_state[:n]) * slope
            d_state[:n] = d[self.steps[t]] @ w
        return output, h, d, d_state

    def run(self, kernels, cuts=None, new=np.empty_like):
        cuts = [0, self.batch] if cuts is None else cuts
        output, d = new(self.projections), new(self.projections)
        h_n, grad_h_0 = np.empty_like(self.grad_h_n), np.empty_like(self.grad_h_n)
        kernels.forward(self.projections, self.weight, self.h_0, output, h_n, self.batch_sizes,
                        self.relu, self.reverse, cuts)  # fmt: skip
        kernels.backward(self.grad_output, self.grad_h_n, output, self.weight, d, grad_h_0,
                         self.batch_sizes, self.relu, self.reverse, cuts)  # fmt: skip
        return output, h_n, d, grad_h_0

    def check(self, kernels, **how):
        for got, expected in zip(self.run(kernels, **how), self.exact(), strict=True):
            np.testing.assert_allclose(
                got, expected, rtol=TOLERANCE[self.dtype], atol=TOLERANCE[self.dtype]
            )


both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@both_dtypes
@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
def test_every_tile(kernels, dtype, hidden):
    for batch in BATCH_SIZES:
        Case(3, batch, hidden, dtype).check(kernels)


@both_dtypes
@pytest.mark.parametrize("batch", [1, 16, 31])
def test_weights_too_large_for_the_cache(kernels, dtype, batch):
    Case(3, batch, STREAMING_SIZE[dtype], dtype).check(kernels)


@both_dtypes
@pytest.mark.parametrize("with_h_0", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_every_option(kernels, dtype, with_h_0, relu, reverse):
    for steps in (1, 2, 5):
        Case(steps, 9, 19, dtype, with_h_0=with_h_0, relu=relu, reverse=reverse).check(kernels)


@both_dtypes
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("batch_sizes", [[3], [4, 4, 2, 1], [30, 30, 16, 15, 14, 13, 2], [1, 1]])
def test_rows_that_end_early(kernels, dtype, reverse, batch_sizes):
    for hidden in (5, 33, STREAMING_SIZE[dtype]):
        Case(
            len(batch_sizes), batch_sizes[0], hidden, dtype, reverse=reverse,
            batch_sizes=batch_sizes,
        ).check(kernels)  # fmt: skip


@both_dtypes
@pytest.mark.parametrize("hidden", [7, 40])
def test_rows_do_not_depend_on_their_neighbours(kernels, dtype, hidden):
    """To the bit: any split of the batch, down to single rows, gives the same."""
    whole = Case(4, 31, hidden, dtype).run(kernels)
    for cuts in ([0, 1, 3, 9, 31], [0, 14, 28, 31], list(range(32))):
        for got, expected in zip(Case(4, 31, hidden, dtype).run(kernels, cuts), whole, strict=True):
            np.testing.assert_array_equal(got, expected)


def spread(array):
    """An array of the same shape inside a larger one of sentinels, batch outermost."""
    steps, batch, hidden = array.shape
    memory = np.full((batch + 2, steps + 1, hidden + 3), 99, array.dtype)
    return memory[1:-1, :-1, 2:-1].transpose(1, 0, 2)


@both_dtypes
@pytest.mark.parametrize("hidden", [1, 6, 16, 37])
def test_strides_are_obeyed_and_nothing_else_is_written(kernels, dtype, hidden):
    case = Case(3, 8, hidden, dtype)
    case.weight = np.asfortranarray(case.weight)
    views = [spread(array) for array in (case.projections, case.grad_output)]
    for view, array in zip(views, (case.projections, case.grad_output), strict=True):
        view[...] = array
    case.projections, case.grad_output = views
    written = []

    def new(_):
        written.append(spread(views[0]))
        return written[-1]

    case.check(kernels, new=new)
    for view in written:
        view[...] = 99
        assert (view.base == 99).all()
