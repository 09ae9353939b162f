"""Draws sequences with a trained denoiser: one module per sampler and per kind of constraint."""

from dnadiff.sampling.constraints import Constraints
from dnadiff.sampling.fasta import check_fasta_path, resumable_fasta
from dnadiff.sampling.guidance import Guide, apply_guidance
from dnadiff.sampling.provenance import Provenance, letters_drawn
from dnadiff.sampling.sample import draw_sequences, sample
from dnadiff.sampling.sampler_config import (
    SAMPLERS,
    SamplerConfig,
    SamplerSettings,
    make_config,
    resolve_sampler,
)
from dnadiff.sampling.templates import Template, free_template, parse_template, read_templates

__all__ = [
    "SAMPLERS",
    "Constraints",
    "Guide",
    "Provenance",
    "SamplerConfig",
    "SamplerSettings",
    "Template",
    "apply_guidance",
    "check_fasta_path",
    "draw_sequences",
    "free_template",
    "letters_drawn",
    "make_config",
    "parse_template",
    "read_templates",
    "resolve_sampler",
    "resumable_fasta",
    "sample",
]
