import gzip

import pytest
from small import write_fasta

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError, UsageError
from dnadiff.genome.fasta import Genome
from dnadiff.sampling import free_template, parse_template, read_templates


def test_letters_are_fixed_n_is_free_and_codes_restrict():
    tokens, allowed = parse_template("acgtNRn")
    assert tokens.tolist() == [7, 8, 9, 10, DNA.mask_id, DNA.mask_id, DNA.mask_id]
    assert allowed[5].tolist() == [True, False, True, False]
    assert allowed[4].all() and allowed[6].all()
    assert allowed[1].tolist() == [False, True, False, False]


def test_without_a_code_nothing_is_restricted():
    assert parse_template("NNAC")[1] is None
    assert (free_template(2, 3) == DNA.mask_id).all()


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), ("ACXG", "position 3: 'X'"), ("AC-G", "position 3")]
)
def test_anything_else_is_named(text, message):
    with pytest.raises(InputError, match=message):
        parse_template(text)


def text(template):
    """A template's tokens as letters, . where they are drawn."""
    return "".join(
        "." if token == DNA.mask_id else DNA.decode(token[None]) for token in template.tokens
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_a_fasta_has_a_template_in_every_record(tmp_path, zipped):
    path = tmp_path / "designs.fa"
    content = b">first of two\nACNN\nRN\n>second\nttnn\n"
    path.write_bytes(gzip.compress(content) if zipped else content)
    first, second = read_templates(str(path))
    assert (first.name, text(first), first.number) == ("first", "AC....", 0)
    assert first.allowed[4].tolist() == [True, False, True, False]
    assert (second.name, text(second), second.number) == (
        "second",
        "TT..",
        1,
    ) and second.allowed is None


def test_a_string_and_nothing_at_all():
    (template,) = read_templates("ACNN")
    assert (template.name, text(template), template.window) == ("sample", "AC..", None)
    assert text(read_templates(None, length=5)[0]) == "....."
    assert len(read_templates(None)[0].tokens) == 1024


@pytest.fixture
def genome(tmp_path):
    contigs = {"one": "ACGTTGCA" * 10 + "NNNN" + "GATTACAT" * 10, "two": "ACGTTGCAGG"}
    return Genome.open(write_fasta(tmp_path / "genome.fa", contigs))


def test_intervals_of_a_genome_are_free_and_their_context_is_fixed(tmp_path, genome):
    bed = tmp_path / "sites.bed"
    bed.write_text("one\t8\t12\tenhancer\none\t0\t3\none\t160\t164\none\t76\t80\ntwo\t2\t6\n")
    middle, left, right, gap, short = read_templates(str(bed), genome=genome, length=16)
    assert (middle.name, str(middle.window), text(middle)) == (
        "one:9-12",
        "one:3-18",
        "GTTGCA....TGCAAC",
    )
    assert (str(left.window), text(left)) == ("one:1-16", "...TTGCAACGTTGCA")
    assert (str(right.window), text(right)) == ("one:149-164", "GATTACATGATT....")
    assert text(gap) == "CAACGT....NNNNGA"
    assert (str(short.window), text(short)) == ("two:1-10", "AC....CAGG")
    assert [t.number for t in (middle, left, right, gap, short)] == list(range(5))
    (whole,) = read_templates(str(write(tmp_path, "two\t0\t10\n")), genome=genome)
    assert text(whole) == "." * 10


def write(folder, rows):
    path = folder / "more.bed"
    path.write_text(rows)
    return path


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        (
            "one\t0\t50\n",
            {"length": 40},
            InputError,
            r"more.bed, line 1: one:1-50 has 50 bases, .* only 40; raise length",
        ),
        ("one\t0\t500\n", {}, InputError, "more.bed, line 1: interval one:1-500 is out of range"),
        ("six\t0\t5\n", {}, InputError, "more.bed, line 1: .* no chromosome 'six'"),
        (
            "one\t0\t5\none\t2\t7\none\t0\t5\tagain\n",
            {},
            InputError,
            "more.bed, line 3: one:1-5 is on line 1 already",
        ),
        ("one\t0\t5\n", {"genome": None}, UsageError, "more.bed: a BED file needs the genome"),
        ("one\t0\t5\n", {"source": "ACGN"}, UsageError, "^genome goes with a BED file"),
        ("one\t0\t5\n", {"source": None}, UsageError, "^genome goes with a BED file"),
        ("one\t0\t5\n", {"length": 0}, UsageError, "at least 1"),
    ],
)
def test_intervals_that_cannot_be_used_are_named(tmp_path, genome, rows, options, error, message):
    arguments = {"source": str(write(tmp_path, rows)), "genome": genome} | options
    with pytest.raises(error, match=message):
        read_templates(arguments.pop("source"), **arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (">a\nACXG\n", "designs.fa, record a: template position 3: 'X'"),
        (">a\nAC\n>a\nGT\n", "designs.fa: two records are called a"),
        (">a\n>b\nAC\n", "designs.fa: record a has no letters"),
        (">\nAC\n", "designs.fa: record 1 has no name"),
        ("ACGT\n", "designs.fa: not FASTA"),
        ("", "designs.fa: not FASTA"),
    ],
)
def test_a_fasta_that_cannot_be_used_is_named(tmp_path, content, message):
    (tmp_path / "designs.fa").write_text(content)
    with pytest.raises(InputError, match=message):
        read_templates(str(tmp_path / "designs.fa"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.fa: No such file"):
        read_templates(str(tmp_path / "none.fa"))
    (tmp_path / "cut.fa").write_bytes(gzip.compress(b">a\nACGT\n")[:-9])
    with pytest.raises(InputError, match=r"cut\.fa: truncated"):
        read_templates(str(tmp_path / "cut.fa"))
    (tmp_path / "binary.fa").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.fa: not a text"):
        read_templates(str(tmp_path / "binary.fa"))
    with pytest.raises(UsageError, match="contradicts a template of 4"):
        read_templates("ACGN", length=5)
