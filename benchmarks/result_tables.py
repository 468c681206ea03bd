"""Makes Markdown from a results file: a processor's table, and a sentence for each other comparison."""

import math
import statistics

from cases import CHUNKS, CROWD, LONG
from peers import PEERS

WAYS = {"forward": "forward", "forward_backward": "forward + backward"}
NOT_MEASURED = "–"


def by_case(results):
    """Returns the comparisons by (case, threads, way), then peer; and the memory by case, then side."""
    comparisons, memory = {}, {}
    for record in results["times"]:
        key = record["case"], record["threads"], record["way"]
        comparisons.setdefault(key, {})[record["against"]] = record
    fewest = min((record["threads"] for record in results["memory"]), default=1)
    for record in results["memory"]:
        if record["threads"] == fewest:
            memory.setdefault(record["case"], {})[record["side"]] = record
    return comparisons, memory


def columns_and_cases(comparisons):
    """Returns the measured (threads, way) pairs and the measured cases."""
    measured = [key for key, against in comparisons.items() if "nn.RNN" in against]
    columns = list(dict.fromkeys((threads, way) for _, threads, way in measured))
    return columns, list(dict.fromkeys(case for case, _, _ in measured))


def with_threads(way, threads):
    """Names a column."""
    return f"{WAYS[way]}, {threads} thread{'s' if threads > 1 else ''}"


def least_and_most(values, digits=1):
    """'a to b', or 'a' where both print alike."""
    least, most = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return least if least == most else f"{least} to {most}"


def typical(record):
    """The median ratio of a comparison over its processes."""
    return statistics.median(record["ratios"])


def time_cell(against):
    """The ratio to nn.RNN with its interval, and the share of the processor's peak."""
    if "nn.RNN" not in against:
        return NOT_MEASURED
    record = against["nn.RNN"]
    interval = least_and_most(record["ratios"]).replace(" to ", "–")
    return f"{typical(record):.1f} ({interval}), {statistics.median(record['share_of_peak']):.0%}"


def megabytes(size):
    """Two digits, never as a power of ten."""
    return f"{float(f'{size / 1e6:.2g}'):.9f}".rstrip("0").rstrip(".")


def memory_cells(sides):
    """Saved tensors and peak extra memory: of several values the largest of ours, the least of nn.RNN."""
    if len(sides) < 2:
        return [NOT_MEASURED, NOT_MEASURED]
    saved, peaks = [], []
    for side, pick in (("ours", max), ("nn.RNN", min)):
        record = sides[side]
        saved.append(f"{record['saved_tensors'][0]} ({megabytes(record['saved_bytes'][0])})")
        extra = [x for x in record["peak_extra_bytes"] if x is not None]
        peaks.append(megabytes(pick(extra)) if extra else NOT_MEASURED)
    return [" / ".join(saved), " / ".join(peaks)]


def section(results):
    """A heading, a row per case with ratio and share of the peak, memory, and the sentences below."""
    comparisons, memory = by_case(results)
    columns, cases = columns_and_cases(comparisons)
    dates = sorted({record["date"] for record in results["times"]})
    heads = [with_threads(way, threads) for threads, way in columns]
    heads.append("saved for backward, tensors (MB): ours / `nn.RNN`")
    heads.append("peak extra memory, MB: ours / `nn.RNN`")
    lines = [
        f"### {results['cpu']}",
        "",
        f"Instruction set {results['capability']}, torch {results['torch']}, float32, measured "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}. Each cell: times faster than "
        f"`torch.nn.RNN`, the median of {spread_of(results)} with the least and the largest; and the share of the "
        "processor's peak.",
        "",
        "| T, B, I, H | " + " | ".join(heads) + " |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for case in cases:
        cells = [time_cell(comparisons.get((case, *column), {})) for column in columns]
        cells += memory_cells(memory.get(case, {}))
        lines.append(f"| {case.replace('-', ', ')} | " + " | ".join(cells) + " |")
    sentences = [*peers(comparisons), *bfloat16(comparisons), *fixed_cost(comparisons)]
    sentences += [*subnormal(comparisons), *options(comparisons), *cost_of_lengths(comparisons)]
    sentences += [*output_layers(comparisons), *training(comparisons), *generation(comparisons)]
    bullets = "\n".join(f"- {sentence}" for sentence in sentences)
    return "\n".join(lines) + (f"\n\n{bullets}" if bullets else "")


