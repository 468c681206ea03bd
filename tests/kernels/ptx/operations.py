"""The Python of instructions that touch memory, other threads or the pc. See arithmetic.py for the form of a rule."""

import functools
import re

from .parse import SINK

RULES = []
JUMPS = object()  # returned by rules after which the threads do not simply go on
WAITS = []  # patterns of opcodes that wait, or that other threads watch: each is its own segment
JOINT = re.compile(r"(mma|shfl|vote)\.sync\..*")  # all lanes of a warp execute it together
ENDS = re.compile(r"bra(\.uni)?|ret|exit")


def rule(pattern, *, waits=False):
    compiled = re.compile(pattern)
    if waits:
        WAITS.append(compiled)

    def register(function):
        RULES.append((compiled, function))
        return function

    return register


@functools.cache
def waits(opcode):
    return any(pattern.fullmatch(opcode) for pattern in WAITS)


@functools.cache
def is_joint(opcode):
    return JOINT.fullmatch(opcode) is not None


@functools.cache
def ends_segment(opcode):
    return ENDS.fullmatch(opcode) is not None


def selected(out):
    """Names for the threads that a guard lets through, and a function that picks their values."""
    if out.guard is None:
        return "t", lambda expression: expression
    out.emit(f"g = m.wide({out.guard_expression()}, t)")
    out.emit("s = t[g]")
    return "s", lambda expression: f"m.wide({expression}, t)[g]"


def write_rows(out, destinations, rows, kind):
    """Write the rows that were loaded for the selected threads into registers."""
    for i, destination in enumerate(destinations):
        row = f"{rows}[{i}]"
        if out.guard is not None:
            row = f"m.spread({row}, g)"
        out.write(destination, f"{row}.view({out.numpy_type(kind)})", kind)


def items(operand, out):
    return operand.items if out.is_vector(operand) else (operand,)


SPACES = {"global": ("m.global_", "u64"), "shared": ("m.shared", "u32")}  # and their addresses
WIDTH = r"(?:\.v([24]))?\.([busf])(8|16|32|64)"


@rule(r"ld\.param" + WIDTH)
def load_parameter(out, operands, count, sign, bits):
    assert count is None and out.guard is None
    out.emit(f"x = m.load_parameter(t, {out.address(operands[1], 'u64')}, {int(bits) // 8})")
    write_rows(out, operands[:1], "x", sign + bits)


@rule(r"ld\.(global|shared)(\.ca|\.cg|\.nc|\.cs|\.lu)?" + WIDTH)
def load(out, operands, space, cache, count, sign, bits):
    threads, pick = selected(out)
    memory, address_type = SPACES[space]
    address = pick(out.address(operands[1], address_type))
    read_only = ", read_only=True" if cache == ".nc" else ""
    size = int(bits) // 8
    out.emit(f"x = {memory}.load({threads}, {address}, {size}, {int(count or 1)}{read_only})")
    write_rows(out, items(operands[0], out), "x", sign + bits)


@rule(r"st\.(global|shared)(?:\.wb|\.cg|\.cs|\.wt)?" + WIDTH)
def store(out, operands, space, count, sign, bits):
    threads, pick = selected(out)
    memory, address_type = SPACES[space]
    address = pick(out.address(operands[0], address_type))
    values = ", ".join(
        pick(out.read(x, f"{'f' if sign == 'f' else 'u'}{bits}")) for x in items(operands[1], out)
    )
    out.emit(f"{memory}.store({threads}, {address}, {int(bits) // 8}, [{values}])")


@rule(r"bra(?:\.uni)?")
def branch(out, operands):
    target = out.program.target(operands[0].name)
    if target <= out.index:
        threads, _ = selected(out)
        out.emit(f"m.jump_back({threads}, {out.index})")
    if out.guard is None:
        out.emit(f"m.pc[t] = {target}")
    else:
        out.emit(f"m.pc[t] = np.where({out.guard_expression()}, {target}, {out.index + 1})")
    return JUMPS


@rule(r"ret|exit")
def leave(out, operands):
    assert out.guard is None
    out.emit("m.leave(t)")
    return JUMPS


@rule(r"(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?", waits=True)
def block_barrier(out, operands):
    assert len(operands) == 1 and out.guard is None, "only barriers of a whole block"
    out.emit(f"m.barriers.sync(t, {out.read(operands[0], 'u32')}, {out.index})")
    return JUMPS


@rule(r"(?:bar|barrier)(?:\.cta)?\.red\.(and|or)(?:\.aligned)?\.pred", waits=True)
def block_vote(out, operands, operation):
    assert len(operands) == 3 and out.guard is None, "only barriers of a whole block"
    barrier, value = out.read(operands[1], "u32"), out.read(operands[2], "pred")
    result = out.program.ids[operands[0].name]
    out.emit(f"m.barriers.vote(t, {barrier}, {value}, {operation!r}, {result}, {out.index})")
    return JUMPS


