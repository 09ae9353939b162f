"""From a trained denoiser to sequences: one file per sampler."""

from dnadiff.sampling.sample import SAMPLERS, sample, sampler_for
from dnadiff.sampling.templates import free_template, parse_template

__all__ = ["SAMPLERS", "free_template", "parse_template", "sample", "sampler_for"]
