"""What is fixed, what is free, and which letters are allowed where."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.errors import InputError


def parse_template(text: str, alphabet: Alphabet = DNA) -> tuple[Tensor, Tensor | None]:
    """A template of IUPAC letters as tokens (L,) and allowed letters (L, K).

    Letters are fixed; the unknown letter (N) is free; any other ambiguity code is free among the letters it stands for.
    `allowed` is None where no code restricts.

    Raises:
        InputError: naming the first character that is no IUPAC letter, or if the template is empty.
    """
    text = text.strip().upper()
    if not text:
        raise InputError("the template is empty; give letters, with N where the model may choose")
    for place, code in enumerate(text):
        if code not in alphabet.letters and code not in alphabet.ambiguity:
            raise InputError(f"template position {place + 1}: {code!r} is not an IUPAC letter")
    tokens = torch.from_numpy(alphabet.encode(text))
    tokens = tokens.masked_fill(tokens == alphabet.unknown_id, alphabet.mask_id)
    if set(text) <= {*alphabet.letters, alphabet.unknown}:
        return tokens, None
    allowed = [[letter in alphabet.ambiguity.get(code, code) for letter in alphabet.letters] for code in text]
    return tokens, torch.tensor(allowed)


def free_template(count: int, length: int, alphabet: Alphabet = DNA) -> Tensor:
    """Tokens (count, length), all free."""
    return torch.full((count, length), alphabet.mask_id)
