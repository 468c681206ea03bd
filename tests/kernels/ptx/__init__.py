"""Executes the PTX of the CUDA kernels on a host, without a GPU.

``nvcc_output.py`` makes the PTX, ``parse.py`` reads it, ``translate.py`` turns it into Python, and ``machine.py`` runs that
with a pc per thread. ``launch.py`` calls the kernels with the launch code of csrc/cuda. The reference for every rule is
the PTX ISA manual, version 9.0.
"""
