"""From a trained denoiser to sequences: one file per sampler, and one per kind of constraint."""

from dnadiff.sampling.choice import SAMPLERS, Choice, choose
from dnadiff.sampling.constraints import Constraints
from dnadiff.sampling.guidance import Guide, steer
from dnadiff.sampling.sample import letters_drawn, sample
from dnadiff.sampling.templates import Template, free_template, parse_template, read_templates

__all__ = [
    "SAMPLERS",
    "Choice",
    "Constraints",
    "Guide",
    "Template",
    "choose",
    "free_template",
    "letters_drawn",
    "parse_template",
    "read_templates",
    "sample",
    "steer",
]
