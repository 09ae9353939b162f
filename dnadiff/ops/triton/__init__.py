"""GPU kernels, in Triton.

Importing a module of this folder imports Triton, which takes a while: import where it is needed.
"""
