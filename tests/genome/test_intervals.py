"""BED files: every line is an interval of the genome, or the reason why not names it."""

import gzip
import itertools
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnadiff.errors import InputError
from dnadiff.genome import BedRow, Interval, find_contig, merge, overlap, read_bed, subtract


@pytest.fixture(scope="module")
def genome(genome_of):
    return genome_of({"chr1": "ACGT" * 25, "chr2": "ACGT" * 5, "3": "ACGT"})


@pytest.mark.parametrize(
    "chrom, start, end, message",
    [
        ("", 0, 1, "no chromosome name"),
        ("a", -1, 1, r"interval on a with start -1 and end 1 \(0-based\) has a negative start"),
        ("a", 2, 1, r"start 2 and end 1 \(0-based\) is reversed"),
        ("a", 2, 2, r"start 2 and end 2 \(0-based\) is empty"),
    ],
)
def test_an_interval_checks_itself(chrom, start, end, message):
    with pytest.raises(ValueError, match=message):
        Interval(chrom, start, end)


def test_an_interval_has_a_length_and_the_text_of_samtools():
    assert len(Interval("a", 3, 10)) == 7
    assert str(Interval("a", 3, 10)) == "a:4-10"  # 1-based, both ends included
    assert str(Interval("a", 0, 1)) == "a:1-1"


HEADED = "#chrom\tstart\tend\tname\tsplit\n"
SPLIT_FIRST = "chrom\tstart\tend\tsplit\tname\n"
FOLDED = "chr\tchromStart\tchromEnd\tfold\tSplit\n"
REMARKS = "# text\n\ntrack name=x\nbrowser position\n"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("chr1\t0\t100\n", [("chr1", 0, 100, "", "", 1)]),
        ("chr1 5 10 test", [("chr1", 5, 10, "test", "test", 1)]),
        ("chr1\t5\t10\tmy name\t.\t+\r\n", [("chr1", 5, 10, "my name", "my name", 1)]),
        (REMARKS + "chr2\t0\t20\ta\n", [("chr2", 0, 20, "a", "a", 5)]),
        (HEADED + "chr1\t0\t4\tx\ttest\n", [("chr1", 0, 4, "x", "test", 2)]),
        (SPLIT_FIRST + "chr1\t0\t4\ttest\tx\n", [("chr1", 0, 4, "test", "test", 2)]),
        (FOLDED + "3\t0\t4\tfold1\tvalid\n", [("3", 0, 4, "fold1", "valid", 2)]),
        (HEADED + "chr1\t0\t4\tx\n", [("chr1", 0, 4, "x", "", 2)]),
        ("# chrom start end name split\nchr1 0 4 x test\n", [("chr1", 0, 4, "x", "test", 2)]),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_rows(genome, tmp_path, text, expected, zipped):
    path = tmp_path / "x.bed"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert read_bed(path, genome) == [BedRow(Interval(*row[:3]), *row[3:]) for row in expected]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_above_0(weight):
    with pytest.raises(ValueError, match=r"interval a:1-1 has weight .*, which is not above 0"):
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
    assert caplog.text.rstrip().endswith("are left out: chrX (1), chrY (1)")
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
        ("chr1\t-1\t3", "start -1 and end 3 (0-based) has a negative start"),
        ("chr1\t10\t5", "start 10 and end 5 (0-based) is reversed"),
        ("chr1\t90\t101", "interval chr1:91-101 is out of range: chr1 has 100 bases"),
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
        (gzip.compress(b"chr1\t0\t10\n" * 1000, mtime=0)[:-12], "truncated or damaged"),
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


