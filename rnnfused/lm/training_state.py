"""All that the next step of a run depends on: counters, weights, optimizer, hidden state, chance."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .average import WeightAverage
from .distributed import Workers
from .model import CharLM
from .optim import optimizer_tensors, set_optimizer_tensors


@dataclass
class Progress:
    """Counters and clocks of a run.

    Attributes:
        epoch: whole epochs before the current one.
        window: windows of the current epoch that are done.
        step: windows of all epochs that are done, those of skipped steps included.
        elapsed: seconds since the run's start, breaks left out.
        nats, symbols, seconds: sums over the training steps since the last evaluation.
        steps, clipped: steps since the last evaluation, and those whose gradient was clipped.
        evaluated: the step of the last evaluation.
        best: the lowest validation perplexity; None before the first evaluation.
        stale: evaluations since then.
        skipped: steps without an update because loss or gradient was not finite.
        skipped_in_row: those since the last good step.
        returns: times that the run went back to a saved state.
        rate_scale: factor of the learning rate, halved by each return.
        finished: whether the run has ended by its epochs, its time or its patience.
    """

    epoch: int = 0
    window: int = 0
    step: int = 0
    elapsed: float = 0.0
    nats: float = 0.0
    symbols: int = 0
    seconds: float = 0.0
    steps: int = 0
    clipped: int = 0
    evaluated: int = 0
    best: float | None = None
    stale: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    returns: int = 0
    rate_scale: float = 1.0
    finished: bool = False

    def start_interval(self) -> None:
        """Begin the sums between two evaluations."""
        self.nats, self.symbols, self.seconds, self.steps, self.clipped = 0.0, 0, 0.0, 0, 0
        self.evaluated = self.step

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: object) -> "Progress":
        """The counters that ``to_json`` described; without the mark of a finished run, it is not.

        Raises:
            ValueError: ``values`` is no dict of them.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) | {"finished"} != names:
            raise ValueError(f"progress must have the fields {sorted(names)}")
        return cls(**values)


class TrainingState:
    """The tensors of a run, and the copies from which it can go on.

    Args:
        model, optimizer, average: of the run; ``average`` may be None.
        workers: the processes of the run.
        seed: of the resets of carried states.

    Attributes:
        hidden: the carried state of this worker's rows, ``(num_layers, B, hidden_size)`` or None.
        resets: draws which carried states are reset; all workers draw the same numbers.
    """

    def __init__(
        self,
        model: CharLM,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        workers: Workers,
        seed: int,
    ):
        self.model, self.optimizer, self.average = model, optimizer, average
        self.hidden: Tensor | None = None
        self.resets = torch.Generator().manual_seed(seed)
        self._workers = workers

    @property
    def evaluated(self) -> CharLM:
        """The model to evaluate and to keep: the averaged one, if the run averages."""
        return self.model if self.average is None else self.average.model

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors by name, of this worker's own rows and random numbers."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            averages = self.average.model.state_dict()
            tensors |= {f"average/{name}": value for name, value in averages.items()}
        optimizer = optimizer_tensors(self.optimizer, self.model)
        tensors |= {f"optimizer/{name}": value for name, value in optimizer.items()}
        if self.hidden is not None:
            tensors["hidden"] = self.hidden
        tensors["random/resets"] = self.resets.get_state()
        tensors["random/cpu"] = torch.get_rng_state()[None]
        if self._workers.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self._workers.device)[None]
        return {name: value.clone() for name, value in tensors.items()}

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """``tensors`` with the rows and random numbers of all workers, which all call this."""
        gathered = {
            name: self._workers.gathered(tensors[name], dim)
            for name, dim in (("hidden", 1), ("random/cpu", 0), ("random/cuda", 0))
            if name in tensors
        }
        return tensors | gathered

    def own(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """This worker's part of what ``whole`` returned.

        The number of workers may have changed: then the random numbers of dropout start anew.
        """
        own = dict(tensors)
        if "hidden" in own:
            own["hidden"] = own["hidden"][:, self._workers.rows(own["hidden"].size(1))]
        for name in ("random/cpu", "random/cuda"):
            if name in own and len(own[name]) == self._workers.size:
                own[name] = own[name][self._workers.rank :][:1]
            else:
                own.pop(name, None)
        return own

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set every tensor from what ``tensors`` or ``own`` returned.

        Raises:
            ValueError, RuntimeError, KeyError: ``tensors`` do not fit this run.
        """
        self.model.load_state_dict(_part("model", tensors))
        if self.average is not None:
            self.average.model.load_state_dict(_part("average", tensors))
        set_optimizer_tensors(self.optimizer, self.model, _part("optimizer", tensors))
        hidden = tensors.get("hidden")
        self.hidden = None if hidden is None else hidden.clone().to(self._workers.device)
        # Copies: torch crashes on a state in the middle of other memory, which may not be aligned.
        self.resets.set_state(tensors["random/resets"].clone().cpu())
        if "random/cpu" in tensors:
            torch.set_rng_state(tensors["random/cpu"][0].clone().cpu())
        if "random/cuda" in tensors and self._workers.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"][0].clone().cpu(), self._workers.device)


def _part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    head = f"{name}/"
    return {key.removeprefix(head): value for key, value in tensors.items() if key.startswith(head)}
