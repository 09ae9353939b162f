"""Motifs that every sequence has: each is given a place, and its letters become part of the template."""

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

_TRIES = 200


def place_motifs(
    template: Tensor, allowed: Tensor | None, constraints: Constraints, *, seed: int, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Gives every required motif a place in every row.

    A motif that the template spells out stays where it is. Any other gets one of the places where the template leaves
    room for it, all with the same chance; where the motifs so placed break a constraint, all are placed anew. Motifs
    may overlap where their letters agree.

    Args:
        template: (B, L) int64 token ids; the mask id is open.
        allowed: (B, L, K) bool, the letters that open places may become; None for all.
        constraints: the motifs, and what else to keep to.
        seed: of the run.
        index: (B,) sample numbers.

    Returns:
        template and allowed letters with the motifs in them.

    Raises:
        InputError: naming a motif for which no place is found, and what it breaks.
    """
    _check_motifs(constraints)
    free = (template == constraints.alphabet.mask_id).numpy(force=True)
    before = open_letters(template, allowed, constraints.alphabet)
    sets, pending = before.copy(), np.arange(len(before))
    for attempt in range(_TRIES):
        chances = uniform(
            seed, Stream.PLACE, index[pending], len(constraints.require), step=attempt
        )
        for row, chance in zip(pending.tolist(), chances.tolist(), strict=True):
            sets[row] = _with_motifs(before[row], free[row], constraints, chance)
        placed = _to_template(template, sets, constraints)
        draft = ConstrainedBatch(
            placed[0][pending], placed[1][pending], constraints, seed=seed, index=index[pending]
        )
        broken = np.flatnonzero(draft.broken >= 0)
        if len(broken) == 0:
            return placed
        pending = pending[broken]
        if attempt == 0:
            ConstrainedBatch(
                template, allowed, constraints, seed=seed, index=index
            ).check()  # perhaps no motif is to blame
    kept = draft.culprits(int(broken[0]), int(draft.broken[broken[0]]))
    where = f"that keeps {kept}" if sets[pending[0]].any() else "where they fit together"
    names = " and ".join(motif.name for motif in constraints.require)
    raise InputError(
        f"{names}: in {_TRIES} tries no place was found {where}; loosen a constraint, or lengthen the template"
    )


def _check_motifs(constraints: Constraints) -> None:
    """Refuses a motif that contains a site to avoid, wherever it stands."""
    sites, names = compile_sites(constraints.avoid, constraints.alphabet)
    for motif in constraints.require:
        sets = letter_sets(motif.letters, constraints.alphabet)
        for name, pattern, size in zip(names, sites.patterns, sites.sizes.tolist(), strict=True):
            if size <= len(sets) and _spells(sliding_window_view(sets, size), pattern[:size]).any():
                raise InputError(f"{motif.name} contains {name}: leave one of them out")


def _spells(windows: np.ndarray, motif: np.ndarray) -> np.ndarray:
    """Which windows (n, m) of sets are the motif (m,), whatever is drawn."""
    return (windows & ~motif == 0).all(1)


def _with_motifs(
    sets: np.ndarray, free: np.ndarray, constraints: Constraints, chances: Sequence[float]
) -> np.ndarray:
    """The sets of letters (L,) of a row, narrowed to the motifs: each where its chance in (0, 1) falls.

    Where those before it leave no room for a motif, no letter at all is left.
    """
    narrowed = sets.copy()
    for motif, chance in zip(constraints.require, chances, strict=True):
        letters = letter_sets(motif.letters, constraints.alphabet)
        starts = _starts(narrowed, free, letters)
        if len(starts):
            where = slice(start := starts[int(chance * len(starts))], start + len(letters))
            narrowed[where] &= np.where(free[where], letters, narrowed[where])
        elif len(_starts(sets, free, letters)) == 0:
            raise InputError(f"{motif.name}: the template has no place for it")
        else:
            narrowed[:] = 0
    return narrowed


def _starts(sets: np.ndarray, free: np.ndarray, motif: np.ndarray) -> np.ndarray:
    """Where a motif (m,) can begin in a row (L,): where it is already, or else wherever the open places let it."""
    if len(motif) > len(sets):
        return np.empty(0, np.int64)
    windows = sliding_window_view(sets, len(motif))
    there = _spells(windows, motif)
    fits = np.where(
        sliding_window_view(free, len(motif)), windows & motif != 0, windows & ~motif == 0
    ).all(1)
    return np.flatnonzero(there if there.any() else fits)


def _to_template(
    template: Tensor, sets: np.ndarray, constraints: Constraints
) -> tuple[Tensor, Tensor]:
    """A template in which an open place of one letter is fixed, and the letters that are allowed."""
    alphabet = constraints.alphabet
    letters = torch.from_numpy(sets).to(template.device)
    allowed = letters[..., None] >> torch.arange(len(alphabet), device=template.device) & 1 == 1
    settled = (template == alphabet.mask_id) & (allowed.sum(-1) == 1)
    return torch.where(settled, allowed.int().argmax(-1) + alphabet.first_id, template), allowed
