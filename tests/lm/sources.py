"""Random texts whose entropy is known: the loss that a perfect model would reach on them.

A ``Source`` is a finite automaton whose edges carry a symbol and a probability. Edges out of one
state carry different symbols, so the text before a symbol determines the state. The entropy rate
is then the mean, over the stationary distribution of the states, of the entropy of a state's edges
(Shannon, *A Mathematical Theory of Communication*, 1948, section 7).
"""

import itertools
import math
import random
from typing import NamedTuple

import torch


class Edge(NamedTuple):
    symbol: str
    target: object
    probability: float


class Source:
    """A random text from ``edges``: a dict from each state to the list of its ``Edge``.

    The first state of the dict is the start.

    Attributes:
        entropy: nats per symbol of an infinitely long text.
        perplexity: ``exp(entropy)``.
    """

    def __init__(self, edges):
        self.edges = edges
        self.start = next(iter(edges))
        for state, outgoing in edges.items():
            assert math.isclose(sum(edge.probability for edge in outgoing), 1), state
            assert len({edge.symbol for edge in outgoing}) == len(outgoing), state
        self.entropy = sum(
            share * -sum(edge.probability * math.log(edge.probability) for edge in outgoing)
            for share, outgoing in zip(self._stationary(), edges.values(), strict=True)
        )
        self.perplexity = math.exp(self.entropy)

    def _stationary(self):
        number = {state: index for index, state in enumerate(self.edges)}
        moves = torch.zeros(len(number), len(number), dtype=torch.float64)
        for state, outgoing in self.edges.items():
            for edge in outgoing:
                moves[number[state], number[edge.target]] += edge.probability
        # p (P - 1) = 0 and sum(p) = 1, in the least-squares sense: the system is consistent.
        system = torch.cat([moves.T - torch.eye(len(number)), torch.ones(1, len(number))])
        right = torch.zeros(len(number) + 1, 1, dtype=torch.float64)
        right[-1] = 1
        return torch.linalg.lstsq(system, right).solution.squeeze(1).tolist()

    def text(self, length, seed=0):
        """``length`` symbols; the same for the same seed."""
        draw = random.Random(seed)
        state, symbols = self.start, []
        for _ in range(length):
            outgoing = self.edges[state]
            [edge] = draw.choices(outgoing, [edge.probability for edge in outgoing])
            symbols.append(edge.symbol)
            state = edge.target
        return "".join(symbols)

    def nats(self, text):
        """Mean ``-ln p`` of the symbols of ``text``, which begins at the start state.

        A perfect model reaches this loss on exactly this text. It differs from ``entropy`` by
        sampling noise, which shrinks with the length of the text.
        """
        state, total = self.start, 0.0
        for symbol in text:
            [edge] = [edge for edge in self.edges[state] if edge.symbol == symbol]
            total -= math.log(edge.probability)
            state = edge.target
        return total / len(text)


def markov(num_symbols=8, order=2, sharpness=2.0, seed=0):
    """A Markov source over the first letters of the alphabet: the last ``order`` symbols matter.

    Its transition probabilities are the softmax of normal numbers times ``sharpness``. A bigram
    model cannot predict it as well as ``order`` 2 allows.
    """
    alphabet = [chr(ord("a") + index) for index in range(num_symbols)]
    draw = random.Random(seed)
    edges = {}
    for history in map("".join, itertools.product(alphabet, repeat=order)):
        weights = [math.exp(sharpness * draw.gauss(0, 1)) for _ in alphabet]
        edges[history] = [
            Edge(symbol, (history + symbol)[1:], weight / sum(weights))
            for symbol, weight in zip(alphabet, weights, strict=True)
        ]
    return Source(edges)


# Inner nodes of the grammar of Reber, "Implicit learning of artificial grammars", 1967, as drawn by
# Cleeremans, Servan-Schreiber and McClelland, "Finite state automata and simple recurrent
# networks", 1989: each node has two edges of probability 1/2, or one.
_REBER = {
    0: [("B", 1)],
    1: [("T", 2), ("P", 3)],
    2: [("S", 2), ("X", 4)],
    3: [("T", 3), ("V", 5)],
    4: [("X", 3), ("S", 6)],
    5: [("P", 4), ("V", 6)],
    6: [("E", None)],
}


def reber():
    """Strings of the Reber grammar one after another, such as ``BTXSEBPVVE``."""
    edges = {
        node: [
            Edge(symbol, 0 if target is None else target, 1 / len(outgoing))
            for symbol, target in outgoing
        ]
        for node, outgoing in _REBER.items()
    }
    return Source(edges)


def embedded_reber():
    """Strings of the embedded grammar, such as ``BTBTXSETE``: the second symbol returns at the end.

    From Cleeremans et al. as well. The choice between T and P must be remembered over the inner
    string, about eight symbols.
    """
    edges = {"B": [Edge("B", "choice", 1.0)], "choice": []}
    for gate in "TP":
        edges["choice"].append(Edge(gate, (gate, 0), 0.5))
        for node, outgoing in _REBER.items():
            edges[gate, node] = [
                Edge(symbol, (gate, "end" if target is None else target), 1 / len(outgoing))
                for symbol, target in outgoing
            ]
        edges[gate, "end"] = [Edge(gate, "E", 1.0)]
    edges["E"] = [Edge("E", "B", 1.0)]
    return Source(edges)
