"""Copies of one sequence under several names: found by content, kept in one split, or named."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff.errors import InputError, UsageError
from dnadiff.genome import (
    SPLITS,
    Interval,
    audit_files,
    copies,
    find_copies,
    make_all_splits,
    make_splits,
    open_sources,
    split_genome,
    split_genomes,
    subtract,
)

_OTHER = str.maketrans("ACGTacgt", "TGCAtgca")


def dna(size, seed):
    return "".join(random.Random(seed).choices("ACGT", k=size))


def opposite(text):
    return text.translate(_OTHER)[::-1]


def mutated(text, share, seed=0):
    """The text with a share of its letters replaced by others."""
    draw = random.Random(seed)
    letters = list(text)
    for place in draw.sample(range(len(text)), int(share * len(text))):
        letters[place] = draw.choice([letter for letter in "ACGT" if letter != letters[place]])
    return "".join(letters)


def contigs(count=12, size=2000):
    return {f"c{i}": dna(size, i) for i in range(count)}


def split_of(splits, chrom):
    found = {split for split in SPLITS for i in splits[split] if i.chrom == chrom}
    assert len(found) <= 1
    return next(iter(found), None)


def linked(genome):
    names = list(genome.contigs)
    return {frozenset((names[a], names[b])) for a, b in find_copies([genome]).links.tolist()}


@pytest.mark.parametrize(
    "change",
    [
        str,
        str.lower,
        opposite,
        lambda text: mutated(text, 0.02),
        lambda text: opposite(mutated(text, 0.02)),
        lambda text: text[500:],
        lambda text: dna(300, "left") + text[:-300],
        lambda text: text[:700] + "N" * 500 + text[700:],
    ],
)
def test_a_copy_is_found_whatever_it_is_called(genome_of, change):
    texts = contigs()
    genome = genome_of(texts | {"copy": change(texts["c3"])})
    assert linked(genome) == {frozenset(("c3", "copy"))}


def test_what_shares_little_is_no_copy(genome_of):
    texts = contigs()
    texts["repeat"] = dna(1600, "r") + texts["c3"][:400]
    texts["distant"] = mutated(texts["c4"], 0.15)
    texts["unknown"] = texts["hidden"] = "N" * 2000
    assert linked(genome_of(texts)) == set()


@pytest.mark.parametrize("change", [str, str.lower, opposite])
def test_short_copies_are_compared_base_for_base(genome_of, change):
    texts = {"a": "GATTACANGATTAC", "b": "GATTACANGATTAG", "c": "ACGTNN"}
    genome = genome_of(texts | {"copy": change(texts["a"]), "n": "NN", "m": "NN"})
    assert linked(genome) == {frozenset(("a", "copy"))}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ACGTN", min_size=1, max_size=9), min_size=2, max_size=7))
def test_any_short_contigs_are_grouped_as_python_compares_them(genome_of, texts):
    texts = [*texts, "ACGTGGCATTGAC"]
    genome = genome_of({f"c{i}": text for i, text in enumerate(texts)})
    forms = [min(text, opposite(text)) for text in texts]
    group = find_copies([genome]).group
    for i, one in enumerate(forms):
        for j, other in enumerate(forms):
            same = i == j or (one == other and set(one) != {"N"})
            assert (group[i] == group[j]) == same


def test_pieces_and_threads_lose_no_kmer(genome_of, monkeypatch):
    genome = genome_of({"a": dna(300, 1), "b": dna(31, 2), "c": "ACGT" * 7, "d": dna(90, 3)})
    whole = copies._sample(genome, lambda bases: None)
    monkeypatch.setattr(copies, "_PIECE", 7)
    pieces = copies._sample(genome, lambda bases: None)
    assert np.array_equal(whole.positions, pieces.positions)
    assert np.array_equal(whole.hashes, pieces.hashes)
    starts = [*range(270), 300, *range(359, 359 + 60)]
    assert whole.positions.tolist() == starts


def test_a_large_genome_is_sampled_and_the_sample_is_kept(genome_of, monkeypatch):
    texts = contigs(count=4, size=5000)
    genome = genome_of(texts | {"copy": mutated(texts["c1"], 0.01)})
    full = find_copies([genome])
    monkeypatch.setattr(copies, "_KEPT", 3000)
    monkeypatch.setattr(copies, "_CACHED_BASES", 100)
    thin = find_copies([genome])
    assert len(thin.sketches[0].hashes) < len(full.sketches[0].hashes) / 4
    assert thin.near.tolist() == full.near.tolist() == [[1, 4]]

    monkeypatch.setattr(copies, "_sample", None)  # the second time it is read
    again = find_copies([genome])
    assert np.array_equal(again.sketches[0].hashes, thin.sketches[0].hashes)
    assert np.array_equal(again.sketches[0].positions, thin.sketches[0].positions)


def test_genomes_of_different_size_are_compared_at_one_density(genome_of, monkeypatch):
    monkeypatch.setattr(copies, "_KEPT", 3000)
    large = contigs(count=8, size=3000)
    small = {"other": dna(1200, "o"), "copy": large["c5"]}
    found = find_copies([genome_of(large), genome_of(small)])
    assert found.near.tolist() == [[5, 9]]


# ---- what becomes of them ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_a_contig_are_in_its_split(genome_of, seed):
    texts = contigs()
    order = random.Random(seed).sample(sorted(texts), len(texts))
    texts |= {f"{name}_mat": mutated(texts[name], 0.005) for name in order[:6]}
    texts |= {f"{order[0]}_rc": opposite(texts[order[0]])}
    splits = split_genome(genome_of(texts), 100)
    for name in order[:6]:
        assert split_of(splits, name) == split_of(splits, f"{name}_mat") is not None
    assert split_of(splits, f"{order[0]}_rc") == split_of(splits, order[0])
    assert {split_of(splits, name) for name in texts} == set(SPLITS)
    assert "copies of one sequence in one split: " in splits.how
    assert "share sequence" not in splits.how


def test_a_genome_without_copies_says_nothing_of_them(genome_of):
    assert "cop" not in split_genome(genome_of(contigs()), 100).how


def test_a_chromosome_in_two_files_is_in_one_split(genome_of):
    texts = contigs()
    first = genome_of(texts, name="all.fa")
    splits = split_genome(first, 100)
    held = splits["test"][0].chrom
    second = genome_of({"mine": opposite(texts[held]), "new": dna(2000, "new")}, name="one.fa")
    for genomes in ([first, second], [second, first]):
        found = dict(zip([g.name for g in genomes], split_genomes(genomes, 100), strict=True))
        assert split_of(found["all"], held) == split_of(found["one"], "mine") is not None
        assert "mine" in found["one"].how and f"{held} of all.fa" in found["one"].how


def test_the_same_file_twice_is_split_alike(genome_of):
    genome = genome_of(contigs())
    one, other = split_genomes([genome, genome], 100)
    assert {s: one[s] for s in SPLITS} == {s: other[s] for s in SPLITS}


def test_copies_of_a_contig_in_blocks_are_left_out(genome_of):
    text = dna(5000, 1)
    genome = genome_of({"short": mutated(text[:4000], 0.01), "long": text})
    splits = split_genome(genome, 100)
    assert {i.chrom for split in SPLITS for i in splits[split]} == {"long"}
    assert "copies of a contig in blocks, in no split: short" in splits.how
    assert "1 other contig(s) in no split" in splits.how

    first, second = split_genomes([genome_of({"x": text}), genome_of({"y": opposite(text)})], 100)
    assert all(first[split] for split in SPLITS)
    assert not any(second[split] for split in SPLITS)


def test_a_genome_too_short_to_split_follows_its_copies(genome_of):
    texts = contigs()
    first = genome_of(texts)
    held = split_genome(first, 100)["test"][0].chrom
    second = genome_of({"mine": texts[held], "new": dna(200, "new")})
    _, splits = split_genomes([first, second], 100)
    assert (split_of(splits, "mine"), split_of(splits, "new")) == ("test", "train")
    with pytest.raises(InputError, match="too short to hold out"):
        split_genomes([first, genome_of({"new": dna(200, "new")})], 100)


def test_what_a_bed_file_leaves_in_two_splits_is_named(genome_of, tmp_path, caplog):
    texts = contigs(4)
    genome = genome_of(texts | {"copy": mutated(texts["c0"], 0.003), "rc": opposite(texts["c1"])})
    bed = tmp_path / "split.bed"
    rows = {
        "c0": "train",
        "c1": "train",
        "c2": "valid",
        "c3": "test",
        "copy": "test",
        "rc": "train",
    }
    bed.write_text("".join(f"{chrom}\t0\t2000\t{split}\n" for chrom, split in rows.items()))
    splits = make_splits(genome, 100, intervals=bed)
    assert "splits share sequence: test copy and train c0 (9" in splits.how
    assert "rc" not in splits.how.partition("share")[2].replace("sequence", "")
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "test copy and train c0" in record.message


def test_only_the_bases_in_splits_count(genome_of, tmp_path):
    text = dna(4000, 1)
    genome = genome_of({"a": text, "b": text, "c": dna(900, 2)})
    bed = tmp_path / "split.bed"
    bed.write_text("a\t0\t2000\ttrain\nb\t2000\t4000\ttest\nc\t0\t900\tvalid\n")
    assert "share sequence" not in make_splits(genome, 100, intervals=bed).how
    bed.write_text("a\t0\t2000\ttrain\nb\t1000\t3000\ttest\nc\t0\t900\tvalid\n")
    splits = make_splits(genome, 100, intervals=bed)
    assert "test b and train a (49 %)" in splits.how
    cut = subtract(splits["test"], [Interval("b", 1000, 2000)])
    assert cut == [Interval("b", 2000, 3000)]
    black = tmp_path / "black.bed"
    black.write_text("b\t1000\t2000\n")
    assert "share" not in make_splits(genome, 100, intervals=bed, blacklist=black).how


def test_a_family_of_many_copies_takes_little_and_stays_together(genome_of):
    text = dna(400, 1)
    family = {f"f{i}": mutated(text, 0.005, seed=i) for i in range(40)}
    genome = genome_of(family | contigs(30, 600))
    group = find_copies([genome]).group[:40]
    assert len(set(group.tolist())) == 1


# ---- the genomes of a run ------------------------------------------------------------------------


def test_sources_are_described_and_audited(fasta):
    texts = contigs()
    paths = [fasta(texts, name="a.fa"), fasta({"mine": texts["c3"]}, name="b.fa")]
    lines, reports = [], []
    sources = open_sources(paths, 100, log=lines.append, report=lambda *what: reports.append(what))
    assert [genome.name for genome, _ in sources] == ["a", "b"]
    assert [line.split(":")[0] for line in lines] == ["a", "b"]
    assert {title for title, _, _ in reports} == {"index a.fa", "index b.fa", "look for copies"}
    assert all(0 <= done <= total for _, done, total in reports)

    found = audit_files(paths, window=100, windows=50)
    assert [(row.split, row.other) for row in found] == [
        ("valid", "train"), ("test", "train"), ("test", "valid")
    ]  # fmt: skip
    assert not any(row.shared_kmers or row.copies for row in found)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"test_fold": "1"}, "test_fold '1' needs intervals"),
        ({"split": "legacy"}, "split 'legacy' needs intervals"),
        ({"intervals": "x.bed"}, "intervals x.bed are for one genome, not for 2"),
        ({"blacklist": "x.bed"}, "blacklist x.bed are for one genome"),
    ],
)
def test_options_that_have_no_meaning_together(genome_of, options, message):
    genome = genome_of(contigs())
    with pytest.raises(UsageError, match=message):
        make_all_splits([genome, genome], 100, **options)


@pytest.mark.parametrize("options", [{"window": 0}, {"windows": 0}])
def test_an_audit_of_nothing(fasta, options):
    with pytest.raises(UsageError, match="must be at least 1, got 0"):
        audit_files([fasta(contigs())], **options)