@pytest.mark.parametrize(
    "line, message",
    [
        ("chr1 0\t10\ttrain", "'chr1 0' in the column of the contig"),
        ("chr1 0\t10\t20", "'chr1 0' in the column of the contig: separate the columns by tabs"),
        ("chr1\u00a00\t10\t20", "separate the columns by tabs"),
        ("chr1\t0 10\ttrain", "'0 10' is not an integer coordinate"),
        ("chr1\t0\t10 train", "'10 train' is not an integer coordinate"),
        ("chrX\t0", "2 column(s)"),
        ("chrX\tone\t10", "'one' is not an integer coordinate"),
        ("chrX\t20\t10", "is reversed"),
        ("chrX\t-1\t10", "negative start"),
        ("1\t0\t10", "no chromosome '1'; there it is called 'chr1'"),
        ("#chrom start\tend\tsplit", "'chrom start' in the header: separate the columns by tabs"),
        ("#chrom\tstart\tend\tsplit weight", "'split weight' in the header"),
    ],
)
def test_a_malformed_line_is_never_taken_for_one_of_an_absent_contig(
    genome, tmp_path, line, message
):
    path = tmp_path / "x.bed"
    path.write_text(f"chr1\t0\t100\ttrain\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_bed(path, genome, partial=True)
    assert str(caught.value).startswith(f"{path}, line 2: ") and message in str(caught.value)


def test_a_byte_order_mark_loses_nothing(genome, tmp_path):
    path = tmp_path / "x.bed"
    rows = "chr1\t0\t100\ttrain\n".encode("utf-8-sig") + "chr2\t0\t9\ttest\n".encode("utf-8-sig")
    path.write_bytes(rows)  # two files with a mark each, joined
    found = read_bed(path, genome, partial=True)
    assert [str(row.interval) for row in found] == ["chr1:1-100", "chr2:1-9"]
    path.write_bytes("#chrom\tstart\tend\tfold\tsplit\nchr1\t0\t9\tx\ttest\n".encode("utf-8-sig"))
    assert [row.split for row in read_bed(path, genome)] == ["test"]


def test_names_and_comments_need_not_be_utf8(genome, tmp_path):
    path = tmp_path / "x.bed"
    path.write_bytes("# Müller\nchr1\t0\t9\tGröße\n".encode("latin-1"))
    (row,) = read_bed(path, genome)
    assert row.interval == Interval("chr1", 0, 9) and row.name.startswith("Gr")


def test_intervals_of_no_bases_are_skipped_and_counted(genome, tmp_path, caplog):
    path = tmp_path / "x.bed"
    path.write_text("chr1\t0\t9\nchr1\t10\t10\nchr1\t0\t0\n")
    with caplog.at_level("INFO", "dnadiff"):
        assert [row.line for row in read_bed(path, genome)] == [1]
    assert "2 interval(s) of no bases skipped, the first on line 2" in caplog.text
    path.write_text("chr1\t10\t10\n")
    with pytest.raises(InputError, match="no intervals in it"):
        read_bed(path, genome)


def test_many_absent_contigs_are_counted(genome, tmp_path, caplog):
    path = tmp_path / "x.bed"
    path.write_text("chr1\t0\t9\n" + "".join(f"alt{i}\t0\t9\nalt0\t9\t12\n" for i in range(30)))
    with caplog.at_level("INFO", "dnadiff"):
        read_bed(path, genome, partial=True)
    assert "60 intervals lie on contigs" in caplog.text
    assert "left out: alt0 (31), alt1 (1), " in caplog.text
    assert "and 20 more contigs" in caplog.text and "alt15" not in caplog.text


@pytest.mark.parametrize(
    "name, known, expected",
    [
        ("chr1", ["1", "chr1"], "chr1"),
        ("chr1", ["1"], "1"),
        ("1", ["chr1"], "chr1"),
        ("chrM", ["MT"], "MT"),
        ("MT", ["chrM"], "chrM"),
        ("M", ["chrMT"], "chrMT"),
        ("MT", ["chrM", "chrMT"], "chrMT"),
        ("M", ["chrM", "chrMT"], "chrM"),
        ("chr1", ["chr11", "01"], None),
        ("chrM", ["chr1"], None),
    ],
)
def test_one_contig_may_have_another_name_in_another_file(name, known, expected):
    assert find_contig(name, known) == expected


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
        ("b:1-4", 2.0), ("b:6-9", 2.0), ("a:1-5", 3.0), ("a:7-9", 3.0)
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
        contigs: ClassVar = {}

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