@rule(r"bar\.warp\.sync", waits=True)
def warp_barrier(out, operands):
    assert out.guard is None and int(operands[0].text) == -1, "only barriers of a whole warp"
    out.emit(f"m.barriers.sync_warp(t, {out.index})")
    return JUMPS


@rule(r"barrier\.cluster\.arrive(?:\.(release|relaxed))?(?:\.aligned)?", waits=True)
def cluster_arrive(out, operands, order):
    assert out.guard is None
    out.emit(f"m.barriers.arrive_cluster(t, {order != 'relaxed'})")


@rule(r"barrier\.cluster\.wait(?:\.acquire)?(\.aligned)?", waits=True)
def cluster_wait(out, operands, aligned):
    assert out.guard is None
    out.emit(f"m.barriers.wait_cluster(t, {out.index}, {aligned is not None})")
    return JUMPS


@rule(r"mapa\.shared::cluster\.u32")
def map_address(out, operands):
    rank = out.read(operands[2], "u32")
    out.write(operands[0], f"m.shared.mapped(t, {out.read(operands[1], 'u32')}, {rank})", "u32")


@rule(r"st\.async(?:\.weak)?\.shared::cluster\.mbarrier::complete_tx::bytes" + WIDTH)
def send(out, operands, count, sign, bits):
    threads, pick = selected(out)
    to, barrier = (pick(out.address(operands[i], "u32")) for i in (0, 2))
    values = ", ".join(pick(out.read(x, f"u{bits}")) for x in items(operands[1], out))
    out.emit(f"m.messages.send({threads}, {to}, {barrier}, {int(bits) // 8}, [{values}])")


@rule(r"mbarrier\.init(?:\.shared)?(?:::cta)?\.b64", waits=True)
def init_barrier(out, operands):
    threads, pick = selected(out)
    address = pick(out.address(operands[0], "u32"))
    out.emit(f"m.mbarriers.init({threads}, {address}, {pick(out.read(operands[1], 'u32'))})")


@rule(
    r"mbarrier\.arrive(\.expect_tx)?(?:\.release)?(\.cta|\.cluster)?(?:\.shared)?(?:::cta)?\.b64",
    waits=True,
)
def arrive(out, operands, expects, scope):
    assert operands[0] == SINK, "only arrivals without a state"
    threads, pick = selected(out)
    address = pick(out.address(operands[1], "u32"))
    count = pick(out.read(operands[2], "u32")) if len(operands) > 2 else "np.uint32(1)"
    size, arrivals = (count, "np.uint32(1)") if expects else ("np.uint32(0)", count)
    out.emit(
        f"m.mbarriers.arrive({threads}, {address}, {size}, {arrivals}, {(scope or '.cta')[1:]!r})"
    )


@rule(
    r"mbarrier\.(?:try_wait|test_wait)\.parity(?:\.(acquire|relaxed))?(\.cta|\.cluster)?(?:\.shared)?(?:::cta)?\.b64",
    waits=True,
)
def try_wait(out, operands, order, scope):
    assert out.guard is None
    address, parity = out.address(operands[1], "u32"), out.read(operands[2], "u32")
    how = f"{order or 'acquire'!r}, {(scope or '.cta')[1:]!r}"
    done = f"m.mbarriers.try_wait(t, {address}, {parity}, {how})"
    out.write(operands[0], done, "pred")


@rule(r"fence\.mbarrier_init\.release\.cluster", waits=True)
def fence_init(out, operands):
    assert out.guard is None
    out.emit("m.mbarriers.fence_creation(t)")


@rule(r"fence\.acquire\.sync_restrict::shared::cluster\.cluster", waits=True)
def fence_of_waits(out, operands):
    assert out.guard is None
    out.emit("m.mbarriers.fence(t)")


SCOPE = r"\.(cta|cluster|gpu|sys)"


@rule(r"fence(?:\.acq_rel|\.sc)?" + SCOPE, waits=True)
def fence(out, operands, scope):
    assert out.guard is None
    out.emit(f"m.orders.fence(t, {scope!r})")


@rule(r"membar\.(cta|gl|sys)", waits=True)
def membar(out, operands, scope):
    assert out.guard is None
    out.emit(f"m.orders.fence(t, {'gpu' if scope == 'gl' else scope!r})")


@rule(r"ld(?:\.(acquire|relaxed)" + SCOPE + r"|\.(volatile))\.global\.([bus])(32|64)", waits=True)
def strong_load(out, operands, order, scope, volatile, sign, bits):
    threads, pick = selected(out)
    address = pick(out.address(operands[1], "u64"))
    how = f"{order or 'relaxed'!r}, {scope or 'sys'!r}"
    out.emit(f"x = m.orders.load({threads}, {address}, {int(bits) // 8}, {how}, {out.index})")
    write_rows(out, operands[:1], "x", sign + bits)


