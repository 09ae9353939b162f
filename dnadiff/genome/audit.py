"""Audits what splits share: bases, of which there should be none, and exact long k-mers.

Bases of intervals are compared exactly; labelled windows are compared whole. K-mers of a sample of
held-out windows are compared with every k-mer of the other split, exactly and on both strands.
Repeats and copies of sequence share k-mers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.errors import UsageError
from dnadiff.genome.intervals import merge, overlap
from dnadiff.genome.kmers import KmerSet
from dnadiff.genome.labelled import LabelledWindows, fingerprint
from dnadiff.genome.segments import find_segments, flat_bounds
from dnadiff.genome.sources import Log, Report, open_sources
from dnadiff.genome.store import UNKNOWN
from dnadiff.genome.window_starts import Sources
from dnadiff.genome.windows import HeldOut, held_out

Progress = Callable[[int, int], None]
"""Called with (bases done, bases in all)."""

_PIECE = 1 << 22  # bases that are compared at a time
_COPY_SHARE = 0.5  # share of its k-mers that makes a window a copy
_COMPARED = {"train": ("valid", "test"), "valid": ("test",)}  # split -> those held out from it


@dataclass(frozen=True)
class Shared:
    """What a held-out split shares with another.

    Attributes:
        split: the held-out split.
        other: the other split.
        bases: bases of the held-out split.
        shared_bases: those that are bases of the other split too.
        windows: windows of the held-out split whose k-mers were compared.
        k: bases of a k-mer.
        kmers: positions in these windows at which a k-mer begins.
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


def audit_files(
    paths: Sequence[str | Path],
    *,
    intervals: str | Path | None = None,
    split: Literal["auto", "legacy"] = "auto",
    test_fold: str | None = None,
    blacklist: str | Path | None = None,
    window: int = 1024,
    windows: int = 1024,
    seed: int = 0,
    log: Log | None = None,
    report: Report | None = None,
) -> list[Shared]:
    """Audits the splits that a training run on genomes would have.

    Args:
        paths: FASTA files, plain or bgzipped, or .2bit.
        intervals: BED file of the splits; see `make_all_splits`.
        split: see `make_all_splits`.
        test_fold: see `make_all_splits`.
        blacklist: BED file of bases that no window may contain.
        window: bases of a window.
        windows: the most held-out windows of each split whose k-mers are compared; a sample.
        seed: seed of the sample.
        log: called with the notes on each genome and a table of its splits.
        report: called with (what is done, how much is done, how much there is in all).

    Raises:
        InputError: if a file cannot be used, or a held-out split has no window.
        UsageError: if `window` or `windows` is below 1, or options contradict each other.
    """
    for name, value in (("window", window), ("windows", windows)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    sources = open_sources(
        paths,
        window,
        intervals=intervals,
        split=split,
        test_fold=test_fold,
        blacklist=blacklist,
        log=log,
        report=report,
    )
    samples = {
        name: held_out(sources, split=name, length=window, limit=windows, seed=seed)
        for name in ("valid", "test")
    }

    def progress(done: int, total: int) -> None:
        if report is not None:
            report("audit", done, total)

    return audit_splits(sources, samples, windows=windows, progress=progress)


def audit_splits(
    genomes: Sources,
    samples: Mapping[str, HeldOut],
    *,
    windows: int,
    k: int = 31,
    progress: Progress | None = None,
) -> list[Shared]:
    """Compares valid and test with train, and test with valid.

    It takes a pass over the known bases of train and valid, some 150 million a second on each of
    PyTorch's threads, and some 60 bytes of memory for each base of the windows.

    Args:
        genomes: genomes and their splits.
        samples: held-out windows of "valid" and of "test".
        windows: the most windows of each sample to look at; the first ones are a random choice.
        k: bases of a k-mer, 1 to 31.
        progress: called with (bases done, bases in all).

    Raises:
        ValueError: if k is not from 1 to 31, or `windows` is below 1.
    """
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
    texts = {split: _codes(sample.tokens(slice(windows))) for split, sample in samples.items()}
    pieces = {other: list(_pieces(genomes, other, k)) for other in _COMPARED}
    return _compare(texts, pieces, lambda split, other: _bases(genomes, split, other), k, progress)


def audit_labelled(
    windows: Mapping[str, LabelledWindows],
    *,
    limit: int,
    k: int = 31,
    progress: Progress | None = None,
) -> list[Shared]:
    """Compares labelled windows in the same way; bases are shared if a whole window is.

    Args:
        windows: of "train", "valid" and "test".
        limit: the most windows of a held-out split whose k-mers are compared; a random choice.
        k: bases of a k-mer, 1 to 31.
        progress: called with (bases done, bases in all).
    """
    forms = {split: _forms(some) for split, some in windows.items()}

    def bases(split: str, other: str) -> tuple[int, int]:
        known = {form for form, _ in forms[other]}
        shared = sum(size for form, size in forms[split] if form in known)
        return sum(size for _, size in forms[split]), shared

    texts = {
        split: _codes(windows[split].limited(limit).tokens(slice(None)))
        for split in ("valid", "test")
    }
    pieces: dict[str, list[np.ndarray]] = {other: [] for other in _COMPARED}
    for other, runs in pieces.items():
        for batch in windows[other].batches():
            runs.extend(_known_runs(_codes(batch)))
    return _compare(texts, pieces, bases, k, progress)


def table(found: list[Shared]) -> str:
    """Returns an audit as text for people."""
    lines = [
        f"{'':<17}{'bases':>16}{'shared':>15}{'windows':>18}{'k-mers':>13}{'shared':>11}"
        f"{'copies':>17}"
    ]
    for row in found:
        pair = f"{row.split} in {row.other}"
        bases = f"{row.bases:>16,}{row.shared_bases:>15,}{_percent(row.shared_bases, row.bases):>9}"
        kmers = f"{row.kmers:>13,}{row.shared_kmers:>11,}{_percent(row.shared_kmers, row.kmers):>9}"
        lines.append(f"{pair:<17}{bases}{row.windows:>9,}{kmers}{row.copies:>8,}")
    lines += [
        f"k-mers: exact {found[0].k}-mers of a sample of held-out windows, compared with both "
        f"strands of the whole other split;",
        "copies: windows of whose k-mers at least half are shared.",
    ]
    return "\n".join(lines)


def to_csv(found: list[Shared]) -> str:
    """Returns an audit as CSV; the columns are the attributes of `Shared`."""
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
    progress: Progress | None,
) -> list[Shared]:
    """Looks for the k-mers of held-out windows in the other splits.

    Args:
        texts: held-out split -> codes (windows, length + 1) of its windows; see `_codes`.
        pieces: other split -> its known bases, as codes.
        bases: called with a held-out split and another, returns how many bases the former has, and
            how many of them the latter has too.
        k: bases of a k-mer.
        progress: called with (bases done, bases in all).
    """
    kmers = KmerSet(np.concatenate([text.reshape(-1) for text in texts.values()]), k)
    total = sum(len(piece) for some in pieces.values() for piece in some)
    done = 0
    found = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for other, splits in _COMPARED.items():
            kmers.forget()
            for piece, _ in zip(pieces[other], pool.map(kmers.see, pieces[other]), strict=True):
                done += len(piece)
                if progress is not None:
                    progress(done, total)

            marks = _by_window(kmers, texts)
            for split in splits:
                found.append(_shared(split, other, bases(split, other), k, *marks[split]))
    return found


