"""The constraints of a sampling run, as the user writes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.errors import UsageError
from dnadiff.sampling.constraints.gc import Share, parse_share
from dnadiff.sampling.constraints.kmers import largest_kmer
from dnadiff.sampling.constraints.sites import Site, homopolymers, read_sites

Items = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
"""A list of sites, files or ranges; a single one needs no list, and None is an empty list."""


class Constraints:
    """Holds what sampled sequences must satisfy, and how restricted bases are drawn.

    Bases that would violate a constraint are masked when they are drawn, so no sequence violates
    one, and a constraint that cannot be satisfied is an error. The distribution is not the exact
    conditional: bases drawn before a constraint takes effect do not anticipate it.

    Args:
        avoid: sites that occur on neither strand. Each is IUPAC letters ("GGTCTC"), the name of a
            restriction enzyme ("BsaI"), or a file: FASTA, or one site or enzyme per line.
        require: motifs, written in the same ways, that every sequence contains on the strand as
            written.
        gc: ranges of the GC content, "LOW:HIGH" of the whole sequence or "LOW:HIGH:WINDOW" of every
            window of that many bases.
        max_homopolymer: the longest run of one base.
        unique_kmer: k; no k-mer occurs twice, on either strand.
        approximate: draw bases that a template restricts first, one after another, rather than from
            their exact joint distribution; always so where a constraint is enforced.
        alphabet: the letters.

    Attributes:
        avoid: the sites, with those that forbid runs of one base.
        require: the motifs.
        gc: the ranges.
        unique_kmer: k, or None.
        approximate: as given.
        alphabet: as given.

    Raises:
        InputError: naming a site or a file that cannot be read.
        UsageError: naming an argument of the wrong type or out of range.
    """

    def __init__(
        self,
        *,
        avoid: Items = (),
        require: Items = (),
        gc: Items = (),
        max_homopolymer: int | None = None,
        unique_kmer: int | None = None,
        approximate: bool = False,
        alphabet: Alphabet = DNA,
    ) -> None:
        lists = {
            "avoid": _items("avoid", avoid, '"GAATTC" or "EcoRI"'),
            "require": _items("require", require, '"TATAWAAG"'),
            "gc": _items("gc", gc, '"0.4:0.6" or "0.4:0.6:50"'),
        }
        # Numbers are checked before files are read, so that a typing error is reported at once.
        if max_homopolymer is not None:
            _check_number("max_homopolymer", max_homopolymer)
        if unique_kmer is not None:
            _check_number("unique_kmer", unique_kmer, largest_kmer(alphabet))

        self.avoid = _sites("avoid", lists["avoid"], alphabet)
        if max_homopolymer is not None:
            self.avoid += homopolymers(max_homopolymer, alphabet)
        self.require = _sites("require", lists["require"], alphabet)
        self.gc: list[Share] = [parse_share(text) for text in lists["gc"]]
        self.unique_kmer = unique_kmer
        self.approximate = approximate
        self.alphabet = alphabet

        # As the user wrote them, for the headers of the sequences.
        self._words = [f"{name}={','.join(values)}" for name, values in lists.items() if values]
        numbers = {"max_homopolymer": max_homopolymer, "unique_kmer": unique_kmer}
        self._words += [f"{name}={value}" for name, value in numbers.items() if value is not None]

    def __str__(self) -> str:
        return " ".join(self._words)

    @property
    def enforced(self) -> bool:
        """Whether any base may have to be masked."""
        return bool(self.avoid or self.gc or self.unique_kmer)

    @property
    def exact(self) -> bool:
        """Whether bases that a template restricts are drawn from their exact joint distribution."""
        return not (self.approximate or self.enforced)


def _items(name: str, value: Any, example: str) -> list[str]:
    """Returns a list-valued argument as a list; a single string or path is one item.

    A string is itself a sequence of strings, its letters, each of which would be a valid site. So a
    string is always taken as one item.
    """
    if value is None:
        return []
    # What is not iterable is refused below, by its type, like a wrong item of a list.
    single = isinstance(value, str | os.PathLike)
    items: list[Any] = [value] if single or not isinstance(value, Iterable) else list(value)
    for item in items:
        if not isinstance(item, str | os.PathLike):
            raise UsageError(f"{name} must be a list of texts such as {example}, not {value!r}")
    return [_text(item) for item in items]


def _text(item: str | os.PathLike[str]) -> str:
    """Returns an item as text, so that a path is always read as a file."""
    text = os.fspath(item)
    named_like_a_file = "." in text or "/" in text
    return text if isinstance(item, str) or named_like_a_file else f"./{text}"


def _check_number(name: str, value: Any, largest: int | None = None) -> None:
    """Refuses a number that is not whole, or not between 1 and `largest`."""
    # True is an int in Python, and would pass for 1 base.
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"{name} must be a whole number, not {value!r}")
    if largest is None and value < 1:
        raise UsageError(f"{name} must be at least 1, not {value}")
    if largest is not None and not 1 <= value <= largest:
        raise UsageError(f"{name} must be 1 to {largest}, not {value}")


def _sites(name: str, items: list[str], alphabet: Alphabet) -> list[Site]:
    """Returns the sites of all items of `avoid` or `require`."""
    return [site for item in items for site in read_sites(name, item, alphabet)]
