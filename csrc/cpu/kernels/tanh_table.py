"""Writes tanh_table.h: ``python csrc/cpu/kernels/tanh_table.py > csrc/cpu/kernels/tanh_table.h``, with mpmath and numpy.

For 0 <= a < 10, in pieces of a quarter of an octave each, and one from 0 to 1/16::

    tanh(a) = c_0 + r (c_1 + r (c_2 + r (c_3 + r (c_4 + r c_5)))),    r = a - m

m is a float near the middle of its piece where tanh is almost exactly a float, so that c_0 adds no error (Gal 1986).
The other coefficients minimise the largest error (Lawson's iteration of weighted least squares).
"""

import mpmath
import numpy as np

PIECES = 32  # the floats of two AVX-512 registers
QUARTER = 21  # the low bits of a float; the bits above them number the quarters of octaves
FIRST = 1 / 16
DEGREE = 5

mpmath.mp.dps = 40


def float_of(bits):
    return float(np.uint32(bits).view(np.float32))


def bits_of(value):
    return int(np.float32(value).view(np.uint32))


def middle(low, high):
    """Return (m, tanh(m)) for the float m near the middle whose tanh is closest to a float."""
    center, reach = (low + high) / 2, (high - low) / 5
    middle_bits = bits_of(float(mpmath.tanh(center)))
    pairs = []
    for bits in range(middle_bits - 1500, middle_bits + 1500):
        value = float_of(bits)
        if value >= 1 or abs(mpmath.atanh(value) - center) > reach:
            continue
        m = float(np.float32(float(mpmath.atanh(value))))
        pairs.append((abs(mpmath.tanh(m) - value), m, value))
    _, m, value = min(pairs)
    return m, value


def minimax(basis, target, weight):
    """Return coefficients that minimise the largest weighted error."""
    importance = np.ones(len(target))
    for _ in range(60):
        scale = weight * np.sqrt(importance)
        coefficients = np.linalg.lstsq(basis * scale[:, None], target * scale, rcond=None)[0]
        errors = np.abs(basis @ coefficients - target) * weight
        importance *= errors / errors.max() + 1e-3
        importance /= importance.mean()
    return coefficients


def piece(low, high):
    """Return (m, c_0, c_1, ..) of a piece."""
    is_first = low == 0
    m, c_0 = (0.0, 0.0) if is_first else middle(low, high)
    nodes = np.cos((np.arange(400) + 0.5) * np.pi / 400)
    r = (low + high) / 2 + (high - low) / 2 * nodes - m
    if is_first:
        r = (nodes + 1) / 2 * high
    r = r[np.abs(r) > 1e-9]
    fixed = 1 if is_first else 0  # tanh(a) = a + ..
    known = [c_0, 1.0][: 1 + fixed]
    powers = np.arange(DEGREE - fixed)
    exact = [mpmath.tanh(mpmath.mpf(m) + mpmath.mpf(x)) for x in r]
    rest = np.array(
        [
            float((e - mpmath.mpf(c_0) - fixed * mpmath.mpf(x)) / mpmath.mpf(x) ** (1 + fixed))
            for e, x in zip(exact, r)
        ]
    )
    relative = np.abs(r) ** (1 + fixed) / np.array([float(e) for e in exact])
    basis = (r / r.max())[:, None] ** powers
    return [m, *known, *(minimax(basis, rest, relative) / r.max() ** powers)]


def pieces():
    """Return the table, indexed by a float's quarter of an octave modulo 32."""
    table = [[0.0] * (DEGREE + 2)] * PIECES
    first = (bits_of(FIRST) >> QUARTER) - 1
    table[first % PIECES] = piece(0, FIRST)
    for quarter in range(first + 1, (bits_of(8.0) >> QUARTER) + 1):
        low, high = (float_of(q << QUARTER) for q in (quarter, quarter + 1))
        table[quarter % PIECES] = piece(low, high)
    return table


def main():
    print(
        "// tanh in pieces, one column per piece. Written by tanh_table.py, which explains the method."
    )
    print("#pragma once\n\nnamespace rnnfused {\nnamespace RNNFUSED_ISA {\n\n// clang-format off")
    names = ["m", *(f"c_{i}" for i in range(DEGREE + 1))]
    print(f"alignas(64) constexpr float kTanhTable[{len(names)}][{PIECES}] = {{")
    for name, row in zip(names, zip(*pieces())):
        values = [f"{np.float32(value)!s}f".replace("e", "e") for value in row]
        print(f"    // {name}")
        print(
            "    {"
            + ", ".join(v if "." in v or "e" in v else v.replace("f", ".0f") for v in values)
            + "},"
        )
    print("};\n\n}  // namespace RNNFUSED_ISA\n}  // namespace rnnfused")


if __name__ == "__main__":
    main()
