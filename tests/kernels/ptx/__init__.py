"""Executes the PTX of the CUDA kernels on a host, without a GPU.

``nvcc_output.py`` makes the PTX, ``parse.py`` reads it, ``translate.py`` turns it into Python by the rules of
``arithmetic.py`` and ``operations.py``, and ``machine.py`` runs that with a pc per thread and a schedule drawn at random.
``launch.py`` calls the kernels through the launch code of csrc/cuda; ``calls.py`` draws calls and compares their results.
The reference for every rule is the PTX ISA manual, version 9.0.

It finds: wrong numbers, accesses that happens-before does not order in sufficient scopes (``races.py``), accesses outside
of memory or alignment, misused barriers, and deadlocks. Memory is sequentially consistent here: weaker behaviour of a GPU
can only show where it also reports a race. It does not check that the lanes of a warp have converged before an
``.aligned`` instruction, but waits for them; nor the limits of registers, and nothing of speed.
"""