def spread_of(results):
    """What the values of a record are: one per process; in older files, two runs of one process."""
    count = max(len(record["ratios"]) for record in results["times"])
    return "two runs of one process" if count == 2 else f"{count} processes"


def ratios(comparisons, name):
    """The median ratio of each comparison with this peer."""
    return [typical(against[name]) for against in comparisons.values() if name in against]


def spread_by_way(comparisons, name, value_of=lambda ratio: ratio):
    """'a to b forward, c to d forward + backward' of one peer; empty if it was not measured."""
    found = {}
    for (_, _, way), against in comparisons.items():
        if name in against:
            found.setdefault(way, []).append(value_of(typical(against[name])))
    return ", ".join(f"{least_and_most(found[way])} {WAYS[way]}" for way in WAYS if way in found)


def peers(comparisons):
    """How many times faster rnnfused is than each peer."""
    names = {name for against in comparisons.values() for name in against}
    spreads = []
    for name in sorted(names & set(PEERS) - {"nn.RNN"}):
        found = ratios(comparisons, name)
        mean = math.exp(sum(map(math.log, found)) / len(found))
        spreads.append(f"{name} {least_and_most(found)} (geometric mean {mean:.1f})")
    if spreads:
        yield f"Times faster than other peers, over these cases and thread counts: {'; '.join(spreads)}."


def bfloat16(comparisons):
    """The gain of 16-bit tensors."""
    text = spread_by_way(comparisons, "own float32")
    if text:
        yield f"bfloat16, times faster than our own float32, for B of at least 16 and H of at least 256: {text}."


def fixed_cost(comparisons):
    """The time of a call that does next to no arithmetic, and its parts."""
    text = spread_by_way(comparisons, "linear", lambda ratio: 1 / ratio)
    if not text:
        return
    yield (
        "Fixed cost: a call with T = B = 1, I = H = 8 takes as long as this many calls of "
        f"`torch.nn.functional.linear` of that size: {text}."
    )
    op, dispatch = (
        [typical(against[part]) for against in comparisons.values() if part in against]
        for part in ("op", "dispatch")
    )
    if op and dispatch:
        op, dispatch = statistics.median(op), statistics.median(dispatch)
        yield (
            f"Parts of that forward call: {dispatch:.0%} is torch's dispatch of an operator that does nothing; "
            f"{op - dispatch:.0%} is the operator (tensor arguments, result memory, packed weights, one step); "
            f"{1 - op:.0%} is Python (module call, argument checks, parameters)."
        )


def subnormal(comparisons):
    """The cost of subnormal values, which are slow on some processors."""
    slower = [
        typical(record)
        for against in comparisons.values()
        for name, record in against.items()
        if name.startswith("subnormal ")
    ]
    if slower:
        yield (
            "Subnormal weights, states, products or gradients take at most "
            f"{max(slower):.1f} times as long as normal ones."
        )


