"""Draws letters of partially drawn sequences so that together they violate no constraint.

Every sampler calls it in the same way. Where no letter fits (a *dead end*), the letters drawn
around that position are removed and drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numba
import numpy as np
import torch
from numba import njit
from torch import Tensor

from dnadiff.alphabet import Alphabet
from dnadiff.errors import InputError
from dnadiff.ops.cpu.compile import kernel, threads
from dnadiff.rng import Stream, uniform
from dnadiff.sampling.constraints import gc, kmers, sites
from dnadiff.sampling.constraints.constraints import Constraints

REDRAWS = 200
"""Number of attempts to get out of one dead end before it is an error."""


def redraw_radius(attempt: int) -> int:
    """Returns how many letters on each side of a dead end are drawn again at an attempt, from 0."""
    return 4 + attempt // 2


class _State(NamedTuple):
    """A batch of sequences for the kernels, with the set of letters of each position as bits.

    Attributes:
        free: (B, L) bool, the positions that are drawn.
        choices: (B, L) int64, what the template leaves open at each position.
        sets: (B, L) int64, what each position can still become.
        sites: sites to avoid.
        shares: ranges of the GC content.
        kmers: k-mers that must not repeat.
    """

    free: np.ndarray
    choices: np.ndarray
    sets: np.ndarray
    sites: sites.Sites
    shares: gc.Shares
    kmers: kmers.Kmers


class _Pass(NamedTuple):
    """The positions to draw in one pass, with what is needed to draw them.

    Attributes:
        first: (B + 1,) int64, where each row begins in `places`; M at the end.
        places: (M,) int64, the positions to draw, row after row, each from left to right.
        logits: (M, K) float64.
        quantile: (M,) float64, random numbers in (0, 1).
        within: (B, L) bool, the letters that may be removed again.
        width: letters on each side of a dead end that are removed. Below 0 nothing is removed and a
            row ends at its dead end.
        mask_id: of the alphabet.
        first_id: of the alphabet.
    """

    first: np.ndarray
    places: np.ndarray
    logits: np.ndarray
    quantile: np.ndarray
    within: np.ndarray
    width: int
    mask_id: int
    first_id: int


class ConstrainedBatch:
    """A batch of partially drawn sequences, with what each open position can still become.

    Args:
        template: (B, L) int64 token ids; the mask id is open, every other id is fixed.
        allowed: (B, L, K) bool, the letters that open positions may become; None for all.
        constraints: to satisfy.
        seed: of the run.
        index: (B,) sample numbers.

    Attributes:
        open: (B, L) bool, the positions that are drawn.
        broken: (B,) int64, the first position where a template by itself violates a constraint,
            whatever is drawn; -1 for none.
        redraws: (B,) int64, how often letters of each sequence had to be drawn again.

    Raises:
        InputError: if no sequence of this length can satisfy a constraint.
    """

    def __init__(
        self,
        template: Tensor,
        allowed: Tensor | None,
        constraints: Constraints,
        *,
        seed: int,
        index: Tensor,
    ) -> None:
        self.alphabet = constraints.alphabet
        self.seed, self.index = seed, index
        self.open = template == self.alphabet.mask_id
        self.redraws = torch.zeros_like(index)

        rows, length = template.shape
        patterns, self._site_names = sites.compile_sites(constraints.avoid, self.alphabet)
        self._share_names = [share.name for share in constraints.gc]
        self._state = _State(
            self.open.numpy(force=True),
            open_letters(template, allowed, self.alphabet),
            # At first every position is open to every letter; `_load` narrows them to the template.
            np.full(template.shape, (1 << len(self.alphabet)) - 1),
            patterns,
            gc.compile_shares(constraints.gc, rows, length, self.alphabet),
            kmers.compile_kmers(constraints.unique_kmer, rows, length, self.alphabet),
        )
        self.broken = np.full(rows, -1)
        with threads():
            _load(*self._state, self.broken)

    def check(self) -> None:
        """Checks that no template violates a constraint by itself.

        Raises:
            InputError: naming the constraint and the position of the first one that does.
        """
        for row in np.flatnonzero(self.broken >= 0)[:1]:
            place = int(self.broken[row])
            cause = "the template's letters break it at"
            if self._state.free[row, place]:
                cause = "no letter is left at"
            raise InputError(
                f"{self.violated(row, place)}: {cause} position {place + 1}, whatever is drawn;"
                " change the template or leave the constraint out"
            )

    def draw(
        self,
        tokens: Tensor,
        now: Tensor,
        quantile: Tensor,
        logits: Callable[[Tensor], Tensor],
        within: Tensor | None = None,
    ) -> None:
        """Draws letters, in place, that with all letters already there violate no constraint.

        In every row the positions are taken from left to right, with the letters masked that would
        violate a constraint. At a dead end the letters drawn around it are removed, up to a
        distance that grows with each attempt, and drawn again from new logits. Rows do not depend
        on each other.

        Args:
            tokens: (B, L) int64 token ids; the mask id where nothing is drawn yet.
            now: (B, L) bool, the positions to draw, all open.
            quantile: (B, L) float64 in (0, 1), one random number for each position.
            logits: returns the logits (M, K) of the positions where a (B, L) bool tensor is True,
                row by row, given `tokens` as they are when it is called.
            within: (B, L) bool, the letters that may be removed if they are open; None for all.

        Raises:
            InputError: naming the constraint, if a dead end remains after `REDRAWS` attempts.
        """
        within = torch.ones_like(now) if within is None else within
        for attempt in range(REDRAWS + 1):
            # The last attempt removes nothing, so that the error can name what forbids each letter.
            width = -1 if attempt == REDRAWS else redraw_radius(attempt)
            now, dead_ends = self._pass(tokens, now, quantile, logits(now), within, width)
            rows = now.any(1).nonzero()[:, 0]
            if len(rows) == 0:
                return
            # With the same random numbers a row could reach the same dead end again and again.
            quantile = torch.zeros_like(quantile)
            quantile[rows] = self.numbers_again(rows)
        self.give_up(int(rows[0]), int(dead_ends[rows[0]]))

    def attempt(self, tokens: Tensor, now: Tensor, quantile: Tensor, logits: Tensor) -> Tensor:
        """Draws at most one letter of each row, in place, and removes none.

        Args:
            tokens: as for `draw`.
            now: as for `draw`.
            quantile: as for `draw`.
            logits: (M, K), of the positions to draw.

        Returns:
            (B,) bool, the rows in which no letter fits.
        """
        again, _ = self._pass(tokens, now, quantile, logits, now, -1)
        return again.any(1)

    def numbers_again(self, rows: Tensor) -> Tensor:
        """Returns new random numbers (R, L) for rows (R,) of which letters are drawn again."""
        self.redraws[rows] += 1
        length = self._state.sets.shape[1]
        return uniform(self.seed, Stream.REDRAW, self.index[rows], length, step=self.redraws[rows])

    def give_up(self, row: int, place: int) -> NoReturn:
        """Raises an InputError that names what forbids all letters at a position of a row."""
        raise InputError(
            f"{self.violated(row, place)}: no letter fits at position {place + 1} of sample"
            f" {int(self.index[row])}, though its neighbours were drawn {REDRAWS} times; loosen a"
            " constraint"
        )

    def violated(self, row: int, place: int) -> str:
        """Returns the names of the constraints that forbid letters at a position of a row."""
        state = self._state
        forbidden = [
            *sites.violated(state.sites, self._site_names, state.sets[row], place),
            *gc.violated(state.shares, self._share_names, row, state.sets[row, place], place),
            (f"unique_kmer {state.kmers.size}", kmers.forbidden(state.kmers, row, place)),
        ]
        names = [name for name, letters in forbidden if letters & state.choices[row, place]]
        if not names:
            # Nothing is forbidden, so the letters that are left have probability 0.
            return "the letters to which the network gives a chance"
        return " and ".join(dict.fromkeys(names))

    def _pass(
        self,
        tokens: Tensor,
        now: Tensor,
        quantile: Tensor,
        logits: Tensor,
        within: Tensor,
        width: int,
    ) -> tuple[Tensor, np.ndarray]:
        """Draws once, in place.

        Returns:
            (B, L) bool, the positions that are still, or again, to be drawn; and (B,) the last dead
            end of each row, or -1.
        """
        # The kernels run on the CPU, on copies if the tokens are elsewhere.
        rows, places = now.nonzero().T.numpy(force=True)
        here = tokens.cpu().contiguous()
        again, dead_ends = np.zeros(here.shape, bool), np.full(len(here), -1)
        todo = _Pass(
            np.searchsorted(rows, np.arange(len(here) + 1)),
            places.copy(),
            logits.double().contiguous().numpy(force=True),
            quantile[now].numpy(force=True),
            within.numpy(force=True),
            width,
            self.alphabet.mask_id,
            self.alphabet.first_id,
        )
        with threads():
            _draw(*self._state, todo, here.numpy(), again, dead_ends)
        if here is not tokens:
            tokens.copy_(here)
        return torch.from_numpy(again).to(now.device), dead_ends


def open_letters(template: Tensor, allowed: Tensor | None, alphabet: Alphabet) -> np.ndarray:
    """Returns the set (B, L) int64 of letters that each position of a template can become.

    An unknown letter (N) that is fixed has the set of all letters.
    """
    # Bit i of a set stands for letter i.
    bits = 1 << torch.arange(len(alphabet), device=template.device)
    everything = int(bits.sum())
    fixed = torch.where(
        alphabet.scorable(template), bits[alphabet.letter_index(template)], everything
    )
    choices = everything if allowed is None else (allowed * bits).sum(-1)
    return torch.where(template == alphabet.mask_id, choices, fixed).numpy(force=True)


@njit
def _fitting(state: Any, row: int, place: int) -> int:
    """Returns the letters that a position may become without violating a constraint."""
    letters = state.choices[row, place]
    # A position with one letter has been counted as that letter, so it would forbid itself.
    if kmers.only(state.sets[row, place]) >= 0:
        return letters
    letters &= ~sites.forbidden(state.sites, state.sets[row], place)
    letters &= ~gc.forbidden(state.shares, row, state.sets[row, place], place)
    return letters & ~kmers.forbidden(state.kmers, row, place)


@njit
def _set(state: Any, row: int, place: int, letters: int) -> None:
    """Changes the set of letters of a position, and all counts that depend on it."""
    before = state.sets[row, place]
    if before != letters:
        gc.change(state.shares, row, place, before, letters)
        kmers.change(state.kmers, row, place, before, letters)
        state.sets[row, place] = letters


@kernel
def _load(
    free: Any, choices: Any, sets: Any, sites_: Any, shares: Any, kmers_: Any, broken: Any
) -> None:
    """Enters every row of a template, and finds where it violates a constraint by itself."""
    # Parallel loops of numba accept no tuples within tuples, so the state comes in its parts.
    for row in numba.prange(len(broken)):
        broken[row] = _load_row(_State(free, choices, sets, sites_, shares, kmers_), row)


@njit
def _load_row(state: Any, row: int) -> int:
    """Enters the letters of a row; returns the first position without a possible letter, or -1."""
    for place in range(state.sets.shape[1]):
        if state.choices[row, place] != state.sets[row, place]:
            if _fitting(state, row, place) == 0:
                return place
            _set(state, row, place, state.choices[row, place])
    # The fixed letters violate nothing, but they may still leave an open position without a letter.
    for place in range(state.sets.shape[1]):
        if state.free[row, place] and _fitting(state, row, place) == 0:
            return place
    return -1


@kernel
def _draw(
    free: Any,
    choices: Any,
    sets: Any,
    sites_: Any,
    shares: Any,
    kmers_: Any,
    todo: Any,
    ids: Any,
    again: Any,
    dead_ends: Any,
) -> None:
    """Draws every row once; see `ConstrainedBatch.draw`."""
    for row in numba.prange(len(ids)):
        if todo.first[row] < todo.first[row + 1]:
            state = _State(free, choices, sets, sites_, shares, kmers_)
            dead_ends[row] = _draw_row(state, row, todo, ids[row], again[row])


@njit
def _draw_row(state: Any, row: int, todo: Any, ids: Any, again: Any) -> int:
    """Draws the letters of a row from left to right; returns the last dead end, or -1."""
    _catch_up(state, row, todo, ids)
    dead_end, removed = -1, -1
    for m in range(todo.first[row], todo.first[row + 1]):
        place = todo.places[m]
        # Positions just right of a dead end wait until those on its left side have been redrawn.
        if place <= removed:
            again[place] = True
            continue
        letter = _pick(todo.logits[m], _fitting(state, row, place), todo.quantile[m])
        if letter >= 0:
            _set(state, row, place, 1 << letter)
            ids[place] = todo.first_id + letter
        else:
            dead_end, removed = place, place + todo.width
            again[place] = True
            if todo.width < 0:
                break
            _remove(state, row, place, todo, ids, again)
    return dead_end


@njit
def _catch_up(state: Any, row: int, todo: Any, ids: Any) -> None:
    """Updates the sets of a row to what a sampler has drawn or masked by itself."""
    free, choices, sets = state.free[row], state.choices[row], state.sets[row]
    for place in range(len(ids)):
        if free[place]:
            letters = choices[place]
            if ids[place] != todo.mask_id:
                letters = 1 << (ids[place] - todo.first_id)
            if letters != sets[place]:
                _set(state, row, place, letters)


@njit
def _remove(state: Any, row: int, dead_end: int, todo: Any, ids: Any, again: Any) -> None:
    """Removes what was drawn around a dead end, and marks it to be drawn again."""
    first, last = max(0, dead_end - todo.width), min(len(ids), dead_end + todo.width + 1)
    for place in range(first, last):
        if state.free[row, place] and todo.within[row, place] and ids[place] != todo.mask_id:
            _set(state, row, place, state.choices[row, place])
            ids[place] = todo.mask_id
            again[place] = True


@njit
def _pick(logits: Any, letters: int, quantile: float) -> int:
    """Draws a letter of a set by inversion of the softmax over that set.

    Returns:
        The index of the letter; -1 if no letter of the set has a positive probability.
    """
    # The largest logit is subtracted before exponentials are taken, so that none overflows.
    top = -np.inf
    for i in range(len(logits)):
        if letters >> i & 1:
            top = max(top, logits[i])
    if top == -np.inf:
        return -1
    total = 0.0
    for i in range(len(logits)):
        if letters >> i & 1:
            total += np.exp(logits[i] - top)
    # The quantile times the total is used up letter by letter. The last letter with a chance is
    # kept, so that rounding at the end of the sum cannot leave the draw without one.
    left, choice = quantile * total, -1
    for i in range(len(logits)):
        if letters >> i & 1 and logits[i] > -np.inf and left >= 0:
            choice = i
            left -= np.exp(logits[i] - top)
    return choice
