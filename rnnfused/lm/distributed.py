"""Many processes that train one model: torchrun starts them, DistributedDataParallel joins them."""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .model import CharLM

Step = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]

# A worker waits this long for the first one, which alone evaluates and saves.
_PATIENCE = datetime.timedelta(hours=6)
# Parts of the messages with which a lost connection ends a call.
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "TCPStore")


class LostWorkerError(ConnectionError):
    """Another process of the run ended or cannot be reached."""


class TrainingLoss(nn.Module):
    """``CharLM.loss`` as a call of a module, which is what DistributedDataParallel joins."""

    def __init__(self, model: CharLM):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.model.loss(x, y, state)


class Workers:
    """The processes of a run; a context manager. One process, without torchrun, is the usual case.

    Each worker trains on its own rows of every batch. Gradients are averaged, so all hold the same
    model. Only the first one evaluates, prints and writes.

    Args:
        device: name of the device; ``"cuda"`` becomes one GPU per worker of a machine.

    Attributes:
        rank: this worker's number, from 0.
        size: number of workers.
        device: this worker's device.

    Raises:
        ValueError: a variable of torchrun's environment is no number.
        ConnectionError: the other workers cannot be reached.
    """

    def __init__(self, device: str = "cpu"):
        self.rank, self.size = _number("RANK", 0), _number("WORLD_SIZE", 1)
        self.device = torch.device(device)
        if self.size > 1 and self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", _number("LOCAL_RANK", 0))

    @property
    def is_first(self) -> bool:
        """Whether this worker prints and writes."""
        return self.rank == 0

    def __enter__(self) -> "Workers":
        if self.size > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            with self.watched():
                torch.distributed.init_process_group(backend, timeout=_PATIENCE)
        return self

    def __exit__(self, *error: object) -> None:
        # After an error the others may be gone: taking leave of them could take hours.
        if self.size > 1 and error[0] is None:
            torch.distributed.destroy_process_group()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn a lost connection in the block into a LostWorkerError."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(part in str(error) for part in _LOST):
                raise
            raise LostWorkerError(
                f"worker {self.rank} of {self.size} lost contact with another worker"
            ) from None

    def rows(self, batch_size: int) -> slice:
        """This worker's rows of a batch.

        Raises:
            ValueError: the rows cannot be shared out equally.
        """
        if batch_size % self.size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {self.size}, "
                f"got {batch_size}"
            )
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def joined(self, model: CharLM) -> Step:
        """``model.loss`` whose gradients are averaged over the workers."""
        loss = TrainingLoss(model)
        if self.size == 1:
            return loss
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            loss, device_ids=devices, gradient_as_bucket_view=True
        )

    def sum(self, *values: float) -> list[float]:
        """Each of ``values`` summed over the workers."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return list(tensor.tolist())

    def from_first(self, value: float) -> float:
        """The first worker's ``value``."""
        return self.sum(value if self.is_first else 0.0)[0]

    def gathered(self, tensor: Tensor, dim: int) -> Tensor:
        """The workers' tensors, of one shape and dtype, one after the other along ``dim``."""
        if self.size == 1:
            return tensor
        own = tensor.contiguous().to(self.device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(parts, own)
        return torch.cat(parts, dim)


def is_first_process() -> bool:
    """Whether this process is the one that prints: the first of torchrun's, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} in the environment must be a number, got {value!r}") from None
