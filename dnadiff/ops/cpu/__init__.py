"""CPU kernels, compiled by Numba on their first call.

Importing a module of this folder imports Numba, which takes a while: import where it is needed.
"""
