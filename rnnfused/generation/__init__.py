"""Generation: symbol after symbol from a recurrent network and a linear head, each the input of the next step."""

from .functions import generate, generate_by_steps

__all__ = ["generate", "generate_by_steps"]
