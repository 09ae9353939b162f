"""The audit: what Python sets say of bases and k-mers, on both strands, whatever the genomes and splits."""

import csv
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff.errors import InputError
from dnadiff.genome import (
    Genome,
    Interval,
    Shared,
    Splits,
    audit,
    audit_splits,
    held_out,
    make_splits,
)
from dnadiff.genome.audit import table, to_csv
from dnadiff.genome.kmers import KmerSet

_OTHER = str.maketrans("ACGT", "TGCA")


def kmers_of(text, k):
    """Each k-mer of known bases, with its place; the smaller of it and its reverse complement."""
    text = text.upper()
    pieces = [(i, text[i : i + k]) for i in range(len(text) - k + 1)]
    return [(i, min(p, p.translate(_OTHER)[::-1])) for i, p in pieces if set(p) <= set("ACGT")]


def codes_of(text):
    return np.array(["ACGTN".index(letter) for letter in text.upper()], np.uint8)


@settings(max_examples=100, deadline=None)
@given(
    st.text("ACGTN", max_size=60),
    st.lists(st.text("ACGT", max_size=40), max_size=4),
    st.sampled_from([1, 2, 3, 4, 5, 8, 30, 31]),
)
def test_a_set_of_kmers_knows_what_it_has_seen(text, others, k):
    kmers = KmerSet(codes_of(text), k)
    for other in others:
        kmers.see(codes_of(other))
    seen = {kmer for other in others for _, kmer in kmers_of(other, k)}
    known, found = kmers.seen()
    assert np.flatnonzero(known).tolist() == [i for i, _ in kmers_of(text, k)]
    assert np.flatnonzero(found).tolist() == [i for i, kmer in kmers_of(text, k) if kmer in seen]
    kmers.forget()
    assert not kmers.seen()[1].any()


@pytest.mark.parametrize("k", [0, 32])
def test_kmers_that_do_not_fit(k):
    with pytest.raises(ValueError, match="1 to 31 are possible"):
        KmerSet(codes_of("ACGT"), k)


pieces = st.lists(
    st.sampled_from(["ACGTTGCA", "ACCA", "TTTT", "N", "NNNNN", "gattaca", "TGTAATC"]),
    min_size=3,
    max_size=9,
)


@st.composite
def cases(draw):
    """Texts of contigs of one or two genomes, and a split of each contig by three cuts."""
    genomes = []
    for _ in range(draw(st.integers(1, 2))):
        texts = {f"c{i}": "".join(draw(pieces)) + "A" for i in range(draw(st.integers(1, 2)))}
        intervals = {"train": [], "valid": [], "test": []}
        for chrom, text in texts.items():
            cuts = sorted(draw(st.lists(st.integers(0, len(text)), min_size=6, max_size=6)))
            for split, pair in zip(intervals, zip(cuts[::2], cuts[1::2], strict=True), strict=True):
                intervals[split] += [Interval(chrom, *pair)] if pair[0] < pair[1] else []
        genomes.append((texts, intervals))
    return genomes


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([1, 3, 5]), st.integers(2, 9), st.integers(1, 5))
def test_any_audit_is_what_sets_say(genome_of, genomes, k, length, limit):
    sources = [(genome_of(texts), Splits(intervals, "by hand")) for texts, intervals in genomes]
    try:
        samples = {
            s: held_out(sources, split=s, length=length, limit=9, seed=1) for s in ("valid", "test")
        }
    except InputError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_PIECE", 4)  # so that most texts are cut
        found = audit_splits(sources, samples, windows=limit, k=k)
    assert [(row.split, row.other) for row in found] == [
        ("valid", "train"),
        ("test", "train"),
        ("test", "valid"),
    ]
    for row in found:
        there = {
            kmer
            for texts, intervals in genomes
            for i in intervals[row.other]
            for _, kmer in kmers_of(texts[i.chrom][i.start : i.end], k)
        }
        windows = [
            "".join("ACGTN"[t - 7] for t in tokens)
            for tokens in samples[row.split].tokens_all[:limit].tolist()
        ]
        shared = [[kmer in there for _, kmer in kmers_of(window, k)] for window in windows]
        assert (row.windows, row.k) == (len(windows), k)
        assert (row.kmers, row.shared_kmers) == (sum(map(len, shared)), sum(map(sum, shared)))
        assert row.copies == sum(2 * sum(marks) >= len(marks) > 0 for marks in shared)
        assert row.shared_bases == 0
        assert row.bases == sum(len(i) for _, intervals in genomes for i in intervals[row.split])


