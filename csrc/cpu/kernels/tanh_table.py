"""Writes tanh_table.h: ``python csrc/cpu/kernels/tanh_table.py > csrc/cpu/kernels/tanh_table.h``, with mpmath and numpy.

float32, in eight pieces. The first is 0 <= a < 11/16, each next one is half an octave, the last also takes all beyond
it::

    first piece    w = a,      v = a^2,    tanh(a) = a   + w (c_1 + v c_2 + .. + v^6 c_7)
    other pieces   w = a - m,  v = a - m,  tanh(a) = c_0 + w (c_1 + v c_2 + .. + v^6 c_7)

m is a float near the middle of its piece where tanh is almost exactly a float, so that c_0 adds no error (Gal 1986).
The other coefficients minimise the largest error (Lawson's iteration of weighted least squares). They are rounded one
by one, and those that follow are fitted again. In the first piece c_1 is 0.
"""

import mpmath
import numpy as np

HALF = 22  # the low bits of a float; the bits above them number the halves of octaves
PIECES = 8
FIRST = 11 / 16  # end of the first piece
LAST = 9.02  # from here on tanh rounds to 1
DEGREE = 7


mpmath.mp.dps = 50


def float_of(bits):
    return float(np.uint32(bits).view(np.float32))


def bits_of(value):
    return int(np.float32(value).view(np.uint32))


BASE = bits_of(FIRST) - (1 << HALF)


def middle(low, high):
    """Return (m, tanh(m)) for the float m near the middle whose tanh is closest to a float."""
    center, reach = (low + high) / 2, (high - low) / 8
    middle_bits = bits_of(float(mpmath.tanh(center)))
    pairs = []
    for bits in range(middle_bits - 1200, middle_bits + 1200):
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
    for _ in range(100):
        scale = weight * np.sqrt(importance)
        coefficients = np.linalg.lstsq(basis * scale[:, None], target * scale, rcond=None)[0]
        errors = np.abs(basis @ coefficients - target) * weight
        importance *= errors / errors.max() + 1e-3
        importance /= importance.mean()
    return coefficients


def fit(v, powers, target, weight):
    """Return float32 coefficients of the powers of v."""
    largest = np.abs(v).max()
    basis = (v / largest)[:, None] ** powers
    fitted = []
    for column, power in enumerate(powers):
        lowest = minimax(basis[:, column:], target, weight)[0]
        fitted.append(float(np.float32(lowest / largest**power)))
        target = target - basis[:, column] * fitted[-1] * largest**power
    return fitted


def piece(low, high):
    """Return (m, c_0, c_1, ..) of a piece."""
    nodes = np.cos((np.arange(400) + 0.5) * np.pi / 400)
    if low == 0:
        w = (nodes + 1) / 2 * high
        target = np.array([float((mpmath.tanh(x) - x) / x) for x in map(mpmath.mpf, w)])
        return [0.0, 0.0, 0.0, *fit(w * w, np.arange(1, DEGREE), target, w / np.tanh(w))]
    m, c_0 = middle(low, high)
    w = (low + high) / 2 + (high - low) / 2 * nodes - m
    w = w[np.abs(w) > 1e-7]
    target = np.array([float((mpmath.tanh(m + x) - c_0) / x) for x in map(mpmath.mpf, w)])
    return [m, c_0, *fit(w, np.arange(DEGREE), target, np.abs(w) / np.tanh(m + w))]


def pieces():
    """Return the table, indexed by halves of octaves from the end of the first piece on."""
    edges = [0.0, *(float_of(BASE + (n << HALF)) for n in range(1, PIECES)), LAST]
    return [piece(low, high) for low, high in zip(edges, edges[1:])]


def c_float(value):
    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def main():
    print(
        "// Coefficients of tanh, a column of each row per piece. Written by tanh_table.py, which explains the method."
    )
    print("#pragma once\n\nnamespace rnnfused {\nnamespace RNNFUSED_ISA {\n\n// clang-format off")
    names = ["m", *(f"c_{i}" for i in range(DEGREE + 1))]
    most = float_of(BASE + (PIECES << HALF) - 1)
    print(f"constexpr float kTanhFirst = {c_float(FIRST)};  // end of the first piece")
    print(f"constexpr float kTanhLast = {c_float(LAST)};  // from here on tanh rounds to 1")
    print(
        "// The bits of a float between these two, less kTanhBase, start at bit kTanhHalf with its piece."
    )
    print(f"constexpr float kTanhLeast = {c_float(float_of(BASE))}, kTanhMost = {c_float(most)};")
    print(f"constexpr uint32_t kTanhBase = {BASE:#x};\nconstexpr int kTanhHalf = {HALF};")
    print("// The second half of a row repeats the first, for registers of sixteen values.")
    print(f"alignas(64) constexpr float kTanhTable[{len(names)}][{2 * PIECES}] = {{")
    for name, row in zip(names, zip(*pieces())):
        values = ", ".join(map(c_float, row))
        print(f"    // {name}\n    {{{values},\n     {values}}},")
    print("};")
    print("// clang-format on\n\n}  // namespace RNNFUSED_ISA\n}  // namespace rnnfused")


if __name__ == "__main__":
    main()
