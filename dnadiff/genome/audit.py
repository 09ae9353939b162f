"""What splits have in common: bases, which should be none, and exact long k-mers, which repeats and copies share.

Bases are compared interval by interval, which is exact; those of labelled windows, by looking for whole windows. Of
k-mers those of a sample of held-out windows are compared, exactly, with every k-mer of the other split, on both
strands.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.genome.intervals import merge, overlap
from dnadiff.genome.kmers import KmerSet
from dnadiff.genome.labelled import LabelledWindows, fingerprint
from dnadiff.genome.store import UNKNOWN
from dnadiff.genome.window_starts import Sources
from dnadiff.genome.windows import HeldOut

_PIECE = 1 << 22  # bases that stream past at a time
_COPIED = 0.5  # share of its k-mers that makes a window a copy
_OTHERS = {"train": ("valid", "test"), "valid": ("test",)}  # which splits are compared with which


@dataclass(frozen=True)
class Shared:
    """What a held-out split shares with another.

    Attributes:
        split: the held-out split.
        other: the other one.
        bases: bases of the held-out split.
        shared_bases: those that are bases of the other split too.
        windows: windows of the held-out split whose k-mers were compared.
        k: bases of a k-mer.
        kmers: places of these windows at which a k-mer begins.
        shared_kmers: those whose k-mer occurs in the other split, on either strand.
        copies: windows of whose k-mers at least half occur in the other split.
    """

    split: str
    other: str
    bases: int
    shared_bases: int
    windows: int
    k: int
    kmers: int
    shared_kmers: int
    copies: int


def audit_splits(
    genomes: Sources,
    samples: Mapping[str, HeldOut],
    *,
    windows: int,
    k: int = 31,
    progress: Callable[[int, int], None] | None = None,
) -> list[Shared]:
    """Compares valid and test with train, and test with valid.

    It takes a pass over the known bases of train and valid, some 150 million a second on each of PyTorch's threads, and
    some 60 bytes of memory for each base of the windows.

    Args:
        genomes: genomes and their splits.
        samples: held-out windows of "valid" and of "test".
        windows: how many of each sample to look at, at most; the first ones are a random choice.
        k: bases of a k-mer, 1 to 31.
        progress: called with (bases done, bases in all).

    Raises:
        ValueError: if k is none of these, or windows is not above 0.
    """
    if windows < 1:
        raise ValueError(f"an audit of {windows} windows is none")
    texts = {split: _codes(sample.tokens(slice(windows))) for split, sample in samples.items()}
    pieces = {other: [*_pieces(genomes, other, k)] for other in _OTHERS}
    return _compare(texts, pieces, lambda split, other: _bases(genomes, split, other), k, progress)


def audit_labelled(
    windows: Mapping[str, LabelledWindows],
    *,
    limit: int,
    k: int = 31,
    progress: Callable[[int, int], None] | None = None,
) -> list[Shared]:
    """Compares labelled windows in the same way; a base is shared if the other split has its whole window.

    Args:
        windows: of "train", "valid" and "test".
        limit: of how many windows of a held-out split to look for k-mers, at most; a random choice.
        k: bases of a k-mer, 1 to 31.
        progress: called with (bases done, bases in all).
    """
    forms = {split: _forms(some) for split, some in windows.items()}

    def bases(split: str, other: str) -> tuple[int, int]:
        known = {form for form, _ in forms[other]}
        return sum(size for _, size in forms[split]), sum(
            size for form, size in forms[split] if form in known
        )

    texts = {
        split: _codes(windows[split].limited(limit).tokens(slice(None)))
        for split in ("valid", "test")
    }
    pieces = {
        other: [run for some in windows[other].batches() for run in _known(_codes(some))]
        for other in _OTHERS
    }
    return _compare(texts, pieces, bases, k, progress)


def table(found: list[Shared]) -> str:
    """An audit as text for people."""
    lines = [
        f"{'':<17}{'bases':>16}{'shared':>15}{'windows':>18}{'k-mers':>13}{'shared':>11}{'copies':>17}"
    ]
    for row in found:
        pair = f"{row.split} in {row.other}"
        bases = f"{row.bases:>16,}{row.shared_bases:>15,}{_percent(row.shared_bases, row.bases):>9}"
        kmers = f"{row.kmers:>13,}{row.shared_kmers:>11,}{_percent(row.shared_kmers, row.kmers):>9}"
        lines.append(f"{pair:<17}{bases}{row.windows:>9,}{kmers}{row.copies:>8,}")
    k = found[0].k
    lines += [
        f"k-mers: exact {k}-mers of a sample of held-out windows, looked for on both strands of all of the other;",
        "copies: windows of whose k-mers at least half are shared.",
    ]
    return "\n".join(lines)


def to_csv(found: list[Shared]) -> str:
    """An audit as text for programs."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Shared)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in found)
    return out.getvalue()


