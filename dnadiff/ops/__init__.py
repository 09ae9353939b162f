"""Kernels, one function each, with several backends."""
