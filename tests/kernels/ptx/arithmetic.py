"""The Python of instructions that touch registers only. A rule takes an instruction's opcode whole.

A rule gets the translator of a segment, the operands and the parts of the opcode; the translator's `read` makes an
expression of a type, and its `write` assigns one to a register.
"""

import re

RULES = []  # (pattern of the opcode, function)


def rule(pattern):
    def register(function):
        RULES.append((re.compile(pattern), function))
        return function

    return register


INTEGER = r"([us](?:16|32|64))"
BITS = r"(b(?:16|32|64))"
FLOAT = r"(f32|f64)"

SIMPLE = {  # of operands that all have the type of the result
    r"add\." + INTEGER: "{0} + {1}",
    r"sub\." + INTEGER: "{0} - {1}",
    r"mul\.lo\." + INTEGER: "{0} * {1}",
    r"mul\.hi\.([us]32)": "high_product({0}, {1})",
    r"mad\.lo\." + INTEGER: "{0} * {1} + {2}",
    r"div\." + INTEGER: "divided({0}, {1})",
    r"rem\." + INTEGER: "remainder({0}, {1})",
    r"max\." + INTEGER: "np.maximum({0}, {1})",
    r"min\." + INTEGER: "np.minimum({0}, {1})",
    r"neg\.(s16|s32|s64)": "-{0}",
    r"abs\.(s16|s32|s64)": "np.abs({0})",
    r"and\.(b16|b32|b64|pred)": "{0} & {1}",
    r"or\.(b16|b32|b64|pred)": "{0} | {1}",
    r"xor\.(b16|b32|b64|pred)": "{0} ^ {1}",
    r"not\.(b16|b32|b64|pred)": "~{0}",
    r"(?:add|add\.rn)\." + FLOAT: "{0} + {1}",
    r"(?:sub|sub\.rn)\." + FLOAT: "{0} - {1}",
    r"(?:mul|mul\.rn)\." + FLOAT: "{0} * {1}",
    r"fma\.rn\.(f32)": "fma32({0}, {1}, {2})",
    r"fma\.rn\.(f64)": "fma64({0}, {1}, {2})",
    r"neg\." + FLOAT: "-{0}",
    r"abs\." + FLOAT: "np.abs({0})",
    r"max\." + FLOAT: "np.fmax({0}, {1})",
    r"min\." + FLOAT: "np.fmin({0}, {1})",
    r"copysign\." + FLOAT: "np.copysign({1}, {0})",  # the sign comes first in PTX
    r"ex2\.approx\.ftz\.(f32)": "exp2_approximate({0})",
    r"rcp\.approx\.ftz\.(f32)": "reciprocal_approximate({0})",
    r"rcp\.approx\.ftz\.(f64)": "reciprocal_upper_half({0})",
}


def simple(template):
    def emit(out, operands, kind):
        sources = [out.read(operand, kind) for operand in operands[1:]]
        out.write(operands[0], template.format(*sources), kind)

    return emit


for _pattern, _template in SIMPLE.items():
    rule(_pattern)(simple(_template))


@rule(r"(shl|shr)\.([bus](?:16|32|64))")
def shift(out, operands, direction, kind):
    # NumPy, too, shifts everything out where the distance is too large.
    distance = f"{out.read(operands[2], 'u32')}.astype({out.numpy_type(kind)})"
    sign = "<<" if direction == "shl" else ">>"
    out.write(operands[0], f"{out.read(operands[1], kind)} {sign} {distance}", kind)


@rule(r"clz\.b32")
def leading_zeros(out, operands):
    out.write(operands[0], f"leading_zeros({out.read(operands[1], 'u32')})", "u32")


@rule(r"mul\.wide\.([us])(16|32)")
def wide_product(out, operands, sign, bits):
    wide = f"{sign}{2 * int(bits)}"
    a, b = (f"{out.read(x, sign + bits)}.astype({out.numpy_type(wide)})" for x in operands[1:])
    out.write(operands[0], f"{a} * {b}", wide)


COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@rule(r"setp\.(eq|ne|lt|le|gt|ge)\.([bus](?:16|32|64))")
def compare(out, operands, comparison, kind):
    a, b = (out.read(x, kind) for x in operands[1:])
    out.write(operands[0], f"{a} {COMPARISONS[comparison]} {b}", "pred")


@rule(r"setp\.(eq|ne|lt|le|gt|ge|num|nan)(u?)\." + FLOAT)
def compare_floats(out, operands, comparison, unordered, kind):
    a, b = (out.read(x, kind) for x in operands[1:])
    nan = f"(np.isnan({a}) | np.isnan({b}))"
    if comparison in ("num", "nan"):
        expression = nan if comparison == "nan" else f"~{nan}"
    else:
        expression = f"({a} {COMPARISONS[comparison]} {b})"
        if unordered:
            expression += f" | {nan}"
        elif comparison == "ne":
            expression += f" & ~{nan}"
    out.write(operands[0], expression, "pred")


@rule(r"selp\.([busf](?:16|32|64))")
def select(out, operands, kind):
    a, b = (out.read(x, kind) for x in operands[1:3])
    out.write(operands[0], f"np.where({out.read(operands[3], 'pred')}, {a}, {b})", kind)


@rule(r"mov\.([busf](?:16|32|64)|pred)")
def move(out, operands, kind):
    if out.is_vector(operands[1]) or out.is_vector(operands[0]):
        return move_halves(out, operands, int(kind[1:]))
    out.write(operands[0], out.read(operands[1], kind), kind)
    return None


def move_halves(out, operands, bits):
    """A word and its halves, the lower one first."""
    half, word, shift = f"u{bits // 2}", f"u{bits}", f"u{bits // 8}({bits // 2})"
    if out.is_vector(operands[1]):
        low, high = (f"{out.read(x, half)}.astype(u{bits // 8})" for x in operands[1].items)
        out.write(operands[0], f"{low} | {high} << {shift}", word)
        return
    value = out.read(operands[1], word)
    low, high = operands[0].items
    out.write(low, f"{value}.astype(u{bits // 16})", half)
    out.write(high, f"({value} >> {shift}).astype(u{bits // 16})", half)


@rule(r"cvta(?:\.to)?\.(?:global|param)\.u64")
def same_address(out, operands):
    out.write(operands[0], out.read(operands[1], "u64"), "u64")


@rule(r"cvt\.([us](?:8|16|32|64))\.([us](?:8|16|32|64))")
def convert_integers(out, operands, to, source):
    value = f"{out.read(operands[1], source)}.astype({out.numpy_type(to)})"
    out.write(operands[0], value, to)


CONVERSIONS = {
    ("f64", "f32"): "{}.astype(f8)",
    ("rn.f32", "f64"): "{}.astype(f4)",
    ("rni.f32", "f32"): "np.rint({})",
    ("rni.f64", "f64"): "np.rint({})",
    ("rn.f16", "f32"): "float16_bits({})",
    ("rn.bf16", "f32"): "bfloat16_bits({})",
    ("f32", "f16"): "from_float16({})",
    ("f32", "bf16"): "from_bfloat16({})",
}
PATTERN_BITS = {"f16": "b16", "bf16": "b16"}  # types that registers hold as bits


@rule(r"cvt\.((?:rn\.|rni\.)?b?f(?:16|32|64))\.(b?f(?:16|32|64))")
def convert_floats(out, operands, to, source):
    kind = to.rpartition(".")[2]
    value = CONVERSIONS[to, source].format(out.read(operands[1], PATTERN_BITS.get(source, source)))
    out.write(operands[0], value, PATTERN_BITS.get(kind, kind))


@rule(r"cvt\.rn\.(f32|f64)\.([us](?:32|64))")
def convert_to_float(out, operands, to, source):
    value = f"{out.read(operands[1], source)}.astype({out.numpy_type(to)})"
    out.write(operands[0], value, to)
