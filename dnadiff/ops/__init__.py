"""Kernels, one function each, with several backends."""

from dnadiff.ops.add_norm import add_norm_fn
from dnadiff.ops.causal_conv import causal_conv1d_fn
from dnadiff.ops.mixer import MixerState, mamba_mixer_fn, mamba_mixer_step
from dnadiff.ops.mixer_arguments import DirectionWeights
from dnadiff.ops.selective_scan import selective_scan_fn

__all__ = [
    "DirectionWeights",
    "MixerState",
    "add_norm_fn",
    "causal_conv1d_fn",
    "mamba_mixer_fn",
    "mamba_mixer_step",
    "selective_scan_fn",
]
