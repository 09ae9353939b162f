"""Headers of drawn sequences: which model, sampler, seed and template each comes from."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dnadiff.sampling.constraints import Constraints
from dnadiff.sampling.restricted import MAX_COMBINATIONS
from dnadiff.sampling.sampler_config import SAMPLERS, SamplerConfig
from dnadiff.sampling.templates import Template


@dataclass(frozen=True)
class Provenance:
    """What all sequences of one run have in common.

    Attributes:
        model: digest of the model's weights.
        seed: of the run. Sequence i of two models with one seed has the same random numbers.
        constraints: what the sequences satisfy.
        label: the class by name, or None for no class.
        guidance: weight of the class; None for 1.
        guide: name of the classifier that guides sampling to the class, if there is one.
    """

    model: str
    seed: int
    constraints: Constraints
    label: str | None = None
    guidance: float | None = None
    guide: str | None = None

    def headers(
        self, templates: Sequence[Template], configs: Sequence[SamplerConfig], num: int
    ) -> Headers:
        """Returns the headers of `num` records of each template, drawn with its configuration."""
        words = [self._words(*pair) for pair in zip(templates, configs, strict=True)]
        # The digest makes names differ between models, seeds and settings, so that the sequences
        # of several runs can be put into one file.
        names = [f"{t.name}_{_digest(w.encode())}" for t, w in zip(templates, words, strict=True)]
        return Headers(names, words, num)

    def _words(self, template: Template, config: SamplerConfig) -> str:
        """Returns what the headers of one template's records have in common."""
        words = [f"model={self.model}", str(config), f"temperature={config.temperature:g}"]
        if config.top_p < 1:
            words.append(f"top_p={config.top_p:g}")
        words.append(f"seed={self.seed}")
        # Class names may have blanks, and a header is read word by word.
        if self.label is not None:
            guidance = 1.0 if self.guidance is None else self.guidance
            words += [f"label={shlex.quote(self.label)}", f"guidance={guidance:g}"]
        if self.guide is not None:
            words.append(f"guide={shlex.quote(self.guide)}")
        words.append(str(self.constraints))
        drawn = letters_drawn(template, config, self.constraints)
        if drawn is not None:
            words.append(f"letters={drawn}")
        if template.window is not None:
            words.append(f"within={template.window}")
        # A file is continued only under equal headers, so these must show a changed template.
        words.append(f"design={_design(template, self.constraints)}")
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Headers:
    """The headers of all records of a FASTA file, without ">" and without the length.

    Attributes:
        names: for each template, the beginning of its records' names.
        words: for each template, how its records were made.
        num: records of each template.
    """

    names: Sequence[str]
    words: Sequence[str]
    num: int

    def __call__(self, record: int) -> str | None:
        """Returns the header of a record, counted from 0; None after the last one."""
        template, i = divmod(record, self.num)
        if template >= len(self.names):
            return None
        return f"{self.names[template]}_{i} {self.words[template]} index={i}"


def letters_drawn(
    template: Template, config: SamplerConfig, constraints: Constraints
) -> str | None:
    """Returns how letters that a template or a motif restricts are drawn.

    "exact", "resampled" (from a population) or "approximate"; None where no letter is restricted.
    In windows they are always called approximate, because a network that sees one window takes no
    account of letters outside it.

    Args:
        template: one template.
        config: as `resolve_sampler` returns it.
        constraints: what the sequences satisfy.
    """
    counts = _allowed_counts(template, constraints)
    if not counts:
        return None
    if constraints.enforced or config.window is not None:
        return "approximate"
    if SAMPLERS[config.sampler].corruption in ("uniform", "gaussian"):
        return "exact"
    if constraints.approximate:
        return "approximate"
    return "exact" if math.prod(counts) <= MAX_COMBINATIONS else "resampled"


def _allowed_counts(template: Template, constraints: Constraints) -> list[int]:
    """Returns the number of letters allowed at each restricted position."""
    alphabet = constraints.alphabet
    unrestricted = {*alphabet.letters, alphabet.unknown}
    # A motif gets a position later, but its codes restrict letters wherever it is.
    codes = [code for motif in constraints.require for code in motif.letters]
    counts = [len(alphabet.ambiguity[code]) for code in codes if code not in unrestricted]
    if template.allowed is not None:
        # A position of one letter is drawn, but has no distribution that could be wrong.
        allowed = template.allowed.sum(-1)
        counts += allowed[(allowed > 1) & (allowed < len(alphabet))].tolist()
    return counts


def _design(template: Template, constraints: Constraints) -> str:
    """Returns a digest of the letters that are asked for, since a file can change its content."""
    asked = repr((constraints.avoid, constraints.require, constraints.approximate)).encode()
    allowed = b"" if template.allowed is None else template.allowed.numpy().tobytes()
    return _digest(asked + template.tokens.numpy().tobytes() + allowed)


def _digest(data: bytes) -> str:
    """Returns the first eight hexadecimal digits of the SHA-256 of some data."""
    return hashlib.sha256(data).hexdigest()[:8]
