"""Sequences in the making: letters are drawn here so that together they break no constraint, whatever the sampler."""

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
"""How often one corner is drawn again before it is given up."""


def reach(attempt: int) -> int:
    """Letters on each side of a corner that are drawn again at an attempt, counted from 0."""
    return 4 + attempt // 2


class _State(NamedTuple):
    """A batch of sequences for the kernels, their letters as sets.

    Attributes:
        free: (B, L) bool, the places that are drawn.
        choices: (B, L) int64, what the template leaves open at each place.
        sets: (B, L) int64, what each place can still be.
        sites, shares, kmers: the constraints.
    """

    free: np.ndarray
    choices: np.ndarray
    sets: np.ndarray
    sites: sites.Sites
    shares: gc.Shares
    kmers: kmers.Kmers


class _Pass(NamedTuple):
    """What is drawn in one pass.

    Attributes:
        first: (B + 1,) int64, the number of the first place to draw of each row; M at the end.
        places: (M,) int64, the places to draw, row after row, each from left to right.
        logits: (M, K) float64.
        quantile: (M,) float64.
        within: (B, L) bool, the letters that may be opened again.
        width: letters on each side of a corner that are opened again; below 0 a row ends at its corner instead.
        mask_id, first_id: of the alphabet.
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
    """A batch of sequences, and what every open place of each can still become.

    Args:
        template: (B, L) int64 token ids; the mask id is open, every other id is fixed.
        allowed: (B, L, K) bool, the letters that open places may become; None for all.
        constraints: what to keep to.
        seed: of the run.
        index: (B,) sample numbers.

    Attributes:
        open: (B, L) bool, the places that are drawn.
        broken: (B,) int64, the first place where a template alone breaks a constraint, whatever is drawn; -1 for none.
        redraws: (B,) int64, how often letters of each sequence had to be drawn again.

    Raises:
        InputError: if no sequence of this length can keep a constraint.
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
            np.full(template.shape, (1 << len(self.alphabet)) - 1),
            patterns,
            gc.compile_shares(constraints.gc, rows, length, self.alphabet),
            kmers.compile_kmers(constraints.unique_kmer, rows, length, self.alphabet),
        )
        self.broken = np.full(rows, -1)
        with threads():
            _load(*self._state, self.broken)

    def check(self) -> None:
        """Makes sure that no template breaks a constraint by itself.

        Raises:
            InputError: naming the constraint and the place.
        """
        for row in np.flatnonzero(self.broken >= 0)[:1]:
            place = int(self.broken[row])
            whose = (
                "the template's letters break it at"
                if not self._state.free[row, place]
                else "no letter is left at"
            )
            raise InputError(
                f"{self.culprits(row, place)}: {whose} position {place + 1}, whatever is drawn; change the template or"
                " leave the constraint out"
            )

    def draw(
        self,
        tokens: Tensor,
        now: Tensor,
        quantile: Tensor,
        logits: Callable[[Tensor], Tensor],
        within: Tensor | None = None,
    ) -> None:
        """Draws letters in place, so that together and with all letters there are they break no constraint.

        In every row the places are taken from left to right, each with the letters masked that would break something.
        Where none is left, those that were drawn around that place are wiped out, up to a distance that grows, and
        drawn again from new logits. Rows know nothing of each other.

        Args:
            tokens: (B, L) int64 token ids, letters drawn by anyone so far; the mask id where nothing is.
            now: (B, L) bool, the places to draw, all open.
            quantile: (B, L) float64 in (0, 1), one number for each place.
            logits: the logits (M, K) of the places where a (B, L) bool tensor is True, row by row, given the tokens as
                they are when it is called.
            within: (B, L) bool, the letters that may be wiped out, if they are open; None for all.

        Raises:
            InputError: naming the constraint, if a corner has no way out.
        """
        within = torch.ones_like(now) if within is None else within
        for attempt in range(REDRAWS + 1):
            width = -1 if attempt == REDRAWS else reach(attempt)
            now, corners = self._pass(tokens, now, quantile, logits(now), within, width)
            rows = now.any(1).nonzero()[:, 0]
            if len(rows) == 0:
                return
            quantile = torch.zeros_like(quantile)
            quantile[rows] = self.numbers_again(rows)
        self.give_up(int(rows[0]), int(corners[rows[0]]))

    def attempt(self, tokens: Tensor, now: Tensor, quantile: Tensor, logits: Tensor) -> Tensor:
        """Draws in place at most one letter of each row, and wipes out none.

        Args:
            tokens, now, quantile: as for `draw`.
            logits: (M, K), of the places to draw.

        Returns:
            (B,) bool, the rows in which no letter fits.
        """
        again, _ = self._pass(tokens, now, quantile, logits, now, -1)
        return again.any(1)

    def numbers_again(self, rows: Tensor) -> Tensor:
        """Random numbers (R, L) to draw letters of these rows (R,) with once more."""
        self.redraws[rows] += 1
        length = self._state.sets.shape[1]
        return uniform(self.seed, Stream.REDRAW, self.index[rows], length, step=self.redraws[rows])

    def give_up(self, row: int, place: int) -> NoReturn:
        """Ends with an error that names what forbids all letters at a place of a row."""
        raise InputError(
            f"{self.culprits(row, place)}: no letter fits at position {place + 1} of sample {int(self.index[row])},"
            f" though its neighbours were drawn {REDRAWS} times; loosen a constraint"
        )

    def culprits(self, row: int, place: int) -> str:
        """The constraints that forbid letters at a place of a row, by name."""
        state = self._state
        forbidden = [
            *sites.culprits(state.sites, self._site_names, state.sets[row], place),
            *gc.culprits(state.shares, self._share_names, row, state.sets[row, place], place),
            (f"--unique-kmer {state.kmers.size}", kmers.forbidden(state.kmers, row, place)),
        ]
        names = [name for name, letters in forbidden if letters & state.choices[row, place]]
        return (
            " and ".join(dict.fromkeys(names)) or "the letters to which the network gives a chance"
        )

    def _pass(
        self,
        tokens: Tensor,
        now: Tensor,
        quantile: Tensor,
        logits: Tensor,
        within: Tensor,
        width: int,
    ) -> tuple[Tensor, np.ndarray]:
        """Draws once. Returns which places are still, or again, to be drawn, and a corner of each row, or -1."""
        rows, places = now.nonzero().T.numpy(force=True)
        here = tokens.cpu().contiguous()
        again, corners = np.zeros(here.shape, bool), np.full(len(here), -1)
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
            _draw(*self._state, todo, here.numpy(), again, corners)
        if here is not tokens:
            tokens.copy_(here)
        return torch.from_numpy(again).to(now.device), corners


