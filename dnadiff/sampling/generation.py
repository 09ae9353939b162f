"""A request for sequences of a model: validated and resolved once, then drawn in batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import Objective
from dnadiff.errors import InputError, UsageError
from dnadiff.memory import free_memory
from dnadiff.sampling.constraints import Constraints
from dnadiff.sampling.guidance import Guide, apply_guidance
from dnadiff.sampling.provenance import Headers, Provenance
from dnadiff.sampling.sample import draw_sequences
from dnadiff.sampling.sampler_config import (
    SamplerConfig,
    SamplerSettings,
    make_config,
    resolve_sampler,
)
from dnadiff.sampling.templates import Template, read_templates

_TOKENS_PER_BATCH = 32_768  # that the network is shown at once
_TOKENS_HELD = 1 << 22  # of long sequences that are drawn in windows
_FLOATS = 32  # held at once per token and hidden number: twice what was measured

_log = logging.getLogger(__name__)


class GenerationOptions(SamplerSettings, total=False):
    """Keywords of `Generation`, which documents them."""

    length: int | None
    template: str | Path | Sequence[Template] | None
    seed: int
    batch_size: int | None
    constraints: Constraints | None
    label: str | None
    guidance: float | None
    guide: Guide | None


class Generation:
    """Sequences to draw with one model: `num` of the first template, then of the next.

    Args:
        denoiser: the network.
        objective: what it was trained for.
        num: how many sequences, of each template.
        trained_window: the length that the network was trained on, in letters, if it is known.
        length: of each sequence, in letters; 1,024 where there is no template either.
        template: IUPAC letters: A, C, G, T are fixed, N is free, other codes restrict. Or a FASTA
            file of such, or templates from `read_templates`.
        seed: sequence i of a template and a seed is the same whatever `num` and `batch_size`. Two
            models with the same seed share their random numbers.
        batch_size: sequences drawn together; by default so that one network call has 32,768
            letters, or fewer if memory is short.
        constraints: what every sequence must satisfy.
        label: the class to draw sequences of, by name, for a model with labels or a guide; None for
            no class. The string "null" is a name like any other.
        guidance: weight of the class; 1, the default, is the class as it was learned, and more
            exaggerates it. See `dnadiff.sampling.guidance`.
        guide: a classifier that guides sampling to the class, instead of the model's own labels;
            see `dnadiff.training.guide.fit_guide`.
        settings: of the sampler (sampler, steps, remask, eta, window, stride, temperature, top_p);
            see `SamplerConfig`.

    Attributes:
        templates: one for every `num` sequences.
        count: number of sequences.

    Raises:
        InputError: if a template cannot be read.
        UsageError: if `length` contradicts the template, there is no such class, or an argument is
            out of range.
    """

    def __init__(
        self,
        denoiser: LMDenoiser,
        objective: Objective,
        num: int = 1,
        *,
        trained_window: int | None = None,
        length: int | None = None,
        template: str | Path | Sequence[Template] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        constraints: Constraints | None = None,
        label: str | None = None,
        guidance: float | None = None,
        guide: Guide | None = None,
        **settings: Unpack[SamplerSettings],
    ) -> None:
        if num < 1:
            raise UsageError(f"num, the number of sequences, must be at least 1, not {num}")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
        self.alphabet = objective.alphabet
        if template is None or isinstance(template, str | Path):
            template = read_templates(template, length=length, alphabet=self.alphabet)
        self.templates, self.num = list(template), num
        self.count = num * len(self.templates)

        self.objective = objective
        self.seed, self.batch_size = seed, batch_size
        self.constraints = (
            Constraints(alphabet=self.alphabet) if constraints is None else constraints
        )
        self.label, self.guidance, self.guide = label, guidance, guide
        self._network = denoiser
        self._denoiser, self._label_id = apply_guidance(denoiser, label, guidance, guide, objective)

        # The sampler is resolved once for each length, however many batches there are.
        config = make_config(**settings)
        lengths = dict.fromkeys(len(one.tokens) for one in self.templates)
        self._configs = {
            size: resolve_sampler(
                config,
                self._denoiser,
                size,
                objective=objective,
                trained_window=trained_window,
                alphabet=self.alphabet,
            )
            for size in lengths
        }
        if config.sampler == "auto":
            for chosen in dict.fromkeys(map(str, self._configs.values())):
                _log.info("%s (sampler=auto)", chosen)

    def config(self, length: int) -> SamplerConfig:
        """Returns the resolved configuration for templates of a length."""
        return self._configs[length]

    def headers(self, model: str) -> Headers:
        """Returns the FASTA headers of all sequences.

        Args:
            model: digest of the model.
        """
        guide = None
        if self.guide is not None:
            guide = getattr(self.guide, "source", type(self.guide).__name__)
        made = Provenance(model, self.seed, self.constraints, self.label, self.guidance, guide)
        configs = [self._configs[len(template.tokens)] for template in self.templates]
        return made.headers(self.templates, configs, self.num)

    def sequences(self, start: int = 0) -> Iterator[str]:
        """Draws sequences and yields each when its batch is done.

        Args:
            start: number of sequences to leave out at the beginning.

        Raises:
            InputError: if a template or a constraint cannot be kept.
        """
        rows = islice(self._rows(), start, None)
        # Neighbouring templates of one length share batches.
        for length, group in groupby(rows, key=lambda row: len(row[0].tokens)):
            size = self.batch_size or self._batch_size(length)
            while batch := list(islice(group, size)):
                templates, numbers = zip(*batch, strict=True)
                yield from self._draw(templates, numbers)

    def _rows(self) -> Iterator[tuple[Template, int]]:
        """Yields each sequence as its template and its number among those of the template."""
        for template in self.templates:
            for i in range(self.num):
                yield template, i

    def _draw(self, templates: Sequence[Template], numbers: Sequence[int]) -> list[str]:
        """Draws one batch: for each template the sequence with the given number."""
        device = next(self._network.parameters()).device
        # Templates of one file do not share their random numbers.
        index = [t.number << 32 | i for t, i in zip(templates, numbers, strict=True)]
        label = None
        if self._label_id is not None:
            label = torch.full((len(templates),), self._label_id, device=device)
        try:
            drawn = draw_sequences(
                self._denoiser,
                torch.stack([template.tokens for template in templates]).to(device),
                self._configs[len(templates[0].tokens)],
                allowed=self._allowed(templates, device),
                label=label,
                objective=self.objective,
                constraints=self.constraints,
                seed=self.seed,
                index=torch.tensor(index, device=device),
                alphabet=self.alphabet,
            )
        except InputError as error:
            if len(self.templates) == 1 or isinstance(error, UsageError):
                raise
            # The error does not say which template of the batch caused it, so name the range.
            names = " to ".join(dict.fromkeys((templates[0].name, templates[-1].name)))
            raise InputError(f"template {names}: {error}") from error
        return [self.alphabet.decode(row) for row in drawn]

    def _allowed(self, templates: Sequence[Template], device: torch.device) -> Tensor | None:
        """Returns the letters (B, L, K) that templates allow, or None where none restricts."""
        if all(template.allowed is None for template in templates):
            return None
        every = torch.ones(len(templates[0].tokens), len(self.alphabet), dtype=torch.bool)
        allowed = [every if t.allowed is None else t.allowed for t in templates]
        return torch.stack(allowed).to(device)

    def _batch_size(self, length: int) -> int:
        """Returns how many sequences of a length are drawn together."""
        device = next(self._network.parameters()).device
        network = self._network.lm.config
        # The gradient of a guide needs the hidden states of all layers.
        layers = network.n_layer if self.guide is not None else 1
        floats = layers * _FLOATS * network.d_model
        # Half of the free memory is left to other processes.
        tokens = min(_TOKENS_PER_BATCH, int(free_memory(device) / 2 / (4 * floats)))
        shown = self._configs[length].window or length
        return max(1, min(tokens // shown, _TOKENS_HELD // length))
