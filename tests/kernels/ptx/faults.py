"""Faults to plant into the kernels, so that the tests show that they can fail."""

import re
import shutil
from dataclasses import dataclass, field

from . import nvcc_output
from .calls import Programs
from .errors import Alarm, BadAccess, BarrierMisuse, Deadlock, Race

WRONG = AssertionError  # a result differs from NumPy's

CLUSTER = dict(exchange="cluster", architecture="sm_90a", blocks=4)
WIDE = CLUSTER | {"send": "wide"}
GRID = dict(exchange="grid", architecture="compute_80", blocks=4)
ONE = dict(exchange="none", architecture="sm_90a")
FLOAT = dict(dtype="float32", depth=8)
NARROW = dict(dtype="bfloat16", depth=32)


def edited_programs(folder, dtype, architecture, edits):
    """The programs of a copy of csrc in `folder`; an edit is (file of csrc/cuda, old text, new text)."""
    csrc = folder / "csrc"
    shutil.copytree(nvcc_output.ROOT / "csrc", csrc)
    for file, old, new in edits:
        path = csrc / "cuda" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has not one {old!r}"
        path.write_text(text.replace(old, new))
    return Programs(dtype, architecture, nvcc_output.ptx_of(dtype, architecture, csrc))


@dataclass
class Fault:
    """An edit of the PTX, or of a file of csrc/cuda, and what may find it."""

    name: str
    where: dict  # fields of the calls that show it
    old: str  # a pattern in PTX, the text itself in a file
    new: str
    errors: tuple
    file: str | None = None  # in csrc/cuda; None: the PTX
    count: int = 0  # how many matches to replace in PTX; 0: all
    options: dict = field(default_factory=dict)  # fields of the calls, such as steps

    def __post_init__(self):
        if Deadlock in self.errors:  # the kernel itself may notice first
            self.errors += (Alarm,)

    @property
    def call(self):
        return {"steps": 5, "batch_sizes": (), **self.where, **self.options}

    def programs(self, folder):
        """The programs with this fault; files are edited in a copy of csrc in `folder`."""
        dtype, architecture = self.where["dtype"], self.where["architecture"]
        if self.file is None:
            text, count = re.subn(
                self.old, self.new, nvcc_output.ptx_of(dtype, architecture), count=self.count
            )
            assert count > 0, f"the PTX has no {self.old}"
            return Programs(dtype, architecture, text)
        return edited_programs(folder, dtype, architecture, [(self.file, self.old, self.new)])