def _codes(tokens: Tensor) -> np.ndarray:
    """Returns codes (windows, length + 1) of token ids (windows, length).

    An unknown base follows each window, so that no k-mer spans two windows.
    """
    codes = torch.where(DNA.scorable(tokens), DNA.letter_index(tokens), UNKNOWN)
    return np.pad(codes.numpy().astype(np.uint8), ((0, 0), (0, 1)), constant_values=UNKNOWN)


def _known_runs(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the runs of known bases of codes (windows, length + 1) that end as `_codes` does."""
    flat = codes.reshape(-1)
    edges = np.flatnonzero(np.diff(flat == UNKNOWN, prepend=True))
    for start, end in edges.reshape(-1, 2).tolist():
        yield flat[start:end]


def _forms(windows: LabelledWindows) -> list[tuple[bytes, int]]:
    """Returns, for each window, a fingerprint that both strands share, and its known bases."""
    return [
        (fingerprint(row), int(DNA.scorable(row).sum()))
        for tokens in windows.batches()
        for row in tokens
    ]


def _pieces(genomes: Sources, split: str, k: int) -> Iterator[np.ndarray]:
    """Yields the known bases of a split as codes, in pieces that fit into a processor's cache.

    Pieces of one run of known bases overlap by k - 1 bases, so that no k-mer is lost between them.
    """
    for genome, splits in genomes:
        bounds = flat_bounds(genome, merge(splits[split]))
        _, starts, ends = find_segments(genome, *bounds, gap=1)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            for first in range(start, end, _PIECE):
                yield genome.codes[first : min(first + _PIECE + k - 1, end)]


def _by_window(
    kmers: KmerSet, texts: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Counts, for each split, the k-mers of each of its windows, and those that were seen."""
    known, seen = kmers.seen()
    counts = {}
    first = 0
    # The set holds the k-mers of all texts, one after another.
    for split, text in texts.items():
        part = slice(first, first + text.size)
        counts[split] = (
            known[part].reshape(text.shape).sum(1),
            seen[part].reshape(text.shape).sum(1),
        )
        first += text.size
    return counts


def _bases(genomes: Sources, split: str, other: str) -> tuple[int, int]:
    """Counts the bases of a split, and those that are bases of the other split too."""
    bases = sum(len(interval) for _, splits in genomes for interval in merge(splits[split]))
    return bases, sum(overlap(splits[split], splits[other]) for _, splits in genomes)


def _shared(
    split: str, other: str, bases: tuple[int, int], k: int, known: np.ndarray, seen: np.ndarray
) -> Shared:
    """Sums up the k-mers of windows: `known` (windows,) in all, `seen` (windows,) in the other."""
    copies = int(((known > 0) & (seen >= _COPY_SHARE * known)).sum())
    return Shared(split, other, *bases, len(known), k, int(known.sum()), int(seen.sum()), copies)


def _percent(part: int, whole: int) -> str:
    """Returns a share as text, "-" of nothing."""
    return f"{100 * part / whole:.2f} %" if whole else "-"