def test_a_copy_on_the_other_strand_is_found(genome_of):
    rng = np.random.default_rng(0)
    train, valid, other = ("".join(rng.choice(list("ACGT"), size)) for size in (2000, 400, 200))
    copy = train[1000:1200].translate(_OTHER)[::-1]
    genome = genome_of({"a": train, "b": valid, "c": other + copy})
    splits = Splits(
        {
            s: [Interval(c, 0, n)]
            for s, c, n in (("train", "a", 2000), ("valid", "b", 400), ("test", "c", 400))
        },
        "",
    )
    samples = {
        s: held_out([(genome, splits)], split=s, length=100, limit=9, seed=0)
        for s in ("valid", "test")
    }
    progress = []
    found = audit_splits(
        [(genome, splits)], samples, windows=9, progress=lambda *done: progress.append(done)
    )
    assert [(row.shared_kmers, row.copies) for row in found] == [(0, 0), (2 * 70, 2), (0, 0)]
    assert found[1] == Shared("test", "train", 400, 0, 4, 31, 4 * 70, 140, 2)
    assert progress == [(2000, 2400), (2400, 2400)]
    assert list(csv.DictReader(to_csv(found).splitlines()))[1]["shared_kmers"] == "140"
    line = table(found).splitlines()[2].split()
    assert line == [
        "test",
        "in",
        "train",
        "400",
        "0",
        "0.00",
        "%",
        "4",
        "280",
        "140",
        "50.00",
        "%",
        "2",
    ]


def test_the_published_split_leaks_and_the_audit_says_how_much(genome_of, tmp_path):
    rng = np.random.default_rng(0)
    genome = genome_of({"chr1": "".join(rng.choice(list("ACGT"), 1_500_000))})
    bed = tmp_path / "human-sequences.bed"
    step = 131_072
    rows = [("train", 0), ("test", step), ("train", 2 * step), ("valid", 3 * step)]
    bed.write_text("".join(f"chr1\t{start}\t{start + step}\t{split}\n" for split, start in rows))
    splits = make_splits(genome, 1024, intervals=bed, split="legacy")
    samples = {
        s: held_out([(genome, splits)], split=s, length=1024, limit=64, seed=0)
        for s in ("valid", "test")
    }
    found = {
        (row.split, row.other): row for row in audit_splits([(genome, splits)], samples, windows=64)
    }
    test = found["test", "train"]
    assert (test.bases, test.shared_bases) == (1 << 20, 1 << 20)
    assert test.kmers == test.shared_kmers and test.copies == test.windows == 64
    valid = found["valid", "train"]
    assert valid.shared_bases == 2 * step + (1 << 20) - 3 * step and valid.bases == 1 << 20


def test_an_audit_of_nothing():
    with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
        audit_splits([], {}, windows=0)


@pytest.mark.skipif(
    not os.environ.get("DNADIFF_SLOW_TESTS"), reason="indexes 1.3 Gb: set DNADIFF_SLOW_TESTS"
)
def test_real_human(shared_data):
    genome = Genome.open(shared_data / "genomes" / "hg38.fa.gz")
    sources = [(genome, make_splits(genome, 1024))]
    samples = {
        s: held_out(sources, split=s, length=1024, limit=256, seed=0) for s in ("valid", "test")
    }
    began = time.perf_counter()
    found = audit_splits(sources, samples, windows=256)
    assert time.perf_counter() - began < 20
    assert all(row.shared_bases == 0 and 0.01 < row.shared_kmers / row.kmers < 0.3 for row in found)
