"""The nonlinearities: their names, and the numbers by which the ops know them."""

NONLINEARITIES = {"tanh": 0, "relu": 1}
TANH = NONLINEARITIES["tanh"]


def check_nonlinearity(nonlinearity: str) -> int:
    """The number of the nonlinearity with this name.

    Raises:
        ValueError: it is not a key of :data:`NONLINEARITIES`.
    """
    try:
        return NONLINEARITIES[nonlinearity]
    except (KeyError, TypeError):  # a TypeError where the name cannot be hashed
        pass
    raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
