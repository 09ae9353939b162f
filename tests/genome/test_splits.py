"""Splits: no base in two of them, whatever the genome, the window or the BED file."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dnadiff.errors import InputError
from dnadiff.genome import SPLITS, Interval, Splits, split_by_intervals, split_genome, summary
from dnadiff.genome.folds import _blocks, block_folds, contig_folds, registered_folds

HG38 = {"chr1": 248956422, "chr15": 101991189, "chr16": 90338345, "chr19": 58617616, "chr20": 64444167,
        "chr21": 46709983, "chr22": 50818468, "chrM": 16569, "chr22_KI270879v1_alt": 304135}  # fmt: skip


def bases(intervals):
    return {(i.chrom, base) for i in intervals for base in range(i.start, i.end)}


def random_letters(draw, length):
    runs = draw(st.lists(st.tuples(st.sampled_from(["ACGT", "N"]), st.integers(1, 30)), min_size=1, max_size=12))
    text = "".join((letters * size)[:size] for letters, size in runs)
    return (text * (length // len(text) + 1))[:length] + "A"


@st.composite
def genomes(draw):
    lengths = draw(st.lists(st.integers(1, 300), min_size=1, max_size=8))
    return {f"c{i}": random_letters(draw, length) for i, length in enumerate(lengths)}


# ---- what a Splits object promises -----------------------------------------------------------------------------------


def test_splits_is_a_mapping():
    splits = Splits({"train": [Interval("a", 0, 5)]}, "by hand")
    assert list(splits) == ["train", "valid", "test"]
    assert splits["train"] == [Interval("a", 0, 5)] and splits["valid"] == splits["test"] == []
    assert splits.get("other") is None


@pytest.mark.parametrize(
    "intervals, message",
    [
        ({"train": [Interval("a", 0, 5)], "test": [Interval("a", 4, 6)]}, "train a:0-5 and test a:4-6 share bases"),
        (
            {"train": [Interval("a", 0, 9), Interval("a", 1, 2)], "valid": [Interval("a", 8, 9)]},
            "a:0-9 and valid a:8-9",
        ),
        ({"train": [Interval("a", 3, 4)], "valid": [Interval("a", 0, 9)]}, "share bases"),
        ({"validate": []}, "split 'validate' is none of"),
    ],
)
def test_splits_checks_itself(intervals, message):
    with pytest.raises(ValueError, match=message):
        Splits(intervals, "by hand")


def test_neighbours_share_nothing():
    splits = Splits({"train": [Interval("a", 0, 5), Interval("b", 2, 9)], "test": [Interval("a", 5, 6)]}, "by hand")
    assert splits["test"] == [Interval("a", 5, 6)]


# ---- from a BED file -------------------------------------------------------------------------------------------------


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
        ("chr1\t0\t10\ttrain\nchr1\t9\t20\ttest\n", "lines 1 (train) and 2 (test): overlap at chr1:9"),
        (
            "chr1\t9\t20\ttest\nchr2\t0\t3\tvalid\nchr1\t0\t10\ttrain\n",
            "lines 3 (train) and 1 (test): overlap at chr1:9",
        ),
        ("chr1\t0\t90\ttrain\nchr1\t5\t6\ttrain\nchr1\t50\t51\tvalid\n", "lines 1 (train) and 3 (valid)"),
        (
            "chr1\t0\t10\ttrain\nchr1\t20\t30\tfold3\n",
            "line 2: 'fold3' in the split column; write train, valid or test",
        ),
        ("chr1\t0\t10\n", "line 1: nothing in the split column"),
        ("#chrom\tstart\tend\tname\tsplit\nchr1\t0\t10\ttrain\n", "line 2: nothing in the split column"),
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
    owned = [(Interval(chrom, start, min(start + size, 40)), split) for chrom, start, size, split in table]
    bed = tmp_path_factory.getbasetemp() / "any.bed"
    bed.write_text("".join(f"{i.chrom}\t{i.start}\t{i.end}\t{split}\n" for i, split in owned))
    expected = {split: bases(i for i, owner in owned if owner == split) for split in SPLITS}
    if sum(map(len, expected.values())) > len(set().union(*expected.values())):
        with pytest.raises(InputError, match="a base can be in one split only"):
            split_by_intervals(small, bed)
    else:
        splits = split_by_intervals(small, bed)
        assert {split: bases(splits[split]) for split in SPLITS} == expected


# ---- without a BED file ----------------------------------------------------------------------------------------------


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
    assert how.startswith("chromosomes of hg38: test ") and how.endswith("; 2 other contig(s) in no split")


@pytest.mark.parametrize(
    "change", [{"chr1": 248956421}, {"chr22": 1}, {"chr20": None, "chr21": None, "chr22": None}, {"chr1": None}]
)
def test_what_differs_from_a_known_assembly_is_not_taken_for_it(change):
    contigs = {chrom: length for chrom, length in (HG38 | change).items() if length}
    assert registered_folds(SimpleNamespace(contigs=contigs)) is None


def test_yeast_is_known(shared_data):
    from dnadiff.genome import Genome

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
        ({"a": 125, "b": 125, "c": 125, "d": 125, "e": 125, "f": 125, "g": 125, "h": 125}, ["h"], ["g"]),
        ({"a": 900, "b": 50, "c": 50}, ["b", "c"], None),
        ({"a": 333, "b": 333, "c": 334}, None, None),
        ({"a": 980, "b": 10, "c": 10}, None, None),
        ({"a": 500, "b": 500}, None, None),
        ({"a": 800, "b": 99, "c": 99, "tiny": 9, "x_alt": 5000}, ["b"], ["c"]),
    ],
)
def test_whole_contigs_near_a_tenth(genome_of, sizes, test, valid):
    genome = genome_of({chrom: ("ACGT" * size)[:size] for chrom, size in sizes.items()})
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
    assert message in str(caught.value) and "choose" in str(caught.value) and "\n" not in str(caught.value)
