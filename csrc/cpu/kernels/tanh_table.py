"""Writes tanh_table.h: ``python csrc/cpu/kernels/tanh_table.py > csrc/cpu/kernels/tanh_table.h``, with mpmath and numpy.

float32, in eight pieces. The first is 0 <= a < 3/4, the others are halves of octaves up to 8, the last also takes all
beyond it::

    first piece    w = a,      v = a^2,    tanh(a) = a   + w (c_1 + v c_2 + .. + v^6 c_7)
    other pieces   w = a - m,  v = a - m,  tanh(a) = c_0 + w (c_1 + v c_2 + .. + v^6 c_7)

m is a float near the middle of its piece where tanh is almost exactly a float, so that c_0 adds no error (Gal 1986).
The other coefficients minimise the largest error (Lawson's iteration of weighted least squares). They are rounded one
by one, and those that follow are fitted again. In the first piece c_1 is 0.

float64, for 0 <= a < 0.55: tanh(a) = a + a^3 (c_0 + a^2 c_1 + ..), by interpolation at Chebyshev's nodes.
"""

import mpmath
import numpy as np

HALF = 22  # the low bits of a float; the bits above them number the halves of octaves
PIECES = 8
FIRST = 0.75  # end of the first piece
LAST = 9.02  # from here on tanh rounds to 1
DEGREE = 7
SERIES_END, SERIES_TERMS = 0.55, 12

mpmath.mp.dps = 50


def float_of(bits):
    return float(np.uint32(bits).view(np.float32))


def bits_of(value):
    return int(np.float32(value).view(np.uint32))


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
    """Return the table, indexed by the number of half an octave modulo 8."""
    table = [None] * PIECES
    first = (bits_of(FIRST) >> HALF) - 1
    table[first % PIECES] = piece(0.0, FIRST)
    for half in range(first + 1, first + PIECES):
        low, high = (float_of(h << HALF) for h in (half, half + 1))
        table[half % PIECES] = piece(low, LAST if half == first + PIECES - 1 else high)
    return table


def series():
    """Return the float64 coefficients of (tanh(a) - a) / a^3 in a^2."""
    half = mpmath.mpf(SERIES_END) ** 2 / 2
    nodes = [
        half + half * mpmath.cos((k + mpmath.mpf("0.5")) * mpmath.pi / SERIES_TERMS)
        for k in range(SERIES_TERMS)
    ]
    values = [(mpmath.tanh(mpmath.sqrt(s)) - mpmath.sqrt(s)) / mpmath.sqrt(s) ** 3 for s in nodes]
    powers = mpmath.matrix([[s**k for k in range(SERIES_TERMS)] for s in nodes])
    return [float(c) for c in mpmath.lu_solve(powers, mpmath.matrix(values))]


def c_float(value):
    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def main():
    print(
        "// Coefficients of tanh, a column of each row per piece. Written by tanh_table.py, which explains the method."
    )
    print("#pragma once\n\nnamespace rnnfused {\nnamespace RNNFUSED_ISA {\n\n// clang-format off")
    names = ["m", *(f"c_{i}" for i in range(DEGREE + 1))]
    print("// The second half of a row repeats the first, for registers of sixteen values.")
    print(f"alignas(64) constexpr float kTanhTable[{len(names)}][{2 * PIECES}] = {{")
    for name, row in zip(names, zip(*pieces())):
        values = ", ".join(map(c_float, row))
        print(f"    // {name}\n    {{{values},\n     {values}}},")
    print("};")
    values = ", ".join(map(repr, series()))
    print(f"constexpr double kTanhSeries[] = {{{values}}};")
    print("// clang-format on\n\n}  // namespace RNNFUSED_ISA\n}  // namespace rnnfused")


if __name__ == "__main__":
    main()
