"""A .2bit file is the same genome as its FASTA; a damaged one is refused, or read as specified."""

import struct
import sys
from datetime import timedelta

import numpy as np
import pytest
from fasta_files import fasta_text, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnadiff.errors import InputError
from dnadiff.genome import Genome

RECORDS = {"chr1": "ACGTNNNNacgtnnTTTG" * 7, "b": "NNACGTacgtGGGCN", "tiny": "g"}


def blocks(flags):
    """A count, the starts and the sizes of the runs of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(np.int8), 0])).reshape(-1, 2)
    return [len(edges), *edges[:, 0].tolist(), *np.diff(edges).ravel().tolist()]


def twobit(records, order="<"):
    """The bytes of a .2bit file (genome.ucsc.edu/FAQ/FAQformat.html#format7)."""
    index, body = b"", b""
    first = 16 + sum(5 + len(name) for name in records)
    for name, text in records.items():
        index += (
            struct.pack("B", len(name))
            + name.encode()
            + struct.pack(f"{order}I", first + len(body))
        )
        letters = np.frombuffer(text.encode(), np.uint8)
        numbers = [len(text), *blocks(letters & 0xDF == ord("N")), *blocks(letters > ord("Z")), 0]
        digits = ["TCAG".find(letter) if letter in "TCAG" else 0 for letter in text.upper()] + [
            0
        ] * (-len(text) % 4)
        packed = bytes(
            64 * a + 16 * b + 4 * c + d for a, b, c, d in zip(*[iter(digits)] * 4, strict=True)
        )
        body += struct.pack(f"{order}{len(numbers)}I", *numbers) + packed
    return struct.pack(f"{order}4I", 0x1A412743, 0, len(records), 0) + index + body


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("twobit")


def same(one, other):
    return (
        one.contigs == other.contigs
        and np.array_equal(one.codes, other.codes)
        and one.counts == other.counts
    )


@pytest.mark.parametrize("order", "<>")
def test_it_is_the_genome_of_its_fasta(folder, order):
    pytest.importorskip("twobitreader")
    genome = Genome.open(write(folder / f"my{ord(order)}.2bit", twobit(RECORDS, order)))
    assert same(genome, Genome.open(write(folder / "x.fa", fasta_text(RECORDS))))
    assert genome.name == f"my{ord(order)}" and genome.notes == ()


@settings(
    max_examples=200,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(
        st.sampled_from("abc"), st.text("ACGTNacgtn", min_size=1, max_size=90), min_size=1
    )
)
def test_any_sequence_survives(folder, records):
    pytest.importorskip("twobitreader")
    path, fasta = (
        write(folder / "y.2bit", twobit(records)),
        write(folder / "y.fa", fasta_text(records)),
    )
    try:
        expected = Genome.open(fasta)
    except InputError:  # no known base in it
        with pytest.raises(InputError, match=r"no A, C, G or T"):
            Genome.open(path)
    else:
        assert same(Genome.open(path), expected)


damage = st.tuples(
    st.integers(0, len(twobit(RECORDS)) - 1), st.integers(0, 9), st.binary(max_size=5)
)


@settings(
    max_examples=300,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(damage, min_size=1, max_size=3))
def test_a_damaged_file_is_refused_or_read(folder, changes):
    """The format has no checksums, so changed bases are read. All else must be an InputError."""
    pytest.importorskip("twobitreader")
    data = twobit(RECORDS)
    for at, cut, insertion in changes:
        data = data[:at] + insertion + data[at + cut :]
    path = write(folder / "z.2bit", data)
    try:
        genome = Genome.open(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert sum(genome.contigs.values()) == genome.counts.bases <= 4 * len(data)


def test_without_its_reader(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "twobitreader", None)
    path = write(folder / "new.2bit", twobit({"a": "ACGTTGCA"}))
    with pytest.raises(
        InputError,
        match=r"pip install 'dnadiff\[twobit\]', or run: twoBitToFa .*new\.2bit new\.fa$",
    ):
        Genome.open(path)
