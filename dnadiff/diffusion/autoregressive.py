"""Autoregressive (left-to-right) modelling: the exact likelihood by the chain rule."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import cross_entropy
from dnadiff.diffusion.objective import (
    Bound,
    Conditioned,
    Denoiser,
    Draw,
    Objective,
    select_rows,
)
from dnadiff.errors import UsageError
from dnadiff.rng import Stream, uniform

_CUTS = 4  # in the first probe of a network
_TOLERANCE = 1e-3  # of the largest change of an output
_MIN_CHANGE = 1e-2  # in nats; a network whose outputs change less than this ignores its input
_LOWEST = -100.0  # log-probabilities are compared from here on: minus infinity has no differences


class Autoregressive(Objective):
    """Computes -log p(x) = sum of -log p(x_i | x_1 .. x_{i-1}), exactly.

    The network is given clean tokens, and its output i must depend only on tokens before i. A
    bidirectional network has the same interface, but the result would be a pseudo-likelihood, which
    can be below the entropy. So `bound` probes the network and refuses one that looks ahead.

    An unknown base (N) is not scored, but later bases are predicted given it.
    """

    time_conditioned = False
    causal = True
    corruption = "none"

    def __init__(self, *, alphabet: Alphabet = DNA) -> None:
        super().__init__(alphabet)
        # The network that was last found to be causal, and the longest sequence it was probed with.
        self._probed: weakref.ref[Any] | None = None
        self._probed_length = 0

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for pickle, without the weak reference, which cannot be pickled."""
        return {**self.__dict__, "_probed": None}

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw | None = None
    ) -> Float[Tensor, "B L"]:
        """Returns -log p (B, L) in nats of each base given those before it; `draw` is not used."""
        log_p = F.log_softmax(self.call_denoiser(denoiser, tokens), -1)
        cost = cross_entropy(log_p, self.alphabet.letter_index(tokens))
        return cost.masked_fill(~self.alphabet.scorable(tokens), 0.0)

    @torch.no_grad()
    def bound(
        self,
        denoiser: Denoiser,
        tokens: Int64[Tensor, "B L"],
        *,
        draws: int = 1,
        seed: int = 0,
        index: Int64[Tensor, " B"] | None = None,
    ) -> Bound:
        """Returns the exact negative log-likelihood of each sequence, in one call of the network.

        Args:
            denoiser: the network, in evaluation mode.
            tokens: (B, L) int64 clean token ids.
            draws: not used, as nothing is random.
            seed: of the probe for look-ahead; the result does not depend on it.
            index: not used.

        Raises:
            UsageError: if an output of the network depends on its own token or on a later one.
        """
        self.check(denoiser)
        self._check_causal(denoiser, tokens, seed)
        nats = self.per_token_nelbo(denoiser, tokens).double().sum(1)
        return Bound(nats, torch.zeros_like(nats), self.alphabet.scorable(tokens).sum(1), "exact")

    def _check_causal(self, denoiser: Denoiser, tokens: Tensor, seed: int) -> None:
        """Probes a network once, and again for a sequence longer than all earlier ones."""
        network = denoiser.denoiser if isinstance(denoiser, Conditioned) else denoiser
        known = self._probed is not None and self._probed() is network
        length = tokens.shape[1]
        if known and length <= self._probed_length:
            return

        # A longer sequence only adds longer distances to look ahead, and one cut shows them all.
        self._probe(select_rows(denoiser, slice(1)), tokens[:1], 1 if known else _CUTS, seed)
        self._probed_length = length
        with suppress(TypeError):  # an object without weak references is probed every time
            self._probed = weakref.ref(network)

    def _probe(self, denoiser: Denoiser, tokens: Tensor, cuts: int, seed: int) -> None:
        """Changes everything from a cut on and compares the outputs up to it, at several cuts.

        All tokens from position c on are changed at once. Output c then changes if it depends on
        its own token, output c - 1 if it depends on any token at least 1 ahead, and so on down to
        output 0. So a single cut detects a network that looks ahead by the same distance
        everywhere, whatever that distance is, and a network that sees to the end of a block.
        Several cuts are needed for a network that looks ahead only at some positions.

        Args:
            denoiser: the network, of one row.
            tokens: (1, L).
            cuts: number of cuts, at random positions.
            seed: of the positions of the cuts and of the substituted bases.
        """
        length, size = tokens.shape[1], len(self.alphabet)
        row = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        shift = (uniform(seed, Stream.LETTER, row, length) * (size - 1)).long() + 1
        changed = (self.alphabet.letter_index(tokens) + shift) % size + self.alphabet.first_id
        # The sequence is divided into equal parts, and every part but the last has one cut. The
        # last part always follows the cut, so some outputs change in a causal network too; they
        # give the scale with which the other changes are compared.
        chance = uniform(seed, Stream.PLACE, row, cuts)[0].tolist()
        places = [int((part + u) * length / (cuts + 1)) for part, u in enumerate(chance)]

        # A convolution by Fourier transform spreads rounding errors over the whole sequence, about
        # 1e-5 of the real changes. In bfloat16 they would exceed the tolerance: no autocast here.
        with torch.autocast(tokens.device.type, enabled=False):
            before = self._log_p(denoiser, tokens)
            seen, largest = 0.0, _MIN_CHANGE
            for place in places:
                other = torch.cat([tokens[:, :place], changed[:, place:]], 1)
                moved = (self._log_p(denoiser, other) - before).abs().amax(-1)
                seen = max(seen, float(moved[:, : place + 1].max()))
                largest = max(largest, float(moved.max()))
        if seen > _TOLERANCE * largest:
            raise UsageError(
                "Autoregressive needs a network whose output i depends on tokens before i only:"
                " the outputs of this one change when a token at or after them is changed"
            )

    def _log_p(self, denoiser: Denoiser, tokens: Tensor) -> Tensor:
        """Returns log-probabilities (B, L, K), none below `_LOWEST`."""
        return F.log_softmax(self.call_denoiser(denoiser, tokens), -1).clamp(min=_LOWEST)
