"""Letters and their ids. The only file that knows which letters there are.

Token ids are those of the published Caduceus vocabulary (CLS 0, SEP 1, BOS 2, MASK 3, PAD 4, RESERVED 5, UNK 6, A 7,
C 8, G 9, T 10, N 11), so that published weights can be used unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

_IUPAC = {
    "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip


@dataclass(frozen=True)
class Alphabet:
    """A set of letters, their token ids, their complements, and the codes for "one of several letters".

    Attributes:
        letters: the K letters, in the order of a denoiser's outputs.
        first_id: token id of ``letters[0]``; the others follow it.
        complement: the complement of each letter, or None where there is none (RNA fold, protein, bytes).
        ambiguity: code -> the letters it may stand for. As *data* such a code is an unknown letter.
        unknown: the code that stands for every letter; it is written where a letter is not known.
        vocab_size: number of token ids, special ones included.
    """

    letters: str = "ACGT"
    first_id: int = 7
    complement: str | None = "TGCA"
    ambiguity: Mapping[str, str] = field(default_factory=lambda: dict(_IUPAC))
    unknown: str = "N"
    bos_id: int = 2
    mask_id: int = 3
    pad_id: int = 4
    vocab_size: int = 12

    def __len__(self) -> int:
        return len(self.letters)

    @property
    def unknown_id(self) -> int:
        """Token id of an unknown letter (N)."""
        return self.first_id + len(self)

    @property
    def ids(self) -> range:
        """Token ids of the letters."""
        return range(self.first_id, self.first_id + len(self))

    @property
    def complement_ids(self) -> list[int]:
        """For each token id, the id of its complement; ids that are not letters are their own.

        Raises:
            ValueError: if the alphabet has no complement.
        """
        if self.complement is None:
            raise ValueError(f"the alphabet {self.letters!r} has no complement")
        table = list(range(self.vocab_size))
        for letter, other in zip(self.letters, self.complement, strict=True):
            table[self.first_id + self.letters.index(letter)] = self.first_id + self.letters.index(
                other
            )
        return table

    @cached_property
    def _id_of_byte(self) -> np.ndarray:
        table = np.full(256, -1, np.int64)
        for code in self.ambiguity:
            table[[ord(code), ord(code.lower())]] = self.unknown_id
        for i, letter in enumerate(self.letters):
            table[[ord(letter), ord(letter.lower())]] = self.first_id + i
        return table

    @cached_property
    def _byte_of_id(self) -> np.ndarray:
        table = np.zeros(self.vocab_size, np.uint8)
        table[self.first_id : self.unknown_id + 1] = np.frombuffer(
            (self.letters + self.unknown).encode(), np.uint8
        )
        return table

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids (L,) int64 of a sequence. Case is ignored; an ambiguity code is an unknown letter.

        Raises:
            ValueError: naming the first character that is neither a letter nor an ambiguity code, and its place
                (1-based).
        """
        raw = np.frombuffer(
            text.encode("latin-1", "replace") if isinstance(text, str) else text, np.uint8
        )
        tokens = self._id_of_byte[raw]
        if tokens.size and tokens.min() < 0:
            place = int(np.argmin(tokens))
            raise ValueError(
                f"{chr(raw[place])!r} at position {place + 1} is not a letter of {self.letters}"
            )
        return tokens

    def decode(self, tokens: Tensor | np.ndarray) -> str:
        """The sequence of a vector of token ids (L,).

        Raises:
            ValueError: if a token is neither a letter nor unknown (a mask, a pad), naming it and its place (1-based).
        """
        ids = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
        valid = (ids >= self.first_id) & (ids <= self.unknown_id)
        if not valid.all():
            place = int(np.argmin(valid))
            raise ValueError(
                f"token {int(ids[place])} at position {place + 1} is not a letter of {self.letters}"
            )
        return self._byte_of_id[ids].tobytes().decode()

    def scorable(self, tokens: Tensor) -> Tensor:
        """True where a token is a letter: the positions that may be masked, noised, scored and sampled."""
        return (tokens >= self.first_id) & (tokens < self.unknown_id)

    def letter_index(self, tokens: Tensor) -> Tensor:
        """0..K-1 for letters. Other tokens give a legal index too (0 or K-1), to be ignored by the caller's mask."""
        return (tokens - self.first_id).clamp(0, len(self) - 1)

    def reverse_complement(self, tokens: Tensor) -> Tensor:
        """Token ids (..., L) of the opposite strand, read in its own direction."""
        return torch.tensor(self.complement_ids, device=tokens.device)[tokens].flip(-1)


DNA = Alphabet()
