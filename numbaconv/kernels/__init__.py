"""Explicit-loop kernels, one file an algorithm: flat arrays and integers in, arrays filled.

Nothing is checked here and nothing is chosen: the geometry has been validated and the plan made before a kernel runs.
"""