IN_PTX = [
    Fault("arrived bytes are acquired in the block alone", CLUSTER | FLOAT,
          r"try_wait\.parity\.relaxed\.cluster", "try_wait.parity.acquire.cta", (Race,)),
    Fault("arrived bytes are not acquired", CLUSTER | FLOAT,
          r"fence\.acquire\.sync_restrict::shared::cluster\.cluster;", "", (Race,)),
    Fault("no wait for the cluster before the first store", CLUSTER | FLOAT,
          r"barrier\.cluster\.wait\.acquire\.aligned;", "", (Race, BarrierMisuse)),
    Fault("every store goes to the sender's own block", CLUSTER | FLOAT,
          r"mapa\.shared::cluster\.u32 (%\w+), (%\w+), %\w+;", r"mov.u32 \1, \2;",
          (Race, Deadlock, BarrierMisuse)),
    Fault("four bytes are expected", CLUSTER | FLOAT,
          r"(arrive\.expect_tx[^;]*), %\w+;", r"\1, 4;", (Race, Deadlock, BarrierMisuse)),
    Fault("the same phase is waited for in every step", CLUSTER | FLOAT,
          r"(try_wait[^;]*), %\w+;", r"\1, 0;", (Race, WRONG, Deadlock, BarrierMisuse)),
    Fault("a barrier counts two arrivals", CLUSTER | FLOAT,
          r"(mbarrier\.init[^;]*), 1;", r"\1, 2;", (Deadlock,)),
    Fault("a store goes four bytes too far", CLUSTER | FLOAT,
          r"(st\.async[^;]*?\[%\w+)\]", r"\1+4]", (Race, WRONG, BadAccess, BarrierMisuse)),
    Fault("a word is sent twice", CLUSTER | FLOAT,
          r"(st\.async[^;]*;)", r"\1 \1", (Race, BarrierMisuse, Deadlock)),
    Fault("half of each word is sent", CLUSTER | FLOAT | {"dtype": "float64"},
          r"(bytes)\.b64 (\[%\w+\]), (%\w+),", r"\1.b32 \2, %r1,", (Race, WRONG, Deadlock)),
    Fault("the counter is released in the block alone", GRID | FLOAT,
          r"st\.release\.gpu", "st.release.cta", (Race,)),
    Fault("the counter is not released", GRID | FLOAT,
          r"st\.release\.gpu", "st.relaxed.gpu", (Race,)),
    Fault("the counter is not acquired", GRID | FLOAT,
          r"ld\.acquire\.gpu", "ld.relaxed.gpu", (Race,)),
    Fault("the counter is acquired in the block alone", GRID | FLOAT,
          r"ld\.acquire\.gpu", "ld.acquire.cta", (Race,)),
    Fault("a block counts too many steps", GRID | FLOAT,
          r"(st\.release[^;]*), %\w+;", r"\1, 9;", (Race, WRONG)),
    Fault("no block counts", GRID | FLOAT, r"st\.release[^;]*;", "", (Deadlock,)),
    Fault("the copies are not waited for", GRID | FLOAT, r"cp\.async\.wait_all;", "", (Race,)),
    Fault("no barrier in the block", ONE | FLOAT, r"bar\.sync[^;]*;", "", (Race,)),
    Fault("a load crosses its alignment", ONE | FLOAT,
          r"(ld\.shared\.v4\.f32[^;]*\+)16\]", r"\g<1>8]", (BadAccess,)),
    Fault("sums of two slices are read from one", ONE | FLOAT | {"depth": 8},
          r"(st\.shared\.v4\.f32 \[%\w+)\]", r"\1+16]", (Race, WRONG, BadAccess)),
    Fault("two fragments of the weight are exchanged", ONE | NARROW,
          r"(mma\.sync[^{]*\{[^}]*\}, \{%\w+),\s*(%\w+),\s*(%\w+),", r"\1,\3,\2,", (WRONG,)),
    Fault("a 16-bit store is a word too far", ONE | NARROW,
          r"(st\.global\.u16\s+\[%\w+)\]", r"\1+2]", (Race, WRONG, BadAccess)),
]  # fmt: skip

