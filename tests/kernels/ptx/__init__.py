"""Executes the PTX of the CUDA kernels on a host, without a GPU.

``nvcc_output.py`` makes the PTX, ``parse.py`` reads it, ``translate.py`` turns it into Python by the rules of
``arithmetic.py`` and ``operations.py``, and ``machine.py`` runs that with a pc per thread and a schedule drawn at random.
``launch.py`` calls the kernels through the launch code of csrc/cuda; ``calls.py`` draws calls and compares their results.
The reference for every rule is the PTX ISA manual, version 9.0.

It finds wrong numbers, accesses that happens-before does not order in sufficient scopes (``races.py``), accesses outside
of memory or alignment, misused barriers, and deadlocks. A message names a line of the PTX in build/test_kernels/ptx.

It has limits. Memory is sequentially consistent, so weaker behaviour of a GPU shows only as a race. Lanes of a warp wait
for each other at an ``.aligned`` instruction, whether or not they have converged before it. Registers have no limit. Time
stands still while anything can happen: ``%globaltimer`` advances only where every thread waits in vain.
"""
