"""Splits: no base in two of them, whatever the genome, the window or the BED file."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dnadiff.errors import InputError, UsageError
from dnadiff.files import resource
from dnadiff.genome import (
    SPLITS,
    Genome,
    Interval,
    Splits,
    Windows,
    held_out,
    make_splits,
    published_splits,
    split_by_intervals,
    split_genome,
    summary,
)
from dnadiff.genome.folds import _blocks, block_folds, contig_folds, registered_folds
from dnadiff.genome.records import Record
from dnadiff.genome.store import Counts, Store

ASSEMBLIES = {
    "hg38": 3_088_269_832,
    "hg19": 3_095_677_412,
    "mm10": 2_725_521_370,
    "sacCer3": 12_071_326,
    "dm6": 137_547_960,
    "ce11": 100_272_607,
}  # bases of the chromosomes: the genomes' published sizes without unplaced contigs and the mitochondrion
HG38 = {"chr1": 248956422, "chr15": 101991189, "chr16": 90338345, "chr19": 58617616, "chr20": 64444167,
        "chr21": 46709983, "chr22": 50818468, "chrM": 16569, "chr22_KI270879v1_alt": 304135}  # fmt: skip


def bases(intervals):
    return {(i.chrom, base) for i in intervals for base in range(i.start, i.end)}


def dna(size, seed):
    """Letters that no other seed has."""
    return "".join(random.Random(seed).choices("ACGT", k=size))


def random_letters(draw, length):
    runs = draw(
        st.lists(
            st.tuples(st.sampled_from(["ACGT", "N"]), st.integers(1, 30)), min_size=1, max_size=12
        )
    )
    text = "".join((letters * size)[:size] for letters, size in runs)
    return (text * (length // len(text) + 1))[:length] + "A"


@st.composite
def genomes(draw):
    lengths = draw(st.lists(st.integers(1, 300), min_size=1, max_size=8))
    return {f"c{i}": random_letters(draw, length) for i, length in enumerate(lengths)}


# ---- what a Splits object promises ---------------------------------------------------------------


def test_splits_is_a_mapping():
    splits = Splits({"train": [Interval("a", 0, 5)]}, "by hand")
    assert list(splits) == ["train", "valid", "test"]
    assert splits["train"] == [Interval("a", 0, 5)] and splits["valid"] == splits["test"] == []
    assert splits.get("other") is None


@pytest.mark.parametrize(
    "intervals, message",
    [
        (
            {"train": [Interval("a", 0, 5)], "test": [Interval("a", 4, 6)]},
            "train a:1-5 and test a:5-6 share bases",
        ),
        (
            {"train": [Interval("a", 0, 9), Interval("a", 1, 2)], "valid": [Interval("a", 8, 9)]},
            "a:1-9 and valid a:9-9",
        ),
        ({"train": [Interval("a", 3, 4)], "valid": [Interval("a", 0, 9)]}, "share bases"),
        ({"validate": []}, "split 'validate' is not one of"),
    ],
)
def test_splits_checks_itself(intervals, message):
    with pytest.raises(ValueError, match=message):
        Splits(intervals, "by hand")


def test_neighbours_share_nothing():
    splits = Splits(
        {"train": [Interval("a", 0, 5), Interval("b", 2, 9)], "test": [Interval("a", 5, 6)]},
        "by hand",
    )
    assert splits["test"] == [Interval("a", 5, 6)]


# ---- from a BED file -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(genome_of):
    return genome_of({"chr1": "ACGTN" * 20, "chr2": "ACGT" * 10})


def test_split_by_intervals(small, tmp_path):
    bed = tmp_path / "split.bed"
    bed.write_text(
        "chr1\t20\t40\ttrain\nchr1\t0\t10\ttrain\nchr1\t8\t20\tTraining\nchr1\t40\t50\tval\nchr2\t0\t9\ttest\n"
    )
    splits = split_by_intervals(small, bed)
    assert splits.intervals == {
        "train": [Interval("chr1", 0, 40)],
        "valid": [Interval("chr1", 40, 50)],
        "test": [Interval("chr2", 0, 9)],
    }
    assert summary(small, splits).splitlines() == [
        "genome: intervals of split.bed",
        "split   intervals           bases        scorable",
        "train           1              40              32",
        "valid           1              10               8",
        "test            1               9               9",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "chr1\t0\t10\ttrain\nchr1\t9\t20\ttest\n",
            "lines 1 (train) and 2 (test): they overlap at chr1:10",
        ),
        (
            "chr1\t9\t20\ttest\nchr2\t0\t3\tvalid\nchr1\t0\t10\ttrain\n",
            "lines 3 (train) and 1 (test): they overlap at chr1:10",
        ),
        (
            "chr1\t0\t90\ttrain\nchr1\t5\t6\ttrain\nchr1\t50\t51\tvalid\n",
            "lines 1 (train) and 3 (valid)",
        ),
        (
            "chr1\t0\t10\ttrain\nchr1\t20\t30\tfold3\n",
            "line 2: 'fold3' in the split column; write train, valid or test",
        ),
        ("chr1\t0\t10\n", "line 1: nothing in the split column"),
        (
            "#chrom\tstart\tend\tname\tsplit\nchr1\t0\t10\ttrain\n",
            "line 2: nothing in the split column",
        ),
    ],
)
def test_bad_split_files(small, tmp_path, text, message):
    bed = tmp_path / "split.bed"
    bed.write_text(text)
    with pytest.raises(InputError) as caught:
        split_by_intervals(small, bed)
    assert str(caught.value).startswith(f"{bed}, line") and message in str(caught.value)
    assert "\n" not in str(caught.value)


rows = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 39), st.integers(1, 12), st.sampled_from(SPLITS)),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(rows)
def test_any_bed_is_split_without_a_leak_or_refused(small, tmp_path_factory, table):
    owned = [
        (Interval(chrom, start, min(start + size, 40)), split)
        for chrom, start, size, split in table
    ]
    bed = tmp_path_factory.getbasetemp() / "any.bed"
    bed.write_text("".join(f"{i.chrom}\t{i.start}\t{i.end}\t{split}\n" for i, split in owned))
    expected = {split: bases(i for i, owner in owned if owner == split) for split in SPLITS}
    if sum(map(len, expected.values())) > len(set().union(*expected.values())):
        with pytest.raises(InputError, match="a base can be in one split only"):
            split_by_intervals(small, bed)
    else:
        splits = split_by_intervals(small, bed)
        assert {split: bases(splits[split]) for split in SPLITS} == expected


FOLDED = [
    ("fold10", 80, 90),
    ("fold0", 0, 10),
    ("fold1", 20, 30),
    ("fold2", 40, 50),
    ("fold2", 50, 60),
]


@pytest.fixture
def folded(tmp_path):
    bed = tmp_path / "folds.bed"
    bed.write_text("".join(f"chr1\t{start}\t{end}\t{fold}\n" for fold, start, end in FOLDED))
    return bed


@pytest.mark.parametrize(
    "test_fold, test, valid",
    [("fold0", [(0, 10)], [(20, 30)]), ("1", [(20, 30)], [(40, 60)]), ("fold2", [(40, 60)], [(80, 90)]),
     ("10", [(80, 90)], [(0, 10)])],
)  # fmt: skip
def test_folds(small, folded, test_fold, test, valid):
    splits = split_by_intervals(small, folded, test_fold)
    spans = {split: [(i.start, i.end) for i in splits[split]] for split in SPLITS}
    assert (spans["test"], spans["valid"]) == (test, valid)
    assert sorted(itertools.chain(*spans.values())) == [(0, 10), (20, 30), (40, 60), (80, 90)]
    assert f", test fold{test_fold.removeprefix('fold')}, valid fold" in splits.how


def test_folds_that_are_not_chosen(small, folded, tmp_path):
    for fold in (None, "fold3"):
        with pytest.raises(
            InputError,
            match="but fold0, fold1, fold2, fold10; if these are folds, give test_fold",
        ):
            split_by_intervals(small, folded, fold)
    bed = tmp_path / "split.bed"
    bed.write_text("chr1\t0\t9\ttrain\nchr1\t9\t12\ttest\n")
    with pytest.raises(UsageError, match="holds no folds"):
        split_by_intervals(small, bed, "fold1")


def test_the_folds_of_borzoi(shared_data):
    class WholeGenome:
        contigs = dict.fromkeys([f"chr{n}" for n in (*range(1, 23), "X")], 250_000_000)

        def flat(self, interval):
            return interval.start, interval.end

    splits = split_by_intervals(
        WholeGenome(), shared_data / "intervals" / "borzoi_human_folds.bed.gz", "3"
    )
    assert splits.how == "intervals of borzoi_human_folds.bed.gz, test fold3, valid fold4"
    sizes = {split: sum(map(len, splits[split])) for split in SPLITS}
    assert sizes["train"] > 5 * sizes["test"] > 2 * sizes["valid"] > 100_000_000


def test_intervals_of_one_weight_are_merged(small, tmp_path):
    bed = tmp_path / "weights.bed"
    rows = ["0\t10\ttrain\t2", "10\t20\ttrain\t2", "15\t30\ttrain\t1", "40\t50\ttest\t9"]
    bed.write_text("chrom\tstart\tend\tsplit\tweight\n" + "".join(f"chr1\t{row}\n" for row in rows))
    splits = split_by_intervals(small, bed)
    assert [(str(i), i.weight) for i in splits["train"]] == [
        ("chr1:1-20", 2.0),
        ("chr1:16-30", 1.0),
    ]
    assert "train           1              30" in summary(small, splits)


blacklists = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 30), st.integers(1, 9)), max_size=5
)


@settings(max_examples=300, deadline=None)
@given(rows, blacklists, st.sampled_from(["fold", ""]), st.integers(0, 4))
def test_no_base_is_in_two_splits_or_black(small, tmp_path_factory, table, black, fold, test_fold):
    """Splits and folds, with a blacklist: what is not refused has every base in at most one split, and no black one."""
    labels = {split: f"{fold}{i}" if fold else split for i, split in enumerate(SPLITS)}
    folder = tmp_path_factory.getbasetemp()
    lines = [
        f"{chrom}\t{start}\t{start + size}\t{labels[split]}\n"
        for chrom, start, size, split in table
    ]
    (folder / "rows.bed").write_text("".join(line for line in lines if int(line.split()[2]) <= 40))
    holes = [Interval(chrom, start, start + size) for chrom, start, size in black]
    (folder / "black.bed").write_text(
        "".join(f"{i.chrom}\t{i.start}\t{i.end}\n" for i in holes) or "chrZ\t0\t1\nchr1\t99\t100\n"
    )
    try:
        splits = make_splits(
            small, 5, intervals=folder / "rows.bed", test_fold=str(test_fold) if fold else None,
            blacklist=folder / "black.bed",
        )  # fmt: skip
    except InputError as error:
        assert "\n" not in str(error)
        return
    owned = [bases(splits[split]) for split in SPLITS]
    assert sum(map(len, owned)) == len(set().union(*owned))
    assert not set().union(*owned) & bases(holes)
    given_rows = bases(Interval(*line.split("\t")[:1], *map(int, line.split("\t")[1:3])) for line in lines
                       if int(line.split()[2]) <= 40)  # fmt: skip
    assert set().union(*owned) == given_rows - bases(holes) - {("chr1", 99)}


def test_a_blacklist_is_counted(small, tmp_path):
    bed = tmp_path / "black.bed"
    bed.write_text("chr1\t5\t25\nchr1\t20\t30\tHigh Signal Region\nchrUn\t0\t5\n")
    splits = make_splits(small, 10, blacklist=bed)
    assert splits.how.endswith("; without 25 bases of black.bed")


# ---- the published intervals ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_genome(genome_of):
    return genome_of({"chr1": "ACGTTGCA" * 300_000, "chr2": "ACGA" * 100})  # 2.4 million bases


def test_published_intervals_reach_into_other_splits(long_genome, tmp_path):
    bed = tmp_path / "human-sequences.bed"
    step = 131_072
    rows = [("train", 0), ("test", step), ("train", 2 * step), ("valid", 12 * step)]
    bed.write_text(
        "".join(f"chr1\t{start}\t{start + step}\t{split}\n" for split, start in rows)
        + "chr9\t0\t5\ttest\n"
    )
    splits = published_splits(long_genome, bed)
    assert splits.intervals == {
        "train": [Interval("chr1", 0, 1 << 20), Interval("chr1", 2 * step, 2 * step + (1 << 20))],
        "valid": [Interval("chr1", 12 * step, 2_400_000)],
        "test": [Interval("chr1", step, step + (1 << 20))],
    }
    assert "LEAKS" in splits.how
    assert make_splits(long_genome, 1024, intervals=bed, split="legacy") == splits
    with pytest.raises(ValueError, match="share bases"):
        Splits(splits.intervals, "by hand")
    with pytest.raises(ValueError, match="split 'dev'"):
        Splits({"dev": []}, "by hand", leaky=True)


# ---- without a BED file --------------------------------------------------------------------------


@pytest.mark.parametrize("assembly", ASSEMBLIES)
def test_the_registry(assembly):
    known = yaml.safe_load(resource("data", "chromosome_folds.yaml").read_text())[assembly]
    assert sum(known["lengths"].values()) == ASSEMBLIES[assembly]
    assert {*known["test"], *known["valid"]} < known["lengths"].keys()
    how, folds = registered_folds(SimpleNamespace(contigs=known["lengths"]))
    assert how.startswith(f"chromosomes of {assembly}: ")
    assert {split: [i.chrom for i in folds[split]] for split in ("valid", "test")} == {
        split: known[split] for split in ("valid", "test")
    }
    assert sum(map(len, folds.values())) == len(known["lengths"])
    for split in ("valid", "test"):
        assert 0.05 < sum(map(len, folds[split])) / ASSEMBLIES[assembly] < 0.20


def test_every_known_assembly_is_tested():
    assert (
        yaml.safe_load(resource("data", "chromosome_folds.yaml").read_text()).keys()
        == ASSEMBLIES.keys()
    )


@pytest.mark.parametrize("rename", [str, lambda chrom: chrom.removeprefix("chr")])
def test_a_known_assembly_is_held_out_by_chromosome(rename):
    genome = SimpleNamespace(contigs={rename(chrom): length for chrom, length in HG38.items()})
    how, folds = registered_folds(genome)
    assert {split: [i.chrom for i in intervals] for split, intervals in folds.items()} == {
        "train": [rename("chr1")],
        "valid": [rename(f"chr{n}") for n in (15, 16, 19)],
        "test": [rename(f"chr{n}") for n in (20, 21, 22)],
    }
    assert folds["test"][0] == Interval(rename("chr20"), 0, 64444167)
    assert how.startswith("chromosomes of hg38: test ") and how.endswith(
        "; 2 other contig(s) in no split"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"chr1": 248956421},
        {"chr22": 1},
        {"chr20": None, "chr21": None, "chr22": None},
        {"chr1": None},
    ],
)
def test_what_differs_from_a_known_assembly_is_not_taken_for_it(change):
    contigs = {chrom: length for chrom, length in (HG38 | change).items() if length}
    assert registered_folds(SimpleNamespace(contigs=contigs)) is None


def test_yeast_is_known(shared_data):
    genome = Genome.open(shared_data / "genomes" / "sacCer3.fa.gz")
    splits = split_genome(genome, 1024)
    assert [i.chrom for i in splits["test"]] == ["chrVIII", "chrXI"]
    assert [i.chrom for i in splits["valid"]] == ["chrIX", "chrX"]
    assert len(splits["train"]) == 12 and "chrM" not in {i.chrom for i in splits["train"]}
    assert splits.how.startswith("chromosomes of sacCer3")


@pytest.mark.parametrize(
    "sizes, test, valid",
    [
        ({"a": 800, "b": 100, "c": 100}, ["b"], ["c"]),
        ({"a": 100, "b": 800, "c": 100}, ["a"], ["c"]),
        ({"a": 300, "b": 200, "c": 200, "d": 100, "e": 90, "f": 60, "g": 50}, ["d"], ["e"]),
        ({"a": 500, "b": 340, "c": 60, "d": 50, "e": 50}, ["c"], ["d", "e"]),
        (
            {"a": 125, "b": 125, "c": 125, "d": 125, "e": 125, "f": 125, "g": 125, "h": 125},
            ["h"],
            ["g"],
        ),
        ({"a": 900, "b": 50, "c": 50}, ["b", "c"], None),
        ({"a": 333, "b": 333, "c": 334}, None, None),
        ({"a": 980, "b": 10, "c": 10}, None, None),
        ({"a": 500, "b": 500}, None, None),
        ({"a": 800, "b": 99, "c": 99, "tiny": 9, "x_alt": 5000}, ["b"], ["c"]),
    ],
)
def test_whole_contigs_near_a_tenth(genome_of, sizes, test, valid):
    genome = genome_of({chrom: dna(size, chrom) for chrom, size in sizes.items()})
    made = contig_folds(genome, 10)
    if valid is None:
        assert made is None
    else:
        folds = {split: [i.chrom for i in intervals] for split, intervals in made[1].items()}
        assert (folds["test"], folds["valid"]) == (test, valid)
        assert set(folds["train"]) == set(sizes) - {*test, *valid, "x_alt"}
        assert split_genome(genome, 10).how == made[0]


@pytest.mark.parametrize(
    "length, window, expected",
    [
        (49, 10, [("train", 0, 49)]),
        (50, 10, [("train", 0, 10), ("valid", 20, 30), ("test", 40, 50)]),
        (64, 10, [("train", 0, 24), ("valid", 34, 44), ("test", 54, 64)]),
        (1030, 10, [("train", 0, 810), ("valid", 820, 920), ("test", 930, 1030)]),
        (2060, 10, [("train", 0, 800), ("valid", 810, 910), ("test", 920, 1020),
                    ("train", 1030, 1840), ("valid", 1850, 1950), ("test", 1960, 2060)]),
        (0, 10, []),
    ],
)  # fmt: skip
def test_blocks_written_out(length, window, expected):
    assert _blocks(length, window) == expected


class CountedName(str):
    """A name that counts how often it is compared with another."""

    comparisons = 0

    def __eq__(self, other):
        CountedName.comparisons += 1
        if CountedName.comparisons > 2_000_000:
            raise AssertionError("too many comparisons of names")
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_hundred_thousand_contigs_take_a_bounded_number_of_comparisons(tmp_path):
    count, length = 100_000, 60
    codes = np.random.default_rng(0).integers(0, 4, count * length, np.uint8)
    starts = np.arange(count) * length
    records = [Record(CountedName(f"contig{i}"), length, 0, 60, 61) for i in range(count)]
    counts = Counts(len(codes), len(codes), 0, 0, 0)
    runs = np.stack((starts, starts + length), 1)
    genome = Genome(tmp_path / "many.fa", Store("0" * 64, records, counts, codes, runs))

    CountedName.comparisons = 0
    splits = split_genome(genome, 20)
    windows = Windows([(genome, splits)], split="train", length=20, seed=0)
    sample = held_out([(genome, splits)], split="test", length=20, limit=100, seed=0)
    assert [len(splits[split]) for split in SPLITS] == [80_000, 10_000, 10_000]
    assert windows.total == 80_000 * 41 and sample.total == 10_000 * 3
    assert "contig99980" not in splits.how and "and 9,980 more" in splits.how
    assert len(splits.how) < 1000


def test_one_contig_is_split_by_blocks_of_its_known_bases(genome_of):
    genome = genome_of({"one": "NNNN" + "ACGTA" * 5 + "NN" + "ACGTA" * 5})
    splits = split_genome(genome, 10)
    assert splits.intervals == {
        "train": [Interval("one", 4, 14)],
        "valid": [Interval("one", 24, 36)],  # with the two N in it
        "test": [Interval("one", 46, 56)],
    }
    assert splits.how == "blocks along each contig, at least 10 bases apart"


@settings(max_examples=200, deadline=None)
@given(genomes(), st.integers(1, 40))
def test_any_genome_is_split_without_a_leak_or_refused(genome_of, texts, window):
    genome = genome_of(texts)
    try:
        splits = split_genome(genome, window)
    except InputError as error:
        assert "\n" not in str(error) and "choose" in str(error)
        assert all(sum(letter != "N" for letter in text) < 5 * window for text in texts.values())
        return
    owned = [bases(splits[split]) for split in SPLITS]
    assert all(owned)
    assert sum(map(len, owned)) == len(set().union(*owned))
    assert all(base < len(texts[chrom]) for chrom, base in set().union(*owned))
    if splits.how.startswith("blocks"):
        ordered = sorted((i, split) for split in SPLITS for i in splits[split])
        for (one, first), (two, second) in itertools.pairwise(ordered):
            assert one.chrom != two.chrom or first == second or two.start - one.end >= window


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(130, 3000))
def test_blocks_hold_out_about_a_tenth(genome_of, window, windows):
    genome = genome_of({"one": ("ACGTTGCA" * window * windows)[: window * windows]})
    assume(block_folds(genome, window) is not None)
    folds = block_folds(genome, window)[1]
    for split in ("valid", "test"):
        share = sum(map(len, folds[split])) / (window * windows)
        assert 0.085 <= share <= 0.10


@pytest.mark.parametrize(
    "texts, window, message",
    [
        (
            {"a": "ACGT" * 10, "b": "ACGT"},
            41,
            "a window of 41 bases is longer than every contig (the longest, a, has 40)",
        ),
        ({"a": "ACGT" * 10}, 9, "too short to hold out a part in windows of 9 bases"),
        ({"a": "ACGT" + "N" * 100}, 10, "too short"),
    ],
)
def test_genomes_that_cannot_be_split(genome_of, texts, window, message):
    with pytest.raises(InputError) as caught:
        split_genome(genome_of(texts), window)
    assert (
        message in str(caught.value)
        and "choose" in str(caught.value)
        and "\n" not in str(caught.value)
    )
