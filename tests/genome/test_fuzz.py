"""Damaged files give an InputError of one line, or exactly what a literal reader gets.

No other exception may come out, and no wrong base. The literal readers below, and `naive_fasta`,
share nothing with dnadiff. DNADIFF_FUZZ=20000 in the environment makes 20,000 attempts of each
test; `atheris_fuzz.py` directs them to code that was not reached yet.
"""

import gzip
import itertools
import os
import re
from datetime import timedelta

import pyfaidx
import pytest
from fasta_files import fasta_text, naive_fasta, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome import Genome, Variants, read_bed

ATTEMPTS = int(os.environ.get("DNADIFF_FUZZ", "120"))
fuzz = settings(
    max_examples=ATTEMPTS,
    deadline=timedelta(seconds=5),  # what takes longer here would hang on a real file
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
fuzz_more = settings(fuzz, max_examples=4 * ATTEMPTS)  # where an attempt takes no time


CHARACTERS = [
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "\xa0",
    "\x0b",
    ">",
    ">a\n",
    ";",
    "#",
    "-",
    ".",
    ",",
    "*",
]
WORDS = ["", "0", "1", "7", "-1", "9" * 20, "4294967296", "1e3", "1_0", "٣"]
BASES = ["N", "n", "R", "X", "acgt", "U", "<DEL>", "A]b:1]", "chr1"]
BYTES = [
    b"\0",
    b"\xff\xfe",
    b"\x85",
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0\x1b\0",
]
TOKENS = [*(text.encode() for text in CHARACTERS + WORDS + BASES), *BYTES]


@st.composite
def edits(draw, most=2):
    """A few changes: the place (per mille of the length), bytes to cut there, bytes to insert."""
    cut = st.sampled_from([0, 0, 1, 1, 2]) | st.integers(0, 30)
    insertion = st.sampled_from(TOKENS) | st.binary(max_size=2)
    return draw(st.lists(st.tuples(st.integers(0, 999), cut, insertion), max_size=most))


def damaged(data, changes):
    for place, cut, insertion in changes:
        at = place * len(data) // 1000
        data = data[:at] + insertion + data[at + cut :]
    return data


def as_text(data):
    """A byte that is not UTF-8 is the four characters of its escape."""
    return data.decode("utf-8", "backslashreplace")


number = itertools.count()
containers = st.sampled_from(["plain", "gzip", "bgzip"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True)
def _own_cache(_private_cache, folder, monkeypatch):
    """Thousands of stores, which nobody else should have to look through."""
    monkeypatch.setenv("DNADIFF_CACHE", str(folder / "cache"))


def expect(read, path):
    """What `read` gives, or None for an InputError, which has to be one line about the file."""
    try:
        return read()
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error), error
        return None


# ---- FASTA, .fai, .gzi

RECORDS = {"a": "ACGTacgtNNRY" * 4, "b two": "TTGACA", "chr3": "GATTACA" * 9}
genomes = st.dictionaries(
    st.sampled_from([*RECORDS, "c", "x|y"]),
    st.text("ACGTacgtNRn", min_size=1, max_size=90),
    min_size=1,
    max_size=3,
)


def read_genome(path):
    genome = Genome.open(path)
    return {
        name: DNA.decode(genome.tokens(name, 0, length)) for name, length in genome.contigs.items()
    }


def as_dna(letters):
    return re.sub("[^ACGT]", "N", letters.upper())


def check_genome(path, text):
    """The genome is refused, or is what its text says; gives whether it was read."""
    found = expect(lambda: read_genome(path), path)
    if found is None:
        return False
    literal = naive_fasta(text)
    assert literal is not None, text
    assert found == {name: as_dna(letters) for name, letters in literal.items()}, text
    return True


@fuzz
@given(genomes, st.integers(1, 70), st.sampled_from(["\n", "\r\n"]), edits())
def test_fasta(folder, records, width, end, changes):
    text = damaged(fasta_text(records, width, end).encode(), changes)
    path = write(folder / f"{next(number)}.fa", text)
    read = check_genome(path, text)
    assert (
        read
        or changes
        or not any(set(letters.upper()) & set("ACGT") for letters in records.values())
    )


@fuzz
@given(genomes, edits())
def test_fasta_that_was_bgzipped_after_the_damage(folder, records, changes):
    text = damaged(fasta_text(records).encode(), changes)
    check_genome(write(folder / f"{next(number)}.fa.gz", text, "bgzip"), text)


@fuzz
@given(genomes, edits(), st.booleans())
def test_bgzip_that_was_damaged(folder, records, changes, big):
    records = records | {"big": "GATTACACCGT" * 9000} if big else records
    path = write(folder / f"{next(number)}.fa.gz", fasta_text(records), "bgzip")
    path.write_bytes(damaged(path.read_bytes(), changes))
    check_bgzip(path)


def check_bgzip(path):
    try:
        text = gzip.decompress(path.read_bytes())
    except Exception:  # whatever is wrong with it, there is nothing to read
        assert expect(lambda: read_genome(path), path) is None
    else:
        check_genome(path, text)


def literal_index(text):
    """The rows of a FASTA index: name, bases, first byte, and bases and bytes of a line."""
    rows, at = [], 0
    for line in text.splitlines(keepends=True):
        if line.startswith(b">"):
            rows.append([line[1:].split()[0].decode(), 0, at + len(line), 0, 0])
        else:
            rows[-1][1] += len(line.strip())
            rows[-1][3] = max(rows[-1][3], len(line.strip()))
            rows[-1][4] = max(rows[-1][4], len(line))
        at += len(line)
    return rows


def literal_rows(text):
    """Rows of an index as they stand, None if one is none."""
    rows = []
    for line in text.removesuffix(b"\n").split(b"\n"):
        name, *numbers = as_text(line).rstrip("\r").split("\t")
        if len(numbers) < 4 or not all(re.fullmatch("[0-9]{1,18}", field) for field in numbers):
            return None
        rows.append([name, *map(int, numbers[:4])])
    return rows


@fuzz_more
@given(edits(), st.integers(5, 70))
@example([], 60)
@example([(171, 0, "٣".encode())], 48)  # int() reads such digits
@example([(171, 1, b"0")], 48)  # the last record's line then has no letter
@example([(171, 0, b"9" * 5000)], 48)  # and no number as long as this
def test_an_index_beside_it(folder, changes, width):
    """An index is refused unless it describes the file; a base never comes from it."""
    text = fasta_text(RECORDS, width).encode()
    path = write(folder / f"{next(number)}.fa", text)
    pyfaidx.Faidx(str(path)).close()
    index = path.with_name(f"{path.name}.fai")
    index.write_bytes(damaged(index.read_bytes(), changes))
    found = expect(lambda: read_genome(path), path)
    rows, true = literal_rows(index.read_bytes()), literal_index(text)
    same = rows is not None and len(rows) == len(true)
    # Where a record is one line in both, the width of a line says nothing.
    same = same and all(
        r[:3] == t[:3] and (r == t or (t[1] <= t[3] and r[1] <= r[3]))
        for r, t in zip(rows, true, strict=True)
    )
    assert (found is not None) == same
    assert found is None or found == {
        name.split()[0]: as_dna(letters) for name, letters in RECORDS.items()
    }


@fuzz
@given(st.binary(max_size=60))
def test_a_bgzip_index_beside_it_is_not_believed(folder, junk):
    path = write(folder / f"{next(number)}.fa.gz", fasta_text(RECORDS), "bgzip")
    path.with_name(f"{path.name}.gzi").write_bytes(junk)
    assert check_genome(path, fasta_text(RECORDS).encode())


# ---- BED

SIZES = {"chr1": 100, "chr2": 40, "x": 7}
odd_numbers = st.sampled_from(["", "-0", "-1", "+1", "1.0", "1e1", "1_0", " 3", "٣", "x", "9" * 30])


@st.composite
def bed_lines(draw):
    """A line that is right, or has one odd field, or is none."""
    chrom = draw(st.sampled_from([*SIZES]))
    start = draw(st.integers(0, SIZES[chrom] - 1))
    fields = [chrom, str(start), str(draw(st.integers(start + 1, SIZES[chrom])))]
    fields += draw(st.lists(st.sampled_from(["train", "test", "a b", "."]), max_size=3))
    if draw(st.booleans()):
        fields[draw(st.integers(0, 2))] = draw(
            odd_numbers | st.sampled_from(["chr9", "0", "7", "101"])
        )
    others = [
        "# comment",
        "track name=x",
        "",
        "chrom\tstart\tend\tsplit",
        "#chrom start end name split",
    ]
    return draw(st.just("\t".join(fields)) | st.sampled_from(others))


def literal_bed(data):
    """Rows (chrom, start, end, name); None if one is none."""
    rows = []
    for line in re.split("\r\n|\n|\r", as_text(data)):
        line = line.removeprefix("\ufeff")
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        if not line.strip() or line.startswith("#") or fields[0] in ("track", "browser"):
            continue
        if (
            fields[0].lower().lstrip("# ") in ("chrom", "chr", "chromosome")
            and fields[1:2]
            and fields[1].lower().endswith("start")
        ):
            continue
        if (
            len(fields) < 3
            or fields[0] not in SIZES
            or not all(re.fullmatch("-?[0-9]+", field) for field in fields[1:3])
        ):
            return None
        start, end = int(fields[1]), int(fields[2])
        if not 0 <= start < end <= SIZES[fields[0]]:
            return None
        rows.append((fields[0], start, end, fields[3] if len(fields) > 3 else ""))
    return rows or None


def check_bed(path, genome):
    """The file is refused, or its rows are what its text says; gives whether it was read."""
    found = expect(lambda: read_bed(path, genome), path)
    if found is None:
        return False
    rows = [(row.interval.chrom, row.interval.start, row.interval.end, row.name) for row in found]
    assert rows == literal_bed(text_of(path)), text_of(path)
    return True


def text_of(path):
    data = path.read_bytes()
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def sized_genome(folder):
    text = fasta_text({name: ("ACGT" * 25)[:length] for name, length in SIZES.items()})
    return Genome.open(write(folder / "sized.fa", text))


@pytest.fixture(scope="module")
def sized(folder):
    return sized_genome(folder)


@fuzz_more
@given(st.lists(bed_lines(), max_size=3), containers, st.just([]) | edits(), st.booleans())
def test_bed(folder, sized, rows, container, changes, inside):
    """Damage inside the text, or to the file that holds it."""
    text = "\n".join(rows).encode()
    path = write(
        folder / f"{next(number)}.bed", damaged(text, changes) if inside else text, container
    )
    if not inside:
        path.write_bytes(damaged(path.read_bytes(), changes))
    assert check_bed(path, sized) or changes or literal_bed(text) is None


# ---- VCF

REFERENCE = {"chr1": "ACGTNACGTTTGACA" * 3, "2": "GGCATR"}
alleles = st.text("ACGT", min_size=1, max_size=3) | st.sampled_from(
    ["<DEL>", "*", ".", "N", "X", "-", "A]2:1]", "acg", ".A"]
)


@st.composite
def vcf_lines(draw):
    chrom = draw(st.sampled_from([*REFERENCE, "chr2", "1", "chr9"]))
    letters = next(
        (
            REFERENCE[name]
            for name in (chrom, f"chr{chrom}", chrom.removeprefix("chr"))
            if name in REFERENCE
        ),
        "A",
    )
    start = draw(st.integers(0, len(letters) - 1))
    ref = draw(
        st.just(letters[start : start + draw(st.integers(1, 3))])
        | st.text("ACGTN", min_size=1, max_size=3)
    )
    alts = ",".join(draw(st.lists(alleles, min_size=1, max_size=3)))
    position = draw(st.just(str(start + 1)) | odd_numbers)
    return "\t".join([chrom, position, ".", ref, alts, ".", "PASS", "AF=0.1"])


def literal_vcf(data):
    """Alleles (chrom, start, ref, alt) that are bases and differ; None if a record is wrong."""
    found, header = [], False
    for line in re.split("\r\n|\n|\r", as_text(data)):
        line = line.removeprefix("\ufeff")
        if line.startswith("##") or not line:
            continue
        if line.startswith("#"):
            header = line.split("\t")[:5] == ["#CHROM", "POS", "ID", "REF", "ALT"]
            if not header:
                return None
            continue
        fields = line.split("\t")
        if not header or len(fields) < 5 or not re.fullmatch("[0-9]+", fields[1]):
            return None
        chrom = next(
            (
                n
                for n in (fields[0], "chr" + fields[0], fields[0].removeprefix("chr"))
                if n in REFERENCE
            ),
            None,
        )
        start, ref = int(fields[1]) - 1, fields[3].upper()
        for alt in fields[4].upper().split(","):
            if chrom is None or not re.fullmatch("[ACGT]+", alt):
                continue
            if start in (-1, len(REFERENCE[chrom])):  # a telomere
                continue
            there = as_dna(REFERENCE[chrom][start : start + len(ref)])
            if len(there) != len(ref) or any(
                a != b for a, b in zip(ref, there, strict=True) if a in "ACGT" and b in "ACGT"
            ):
                return None
            if re.fullmatch("[ACGT]+", ref) and "N" not in there and ref != alt:
                found.append((chrom, start, ref, alt))
    return found or None


def check_vcf(path, genome):
    """The file is refused, or its alleles are what its text says; gives whether it was read."""
    found = expect(lambda: [(v.chrom, v.start, v.ref, v.alt) for v in Variants(path, genome)], path)
    if found is None:
        return False
    assert found == literal_vcf(text_of(path)), text_of(path)
    return True


def reference_genome(folder):
    return Genome.open(write(folder / "reference.fa", fasta_text(REFERENCE)))


@pytest.fixture(scope="module")
def reference(folder):
    return reference_genome(folder)


VCF_HEADER = (
    "##fileformat=VCFv4.2\n##contig=<ID=chr1,length=45>\n"
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
)


@fuzz_more
@given(st.lists(vcf_lines(), max_size=3), containers, st.just([]) | edits(), st.booleans())
def test_vcf(folder, reference, rows, container, changes, inside):
    text = (VCF_HEADER + "\n".join([*rows, ""])).encode()
    path = write(
        folder / f"{next(number)}.vcf", damaged(text, changes) if inside else text, container
    )
    if not inside:
        path.write_bytes(damaged(path.read_bytes(), changes))
    assert check_vcf(path, reference) or changes or literal_vcf(text) is None
