"""Random calls of the loop: a plan, sizes and options, run on the interpreter and compared with NumPy."""

from dataclasses import dataclass

import numpy as np
from narrow import BFLOAT16, FLOAT16
from recurrence_case import TOLERANCE, Case

from . import nvcc_output
from .launch import EXCHANGES, SENDS, Kernels, make_launch
from .machine import load
from .parse import Module

NARROW = {"bfloat16": BFLOAT16, "float16": FLOAT16}
MOST_THREADS = 640  # of a launch, so that it takes less than a second
MAY_BE_EMPTY = {"grid"}  # a team's last blocks, of hidden units


class Programs:
    """The translated kernels of one dtype and architecture."""

    def __init__(self, dtype, architecture, text=None):
        self.dtype, self.architecture = dtype, architecture
        self.module = Module(nvcc_output.ptx_of(dtype, architecture) if text is None else text)
        self._programs = {}

    def get(self, depth, exchange, send, direction):
        key = depth, exchange, send, direction
        if key not in self._programs:
            pattern = (
                rf"Li{depth}ELNS\w*8ExchangeE{EXCHANGES[exchange]}E"
                rf"LNS\w*4SendE{SENDS[send]}E\w*{direction}Step"
            )
            self._programs[key] = load(self.module, pattern)
        return self._programs[key]


@dataclass
class RandomCall:
    seed: int
    dtype: str
    architecture: str
    exchange: str
    blocks: int
    depth: int
    hidden: int
    steps: int
    batch: int
    teams: int
    batch_sizes: tuple = ()
    relu: bool = False
    reverse: bool = False
    with_h_0: bool = True
    batch_first: bool = False
    transposed: bool = False  # the weight, in memory
    send: str = "words"  # of a cluster
    without: tuple = ()  # of grad_output, grad_h_n, grad_h_0

    def launch(self):
        return make_launch(
            self.dtype,
            self.depth,
            self.exchange,
            self.blocks,
            self.hidden,
            self.batch,
            self.teams,
            self.send,
        )

    def units(self):
        """Hidden units of a block."""
        words = 2 if self.dtype in NARROW else 1
        return -(-self.hidden // self.blocks // words) * words

    def is_possible(self):
        """Whether the plan fits, and the planner could choose such a team."""
        launch = self.launch()
        if launch is None or launch.blocks * launch.block_threads > MOST_THREADS:
            return False
        return self.exchange in MAY_BE_EMPTY or (self.blocks - 1) * self.units() < self.hidden

    def check(self, programs, plan=None, sleeper=None):
        """Run forward and backward; compare with the equations in float64."""
        options = dict(
            with_h_0=self.with_h_0,
            relu=self.relu,
            reverse=self.reverse,
            batch_sizes=self.batch_sizes,
        )
        sizes = self.steps, self.batch, self.hidden
        if self.dtype in NARROW:
            narrow = NARROW[self.dtype]
            case, exact_case = narrow.case(*sizes, **options)
            values, rounded = narrow.values, narrow.rounded
        else:
            case, exact_case = (Case(*sizes, np.dtype(self.dtype).type, **options) for _ in "12")
            values, rounded = (lambda x: x), (lambda x: x)
        kernels = Kernels(
            lambda direction: programs.get(self.depth, self.exchange, self.send, direction),
            self.dtype,
            plan or (lambda hidden, batch: self.launch()),
            self.seed,
        )
        kernels.sleeper = sleeper
        for name in self.without:
            kernels.leave_out(name)
            if name != "grad_h_0":
                getattr(exact_case, name)[...] = 0
        self._lay_out(case)
        results = case.run(kernels)
        names = "output", "h_n", "grad_projections", "grad_h_0"
        for name, got, wanted in zip(names, results, exact_case.exact(rounded), strict=True):
            if name not in self.without:
                self._compare(values(np.ascontiguousarray(got)), rounded(wanted), name)

    def _lay_out(self, case):
        """Move inputs to the layouts of this call; the results follow the projections' layout."""
        if self.batch_first:
            for name in ("projections", "grad_output"):
                turned = np.ascontiguousarray(getattr(case, name).transpose(1, 0, 2))
                setattr(case, name, turned.transpose(1, 0, 2))
        if self.transposed:
            case.weight = np.ascontiguousarray(case.weight.T).T

    def _compare(self, got, wanted, name):
        if self.dtype not in NARROW:
            tolerance = dict(rtol=TOLERANCE[np.dtype(self.dtype).type])
            tolerance["atol"] = tolerance["rtol"]
            np.testing.assert_allclose(got, wanted, err_msg=name, **tolerance)
            return
        # Sums in another order seldom round to a neighbour.
        np.testing.assert_allclose(got, wanted, rtol=2**-7, atol=2**-6, err_msg=name)
        if got.size > 200:
            assert (got == wanted).mean() > NARROW[self.dtype].same, name


def draw(seed, **fixed):
    """A random call; `fixed` sets some of its fields."""
    random = np.random.default_rng(seed)

    def choose(name, choices):
        choice = choices[random.integers(len(choices))]
        return fixed.get(name, choice)

    while True:
        dtype = choose("dtype", list(nvcc_output.PRODUCTS))
        exchange = choose("exchange", ["none", "cluster", "cluster", "grid"])
        newest = exchange == "cluster" or random.random() < 0.6
        few = (2, 2, 4, 4, 8, 16) if exchange == "cluster" else (2, 4, 4, 8)
        blocks = choose("blocks", (1,) if exchange == "none" else few)
        batch = choose("batch", range(1, 10))
        packed = random.random() < 0.3
        batch_sizes = ()
        if packed:
            lengths = random.integers(1, 6, batch)
            batch_sizes = tuple(int((lengths > t).sum()) for t in range(lengths.max()))
        call = RandomCall(
            seed,
            dtype,
            fixed.get("architecture", "sm_90a" if newest else "compute_80"),
            exchange,
            blocks,
            choose("depth", nvcc_output.PRODUCTS[dtype][2]),
            choose("hidden", range(1, 60)),
            choose("steps", range(1, 6)),
            batch,
            choose("teams", (1, 1, 2, 3)),
            fixed.get("batch_sizes", batch_sizes),
            relu=random.random() < 0.3,
            reverse=random.random() < 0.4,
            with_h_0=random.random() < 0.7,
            batch_first=not packed and random.random() < 0.3,
            transposed=random.random() < 0.3,
            send=fixed.get("send", "words"),
            without=tuple(
                name for name in ("grad_output", "grad_h_n", "grad_h_0") if random.random() < 0.15
            ),
        )
        if call.is_possible():
            return call
