"""One call of the recurrence on NumPy arrays, exact in float64 and through a kernel."""

import numpy as np

TOLERANCE = {np.float32: 3e-5, np.float64: 1e-12}


def activate(x, relu):
    return np.maximum(x, 0) if relu else np.tanh(x)


class Case:
    """Random inputs of one call, in float64 and in the dtype of the kernel."""

    def __init__(
        self,
        steps,
        batch,
        hidden,
        dtype,
        *,
        with_h_0=True,
        relu=False,
        reverse=False,
        batch_sizes=(),
    ):
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

    def exact(self, rounded=lambda x: x):
        """output, h_n, grad_projections, grad_h_0 by the equations, in float64, with rounded states."""
        p, w = self.projections.astype(np.float64), self.weight.astype(np.float64)
        h = np.zeros((self.batch, self.hidden)) if self.h_0 is None else self.h_0.astype(np.float64)
        order = range(len(self.steps))[:: -1 if self.reverse else 1]
        output = np.empty_like(p)
        h = h.copy()
        for t in order:
            n = self.sizes[t]
            new = rounded(activate(p[self.steps[t]] + h[:n] @ w.T, self.relu))
            h[:n] = output[self.steps[t]] = new
        d_state = self.grad_h_n.astype(np.float64)  # arrives at each row's last step
        d = np.empty_like(p)
        for t in reversed(order):
            n, y = self.sizes[t], output[self.steps[t]]
            slope = (y > 0) if self.relu else 1 - y * y
            d[self.steps[t]] = rounded((self.grad_output[self.steps[t]] + d_state[:n]) * slope)
            d_state[:n] = d[self.steps[t]] @ w
        return output, h, d, d_state

    def run(self, kernels, cuts=None, new=np.empty_like):
        cuts = [0, self.batch] if cuts is None else cuts
        output, d = new(self.projections), new(self.projections)
        h_n, grad_h_0 = np.empty_like(self.grad_h_n), np.empty_like(self.grad_h_n)
        kernels.forward(
            self.projections,
            self.weight,
            self.h_0,
            output,
            h_n,
            self.batch_sizes,
            self.relu,
            self.reverse,
            cuts,
        )
        kernels.backward(
            self.grad_output,
            self.grad_h_n,
            output,
            self.weight,
            d,
            grad_h_0,
            self.batch_sizes,
            self.relu,
            self.reverse,
            cuts,
        )
        return output, h_n, d, grad_h_0

    def check(self, kernels, **how):
        for got, expected in zip(self.run(kernels, **how), self.exact(), strict=True):
            np.testing.assert_allclose(
                got, expected, rtol=TOLERANCE[self.dtype], atol=TOLERANCE[self.dtype]
            )
