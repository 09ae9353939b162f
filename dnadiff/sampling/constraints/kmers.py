"""No k-mer twice, on either strand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from dnadiff.alphabet import Alphabet
from dnadiff.errors import InputError

_SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)  # Fibonacci hashing (Knuth, volume 3, section 6.4)


class Kmers(NamedTuple):
    """The k-mers of each sequence for the kernels, and for each sequence a hash table of those that are complete.

    A k-mer is a number in base K, and so is its reverse complement; it is looked up by the smaller of the two.

    Attributes:
        size: k; 0 where k-mers may repeat.
        weight, other_weight: (k,) int64, what a letter at each place of a k-mer counts in the two numbers.
        complement: (K,) int64, index of each letter's complement. In an alphabet without, a letter is its own, the
            weights are the same, and so are the two numbers.
        missing: (B, L) int32, letters that the k-mer that begins here still lacks.
        forward, backward: (B, L) int64, the k-mer that begins here and its reverse complement, as far as known.
        head: (B, H) int32, the first k-mer of each chain of the hash table, or -1; H is a power of 2.
        next: (B, L) int32, the next one in its chain, or -1.
    """

    size: int
    weight: np.ndarray
    other_weight: np.ndarray
    complement: np.ndarray
    missing: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    head: np.ndarray
    next: np.ndarray


def largest_kmer(alphabet: Alphabet) -> int:
    """The longest k-mer that is a 63-bit number."""
    size = 1
    while len(alphabet) ** (size + 1) < 1 << 63:
        size += 1
    return size


def compile_kmers(size: int | None, rows: int, length: int, alphabet: Alphabet) -> Kmers:
    """The k-mers of (rows, length) sequences in which every letter is open.

    Raises:
        InputError: if there are fewer k-mers than places for them.
    """
    size, base = size or 0, len(alphabet)
    if size and length - size + 1 > (kinds := _kinds(size, alphabet)):
        raise InputError(
            f"--unique-kmer {size}: {length} bases have {length - size + 1:,} {size}-mers, but there are only {kinds:,}"
            " different ones, both strands counted: shorten the sequence or raise it"
        )
    columns = length if size else 0
    weight = base ** np.arange(size, dtype=np.int64)
    return Kmers(
        size,
        weight[::-1].copy(),
        weight if alphabet.complement else weight[::-1].copy(),
        np.array(
            [alphabet.letters.index(letter) for letter in alphabet.complement or alphabet.letters],
            np.int64,
        ),
        np.full((rows, columns), size, np.int32),
        np.zeros((rows, columns), np.int64),
        np.zeros((rows, columns), np.int64),
        np.full((rows, 1 << max(columns, 1).bit_length()), -1, np.int32),
        np.full((rows, columns), -1, np.int32),
    )


def _kinds(size: int, alphabet: Alphabet) -> int:
    """How many k-mers differ from one another and from each other's reverse complement."""
    base = len(alphabet)
    if alphabet.complement is None:
        return base**size
    palindromes = base ** (size // 2) if size % 2 == 0 else 0
    return (base**size + palindromes) // 2


@njit
def only(letters: int) -> int:
    """The index of the letter of a set that has one, else -1."""
    if letters & (letters - 1):
        return -1
    index = 0
    while letters >> (index + 1):
        index += 1
    return index


@njit
def forbidden(kmers: Any, row: int, place: int) -> int:
    """The letters that would complete a k-mer at `place`, now open, that is there already, or two that are the same."""
    found = 0
    first, last = _around(kmers, place)
    for i in range(first, last):
        if kmers.missing[row, i] != 1:
            continue
        for letter in range(len(kmers.complement)):
            kmer = _completed(kmers, row, i, place, letter)
            if found >> letter & 1 == 0 and (
                _is_there(kmers, row, kmer) or _is_made(kmers, row, first, i, place, letter, kmer)
            ):
                found |= 1 << letter
    return found


@njit
def change(kmers: Any, row: int, place: int, before: int, after: int) -> None:
    """Enters and strikes k-mers when the set of letters at `place` changes."""
    old, new = only(before), only(after)
    if old == new:
        return
    first, last = _around(kmers, place)
    for i in range(first, last):
        if old >= 0:
            if kmers.missing[row, i] == 0:
                _strike(kmers, row, i)
            _add(kmers, row, i, place, old, -1)
        if new >= 0:
            _add(kmers, row, i, place, new, 1)
            if kmers.missing[row, i] == 0:
                _enter(kmers, row, i)


@njit
def _around(kmers: Any, place: int) -> tuple[int, int]:
    """The range of k-mers that have `place` in them."""
    if kmers.size == 0:
        return 0, 0
    return max(0, place - kmers.size + 1), min(place, kmers.missing.shape[1] - kmers.size) + 1


@njit
def _add(kmers: Any, row: int, i: int, place: int, letter: int, sign: int) -> None:
    """Adds a letter to k-mer i, or takes it away."""
    kmers.missing[row, i] -= sign
    kmers.forward[row, i] += sign * letter * kmers.weight[place - i]
    kmers.backward[row, i] += sign * kmers.complement[letter] * kmers.other_weight[place - i]


@njit
def _completed(kmers: Any, row: int, i: int, place: int, letter: int) -> int:
    """K-mer i, which lacks `place` alone, with a letter there: the smaller of its two numbers."""
    forward = kmers.forward[row, i] + letter * kmers.weight[place - i]
    backward = kmers.backward[row, i] + kmers.complement[letter] * kmers.other_weight[place - i]
    return min(forward, backward)


@njit
def _is_made(
    kmers: Any, row: int, first: int, end: int, place: int, letter: int, kmer: int
) -> bool:
    """Whether the same letter also completes one of the k-mers from `first` to `end - 1` to `kmer`."""
    for i in range(first, end):
        if kmers.missing[row, i] == 1 and _completed(kmers, row, i, place, letter) == kmer:
            return True
    return False


@njit
def _number(kmers: Any, row: int, i: int) -> int:
    return min(kmers.forward[row, i], kmers.backward[row, i])


@njit
def _chain(kmers: Any, kmer: int) -> int:
    mixed = kmer * _SPREAD
    return ((mixed >> 32) ^ mixed) & (kmers.head.shape[1] - 1)


@njit
def _is_there(kmers: Any, row: int, kmer: int) -> bool:
    i = kmers.head[row, _chain(kmers, kmer)]
    while i >= 0:
        if _number(kmers, row, i) == kmer:
            return True
        i = kmers.next[row, i]
    return False


@njit
def _enter(kmers: Any, row: int, i: int) -> None:
    chain = _chain(kmers, _number(kmers, row, i))
    kmers.next[row, i] = kmers.head[row, chain]
    kmers.head[row, chain] = i


@njit
def _strike(kmers: Any, row: int, i: int) -> None:
    chain = _chain(kmers, _number(kmers, row, i))
    at = kmers.head[row, chain]
    if at == i:
        kmers.head[row, chain] = kmers.next[row, i]
        return
    while kmers.next[row, at] != i:
        at = kmers.next[row, at]
    kmers.next[row, at] = kmers.next[row, i]
