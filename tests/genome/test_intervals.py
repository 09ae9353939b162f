"""BED files: every line is an interval of the genome, or the reason why not names it."""

import gzip
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnadiff.errors import InputError
from dnadiff.genome import BedRow, Interval, merge, overlap, read_bed, subtract


@pytest.fixture(scope="module")
def genome(genome_of):
    return genome_of({"chr1": "ACGT" * 25, "chr2": "ACGT" * 5, "3": "ACGT"})


@pytest.mark.parametrize(
    "chrom, start, end, message",
    [
        ("", 0, 1, "no chromosome name"),
        ("a", -1, 1, "interval a:-1-1 has a negative start"),
        ("a", 2, 1, "interval a:2-1 is reversed"),
        ("a", 2, 2, "interval a:2-2 is empty"),
    ],
)
def test_an_interval_checks_itself(chrom, start, end, message):
    with pytest.raises(ValueError, match=message):
        Interval(chrom, start, end)


def test_an_interval_has_a_length_and_a_text():
    assert len(Interval("a", 3, 10)) == 7
    assert str(Interval("a", 3, 10)) == "a:3-10"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("chr1\t0\t100\n", [("chr1", 0, 100, "", "", 1)]),
        ("chr1 5 10 test", [("chr1", 5, 10, "test", "test", 1)]),
        ("chr1\t5\t10\tmy name\t.\t+\r\n", [("chr1", 5, 10, "my name", "my name", 1)]),
        ("# text\n\ntrack name=x\nbrowser position\nchr2\t0\t20\ta\n", [("chr2", 0, 20, "a", "a", 5)]),
        ("#chrom\tstart\tend\tname\tsplit\nchr1\t0\t4\tx\ttest\n", [("chr1", 0, 4, "x", "test", 2)]),
        ("chrom\tstart\tend\tsplit\tname\nchr1\t0\t4\ttest\tx\n", [("chr1", 0, 4, "test", "test", 2)]),
        ("chr\tchromStart\tchromEnd\tfold\tSplit\n3\t0\t4\tfold1\tvalid\n", [("3", 0, 4, "fold1", "valid", 2)]),
        ("#chrom\tstart\tend\tname\tsplit\nchr1\t0\t4\tx\n", [("chr1", 0, 4, "x", "", 2)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True])
def test_rows(genome, tmp_path, text, expected, zipped):
    path = tmp_path / "x.bed"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert read_bed(path, genome) == [BedRow(Interval(*row[:3]), *row[3:]) for row in expected]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_above_0(weight):
    with pytest.raises(ValueError, match=r"interval a:0-1 has weight .*, which is not above 0"):
        Interval("a", 0, 1, weight)


def test_the_weight_does_not_tell_intervals_apart():
    assert (
        Interval("a", 0, 1, 2.0) == Interval("a", 0, 1)
        and len({Interval("a", 0, 1, 2.0), Interval("a", 0, 1)}) == 1
    )


def test_weights_and_folds_of_a_bed_file(genome, tmp_path):
    path = tmp_path / "x.bed"
    path.write_text(
        "#chrom\tstart\tend\tweight\tfold\nchr1\t0\t4\t2.5\tfold1\nchr1\t4\t9\t1e-3\tfold2\n"
    )
    assert [(row.interval.weight, row.split) for row in read_bed(path, genome)] == [
        (2.5, "fold1"),
        (1e-3, "fold2"),
    ]


@pytest.mark.parametrize(
    "weight, message",
    [
        ("heavy", "'heavy' in the weight column is not a number"),
        ("0", "weight 0.0"),
        ("nan", "weight nan"),
        ("", "''"),
    ],
)
def test_bad_weights_are_named(genome, tmp_path, weight, message):
    path = tmp_path / "x.bed"
    path.write_text(f"#chrom\tstart\tend\tweight\nchr1\t0\t4\t{weight}\n")
    with pytest.raises(InputError, match=message) as caught:
        read_bed(path, genome)
    assert str(caught.value).startswith(f"{path}, line 2: ")


def test_a_file_for_a_whole_assembly_may_name_contigs_that_are_not_there(genome, tmp_path, caplog):
    path = tmp_path / "x.bed"
    path.write_text("chrX\t0\t9\nchr1\t0\t4\nchrY\t0\t9\n")
    with caplog.at_level("INFO", "dnadiff"):
        assert [row.interval for row in read_bed(path, genome, partial=True)] == [
            Interval("chr1", 0, 4)
        ]
    assert "2 intervals lie on contigs that the genome does not have" in caplog.text
    path.write_text("1\t0\t9\n2\t0\t4\n")
    with pytest.raises(
        InputError, match=r"line 1: .* no chromosome '1'; there it is called 'chr1'"
    ):
        read_bed(path, genome, partial=True)
    path.write_text("chrX\t0\t9\nchr1\t0\t400\n")
    with pytest.raises(InputError, match=r"line 2: .* out of range"):
        read_bed(path, genome, partial=True)