IN_SOURCE = [
    Fault("no barrier after a phase", ONE | FLOAT, "    phase(me_);\n    __syncthreads();",
          "    phase(me_);", (Race,), "team.cuh"),
    Fault("no barrier after one block's exchange", ONE | FLOAT,
          "    meanwhile(me_);\n    __syncthreads();", "    meanwhile(me_);", (Race,), "team.cuh"),
    Fault("the phase's parity stays", CLUSTER | FLOAT, "parities_ ^= 1 << next;", "",
          (Race, Deadlock, WRONG, BarrierMisuse), "cluster_team.cuh"),
    Fault("both states share a barrier", CLUSTER | FLOAT,
          "state_bytes_, barrier = barriers_ + next * sizeof(uint64_t);",
          "state_bytes_, barrier = barriers_;",
          (Race, Deadlock, BarrierMisuse), "cluster_team.cuh"),
    Fault("one word too many is expected", CLUSTER | FLOAT, "words * sizeof(Word))",
          "(words + 1) * sizeof(Word))", (Deadlock, BarrierMisuse, Race), "cluster_team.cuh"),
    Fault("one word too few is expected", CLUSTER | FLOAT, "words * sizeof(Word))",
          "(words - 1) * sizeof(Word))", (Deadlock, BarrierMisuse, Race), "cluster_team.cuh"),
    Fault("the last rank gets nothing", CLUSTER | FLOAT, "if (i < blocks_) use",
          "if (i < blocks_ - 1) use", (Deadlock, Race, BarrierMisuse), "cluster_team.cuh"),
    Fault("a lane's 16 bytes go to its own place", WIDE | FLOAT, "& ~(kWide - 1))", ")",
          (BadAccess, WRONG, Race), "cluster_team.cuh"),
    Fault("lanes share no ranks", WIDE | FLOAT, "use((this->me_.rank + i) & (blocks_ - 1));",
          "use((this->me_.rank + n * sharers) & (blocks_ - 1));", (Race, Deadlock, BarrierMisuse), "cluster_team.cuh"),
    Fault("lanes send before all have read", WIDE | FLOAT, "    __syncwarp();\n    if constexpr",
          "    if constexpr", (Race,), "cluster_team.cuh", options=dict(hidden=48, blocks=2)),
    Fault("a cluster's block has one state", CLUSTER | FLOAT, "states + which * between",
          "states", (Race, WRONG), "memory.cuh"),
    Fault("a grid has one state", GRID | FLOAT, "which * state_words<Product>(this->around_.plan)",
          "0", (Race, WRONG), "grid_team.cuh"),
    Fault("a block counts before its threads have stored", GRID | FLOAT,
          "__syncthreads();\n    ++steps_", "++steps_", (Race,), "grid_team.cuh"),
    Fault("a block does not wait for its copy", GRID | FLOAT,
          "stopped_ = __syncthreads_or(!arrived);", "", (Race,), "grid_team.cuh"),
    Fault("a warp waits for all but one of its ranks", GRID | FLOAT, "rank < end_rank_; rank",
          "rank < end_rank_ - 1; rank", (Race, WRONG), "grid_team.cuh"),
    Fault("no warp waits for blocks without units", GRID | FLOAT,
          "if (end == row_vectors_ || end_rank_ > plan.blocks) end_rank_ = plan.blocks;",
          "if (end_rank_ > plan.blocks) end_rank_ = plan.blocks;", (Race,), "grid_team.cuh",
          options=dict(hidden=5, blocks=16)),
    Fault("lanes do not share what they have waited for", GRID | FLOAT, "    __syncwarp();  // every",
          "    // every", (Race,), "grid_team.cuh", options=dict(hidden=40, blocks=8)),
    Fault("the last row is not copied", GRID | FLOAT, "if (row >= rows) break;",
          "if (row >= rows - 1) break;", (WRONG,), "grid_team.cuh"),
    Fault("the columns of a strip do not turn around", GRID | FLOAT,
          "if (turned >= width_) turned -= width_;", "", (WRONG, Race, BadAccess), "grid_team.cuh"),
    Fault("the second state is not prepared", CLUSTER | FLOAT, "s < plan.states(); ++s",
          "s < 1; ++s", (WRONG,), "scan.cuh", options=dict(hidden=21)),
    Fault("sums are read one unit further", ONE | FLOAT,
          "load_sums(from + me.items[n].sum,",
          "load_sums(from + me.items[n].sum + 1,", (WRONG, Race, BadAccess),
          "scan.cuh"),
    Fault("inputs of the same step are fetched again", CLUSTER | FLOAT, "        step.advance(from);\n",
          "", (WRONG,), "scan.cuh"),
    Fault("the last step is not known as such", ONE | FLOAT, "if (item.row < after || item.row >= now) continue;",
          "if (item.row <= after || item.row >= now) continue;", (WRONG,), "scan.cuh"),
    Fault("no barrier after the weight was staged", ONE | NARROW | {"blocks": 1},
          "    phase(me_);\n    __syncthreads();", "    phase(me_);", (Race,), "team.cuh"),
    Fault("a slice's rows overlap by one", ONE | NARROW, "plan.depth / kValues + 4",
          "plan.depth / kValues - 1", (WRONG, Race), "mma_product.cuh"),
]  # fmt: skip
