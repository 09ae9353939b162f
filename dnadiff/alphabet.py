"""Defines the letters and their token ids. No other file knows which letters there are.

Token ids are those of the published Caduceus vocabulary (CLS 0, SEP 1, BOS 2, MASK 3, PAD 4,
RESERVED 5, UNK 6, A 7, C 8, G 9, T 10, N 11), so that published weights can be used unchanged.
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
    """Defines K letters with their token ids, complements and ambiguity codes.

    Attributes:
        letters: the K letters, in the order of a denoiser's outputs.
        first_id: token id of ``letters[0]``; the others follow it.
        complement: the complement of each letter; None where there is none (proteins, bytes).
        ambiguity: code -> the letters it may stand for. As *data* such a code is an unknown letter.
        unknown: the code that stands for every letter; it is written where a letter is not known.
        bos_id: token id that begins a sequence.
        mask_id: token id of a masked letter.
        pad_id: token id that fills up a batch.
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
    def complement_index(self) -> np.ndarray:
        """Place (K,) int64 in `letters` of the complement of each letter.

        Raises:
            ValueError: if the alphabet has no complement.
        """
        if self.complement is None:
            raise ValueError(f"the alphabet {self.letters!r} has no complement")
        return np.array([self.letters.index(letter) for letter in self.complement])

    @property
    def complement_ids(self) -> list[int]:
        """For each token id, the id of its complement; an id that is not a letter is its own.

        Raises:
            ValueError: if the alphabet has no complement.
        """
        table = list(range(self.vocab_size))
        table[self.first_id : self.unknown_id] = (self.first_id + self.complement_index).tolist()
        return table

    @cached_property
    def _id_of_byte(self) -> np.ndarray:
        """Token id (256,) of each byte of a text; -1 for one that is no letter."""
        table = np.full(256, -1, np.int64)
        for code in self.ambiguity:
            table[[ord(code), ord(code.lower())]] = self.unknown_id
        for i, letter in enumerate(self.letters):
            table[[ord(letter), ord(letter.lower())]] = self.first_id + i
        return table

    @cached_property
    def _byte_of_id(self) -> np.ndarray:
        """Byte (vocab_size,) uint8 that is written for each token id."""
        table = np.zeros(self.vocab_size, np.uint8)
        # The bytes of all other ids stay 0; `decode` refuses these ids.
        table[self.first_id : self.unknown_id + 1] = np.frombuffer(
            (self.letters + self.unknown).encode(), np.uint8
        )
        return table

    def encode(self, text: str | bytes) -> np.ndarray:
        """Returns the token ids (L,) int64 of a sequence.

        Case is ignored; an ambiguity code is an unknown letter.

        Raises:
            ValueError: naming the first character that is neither a letter nor an ambiguity code,
                and its position (1-based).
        """
        # Latin-1 has one byte for each character, so positions stay those of the text.
        data = text.encode("latin-1", "replace") if isinstance(text, str) else text
        raw = np.frombuffer(data, np.uint8)
        tokens = self._id_of_byte[raw]
        if tokens.size and tokens.min() < 0:
            place = int(np.argmin(tokens))
            raise ValueError(
                f"{chr(raw[place])!r} at position {place + 1} is not a letter of {self.letters}"
            )
        return tokens

    def decode(self, tokens: Tensor | np.ndarray) -> str:
        """Returns the sequence of token ids (L,).

        Raises:
            ValueError: if a token is neither a letter nor unknown (a mask, a pad), naming it and
                its position (1-based).
        """
        ids = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
        # The id of the unknown letter follows those of the letters.
        valid = (ids >= self.first_id) & (ids <= self.unknown_id)
        if not valid.all():
            place = int(np.argmin(valid))
            raise ValueError(
                f"token {int(ids[place])} at position {place + 1} is not a letter of {self.letters}"
            )
        return self._byte_of_id[ids].tobytes().decode()

    def scorable(self, tokens: Tensor) -> Tensor:
        """Returns True where a token is a letter, which may be masked, scored and sampled."""
        return (tokens >= self.first_id) & (tokens < self.unknown_id)

    def letter_index(self, tokens: Tensor) -> Tensor:
        """Returns the place of each letter in `letters`, 0..K-1.

        Other tokens give 0 or K - 1, so that the result can always be used as an index. The caller
        ignores them by a mask.
        """
        return (tokens - self.first_id).clamp(0, len(self) - 1)

    def reverse_complement(self, tokens: Tensor) -> Tensor:
        """Returns the token ids (..., L) of the opposite strand, read in its own direction."""
        return torch.tensor(self.complement_ids, device=tokens.device)[tokens].flip(-1)


DNA = Alphabet()
