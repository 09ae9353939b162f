"""The kernels compiled for the CPU by Numba. Importing a module of this folder imports Numba: do it when needed."""
