"""Draws sequences of any length window by window, in an order that keeps fixed letters in view.

Semi-autoregressive decoding (MDLM, Sahoo et al. 2024, section 3.3) slides a window over a sequence.
A network that sees only the window draws letters without regard to a fixed letter beyond it. So the
order is planned from the template, before anything is drawn:

1. Restricted letters first, each in a window with its nearest fixed and restricted neighbours.
2. Gaps between two known letters, from left to right. Where both ends fit into one window, the
   middle of the gap is drawn, given both ends, then the two halves in windows of their own. A gap
   that is longer than a window is first drawn from its left end, until the rest fits.
3. What follows the last known letter, from left to right.
4. What precedes the first known letter, from right to left.

A window draws `stride` letters at most, except at the ends of a sequence. The other hidden letters
that it shows are its look-ahead, and are drawn in later windows.

For a stationary source of order 1, a Markov chain, a letter depends on the nearest known letters on
both sides only. So, given a template of fixed letters, the samples have exactly the distribution of
the source if no gap between neighbouring fixed letters is longer than window - 2. The parts before
the first and after the last fixed letter may have any length. In a longer gap, letters are drawn
without regard to its right end as long as that is more than window - 2 letters away; the error is
the dependence that remains over such a distance. For a source of order m the same holds for gaps of
window - 2m letters, if each end is m fixed letters and the stride is from m to window - m.
Restricted letters are exact too if each run of neighbouring ones fits into one window together with
the fixed letters next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnadiff.sampling.state import LetterDrawer, LogitsOf, SamplingState


class Window(NamedTuple):
    """A window, and the letters that are drawn in it.

    Attributes:
        start: its first position.
        first: first position to draw.
        last: one past the last position to draw.
        restricted: draw only the letters that the template restricts.
    """

    start: int
    first: int
    last: int
    restricted: bool = False


class WindowPlanner:
    """Plans the windows of one row.

    Args:
        free: (L,) bool, the positions to draw.
        fixed: (L,) bool, the positions of fixed letters.
        restricted: (L,) bool, the free positions where not all letters are allowed.
        window: positions of a window, at least 2 and less than L.
        stride: letters that a window draws, from 1 to `window` - 1.
    """

    def __init__(
        self,
        free: np.ndarray,
        fixed: np.ndarray,
        restricted: np.ndarray,
        window: int,
        stride: int,
    ) -> None:
        self.window, self.stride = window, stride
        self.length = len(free)
        self.fixed, self.restricted = fixed, restricted
        self.known = np.flatnonzero(fixed | restricted)
        # Letters to draw before each position: a window without any is left out.
        self.draws_before = np.concatenate([[0], np.cumsum(free)])

    def windows(self) -> list[Window]:
        """Returns the windows in the order in which they are drawn; see the module."""
        planned = [*self._restricted(), *self._unrestricted()]
        counts = self.draws_before
        return [w for w in planned if w.restricted or counts[w.last] > counts[w.first]]

    def _unrestricted(self) -> Iterator[Window]:
        """Yields the windows of all other letters."""
        if not len(self.known):
            yield from self._rightward(0)
            return
        known = self.known.tolist()
        for left, right in pairwise(known):
            yield from self._between(left + 1, right)
        yield from self._rightward(known[-1] + 1)
        yield from self._leftward(known[0])

    def _rightward(self, first: int) -> Iterator[Window]:
        """Yields windows from `first` to the end of the sequence, each after what is known."""
        while first < self.length:
            # The window lies as far to the left as possible, to show letters drawn before. At the
            # beginning of a sequence it cannot move left, so it draws more than `stride` letters.
            count = min(max(self.stride, self.window - first), self.length - first)
            yield self._window(first + count - self.window, first, first + count)
            first += count

    def _leftward(self, last: int) -> Iterator[Window]:
        """Yields windows from `last` back to the beginning: the mirror image of `_rightward`."""
        while last > 0:
            count = min(max(self.stride, self.window - (self.length - last)), last)
            yield self._window(last - count, last - count, last)
            last -= count

    def _between(self, first: int, last: int) -> Iterator[Window]:
        """Yields the windows of a gap between two known letters."""
        in_sight = self.window - 2  # letters of a gap that a window shows with both of its ends
        while last - first > in_sight:
            count = min(max(self.stride, self.window - first), last - first - in_sight)
            yield self._window(first + count - self.window, first, first + count)
            first += count
        yield from self._in_sight(first, last)

    def _in_sight(self, first: int, last: int) -> Iterator[Window]:
        """Yields the windows of a gap whose both ends fit into one window: its middle first."""
        size = last - first
        if size <= 0:
            return
        count = min(size, self.stride)
        middle = first + (size - count) // 2
        start = first - (self.window - size) // 2  # about as much known on either side
        yield self._window(start, middle, middle + count)
        yield from self._in_sight(first, middle)
        yield from self._in_sight(middle + count, last)

    def _restricted(self) -> Iterator[Window]:
        """Yields the windows of restricted letters, from left to right."""
        drawn_to = 0
        for place in np.flatnonzero(self.restricted).tolist():
            if place < drawn_to:
                continue
            rank = int(np.searchsorted(self.known, place))
            before = int(self.known[rank - 1]) if rank else place
            leftmost = before if place - before < self.window else place

            # The window shows as many fixed and restricted letters to the right as it can.
            end = int(np.searchsorted(self.known, leftmost + self.window))
            rightmost = int(self.known[end - 1])
            spare = self.window - (rightmost - leftmost + 1)
            window = self._window(leftmost - spare // 2, place, 0, restricted=True)
            drawn_to = window.start + self.window
            yield window._replace(last=drawn_to)

    def _window(self, start: int, first: int, last: int, *, restricted: bool = False) -> Window:
        """Returns a window that begins at `start`, or as near to it as the sequence allows."""
        start = max(0, min(start, self.length - self.window))
        return Window(start, first, last, restricted)


def semi_autoregressive(
    state: SamplingState,
    window: int,
    stride: int,
    draw: Callable[[SamplingState], Tensor],
    *,
    whole: bool = False,
) -> Tensor:
    """Draws window after window, each given the letters known in it. Returns tokens (B, L).

    Args:
        state: what to draw; L is more than `window`.
        window: positions that the network is shown at once.
        stride: letters that a window draws, less than `window`.
        draw: a sampler, which draws the free letters of a state.
        whole: the sampler has no masks, so it must draw every hidden letter of a window. Those of
            the look-ahead are then hidden again.
    """
    tokens = state.template.clone()
    plans = [planner.windows() for planner in _planners(state, window, stride)]
    # Rows differ in their fixed letters, so at one turn their windows may be anywhere.
    for turn in range(max(map(len, plans), default=0)):
        rows = [row for row, plan in enumerate(plans) if turn < len(plan)]
        part = _Part(state, tokens, rows, [plans[row][turn] for row in rows], window)
        part.draw(draw, whole=whole)
    return tokens


def _planners(state: SamplingState, window: int, stride: int) -> Iterator[WindowPlanner]:
    """Yields a planner for each row."""
    free = state.free.numpy(force=True)
    fixed = state.alphabet.scorable(state.template).numpy(force=True)
    restricted = np.zeros_like(free)
    if state.allowed is not None:
        restricted = free & ~state.allowed.all(-1).numpy(force=True)
    for row in range(len(free)):
        yield WindowPlanner(free[row], fixed[row], restricted[row], window, stride)


class _Part:
    """The windows of one turn, one for each of R rows, cut out of the sequences.

    Args:
        state: of the whole sequences.
        tokens: (B, L) what is drawn so far; changed in place.
        rows: the R rows.
        windows: of these rows.
        size: positions of a window.
    """

    def __init__(
        self,
        state: SamplingState,
        tokens: Tensor,
        rows: list[int],
        windows: list[Window],
        size: int,
    ) -> None:
        self.state, self.tokens = state, tokens
        device = tokens.device
        self.rows = torch.tensor(rows, device=device)[:, None]
        self.start = torch.tensor([window.start for window in windows], device=device)
        self.columns = self.start[:, None] + torch.arange(size, device=device)

        self.shown = tokens[self.rows, self.columns]
        hidden = state.free[self.rows, self.columns] & (self.shown == state.alphabet.mask_id)
        self.hidden = hidden
        first, last, only = self._column(windows, "first", "last", "restricted")
        self.wanted = hidden & (self.columns >= first) & (self.columns < last)
        if state.allowed is not None:
            unrestricted = state.allowed[self.rows, self.columns].all(-1)
            self.wanted &= ~(only.bool() & unrestricted)

    def _column(self, windows: list[Window], *names: str) -> Iterator[Tensor]:
        """Yields an attribute of the windows as a column (R, 1), for each of the names."""
        for name in names:
            values = [getattr(window, name) for window in windows]
            yield torch.tensor(values, device=self.tokens.device)[:, None]

    def draw(self, draw: Callable[[SamplingState], Tensor], *, whole: bool) -> None:
        """Draws the wanted letters, and puts them into the sequences."""
        state, rows = self.state, self.rows[:, 0]
        constrained = None
        if state.constrained is not None:
            constrained = _ConstrainedPart(state.constrained, self.tokens, self.rows, self.columns)
        allowed = label = None
        if state.allowed is not None:
            allowed = state.allowed[self.rows, self.columns]
        if state.label is not None:
            label = state.label[rows]
        part = replace(
            state,
            template=self.shown,
            # A sampler without masks cannot leave a letter hidden, so it draws the look-ahead too.
            free=self.hidden if whole else self.wanted,
            allowed=allowed,
            label=label,
            index=state.index[rows],
            constrained=constrained,
            first=self.start,
        )
        drawn = draw(part)
        # Constraints may have changed letters of earlier windows, so all that is shown is copied.
        look_ahead = self.hidden & ~self.wanted
        drawn = drawn.masked_fill(look_ahead, state.alphabet.mask_id)
        self.tokens[self.rows, self.columns] = drawn


class _ConstrainedPart:
    """Draws letters of windows so that the whole sequences violate no constraint.

    Args:
        batch: the whole sequences.
        tokens: (B, L) what is drawn so far.
        rows: (R, 1) the rows that have a window.
        columns: (R, W) its positions.
    """

    def __init__(self, batch: LetterDrawer, tokens: Tensor, rows: Tensor, columns: Tensor) -> None:
        self.batch, self.rows, self.columns = batch, rows, columns
        self.tokens = tokens.clone()

    def draw(
        self, tokens: Tensor, now: Tensor, quantile: Tensor, logits: LogitsOf, within: Tensor
    ) -> None:
        """Draws as `ConstrainedBatch.draw` does, on tensors (R, W) of the windows."""
        self.tokens[self.rows, self.columns] = tokens

        def logits_of(where: Tensor) -> Tensor:
            """Returns logits (M, K) of positions of the whole sequences, all in windows."""
            # The first call is about the positions that the sampler named, as the same tensor,
            # because it may have their logits already.
            if where is now_whole:
                return logits(now)
            # Constraints may have removed letters, so the network needs the current ones.
            tokens.copy_(self.tokens[self.rows, self.columns])
            return logits(where[self.rows, self.columns])

        now_whole = self._spread(now)
        self.batch.draw(
            self.tokens, now_whole, self._spread(quantile), logits_of, self._spread(within)
        )
        tokens.copy_(self.tokens[self.rows, self.columns])

    def _spread(self, part: Tensor) -> Tensor:
        """Returns a tensor (B, L) with the windows' values (R, W), and zeros elsewhere."""
        whole = torch.zeros_like(self.tokens, dtype=part.dtype)
        whole[self.rows, self.columns] = part
        return whole
