"""The saved position of batches, so that a stopped run resumes at the next window."""


def check_position(state: object, most: dict[str, int]) -> dict[str, int]:
    """Validate a ``state_dict`` that comes from a file, and return it.

    Args:
        state: a dict with the names in ``most``.
        most: the highest value of each count; the lowest is 0.

    Raises:
        ValueError: ``state`` has other names, or a value is no int in that range.
    """
    if not isinstance(state, dict) or set(state) != set(most):
        got = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"state must be a dict with the names {sorted(most)}, got {got}")
    for name, highest in most.items():
        value = state[name]
        if type(value) is not int or not 0 <= value <= highest:
            raise ValueError(f"{name} must be an int in 0 .. {highest}, got {value!r}")
    return state
