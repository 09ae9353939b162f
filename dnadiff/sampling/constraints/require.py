"""Required motifs: each is given a position, and its letters become part of the template."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from dnadiff.errors import InputError
from dnadiff.rng import Stream, uniform
from dnadiff.sampling.constraints.constrained_batch import ConstrainedBatch, open_letters
from dnadiff.sampling.constraints.constraints import Constraints
from dnadiff.sampling.constraints.sites import compile_sites, letter_sets

_TRIES = 200  # attempts to place all motifs of a row before that is an error


def place_motifs(
    template: Tensor, allowed: Tensor | None, constraints: Constraints, *, seed: int, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Gives every required motif a position in every row.

    A motif that the template spells out stays where it is. Any other gets one of the positions
    where the template leaves room for it, all with the same probability; where the motifs placed
    together violate a constraint, all are placed anew. Motifs may overlap where their letters
    agree.

    Args:
        template: (B, L) int64 token ids; the mask id is open.
        allowed: (B, L, K) bool, the letters that open positions may become; None for all.
        constraints: the motifs, and the constraints to satisfy.
        seed: of the run.
        index: (B,) sample numbers.

    Returns:
        The template (B, L) and the allowed letters (B, L, K) with the motifs in them.

    Raises:
        InputError: naming a motif for which no position is found, and what it violates.
    """
    _check_motifs(constraints)
    free = (template == constraints.alphabet.mask_id).numpy(force=True)
    before = open_letters(template, allowed, constraints.alphabet)
    sets, pending = before.copy(), np.arange(len(before))
    motifs = constraints.require

    for attempt in range(_TRIES):
        chances = uniform(seed, Stream.PLACE, index[pending], len(motifs), step=attempt)
        for row, chance in zip(pending.tolist(), chances.tolist(), strict=True):
            sets[row] = _with_motifs(before[row], free[row], constraints, chance)

        tokens, letters = _to_template(template, sets, constraints)
        batch = ConstrainedBatch(
            tokens[pending], letters[pending], constraints, seed=seed, index=index[pending]
        )
        broken = np.flatnonzero(batch.broken >= 0)
        if len(broken) == 0:
            return tokens, letters
        pending = pending[broken]
        if attempt == 0:
            # If the template violates a constraint without any motif, the error should say that.
            ConstrainedBatch(template, allowed, constraints, seed=seed, index=index).check()

    violated = batch.violated(int(broken[0]), int(batch.broken[broken[0]]))
    where = f"that keeps {violated}" if sets[pending[0]].any() else "where they fit together"
    names = " and ".join(motif.name for motif in motifs)
    raise InputError(
        f"{names}: in {_TRIES} tries no place was found {where}; loosen a constraint, or lengthen"
        " the template"
    )


def _check_motifs(constraints: Constraints) -> None:
    """Refuses a motif that contains a site to avoid, as it would at any position."""
    sites, names = compile_sites(constraints.avoid, constraints.alphabet)
    for motif in constraints.require:
        sets = letter_sets(motif.letters, constraints.alphabet)
        for name, pattern, size in zip(names, sites.patterns, sites.sizes.tolist(), strict=True):
            if size <= len(sets) and _spells(sliding_window_view(sets, size), pattern[:size]).any():
                raise InputError(f"{motif.name} contains {name}: leave one of them out")


def _spells(windows: np.ndarray, motif: np.ndarray) -> np.ndarray:
    """Returns which windows (n, m) of sets are the motif (m,) whatever is drawn, (n,) bool."""
    return (windows & ~motif == 0).all(1)


def _with_motifs(
    sets: np.ndarray, free: np.ndarray, constraints: Constraints, chances: Sequence[float]
) -> np.ndarray:
    """Returns the sets of letters (L,) of a row, narrowed to one random position of each motif.

    Where earlier motifs leave no room for one, all sets are empty, which no sequence satisfies.

    Args:
        sets: (L,) the letters that each position can become.
        free: (L,) bool, the positions that the template leaves open.
        constraints: with the motifs.
        chances: a random number in (0, 1) for each motif.

    Raises:
        InputError: naming a motif for which the template itself has no room.
    """
    narrowed = sets.copy()
    # One motif after another, because each narrows the positions that are left to the next.
    for motif, chance in zip(constraints.require, chances, strict=True):
        letters = letter_sets(motif.letters, constraints.alphabet)
        starts = _starts(narrowed, free, letters)
        if len(starts):
            start = starts[int(chance * len(starts))]
            where = slice(start, start + len(letters))
            narrowed[where] &= np.where(free[where], letters, narrowed[where])
        elif len(_starts(sets, free, letters)) == 0:
            raise InputError(f"{motif.name}: the template has no place for it")
        else:
            narrowed[:] = 0
    return narrowed


def _starts(sets: np.ndarray, free: np.ndarray, motif: np.ndarray) -> np.ndarray:
    """Returns where a motif (m,) can begin in a row (L,).

    Those are the positions where the template already spells it out. If there are none, they are
    all positions that the template allows.
    """
    if len(motif) > len(sets):
        return np.empty(0, np.int64)
    windows = sliding_window_view(sets, len(motif))
    there = _spells(windows, motif)
    # An open position needs a letter in common with the motif, a fixed one must be within it.
    in_common, within = windows & motif != 0, windows & ~motif == 0
    fits = np.where(sliding_window_view(free, len(motif)), in_common, within).all(1)
    return np.flatnonzero(there if there.any() else fits)


def _to_template(
    template: Tensor, sets: np.ndarray, constraints: Constraints
) -> tuple[Tensor, Tensor]:
    """Returns the template (B, L), open positions of one letter fixed, and the letters allowed."""
    alphabet = constraints.alphabet
    letters = torch.from_numpy(sets).to(template.device)
    allowed = letters[..., None] >> torch.arange(len(alphabet), device=template.device) & 1 == 1
    # A network must see such a position as fixed, not as a mask that has one possible letter.
    single = (template == alphabet.mask_id) & (allowed.sum(-1) == 1)
    return torch.where(single, allowed.int().argmax(-1) + alphabet.first_id, template), allowed
