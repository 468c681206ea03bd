"""What the choice of a way asks of CUDA and of the compiled library."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..ops import has_cuda_kernels
from . import graphs

# Ops of the library without which a choice cannot be made safely; older builds lack them.
_GUARDS = ("fits", "fused_plan", "has_fused_alarm", "fused_alarm", "fused_time_limit")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def has_fused_kernels() -> bool:
    """Whether the library with the fused kernels, and with their watchdog, was built and loaded."""
    return has_cuda_kernels() and all(hasattr(torch.ops.rnnfused, name) for name in _GUARDS)


class Gpu:
    """CUDA and the ops. Tests without a GPU pass another object."""

    capture = staticmethod(graphs.capture)

    def device_of(self, tensor: Tensor) -> torch.device:
        return tensor.device

    def name(self, device: torch.device) -> str:
        return torch.cuda.get_device_name(device)

    def on(self, device: torch.device) -> AbstractContextManager:
        """A context in which the device is the current one."""
        return torch.cuda.device(device)

    def spare_bytes(self, device: torch.device) -> int:
        """Bytes that a timing may take: a small share of the device's memory, and of its free memory."""
        free, total = torch.cuda.mem_get_info(device)
        return min(total // 64, free // 8)

    def can_measure(self, device: torch.device) -> bool:
        """Whether this thread may wait for the device: it captures no graph, and no wait is an error."""
        if torch.cuda.get_sync_debug_mode() != 0:
            return False
        if torch.cuda.is_current_stream_capturing():  # on a device other than the call's, perhaps
            return False
        with torch.cuda.device(device):
            return not torch.cuda.is_current_stream_capturing()

    def can_capture(self) -> bool:
        """Whether a graph may be captured on the current device by this thread; asked rarely."""
        return not graphs.uses_a_pool()

    def forced_plan(self) -> str:
        """The value of RNNFUSED_CUDA_PLAN, which the library reads at every call."""
        return os.environ.get("RNNFUSED_CUDA_PLAN", "")

    def plan(self, device: torch.device, dtype: torch.dtype, hidden_size: int, rows: int) -> str:
        """The plan of a fused call in words; empty: none takes it.

        Raises:
            RuntimeError: RNNFUSED_CUDA_PLAN asks for a plan that does not hold the call.
        """
        if dtype not in _DTYPES or not has_fused_kernels():
            return ""
        weight_hh = torch.empty((), device=device, dtype=dtype).expand(hidden_size, hidden_size)
        ops = torch.ops.rnnfused
        try:  # torch leaks the string of fused_plan, so callers keep it
            return ops.fused_plan(weight_hh, rows) if ops.fits(weight_hh, rows) else ""
        except RuntimeError:
            if self.forced_plan():
                raise
            return ""  # a GPU that the kernels were not compiled for

    def forward_fused(self, *arguments):
        return torch.ops.rnnfused.forward_fused(*arguments)

    def backward_fused(self, *arguments):
        return torch.ops.rnnfused.backward_fused(*arguments)

    def set_time_limit(self, seconds: float) -> None:
        """Bounds how long fused kernels wait for their peers, of calls of this thread."""
        torch.ops.rnnfused.fused_time_limit(seconds)

    def reported_alarm(self, like: Tensor) -> str:
        """The text of an alarm that an earlier call on the tensor's device has raised, which clears it.

        Waits for nothing: empty if none is raised yet. In a capture it is empty too, and the alarm stays.
        """
        ops = torch.ops.rnnfused
        if not ops.has_fused_alarm(like):
            return ""
        with torch.cuda.device(like.device):
            if torch.cuda.is_current_stream_capturing():
                return ""
        return ops.fused_alarm(like)

    def take_alarm(self, device: torch.device) -> str:
        """The text of the alarm that a fused kernel on this stream raised, which clears it; empty: none did."""
        torch.cuda.current_stream(device).synchronize()
        return torch.ops.rnnfused.fused_alarm(torch.empty((), device=device))

    def milliseconds(self, work: Callable[[], object]) -> float:
        """The time from an idle stream of the current device to the end of the work on it."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
