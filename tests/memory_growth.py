"""Prints the memory growth over many training steps: memory_growth.py MODEL STEPS

It runs as its own process, because an allocator's behaviour depends on earlier allocations. The one line of output:
MB of resident memory that the steps add, and bytes of the heap that each step adds.
"""

import ctypes
import sys

import torch

import rnnfused
from rnnfused.lm import CharLM, CharLMConfig


class _Heap(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def heap_bytes():
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Heap
    return libc.mallinfo2().uordblks


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def layers():
    return rnnfused.RNN(64, 64), (torch.randn(16, 16, 64),), {}


def tokens():
    return rnnfused.TokenRNN(30, 64, 2), (torch.randint(30, (16, 16)),), {}


def cell():
    return rnnfused.RNNCell(64, 64), (torch.randn(16, 64), torch.randn(16, 64)), {}


def lengths():
    module = rnnfused.RNN(64, 64, bidirectional=True)
    return module, (torch.randn(16, 16, 64),), {"lengths": torch.randint(17, (16,))}


def language_model():
    return CharLM(CharLMConfig(30, 64, 2)), (torch.randint(30, (16, 16)),), {}


def compiled():
    module = torch.compile(rnnfused.RNN(64, 64), backend="aot_eager")
    return module, (torch.randn(16, 16, 64),), {}


def main(name, count):
    torch.set_num_threads(1)
    module, arguments, keywords = globals()[name]()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)

    def run(steps):
        for _ in range(steps):
            result = module(*arguments, **keywords)
            (result if isinstance(result, torch.Tensor) else result[0]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    run(200)
    resident, heap = resident_bytes(), heap_bytes()
    run(count)
    megabytes = (resident_bytes() - resident) / 2**20
    print(megabytes, (heap_bytes() - heap) / count)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
