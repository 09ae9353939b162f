"""Sites that must not occur on either strand, and runs of one base, which are sites too."""

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
    """A short sequence: its name in messages, and its IUPAC letters."""

    name: str
    letters: str


class Sites(NamedTuple):
    """Sites as sets of letters for the kernels: `patterns` (P, longest) and `sizes` (P,), int64."""

    patterns: np.ndarray
    sizes: np.ndarray


def read_sites(option: str, text: str, alphabet: Alphabet) -> list[Site]:
    """Reads sites: IUPAC letters, a restriction enzyme, or a file (a name with a dot or a slash).

    The recognition sites of enzymes are those of Biopython's copy of REBASE (Roberts et al. 2023).

    Args:
        option: "avoid" or "require", for the names of the sites.
        text: what the user wrote.
        alphabet: the letters.

    Raises:
        InputError: naming what cannot be read.
    """
    if "." not in text and "/" not in text:
        return [_site(option, text, alphabet)]

    # FASTA begins with ">", and no site or enzyme does.
    content = "".join(lines(Path(text), "text"))
    if content.startswith(">"):
        records = parse_fasta(Path(text), content)
        sites = [_named(option, name, letters, alphabet) for name, letters in records]
    else:
        words = (line.split("#")[0].strip() for line in content.splitlines())
        sites = [_site(f"{text}: {option}", word, alphabet) for word in words if word]
    if not sites:
        raise InputError(f"{text}: no site in it; give FASTA, or one site or enzyme on a line")
    return sites


def homopolymers(longest: int, alphabet: Alphabet) -> list[Site]:
    """Returns the runs of one letter that are one longer than allowed."""
    name = f"max_homopolymer {longest}"
    return [Site(name, letter * (longest + 1)) for letter in alphabet.letters]


def letter_sets(letters: str, alphabet: Alphabet) -> np.ndarray:
    """Returns the set of each IUPAC letter (L,) int64: bit i is for letter i of the alphabet."""
    sets = []
    for code in letters:
        possible = alphabet.ambiguity.get(code, code)
        sets.append(sum(1 << alphabet.letters.index(letter) for letter in possible))
    return np.array(sets)


def compile_sites(sites: Sequence[Site], alphabet: Alphabet) -> tuple[Sites, list[str]]:
    """Returns each site on both strands, equal patterns once, and the name of each pattern."""
    # A dictionary drops patterns that occur twice, such as the two strands of a palindrome.
    patterns: dict[tuple[int, ...], str] = {}
    for site in sites:
        sets = letter_sets(site.letters, alphabet)
        patterns.setdefault(tuple(sets.tolist()), site.name)
        if alphabet.complement is not None:
            patterns.setdefault(tuple(_other_strand(sets, alphabet).tolist()), site.name)

    # The kernels need one rectangular array, so shorter patterns are filled up with zeros.
    table = np.zeros((len(patterns), max(map(len, patterns), default=1)), np.int64)
    for row, letters in zip(table, patterns, strict=True):
        row[: len(letters)] = letters
    sizes = np.array([len(pattern) for pattern in patterns], np.int64)
    return Sites(table, sizes), list(patterns.values())


@njit
def forbidden(sites: Any, sets: Any, place: int) -> int:
    """Returns the letters that would complete a site at `place`, given the sets (L,) elsewhere."""
    found = 0
    for p in range(len(sites.sizes)):
        size = sites.sizes[p]
        for start in range(max(0, place - size + 1), min(place, len(sets) - size) + 1):
            if completes(sites, p, sets, start, place):
                found |= sites.patterns[p, place - start]
    return found


@njit
def completes(sites: Any, p: int, sets: Any, start: int, place: int) -> bool:
    """Returns whether pattern `p` certainly occurs at `start`, whatever is drawn at `place`."""
    for i in range(sites.sizes[p]):
        # A set with a letter outside the pattern's may still turn into something else.
        if start + i != place and sets[start + i] & ~sites.patterns[p, i]:
            return False
    return True


def violated(
    sites: Sites, names: Sequence[str], sets: np.ndarray, place: int
) -> Iterator[tuple[str, int]]:
    """Yields the name of each site and the letters that it forbids at `place`."""
    for p, name in enumerate(names):
        one = Sites(sites.patterns[p : p + 1], sites.sizes[p : p + 1])
        yield name, forbidden(one, sets, place)


def _site(option: str, word: str, alphabet: Alphabet) -> Site:
    """Returns the site of one word: the name of an enzyme, in any case, or IUPAC letters."""
    # Importing the table of enzymes takes a tenth of a second, which only this function needs.
    from Bio.Restriction.Restriction_Dictionary import rest_dict

    enzymes = {name.lower(): name for name in rest_dict}
    if enzyme := enzymes.get(word.lower()):
        return _named(option, enzyme, str(rest_dict[enzyme]["site"]), alphabet)
    letters = word.upper()
    if set(letters) <= {*alphabet.letters, *alphabet.ambiguity}:
        return _named(option, "", letters, alphabet)

    near = difflib.get_close_matches(word.lower(), enzymes, 3, 0.7)
    hint = "give IUPAC letters, an enzyme or a file"
    if "," in word or " " in word:
        hint = "give several sites as a list"
    elif near:
        hint = f"did you mean {' or '.join(sorted(enzymes[name] for name in near))}?"
    raise InputError(
        f"{option} {word}: neither IUPAC letters nor a known restriction enzyme; {hint}"
    )


def _named(option: str, name: str, letters: str, alphabet: Alphabet) -> Site:
    """Returns a site after checking its letters."""
    letters = letters.upper()
    label = f"{option} {name} ({letters})" if name else f"{option} {letters}"
    if not set(letters) <= {*alphabet.letters, *alphabet.ambiguity}:
        raise InputError(f"{label}: not IUPAC letters")
    if not letters.strip(alphabet.unknown):
        raise InputError(
            f"{label}: {alphabet.unknown} alone matches every sequence; give other letters"
        )
    return Site(label, letters)


def _other_strand(sets: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Returns the sets of the reverse complement of sets (L,) of letters."""
    # Each bit moves to the place of the complementary letter, and the positions are reversed.
    other = [alphabet.letters.index(letter) for letter in alphabet.complement or alphabet.letters]
    bits = sets[:, None] >> np.arange(len(other)) & 1
    return (bits << np.array(other)).sum(1)[::-1]
