"""Unique k-mers: none occurs twice in a sequence, on either strand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from dnadiff.alphabet import Alphabet
from dnadiff.errors import InputError

_SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)  # Fibonacci hashing (Knuth, volume 3, section 6.4)


class Kmers(NamedTuple):
    """The k-mers of each sequence for the kernels, with a hash table of the complete ones.

    A k-mer is a number in base K, and so is its reverse complement; the table is keyed by the
    smaller of the two.

    Attributes:
        size: k; 0 where k-mers may repeat.
        weight: (k,) int64, the value of a digit at each place of a k-mer.
        other_weight: (k,) int64, the same for its reverse complement.
        complement: (K,) int64, index of each letter's complement. In an alphabet without
            complements a letter is its own and both weights are the same, so that both numbers are.
        missing: (B, L) int32, number of letters not yet known of the k-mer that begins here.
        forward: (B, L) int64, the k-mer that begins here, as far as it is known.
        backward: (B, L) int64, its reverse complement.
        head: (B, H) int32, the first k-mer of each chain of the hash table, or -1; H is a power
            of 2.
        next: (B, L) int32, the next k-mer in its chain, or -1.
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
    """Returns the longest k for which every k-mer is a 63-bit number."""
    size = 1
    # The kernels compute with int64, which has 63 bits besides the sign.
    while len(alphabet) ** (size + 1) < 1 << 63:
        size += 1
    return size


def compile_kmers(size: int | None, rows: int, length: int, alphabet: Alphabet) -> Kmers:
    """Returns the k-mers of (rows, length) sequences in which every position is open.

    Raises:
        InputError: if there are fewer different k-mers than positions for them.
    """
    size, base = size or 0, len(alphabet)
    if size and length - size + 1 > (kinds := _kinds(size, alphabet)):
        raise InputError(
            f"unique_kmer {size}: {length} bases have {length - size + 1:,} {size}-mers, but there"
            f" are only {kinds:,} different ones, both strands counted: shorten the sequence or"
            " raise it"
        )

    columns = length if size else 0
    # In the reverse complement the digits are in the opposite order, and so are their values.
    weight = base ** np.arange(size, dtype=np.int64)
    other_letters = alphabet.complement or alphabet.letters
    complement = [alphabet.letters.index(letter) for letter in other_letters]
    chains = 1 << max(columns, 1).bit_length()
    return Kmers(
        size=size,
        weight=weight[::-1].copy(),
        other_weight=weight if alphabet.complement else weight[::-1].copy(),
        complement=np.array(complement, np.int64),
        missing=np.full((rows, columns), size, np.int32),
        forward=np.zeros((rows, columns), np.int64),
        backward=np.zeros((rows, columns), np.int64),
        head=np.full((rows, chains), -1, np.int32),
        next=np.full((rows, columns), -1, np.int32),
    )


def _kinds(size: int, alphabet: Alphabet) -> int:
    """Returns the number of k-mers, a k-mer and its reverse complement counted once."""
    base = len(alphabet)
    if alphabet.complement is None:
        return base**size
    # A k-mer that is its own reverse complement is determined by its first half.
    palindromes = base ** (size // 2) if size % 2 == 0 else 0
    return (base**size + palindromes) // 2


@njit
def only(letters: int) -> int:
    """Returns the index of the letter of a set of one letter, else -1."""
    if letters & (letters - 1):
        return -1
    index = 0
    while letters >> (index + 1):
        index += 1
    return index


@njit
def forbidden(kmers: Any, row: int, place: int) -> int:
    """Returns the letters that would repeat a k-mer at `place`, which is open.

    A letter is forbidden if it completes a k-mer that exists already, or two equal ones.
    """
    found = 0
    first, last = _around(kmers, place)
    for i in range(first, last):
        # Only a k-mer whose last open position is this one would be completed.
        if kmers.missing[row, i] != 1:
            continue
        for letter in range(len(kmers.complement)):
            if found >> letter & 1:
                continue
            kmer = _completed(kmers, row, i, place, letter)
            exists = _is_there(kmers, row, kmer)
            if exists or _is_made(kmers, row, first, i, place, letter, kmer):
                found |= 1 << letter
    return found


@njit
def change(kmers: Any, row: int, place: int, before: int, after: int) -> None:
    """Updates the k-mers and their table when the set of letters at `place` changes."""
    old, new = only(before), only(after)
    if old == new:
        return
    first, last = _around(kmers, place)
    for i in range(first, last):
        # A complete k-mer leaves the table before its number changes, by which it is found there.
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
    """Returns the range of the k-mers that contain `place`."""
    if kmers.size == 0:
        return 0, 0
    return max(0, place - kmers.size + 1), min(place, kmers.missing.shape[1] - kmers.size) + 1


@njit
def _add(kmers: Any, row: int, i: int, place: int, letter: int, sign: int) -> None:
    """Adds a letter to k-mer i (sign 1), or removes it (sign -1)."""
    kmers.missing[row, i] -= sign
    kmers.forward[row, i] += sign * letter * kmers.weight[place - i]
    kmers.backward[row, i] += sign * kmers.complement[letter] * kmers.other_weight[place - i]


@njit
def _completed(kmers: Any, row: int, i: int, place: int, letter: int) -> int:
    """Returns the smaller number of k-mer i, of which only `place` is open, with a letter there."""
    forward = kmers.forward[row, i] + letter * kmers.weight[place - i]
    backward = kmers.backward[row, i] + kmers.complement[letter] * kmers.other_weight[place - i]
    return min(forward, backward)


@njit
def _is_made(
    kmers: Any, row: int, first: int, end: int, place: int, letter: int, kmer: int
) -> bool:
    """Returns whether the letter makes one of the k-mers from `first` to `end - 1` equal `kmer`."""
    for i in range(first, end):
        if kmers.missing[row, i] == 1 and _completed(kmers, row, i, place, letter) == kmer:
            return True
    return False


@njit
def _number(kmers: Any, row: int, i: int) -> int:
    """Returns the key of k-mer i in the table: the smaller of its two numbers."""
    return min(kmers.forward[row, i], kmers.backward[row, i])


@njit
def _chain(kmers: Any, kmer: int) -> int:
    """Returns the chain of the hash table to which a k-mer belongs."""
    # The high bits of the product depend on all digits of the k-mer, its low bits on the last ones.
    mixed = kmer * _SPREAD
    return ((mixed >> 32) ^ mixed) & (kmers.head.shape[1] - 1)


@njit
def _is_there(kmers: Any, row: int, kmer: int) -> bool:
    """Returns whether a k-mer is in the table."""
    # Different k-mers may share a chain, so the numbers themselves are compared.
    i = kmers.head[row, _chain(kmers, kmer)]
    while i >= 0:
        if _number(kmers, row, i) == kmer:
            return True
        i = kmers.next[row, i]
    return False


@njit
def _enter(kmers: Any, row: int, i: int) -> None:
    """Puts k-mer i at the head of its chain."""
    chain = _chain(kmers, _number(kmers, row, i))
    kmers.next[row, i] = kmers.head[row, chain]
    kmers.head[row, chain] = i


@njit
def _strike(kmers: Any, row: int, i: int) -> None:
    """Removes k-mer i from its chain."""
    chain = _chain(kmers, _number(kmers, row, i))
    at = kmers.head[row, chain]
    if at == i:
        kmers.head[row, chain] = kmers.next[row, i]
        return
    while kmers.next[row, at] != i:
        at = kmers.next[row, at]
    kmers.next[row, at] = kmers.next[row, i]
