"""How far the results of two loops may lie apart, and the errors that say more."""

import re

import torch

# Against a loop in float64, of few steps.
OF_CHECK = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 4e-3,  # every state is rounded
    torch.bfloat16: 3e-2,
}
# Against torch's loop in the same dtype, of more steps: only gross errors stand out.
OF_TIMING = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 1e-1, torch.bfloat16: 1e-1}
OF_TF32 = 3e-2


class WrongResult(Exception):
    """A loop ran, and its results are not those of the step loop, or its kernel raised the alarm."""


def require_close(names, results, expected, tolerance: float) -> None:
    """Compares results with expected ones, in the dtype of these.

    Raises:
        WrongResult: a value is further off than the tolerance, relative or absolute, or is not finite.
    """
    for name, got, wanted in zip(names, results, expected, strict=True):
        got = got.to(wanted.dtype)
        if got.shape != wanted.shape:
            raise WrongResult(f"{name} is {tuple(got.shape)} in place of {tuple(wanted.shape)}")
        if not torch.allclose(got, wanted, rtol=tolerance, atol=tolerance):  # so is every NaN
            most = (got - wanted).abs().max().item()
            raise WrongResult(f"{name} is off by {most:.2g}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says nothing about a kernel: the device lacks memory at the moment."""
    return isinstance(error, torch.OutOfMemoryError) or bool(
        re.search("out of memory|can't allocate memory", str(error))
    )


def is_of_capture(error: Exception) -> bool:
    """Whether another thread's capture of a graph forbade a call of CUDA."""
    return "captur" in str(error)


def is_of_others(error: Exception) -> bool:
    """Whether the error says nothing about a fused kernel, although a fused call met it."""
    # The kernels have no asserts; an earlier kernel of the caller's has failed.
    is_assert = "device-side assert" in str(error)
    return is_out_of_memory(error) or is_of_capture(error) or is_assert


def is_of_kernel(error: Exception) -> bool:
    """Whether a failed fused call blames a fused kernel: by its alarm, or because its launch was refused.

    A launch also reports faults of kernels before it, most likely the caller's own.
    """
    text = str(error)
    is_named = re.search(r"rnnfused: (an earlier fused call stopped|cudaLaunchKernel\w*\()", text)
    is_earlier = re.search(
        r"illegal (memory|instruction|address)|misaligned|unspecified launch failure|"
        r"invalid program counter|hardware stack|uncorrectable ECC|launch timed out",
        text,
    )
    return bool(is_named) and not is_earlier and not is_of_others(error)