def options(comparisons):
    """A sentence per remaining comparison."""
    names = {
        "second order": "A gradient of a gradient, times faster than the reference loop",
        "own eager": "A layer under `torch.compile`, times faster than the same layer in eager mode",
        "linear eager": "One `nn.Linear` under `torch.compile`, times faster than in eager mode",
        "own whole row": f"One row of {LONG.num_steps:,} steps, H {LONG.hidden_size}, in {CHUNKS} chunks of "
        "`functional.rnn`, times faster than in one",
        "nn.RNNCell": "`RNNCell`, times faster than `torch.nn.RNNCell`",
        "textbook's step": "A single step of `RNNScratch`, times faster than the textbook's own code",
        "nn.RNN one step": "A call of one step of `RNN` or, with token ids, `TokenRNN`, times faster than `nn.RNN`",
        "nn.RNN step": "`prepare(module).step`, T = B = 1, H 8 to 256, times faster than `nn.RNN` without gradients",
        "onnxruntime step": "The same step, times faster than a session of ONNX Runtime",
        "jax step": "The same step, times faster than a jitted step of jax",
        "nn.RNN packed": "Rows with `lengths`, times faster than `nn.RNN` on the same rows packed",
        "nn.RNN crowded": f"With {CROWD} threads on as many cores as above, times faster than `nn.RNN`",
        "own threads": "The same, times faster than our own call with a thread per core",
        "nn.RNN both directions": "Bidirectional layers of few rows, times faster than `nn.RNN`",
        "own directions": "The same, times faster than our own directions one after the other",
        "own padded": "Rows with `lengths`, times faster than our own call on all steps",
    }
    for name, text in names.items():
        if found := ratios(comparisons, name):
            yield f"{text}: {least_and_most(found)}."


def cost_of_lengths(comparisons):
    """Rows of random lengths beside a dense call of as many tokens, by case; ours and nn.RNN's."""
    for way, title in WAYS.items():
        cells = []
        for (case, _, of_way), against in comparisons.items():
            if of_way == way and {"own dense", "nn.RNN dense"} <= against.keys():
                ours, theirs = (
                    1 / typical(against[name]) for name in ("own dense", "nn.RNN dense")
                )
                cells.append(f"{case} {ours:.2f} and {theirs:.2f}")
        if cells:
            yield (
                f"Rows of random lengths, {title}: time per token, as a multiple of that of a dense call of as many "
                f"rows and of the mean length, with `lengths` in rnnfused and packed in `nn.RNN` (T-B-I-H): "
                f"{', '.join(cells)}."
            )


def output_layers(comparisons):
    """The ratios of the fused output layer and loss, by case."""
    found = {}
    for (case, threads, way), against in comparisons.items():
        if "linear and cross_entropy" in against:
            rows, hidden, classes = case.split("-")[1:]
            ratio = typical(against["linear and cross_entropy"])
            cell = f"{ratio:.1f} ({rows} rows, H {hidden}, V {classes})"
            found.setdefault(with_threads(way, threads), []).append(cell)
    for column, cells in found.items():
        yield f"`linear_cross_entropy`, {column}, times faster than torch's two calls: {', '.join(cells)}."


def training(comparisons):
    """The ratios of whole steps of training, by number of threads."""
    found = {}
    for (case, threads, _), against in comparisons.items():
        for name, record in against.items():
            if name.startswith("nn.RNN's model"):
                sizes = dict(zip("VHBT", case.split("-")[1:], strict=True))
                text = ", ".join(f"{letter} {size}" for letter, size in sizes.items())
                narrow = " in bfloat16 autocast" if "bfloat16" in name else ""
                found.setdefault(threads, []).append(f"{typical(record):.1f} ({text}{narrow})")
    for threads, cells in found.items():
        yield (
            f"A step of training the language model on {threads} thread{'s' if threads > 1 else ''}, times faster "
            f"than the same model on `torch.nn.RNN`: {', '.join(cells)}."
        )


def generation(comparisons):
    """Symbols per second of generation, by hidden size and choice, and the ratios to the plain loop."""
    found = {}
    for (case, threads, _), against in comparisons.items():
        for name, record in against.items():
            if name.startswith("plain loop, "):
                _, hidden, _ = case.split("-")
                found.setdefault((threads, name.partition(", ")[2]), []).append(
                    f"{typical(record):.0f} (H {hidden})"
                )
    for (threads, choice), values in found.items():
        yield (
            f"Generation, {choice}, {threads} thread{'s' if threads > 1 else ''}: times faster than a "
            f"Python loop over `torch.nn.RNN`: {', '.join(values)}."
        )
