"""The three ways of a loop, and the environment variable that forces one."""

STEPS = "steps"  # torch's kernels, a product and a pointwise kernel per step
GRAPHED = "graphed"  # the same kernels, replayed as a CUDA graph
FUSED = "fused"  # one kernel for all steps

MODES = ("auto", "0", "1", "steps")


def mode_of(value: str) -> str:
    """The mode that a value of the variable asks for; unset or empty is ``"auto"``.

    Raises:
        ValueError: the value is none of :data:`MODES`.
    """
    mode = value or "auto"
    if mode not in MODES:
        raise ValueError(
            f"RNNFUSED_CUDA_FUSED must be unset or one of {', '.join(MODES)}; got {value!r}"
        )
    return mode
