"""Counter-based random numbers: a number is a function of its seed, its stream and its step alone.

Philox 4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011). The op's are the same
(csrc/cpu/choose.h).
"""

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF  # of a 64-bit word
_ROUNDS = 10


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """The four words of 32 bits of each counter.

    Args:
        counter: four int64 tensors of one shape, words of 32 bits.
        key: two words of 32 bits.

    Returns:
        Four int64 tensors, words of 32 bits.
    """
    c_0, c_1, c_2, c_3 = counter
    key_0, key_1 = key
    for _ in range(_ROUNDS):
        # The product of two words fills all 64 bits of a signed integer: its shift copies the sign.
        a, b = c_0 * 0xD2511F53, c_2 * 0xCD9E8D57
        c_0, c_1, c_2, c_3 = (
            ((b >> 32) & _LOW) ^ c_1 ^ key_0,
            b & _LOW,
            ((a >> 32) & _LOW) ^ c_3 ^ key_1,
            a & _LOW,
        )
        key_0, key_1 = (key_0 + 0x9E3779B9) & _LOW, (key_1 + 0xBB67AE85) & _LOW
    return c_0, c_1, c_2, c_3


def uniforms(seed: int, streams: Tensor, first_step: int, num_steps: int) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-53.

    The key is the seed and the counter (step, stream), low words first. A number's high bits are the first word of the
    result, its low bits the second.

    Args:
        seed: 0 to 2^63 - 1.
        streams: (B,), int64, at least 0.
        first_step: the step of the first column, at least 0.
        num_steps: n.

    Returns:
        (B, n), float64: row b, column i is the number of step ``first_step + i`` of ``streams[b]``.
    """
    steps = torch.arange(first_step, first_step + num_steps, device=streams.device)
    step = steps.expand(streams.size(0), num_steps)
    stream = streams.unsqueeze(1).expand_as(step)
    counter = (step & _LOW, (step >> 32) & _LOW, stream & _LOW, (stream >> 32) & _LOW)
    high, low, _, _ = philox(counter, (seed & _LOW, seed >> 32))
    return ((high << 21) | (low >> 11)).double() * 2.0**-53
