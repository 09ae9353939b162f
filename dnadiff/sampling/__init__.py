"""From a trained denoiser to sequences: one file per sampler, and one per kind of constraint."""

from dnadiff.sampling.constraints import Constraints
from dnadiff.sampling.guidance import Guide, apply_guidance
from dnadiff.sampling.sample import letters_drawn, sample
from dnadiff.sampling.sampler_config import SAMPLERS, SamplerConfig, choose
from dnadiff.sampling.templates import Template, free_template, parse_template, read_templates

__all__ = [
    "SAMPLERS",
    "Constraints",
    "Guide",
    "SamplerConfig",
    "Template",
    "apply_guidance",
    "choose",
    "free_template",
    "letters_drawn",
    "parse_template",
    "read_templates",
    "sample",
]
