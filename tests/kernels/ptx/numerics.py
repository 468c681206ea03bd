"""Arithmetic that NumPy has no operator for. Arguments are arrays of lanes, or NumPy scalars."""

import numpy as np


def fma32(a, b, c):
    # The product of two float32 is exact in float64, so only the sum is rounded twice.
    return (np.asarray(a, np.float64) * b + c).astype(np.float32)


def fma64(a, b, c):
    return (np.asarray(a, np.longdouble) * b + c).astype(np.float64)


def divided(a, b):
    """The quotient of integers, rounded toward zero; anything where the divisor is zero."""
    b = np.where(b == 0, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        return a // b
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def remainder(a, b):
    return a - divided(a, b) * b


def high_product(a, b):
    """The upper half of a product of 32-bit integers."""
    wide = np.int64 if a.dtype.kind == "i" else np.uint64
    return (a.astype(wide) * b.astype(wide) >> wide(32)).astype(a.dtype)


def flushed(x):
    """Subnormal float32 become zeros of the same sign."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def exp2_approximate(x):
    return flushed(np.exp2(flushed(x).astype(np.float64)).astype(np.float32))


def reciprocal_approximate(x):
    return flushed((1 / flushed(x).astype(np.float64)).astype(np.float32))


def reciprocal_upper_half(x):
    """rcp.approx.ftz.f64 returns the upper 32 bits and zeros."""
    upper = x.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)
    exact = np.asarray(1 / upper.view(np.float64))
    return (exact.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


def bfloat16_bits(x):
    """Round float32 to nearest, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits):
    return (np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def from_float16(bits):
    return np.asarray(bits, np.uint16).view(np.float16).astype(np.float32)


def float16_bits(x):
    return np.asarray(x, np.float32).astype(np.float16).view(np.uint16)


def mma_m16n8k16(a, b, c, values):
    """D of mma.m16n8k16 for whole warps, as four registers; `values` converts 16-bit patterns.

    With q = lane / 4 and r = lane % 4, a register holds two neighbours of a row: columns 2r and
    2r + 1 of row q of an 8x8 quarter. B's registers hold its transpose in the same way.
    """

    def quarter(register):  # (warps, 8, 8)
        return values(np.ascontiguousarray(register).view(np.uint16)).reshape(-1, 8, 8)

    left = np.block([[quarter(a[0]), quarter(a[2])], [quarter(a[1]), quarter(a[3])]])
    right = np.concatenate([quarter(b[0]), quarter(b[1])], axis=2)
    product = left.astype(np.float64) @ right.astype(np.float64).transpose(0, 2, 1)
    rows = product.reshape(-1, 2, 32, 2)  # upper and lower half, lane, neighbour
    return [
        (np.asarray(c[i], np.float64) + rows[:, i // 2, :, i % 2].reshape(-1)).astype(np.float32)
        for i in range(4)
    ]


def shuffled(mode, threads, lanes, values, distances, clamps):
    """What shfl.sync gives to each lane of whole warps, and whether it came from another lane's range."""
    lanes, distances = lanes.astype(np.int64), distances.astype(np.int64)
    segment, clamp = clamps.astype(np.int64) >> 8 & 31, clamps.astype(np.int64) & 31
    last = lanes & segment | clamp & ~segment
    source = {
        "up": lanes - distances,
        "down": lanes + distances,
        "bfly": lanes ^ distances,
        "idx": lanes & segment | distances & ~segment & 31,
    }[mode]
    valid = source >= last if mode == "up" else source <= last
    wanted = threads + np.where(valid, source - lanes, 0)
    index = np.minimum(np.searchsorted(threads, wanted), threads.size - 1)
    missing = threads[index] != wanted  # a lane that does not exist: any value
    return np.where(missing, np.uint32(0xFFFFFFFF), values[index]), valid


def voted(mode, warps, lanes, votes):
    """What vote.sync gives to each lane of whole warps."""
    bits = np.zeros(warps.max() + 1, np.uint32)
    np.bitwise_or.at(bits, warps, votes.astype(np.uint32) << lanes.astype(np.uint32))
    if mode == "ballot":
        return bits[warps]
    against = np.zeros(warps.max() + 1, bool)
    np.logical_or.at(against, warps, ~votes)
    return bits[warps] != 0 if mode == "any" else ~against[warps]


def leading_zeros(x):
    """Of 32-bit words."""
    return (32 - np.frexp(x.astype(np.float64))[1]).astype(np.uint32)