@rule(r"st(?:\.(release|relaxed)" + SCOPE + r"|\.(volatile))\.global\.([bus])(32|64)", waits=True)
def strong_store(out, operands, order, scope, volatile, sign, bits):
    threads, pick = selected(out)
    address = pick(out.address(operands[0], "u64"))
    value = pick(out.read(operands[1], f"u{bits}"))
    how = f"{order or 'relaxed'!r}, {scope or 'sys'!r}"
    out.emit(f"m.orders.store({threads}, {address}, {value}, {int(bits) // 8}, {how})")


UPDATE = r"\.(add|and|or|xor|exch|min|max|cas)\.([bus])(32|64)"


@rule(
    r"(red|atom)(?:\.(relaxed|acquire|release|acq_rel))?(?:" + SCOPE + r")?\.global" + UPDATE,
    waits=True,
)
def update(out, operands, instruction, order, scope, operation, sign, bits):
    threads, pick = selected(out)
    if instruction == "atom":
        result, *operands = operands
    address = pick(out.address(operands[0], "u64"))
    kind = f"{'s' if sign == 's' else 'u'}{bits}"
    values = ", ".join(pick(out.read(x, kind)) for x in operands[1:])
    how = f"{order or 'relaxed'!r}, {scope or 'gpu'!r}"
    out.emit(f"x = m.orders.update({threads}, {address}, {operation!r}, [{values}], {how})")
    if instruction == "atom":
        write_rows(out, [result], "x", kind)


@rule(r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.(f16|bf16)\.\1\.f32")
def multiply_tiles(out, operands, kind):
    assert out.guard is None
    out.emit("m.require_converged(t)")
    a, b = (", ".join(out.read(x, "u32") for x in operands[i].items) for i in (1, 2))
    c = ", ".join(out.read(x, "f32") for x in operands[3].items)
    convert = {"f16": "from_float16", "bf16": "from_bfloat16"}[kind]
    a, b, c = (", ".join(f"m.wide({x}, t)" for x in part.split(", ")) for part in (a, b, c))
    out.emit(f"x = mma_m16n8k16([{a}], [{b}], [{c}], {convert})")
    write_rows(out, operands[0].items, "x", "f32")


@rule(r"shfl\.sync\.(idx|up|down|bfly)\.b32")
def shuffle(out, operands, mode):
    assert out.guard is None
    out.emit("m.met(t)")
    value, distance, clamp = (f"m.wide({out.read(x, 'u32')}, t)" for x in operands[1:4])
    out.emit(f"x, y = shuffled({mode!r}, t, m.lane[t], {value}, {distance}, {clamp})")
    destinations = items(operands[0], out)
    out.write(destinations[0], "x", "u32")
    if len(destinations) > 1:
        out.write(destinations[1], "y", "pred")


@rule(r"vote\.sync\.(any|all|ballot)\.(pred|b32)")
def vote(out, operands, mode, kind):
    assert out.guard is None
    out.emit("m.met(t)")
    out.emit(
        f"x = voted({mode!r}, m.warp[t], m.lane[t], m.wide({out.read(operands[1], 'pred')}, t))"
    )
    out.write(operands[0], "x", kind)


@rule(r"nanosleep\.u32")
def sleep(out, operands):
    """The schedule is random in any case."""


@rule(r"cp\.async\.c[ag]\.shared(?:::cta)?\.global(?:\.L2::\w+)?")
def start_copy(out, operands):
    assert len(operands) == 3, "only copies of all their bytes"
    threads, pick = selected(out)
    to, source = pick(out.address(operands[0], "u32")), pick(out.address(operands[1], "u64"))
    out.emit(f"m.copies.start({threads}, {to}, {source}, {int(operands[2].text)})")


@rule(r"cp\.async\.commit_group", waits=True)
def commit_copies(out, operands):
    assert out.guard is None
    out.emit("m.copies.commit(t)")


@rule(r"cp\.async\.wait_group", waits=True)
def wait_for_copies(out, operands):
    assert out.guard is None
    out.emit(f"m.copies.wait(t, {int(operands[0].text)})")


@rule(r"cp\.async\.wait_all", waits=True)
def wait_for_all_copies(out, operands):
    assert out.guard is None
    out.emit("m.copies.wait_all(t)")


@rule(r"fence\.proxy\.async(?:\.shared::(cta|cluster))?", waits=True)
def fence_proxy(out, operands, space):
    assert out.guard is None
    out.emit(f"m.messages.fence_proxy(t, {space != 'cta'})")


@rule(r"cp\.async\.bulk\.shared::cluster\.shared::cta\.mbarrier::complete_tx::bytes", waits=True)
def send_copy(out, operands):
    threads, pick = selected(out)
    to, source, barrier = (pick(out.address(operands[i], "u32")) for i in (0, 1, 3))
    size = pick(out.read(operands[2], "u32"))
    out.emit(f"m.messages.copy({threads}, {to}, {source}, {size}, {barrier})")
