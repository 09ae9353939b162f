"""Kernels, one function each, with several backends."""

from dnadiff.ops.selective_scan import selective_scan_fn

__all__ = ["selective_scan_fn"]
