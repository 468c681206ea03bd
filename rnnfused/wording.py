"""Words of messages."""


def quantity(number: int, noun: str) -> str:
    """``"1 step"``, ``"2 steps"``: a number with a noun whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