def open_letters(template: Tensor, allowed: Tensor | None, alphabet: Alphabet) -> np.ndarray:
    """The set (B, L) int64 of letters that each place of a template can be: all for an unknown letter that is fixed."""
    bits = 1 << torch.arange(len(alphabet), device=template.device)
    everything = int(bits.sum())
    fixed = torch.where(
        alphabet.scorable(template), bits[alphabet.letter_index(template)], everything
    )
    open_ = everything if allowed is None else (allowed * bits).sum(-1)
    return torch.where(template == alphabet.mask_id, open_, fixed).numpy(force=True)


@njit
def _fitting(state: Any, row: int, place: int) -> int:
    """The letters that a place may become without breaking anything."""
    letters = state.choices[row, place]
    if kmers.only(state.sets[row, place]) >= 0:  # it has been counted as what it is
        return letters
    letters &= ~sites.forbidden(state.sites, state.sets[row], place)
    letters &= ~gc.forbidden(state.shares, row, state.sets[row, place], place)
    return letters & ~kmers.forbidden(state.kmers, row, place)


@njit
def _set(state: Any, row: int, place: int, letters: int) -> None:
    """Narrows or widens what a place can be."""
    before = state.sets[row, place]
    if before != letters:
        gc.change(state.shares, row, place, before, letters)
        kmers.change(state.kmers, row, place, before, letters)
        state.sets[row, place] = letters


@kernel
def _load(
    free: Any, choices: Any, sets: Any, sites_: Any, shares: Any, kmers_: Any, broken: Any
) -> None:
    """Enters every row of a template. Numba's threads take no tuples in tuples, so the state comes in its parts."""
    for row in numba.prange(len(broken)):
        broken[row] = _load_row(_State(free, choices, sets, sites_, shares, kmers_), row)


@njit
def _load_row(state: Any, row: int) -> int:
    """Enters what is fixed, letter by letter, then looks at what is open. The first place without a letter, or -1."""
    for place in range(state.sets.shape[1]):
        if state.choices[row, place] != state.sets[row, place]:
            if _fitting(state, row, place) == 0:
                return place
            _set(state, row, place, state.choices[row, place])
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
    corners: Any,
) -> None:
    """One pass over the rows; see `ConstrainedBatch.draw`."""
    for row in numba.prange(len(ids)):
        if todo.first[row] < todo.first[row + 1]:
            state = _State(free, choices, sets, sites_, shares, kmers_)
            corners[row] = _draw_row(state, row, todo, ids[row], again[row])


@njit
def _draw_row(state: Any, row: int, todo: Any, ids: Any, again: Any) -> int:
    """Draws the letters of a row from left to right. Returns the last corner, or -1."""
    _catch_up(state, row, todo, ids)
    corner, wiped = -1, -1
    for m in range(todo.first[row], todo.first[row + 1]):
        place = todo.places[m]
        if place <= wiped:
            again[place] = True
            continue
        letter = _pick(todo.logits[m], _fitting(state, row, place), todo.quantile[m])
        if letter >= 0:
            _set(state, row, place, 1 << letter)
            ids[place] = todo.first_id + letter
        else:
            corner, wiped = place, place + todo.width
            again[place] = True
            if todo.width < 0:
                break
            _wipe(state, row, place, todo, ids, again)
    return corner


@njit
def _catch_up(state: Any, row: int, todo: Any, ids: Any) -> None:
    """Takes over what a sampler has drawn or wiped out by itself."""
    free, choices, sets = state.free[row], state.choices[row], state.sets[row]
    for place in range(len(ids)):
        if free[place]:
            letters = (
                choices[place] if ids[place] == todo.mask_id else 1 << (ids[place] - todo.first_id)
            )
            if letters != sets[place]:
                _set(state, row, place, letters)


@njit
def _wipe(state: Any, row: int, corner: int, todo: Any, ids: Any, again: Any) -> None:
    """Opens once more what was drawn around a corner."""
    for place in range(max(0, corner - todo.width), min(len(ids), corner + todo.width + 1)):
        if state.free[row, place] and todo.within[row, place] and ids[place] != todo.mask_id:
            _set(state, row, place, state.choices[row, place])
            ids[place] = todo.mask_id
            again[place] = True


@njit
def _pick(logits: Any, letters: int, quantile: float) -> int:
    """A letter of a set by inversion of the softmax over that set; -1 if it has none with a chance."""
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
    left, choice = quantile * total, -1
    for i in range(len(logits)):
        if letters >> i & 1 and logits[i] > -np.inf and left >= 0:
            choice = i
            left -= np.exp(logits[i] - top)
    return choice