def _compare(
    texts: Mapping[str, np.ndarray],
    pieces: Mapping[str, list[np.ndarray]],
    bases: Callable[[str, str], tuple[int, int]],
    k: int,
    progress: Callable[[int, int], None] | None,
) -> list[Shared]:
    """Looks for the k-mers of texts, codes (windows, length + 1) of held-out splits, in known bases of other splits.

    `bases` tells of a split and another how many bases the former has, and how many of them are the latter's too.
    """
    kmers = KmerSet(np.concatenate([text.reshape(-1) for text in texts.values()]), k)
    total = sum(len(piece) for some in pieces.values() for piece in some)
    done = 0
    found = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for other, splits in _OTHERS.items():
            kmers.forget()
            for piece, _ in zip(pieces[other], pool.map(kmers.see, pieces[other]), strict=True):
                done += len(piece)
                if progress is not None:
                    progress(done, total)
            marks = _by_window(kmers, texts)
            found += [
                _shared(split, other, bases(split, other), k, *marks[split]) for split in splits
            ]
    return found


def _codes(tokens: Tensor) -> np.ndarray:
    """Codes (windows, length + 1) of token ids (windows, length), each window followed by an unknown base."""
    codes = (
        torch.where(DNA.scorable(tokens), DNA.letter_index(tokens), UNKNOWN)
        .numpy()
        .astype(np.uint8)
    )
    return np.pad(codes, ((0, 0), (0, 1)), constant_values=UNKNOWN)


def _known(codes: np.ndarray) -> Iterator[np.ndarray]:
    """The runs of known bases of codes (windows, length + 1), each row of which ends with an unknown base."""
    flat = codes.reshape(-1)
    edges = np.flatnonzero(np.diff(flat == UNKNOWN, prepend=True))
    return (flat[start:end] for start, end in edges.reshape(-1, 2).tolist())


def _forms(windows: LabelledWindows) -> list[tuple[bytes, int]]:
    """Of each window what its strands have in common, and how many known bases it has."""
    rows = ((fingerprint(row), row) for tokens in windows.batches() for row in tokens)
    return [(form, int(DNA.scorable(row).sum())) for form, row in rows]


def _pieces(genomes: Sources, split: str, k: int) -> Iterator[np.ndarray]:
    """The known bases of a split as codes, in pieces that a cache can hold and no k-mer is lost between."""
    for genome, splits in genomes:
        for interval in merge(splits[split]):
            for start, end in genome.segments(interval, 1).tolist():
                for first in range(start, end, _PIECE):
                    yield genome.codes[first : min(first + _PIECE + k - 1, end)]


def _by_window(
    kmers: KmerSet, texts: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each split, how many k-mers begin in each of its windows, and how many of them have been seen."""
    ends = np.cumsum([text.size for text in texts.values()])
    parts = [np.split(marks, ends[:-1]) for marks in kmers.seen()]
    return {
        split: (known.reshape(text.shape).sum(1), seen.reshape(text.shape).sum(1))
        for (split, text), known, seen in zip(texts.items(), *parts, strict=True)
    }


def _bases(genomes: Sources, split: str, other: str) -> tuple[int, int]:
    """Bases of a split, and those that are bases of the other too."""
    bases = sum(len(interval) for _, splits in genomes for interval in merge(splits[split]))
    return bases, sum(overlap(splits[split], splits[other]) for _, splits in genomes)


def _shared(
    split: str, other: str, bases: tuple[int, int], k: int, known: np.ndarray, seen: np.ndarray
) -> Shared:
    copies = int(((known > 0) & (seen >= _COPIED * known)).sum())
    return Shared(split, other, *bases, len(known), k, int(known.sum()), int(seen.sum()), copies)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"
