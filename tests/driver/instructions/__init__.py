"""The instructions of a layer's calls, counted by valgrind, and the figures that they are compared with."""
