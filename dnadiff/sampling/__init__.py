"""From a trained denoiser to sequences: one file per sampler."""

from dnadiff.sampling.plaid import sample_plaid
from dnadiff.sampling.sample import SAMPLERS, sample, sampler_for
from dnadiff.sampling.templates import free_template, parse_template

__all__ = ["SAMPLERS", "free_template", "parse_template", "sample", "sample_plaid", "sampler_for"]
