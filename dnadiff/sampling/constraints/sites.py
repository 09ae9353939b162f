"""Sites that must not occur on either strand, runs of one letter among them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from dnadiff.alphabet import Alphabet
from dnadiff.errors import InputError
from dnadiff.genome.records import parse_fasta
from dnadiff.genome.text import lines


class Site(NamedTuple):
    """A short sequence: what messages call it, and its IUPAC letters."""

    name: str
    letters: str


class Sites(NamedTuple):
    """Sites as sets of letters, for the kernels: `patterns` (P, longest) int64, `sizes` (P,) int64."""

    patterns: np.ndarray
    sizes: np.ndarray


def read_sites(flag: str, text: str, alphabet: Alphabet) -> list[Site]:
    """The sites that one word of a flag means: IUPAC letters, a restriction enzyme, or a file (a name with . or /).

    The recognition sites of enzymes are those of Biopython's copy of REBASE (Roberts et al. 2023).

    Raises:
        InputError: naming what cannot be read.
    """
    if "." not in text and "/" not in text:
        return [_site(flag, text, alphabet)]
    content = "".join(lines(Path(text), "text"))
    if content.startswith(">"):
        sites = [
            _named(flag, name, letters, alphabet)
            for name, letters in parse_fasta(Path(text), content)
        ]
    else:
        words = (line.split("#")[0].strip() for line in content.splitlines())
        sites = [_site(f"{text}: {flag}", word, alphabet) for word in words if word]
    if not sites:
        raise InputError(f"{text}: no site in it; give FASTA, or one site or enzyme on a line")
    return sites


def homopolymers(longest: int, alphabet: Alphabet) -> list[Site]:
    """The runs of one letter that are one too long."""
    return [
        Site(f"--max-homopolymer {longest}", letter * (longest + 1)) for letter in alphabet.letters
    ]


def letter_sets(letters: str, alphabet: Alphabet) -> np.ndarray:
    """The set of each IUPAC letter (L,) int64: bit i stands for letter i of the alphabet."""
    return np.array(
        [sum(1 << alphabet.letters.index(x) for x in alphabet.ambiguity.get(c, c)) for c in letters]
    )


def compile_sites(sites: Sequence[Site], alphabet: Alphabet) -> tuple[Sites, list[str]]:
    """Every site on both strands, each pattern once, and the name of each pattern."""
    patterns: dict[tuple[int, ...], str] = {}
    for site in sites:
        sets = letter_sets(site.letters, alphabet)
        for pattern in (
            (sets,) if alphabet.complement is None else (sets, _other_strand(sets, alphabet))
        ):
            patterns.setdefault(tuple(pattern.tolist()), site.name)
    table = np.zeros((len(patterns), max(map(len, patterns), default=1)), np.int64)
    for row, letters in zip(table, patterns, strict=True):
        row[: len(letters)] = letters
    return Sites(table, np.array([len(pattern) for pattern in patterns], np.int64)), list(
        patterns.values()
    )


@njit
def forbidden(sites: Any, sets: Any, place: int) -> int:
    """The letters that would complete a site at `place`, given the sets of letters (L,) of all other places."""
    found = 0
    for p in range(len(sites.sizes)):
        size = sites.sizes[p]
        for start in range(max(0, place - size + 1), min(place, len(sets) - size) + 1):
            if completes(sites, p, sets, start, place):
                found |= sites.patterns[p, place - start]
    return found


@njit
def completes(sites: Any, p: int, sets: Any, start: int, place: int) -> bool:
    """Whether the sequence has pattern `p` at `start` for sure, but for what `place` will be."""
    for i in range(sites.sizes[p]):
        if start + i != place and sets[start + i] & ~sites.patterns[p, i]:
            return False
    return True


def culprits(
    sites: Sites, names: Sequence[str], sets: np.ndarray, place: int
) -> Iterator[tuple[str, int]]:
    """Name of each site, and the letters that it forbids at `place`."""
    for p, name in enumerate(names):
        one = Sites(sites.patterns[p : p + 1], sites.sizes[p : p + 1])
        yield name, forbidden(one, sets, place)


def _site(flag: str, word: str, alphabet: Alphabet) -> Site:
    """One word: the name of an enzyme, in any case, or letters."""
    from Bio.Restriction.Restriction_Dictionary import rest_dict  # takes a tenth of a second

    enzymes = {name.lower(): name for name in rest_dict}
    if enzyme := enzymes.get(word.lower()):
        return _named(flag, enzyme, str(rest_dict[enzyme]["site"]), alphabet)
    letters = word.upper()
    if set(letters) <= {*alphabet.letters, *alphabet.ambiguity}:
        return _named(flag, "", letters, alphabet)
    near = sorted(
        enzymes[name] for name in difflib.get_close_matches(word.lower(), enzymes, 3, 0.7)
    )
    hint = (
        f"did you mean {' or '.join(near)}?" if near else "give IUPAC letters, an enzyme or a file"
    )
    raise InputError(f"{flag} {word}: neither IUPAC letters nor a known restriction enzyme; {hint}")


def _named(flag: str, name: str, letters: str, alphabet: Alphabet) -> Site:
    letters = letters.upper()
    label = f"{flag} {name} ({letters})" if name else f"{flag} {letters}"
    if not set(letters) <= {*alphabet.letters, *alphabet.ambiguity}:
        raise InputError(f"{label}: not IUPAC letters")
    if not letters.strip(alphabet.unknown):
        raise InputError(f"{label}: {alphabet.unknown} alone is every sequence; give other letters")
    return Site(label, letters)


def _other_strand(sets: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    other = [alphabet.letters.index(letter) for letter in alphabet.complement or alphabet.letters]
    bits = sets[:, None] >> np.arange(len(other)) & 1
    return (bits << np.array(other)).sum(1)[::-1]