@pytest.mark.parametrize(
    "line, message",
    [
        ("chr1\t5", "2 column"),
        ("chr1", "1 column"),
        ("chr1\ta\tb", "'a' is not an integer"),
        ("chr1\t1.5\t3", "'1.5' is not an integer"),
        ("chr1\t1e3\t3", "'1e3' is not an integer"),
        ("chr1\t1\t²", "'²' is not an integer"),
        ("chr1\t\t3", "'' is not an integer"),
        ("chr1\t-1\t3", "interval chr1:-1-3 has a negative start"),
        ("chr1\t10\t5", "interval chr1:10-5 is reversed"),
        ("chr1\t10\t10", "interval chr1:10-10 is empty"),
        ("chr1\t90\t101", "interval chr1:90-101 is out of range: chr1 has 100 bases"),
        ("1\t0\t10", "no chromosome '1'; there it is called 'chr1': use one naming in both files"),
        ("chr3\t0\t4", "no chromosome 'chr3'; there it is called '3'"),
        ("chrX\t0\t10", "no chromosome 'chrX'; it has chr1, chr2, 3"),
    ],
)
def test_bad_lines_are_named(genome, tmp_path, line, message):
    path = tmp_path / "x.bed"
    path.write_text(f"# a comment\nchr1\t0\t100\ttrain\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_bed(path, genome)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "No such file"),
        (b"", "no intervals in it"),
        (b"# nothing\n\n", "no intervals in it"),
        (b"#chrom\tstart\tend\n", "no intervals in it"),
        (b"chr1\t\x00\xff\t3\n", "not a text file"),
        (gzip.compress(b"chr1\t0\t10\n" * 1000)[:-12], "truncated or damaged"),
        (b"\x1f\x8b not gzip at all", "truncated or damaged"),
    ],
)
def test_bad_files(genome, tmp_path, content, message):
    path = tmp_path / "x.bed"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_bed(path, genome)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


intervals = st.builds(
    lambda chrom, start, length: Interval(chrom, start, start + length),
    st.sampled_from("ab"), st.integers(0, 30), st.integers(1, 8),
)  # fmt: skip


def bases(some):
    return {(i.chrom, base) for i in some for base in range(i.start, i.end)}


@given(st.lists(intervals), st.lists(intervals))
def test_what_is_left_when_others_are_cut_out(some, holes):
    left = subtract(some, holes)
    assert bases(left) == bases(some) - bases(holes)
    assert sum(map(len, left)) == sum(len(bases([one]) - bases(holes)) for one in some)
    assert all(any(bases([piece]) <= bases([one]) for one in some) for piece in left)
    assert overlap(some, holes) == len(bases(some) & bases(holes))


def test_pieces_keep_order_and_weight():
    some = [Interval("b", 0, 9, 2.0), Interval("a", 5, 6), Interval("a", 0, 9, 3.0)]
    left = subtract(some, [Interval("b", 4, 5), Interval("a", 5, 6)])
    assert [(str(piece), piece.weight) for piece in left] == [
        ("b:0-4", 2.0), ("b:5-9", 2.0), ("a:0-5", 3.0), ("a:6-9", 3.0)
    ]  # fmt: skip


@given(st.lists(intervals))
def test_merge_keeps_the_bases_and_leaves_gaps(given_intervals):
    merged = merge(given_intervals)
    assert bases(merged) == bases(given_intervals)
    assert all(
        one.chrom != two.chrom or one.end < two.start for one, two in itertools.pairwise(merged)
    )
    assert merged == sorted(merged)


def test_the_covered_intervals_of_the_human_genome_are_read(shared_data, monkeypatch):
    class AnyGenome:
        def flat(self, interval):
            return interval.start, interval.end

    rows = read_bed(shared_data / "genomes" / "hg38.covered.bed", AnyGenome())
    assert len(rows) == 161
    assert {row.split for row in rows} == {"train", "valid", "test"}
    assert sum(len(row.interval) for row in rows if row.split == "train") == 42_154_663
    assert (
        len(read_bed(shared_data / "intervals" / "borzoi_human_folds.bed.gz", AnyGenome()))
        == 55_497
    )
