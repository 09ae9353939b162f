"""From a trained denoiser to sequences: one file per sampler."""

from dnadiff.sampling.choice import SAMPLERS, Choice, choose
from dnadiff.sampling.sample import sample
from dnadiff.sampling.templates import free_template, parse_template

__all__ = ["SAMPLERS", "Choice", "choose", "free_template", "parse_template", "sample"]
