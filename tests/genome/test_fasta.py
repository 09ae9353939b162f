"""A genome answers what pyfaidx answers, refuses other files, and trusts no old store or index."""

import errno
import hashlib
import lzma
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyfaidx
import pytest
import torch
from Bio import bgzf
from fasta_files import fasta_text, naive_fasta, write
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff import digest
from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.files import cache_folder
from dnadiff.genome import Genome, Interval, fasta_reader, regular_fasta, store

A, C, G, T, N = 7, 8, 9, 10, 11

dna = st.text("ACGTNacgtnRYSWKMBDHV", min_size=1, max_size=200)
genomes = st.lists(dna, max_size=3).map(
    lambda texts: {f"c{i}": text for i, text in enumerate([*texts, "NAcgtR"])}
)


def pyfaidx_tokens(path, chrom, start, end, strand):
    with pyfaidx.Fasta(
        str(path), indexname=f"{path}.oracle", gzi_indexname=f"{path}.oracle.gzi"
    ) as file:
        piece = file[chrom][start:end]
        return torch.from_numpy(
            DNA.encode((piece if strand == "+" else piece.reverse.complement).seq)
        )


@settings(max_examples=200, deadline=None)
@given(
    genomes,
    st.integers(1, 70),
    st.sampled_from(["genome.fa", "genome.fa.gz"]),
    st.sampled_from(["\n", "\r\n"]),
    st.data(),
)
def test_every_window_is_what_pyfaidx_gives(fasta, texts, width, name, end_of_line, data):
    path = fasta(texts, name=name, width=width, end=end_of_line)
    genome = Genome.open(path)
    assert genome.contigs == {chrom: len(text) for chrom, text in texts.items()}
    for _ in range(5):
        chrom = data.draw(st.sampled_from(list(texts)))
        start = data.draw(st.integers(0, len(texts[chrom]) - 1))
        end = data.draw(st.integers(start + 1, len(texts[chrom])))
        forward, backward = (genome.tokens(chrom, start, end, strand) for strand in "+-")
        assert torch.equal(forward, pyfaidx_tokens(path, chrom, start, end, "+"))
        assert torch.equal(backward, pyfaidx_tokens(path, chrom, start, end, "-"))
        assert torch.equal(DNA.reverse_complement(backward), forward)


@pytest.mark.parametrize(
    "start, end, strand, expected",
    [
        (0, 6, "+", [A, C, G, T, N, N]),
        (0, 6, "-", [N, N, A, C, G, T]),
        (1, 3, "-", [C, G]),
        (0, 1, "+", [A]),
        (5, 6, "-", [N]),
    ],
)
def test_tokens_written_out(genome_of, start, end, strand, expected):
    genome = genome_of({"before": "GGGG", "chr1": "AcGTnR", "after": "CCCC"})
    tokens = genome.tokens("chr1", start, end, strand)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == expected


@pytest.mark.parametrize(
    "chrom, start, end, strand, message",
    [
        ("chr1", 0, 7, "+", r"interval chr1:1-7 is out of range: chr1 has 6 bases"),
        ("chr1", -1, 3, "+", "negative"),
        ("chr1", 3, 3, "+", "empty"),
        ("chr1", 4, 3, "+", "reversed"),
        ("chr1", 0, 3, "x", "strand 'x'"),
        ("1", 0, 3, "+", "no chromosome '1'; there it is called 'chr1'"),
        ("chrMT", 0, 3, "+", "there it is called 'MT'"),
        ("other", 0, 3, "+", "it has chr1, MT"),
    ],
)
def test_intervals_that_a_genome_does_not_have(genome_of, chrom, start, end, strand, message):
    with pytest.raises(ValueError, match=message):
        genome_of({"chr1": "ACGTAC", "MT": "ACGTACGT"}).tokens(chrom, start, end, strand)


def test_counts_soft_mask_and_notes(genome_of):
    genome = genome_of({"a": "ACgtNnRy", "b": "ttK"})
    assert genome.counts == store.Counts(
        bases=11, scorable=6, unknown=2, ambiguous=3, soft_masked=6
    )
    assert (genome.codes & store.SOFT_MASK).astype(bool).tolist() == [
        c.islower() for c in "ACgtNnRyttK"
    ]
    assert (
        len(genome.notes) == 1
        and "3 IUPAC ambiguity codes in 11 bases are read as N" in genome.notes[0]
    )
    assert genome_of({"a": "ACgtNn"}).notes == ()


def test_chunks_make_no_difference(genome_of, monkeypatch):
    texts = {"a": "ACGTNNNACGTACGTNA", "b": "NNACGTACGTAC", "c": "ACGTA"}
    whole = genome_of(texts)
    monkeypatch.setattr(fasta_reader, "BLOCK", 5)
    monkeypatch.setattr(store, "_VERSION", 99)
    chunked = genome_of(texts)
    assert np.array_equal(chunked.codes, whole.codes)
    for chrom, text in texts.items():
        for gap in (1, 2, 4):
            interval = Interval(chrom, 0, len(text))
            assert np.array_equal(chunked.segments(interval, gap), whole.segments(interval, gap))


def test_scorable_bases_between_places(genome_of):
    text = "NNACGNTTNNNNACN"
    genome = genome_of({"a": "NN", "b": text, "c": "NAN"})
    offset = genome.offsets["b"]
    for start in range(len(text)):
        for end in range(start, len(text) + 1):
            expected = sum(letter != "N" for letter in text[start:end])
            assert genome.scorable(offset + start, offset + end) == expected
    assert genome.scorable(0, 2) == 0


@pytest.mark.parametrize(
    "gap, start, end, expected",
    [
        (1, 0, 15, [(2, 5), (6, 8), (12, 14)]),
        (2, 0, 15, [(2, 8), (12, 14)]),
        (4, 0, 15, [(2, 8), (12, 14)]),
        (5, 0, 15, [(2, 14)]),
        (2, 4, 13, [(4, 8), (12, 13)]),
        (2, 5, 6, []),
        (2, 8, 12, []),
    ],
)
def test_segments_written_out(genome_of, gap, start, end, expected):
    genome = genome_of({"a": "ACGT", "b": "NNACGNTTNNNNACN", "c": "ACGT"})
    found = genome.segments(Interval("b", start, end), gap) - genome.offsets["b"]
    assert [tuple(row) for row in found.tolist()] == expected


def test_reading_a_genome_imports_no_downloads(fasta):
    path = fasta({"a": "ACGT"})
    code = (
        "import sys; from dnadiff.genome import Genome; Genome.open(sys.argv[1]);"
        "sys.exit(any(name.startswith('dnadiff.downloads') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def test_identity(fasta):
    path = fasta({"chr1": "ACGT"}, name="my.genome.fa.gz")
    genome = Genome.open(str(path))
    assert genome.name == "my.genome"
    assert genome.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(
        pickle.loads(pickle.dumps(genome)).tokens("chr1", 0, 4), genome.tokens("chr1", 0, 4)
    )


# ---- the store


class Reported(list):
    """A progress callback that keeps what it was told."""

    def __call__(self, done, total):
        self.append((done, total))


def test_a_store_is_built_once_with_progress(fasta):
    path = fasta({"a": "ACGTACGA" * 10, "b": "TTTGA"})
    size = path.stat().st_size
    first, again = Reported(), Reported()
    Genome.open(path, progress=first)
    Genome.open(path, progress=again)
    assert first == [(0, 2 * size), (2 * size, 2 * size)]
    assert again in ([], first[:1])  # a file this young may be hashed again, but is not read again


@pytest.mark.parametrize("name", ["genome.fa", "genome.fa.gz"])
def test_progress_is_told_through_every_reading(fasta, monkeypatch, name):
    monkeypatch.setattr(fasta_reader, "BLOCK", 20_000)
    monkeypatch.setattr(digest, "_PIECE", 10_000)
    rng = np.random.default_rng(len(name))
    path = fasta(
        {
            "a": "".join(rng.choice(list("ACGT"), 150_000)),
            "b": "".join(rng.choice(list("ACGT"), 50_000)),
        },
        name,
    )
    report = Reported()
    genome = Genome.open(path, progress=report)
    done = [share for share, _ in report]
    size = path.stat().st_size
    assert {total for _, total in report} == {2 * size}
    assert done == sorted(done) and done[0] == 0 and done[-1] == 2 * size
    for reading in range(2):
        inside = [share for share in done if reading * size <= share < (reading + 1) * size]
        assert len(inside) >= 3 and max(np.diff(inside)) < 0.5 * size
    assert genome.counts.bases == 200_000


def test_an_unchanged_file_is_not_read_again(fasta, monkeypatch):
    monkeypatch.setattr(store, "_SETTLED", -1.0)
    path = fasta({"a": "ACGTACGGA"})
    Genome.open(path)
    monkeypatch.setattr(
        store, "sha256_of_file", lambda path, report: pytest.fail("the file was read again")
    )
    assert Genome.open(path).tokens("a", 0, 9).tolist() == [A, C, G, T, A, C, G, G, A]


def test_a_file_that_changed_under_its_name_and_date_gets_its_own_store(fasta, monkeypatch):
    monkeypatch.setattr(store, "_SETTLED", -1.0)
    path = fasta({"a": "ACGTTCGGA"})
    stat = path.stat()
    Genome.open(path)
    path.write_text(">a\nTTTTTCGGA\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    assert Genome.open(path).tokens("a", 0, 4).tolist() == [T, T, T, T]


def test_a_file_as_young_as_the_tick_of_its_clock_is_not_trusted(fasta, monkeypatch):
    monkeypatch.setattr(store, "_times", lambda path: [0, 0, 0])
    path = fasta({"a": "ACGTTCGGC"})
    Genome.open(path)
    path.write_text(">a\nTTTTTCGGC\n")
    assert Genome.open(path).tokens("a", 0, 4).tolist() == [T, T, T, T]


def test_a_moved_file_keeps_its_store(fasta, tmp_path):
    path = fasta({"a": "ACGTACGGATTA"})
    Genome.open(path)
    report = Reported()
    Genome.open(shutil.copy(path, tmp_path / "other.fa"), progress=report)
    assert report == [(0, 2 * path.stat().st_size)]  # hashed, but not read as FASTA


def test_processes_that_start_together_read_the_file_once(fasta, monkeypatch):
    path = fasta({"a": "ACGTACGACC" * 11})
    Path(path).touch()
    monkeypatch.setattr(store, "_SETTLED", -1.0)
    calls = []
    for name in ("_build", "sha256_of_file"):
        monkeypatch.setattr(store, name, slow(getattr(store, name), calls))
    with ThreadPoolExecutor(5) as pool:
        genomes = [future.result() for future in [pool.submit(Genome.open, path) for _ in range(5)]]
    assert sorted(calls) == ["_build", "sha256_of_file"]
    assert all(np.array_equal(genome.codes, genomes[0].codes) for genome in genomes)
    assert not [file for file in (cache_folder() / "genomes").rglob("*.lock")]


def slow(function, calls):
    def wrapped(*args):
        calls.append(function.__name__)
        time.sleep(0.3)
        return function(*args)

    return wrapped


BUILD_AND_DIE = """
import os, signal, sys
from dnadiff.genome import Genome, store
def die(*args):
    args[2].write(bytes(7))
    args[2].flush()
    os.kill(os.getpid(), signal.SIGKILL)
store._encode = die
Genome.open(sys.argv[1])
"""


def test_a_killed_builder_holds_nobody_up(fasta, tmp_path):
    path = fasta({"a": "ACGTACGACC" * 13})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    folder = cache_folder() / "genomes"
    command = [sys.executable, "-c", BUILD_AND_DIE, path]
    elsewhere = os.environ | {"TMPDIR": str(tmp_path)}  # it cannot tidy up
    assert subprocess.run(command, check=False, env=elsewhere).returncode == -signal.SIGKILL
    left = {file.name.split(".")[-1] for file in folder.iterdir() if digest in file.name}
    assert left == {"lock", "part"}
    assert DNA.decode(Genome.open(path).tokens("a", 0, 10)) == "ACGTACGACC"
    left = {file.name.removeprefix(digest) for file in folder.iterdir() if digest in file.name}
    kinds = ("codes", "runs.npy", "records.npy", "json")
    assert left == {f".v{store._VERSION}.{kind}" for kind in kinds}


def test_a_new_version_takes_the_place_of_the_old_one(fasta):
    path = fasta({"a": "ACGTACGACC" * 17})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    folder = cache_folder() / "genomes"
    folder.mkdir(parents=True, exist_ok=True)
    old, newer, other = (
        folder / name for name in (f"{digest}.v1.codes", f"{digest}.v9.codes", "other.v1.codes")
    )
    for file in (old, newer, other):
        file.write_bytes(b"x")
    Genome.open(path)
    assert [file.exists() for file in (old, newer, other)] == [False, True, True]


@pytest.mark.parametrize("place", [0, 5_000, 99_999])
def test_a_store_that_lost_a_page_is_built_again(fasta, place):
    letters = "".join(np.random.default_rng(place).choice(list("ACGT"), 100_000))
    path = fasta({"a": letters})
    digest = Genome.open(path).digest
    (codes,) = (cache_folder() / "genomes").glob(f"{digest[:32]}*.codes")
    text = bytearray(codes.read_bytes())
    text[place] ^= 1
    codes.write_bytes(text)
    assert DNA.decode(Genome.open(path).tokens("a", 0, 100_000)) == letters


@pytest.mark.parametrize("suffix", [".codes", ".runs.npy", ".records.npy", ".json"])
def test_a_damaged_store_is_built_again(fasta, suffix):
    path = fasta({"a": f"ACGTACGGATTAC{suffix.count('.') * 'A'}{len(suffix) * 'G'}"})
    digest = Genome.open(path).digest
    victim = next(
        file
        for file in (cache_folder() / "genomes").glob(f"{digest[:32]}*")
        if file.name.endswith(suffix)
    )
    with victim.open("r+b") as file:
        file.truncate(victim.stat().st_size // 2)
    assert Genome.open(path).tokens("a", 10, 13).tolist() == [T, A, C]


@pytest.mark.parametrize("name", ["genome.fa", "genome.fa.gz"])
def test_nothing_is_written_beside_the_file(fasta, name):
    path = fasta({"a": "ACGTACGATTTA"}, name=name)
    path.parent.chmod(0o555)
    try:
        Genome.open(path).tokens("a", 0, 4)
        assert [file.name for file in path.parent.iterdir()] == [name]
    finally:
        path.parent.chmod(0o755)
    assert list((cache_folder() / "genomes").glob("*.codes"))


def test_a_cache_that_cannot_be_written(fasta, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        InputError, match=r"cannot be written .*; set the environment variable DNADIFF_CACHE"
    ):
        Genome.open(fasta({"a": "ACGT"}))


def test_a_file_that_changes_while_it_is_read_leaves_no_store(fasta, monkeypatch):
    monkeypatch.setattr(fasta_reader, "BLOCK", 10_000)
    path = fasta({"a": "ACGTC" * 10_000})
    text = path.read_text()

    def meddle(done, total):
        if done:
            path.write_text(text.replace("G", "T"))

    with pytest.raises(InputError, match="changed while it was read"):
        Genome.open(path, progress=meddle)
    path.write_text(text)
    assert DNA.decode(Genome.open(path).tokens("a", 0, 50_000)) == "ACGTC" * 10_000


# ---- an index beside the file


def test_an_index_beside_the_file_that_fits(fasta):
    path = fasta({"a": "ACGTACGATT" * 10, "b": "ACG"})
    pyfaidx.Faidx(str(path)).close()
    assert Genome.open(path).notes == ()
    index = Path(f"{path}.fai")
    index.write_text(
        index.read_text().replace("\t3\t4\n", "\t60\t61\n")
    )  # how wide lines are, where there is but one
    assert Genome.open(path).notes == ()
    os.utime(f"{path}.fai", (0, 0))
    assert [note.split(": ")[1] for note in Genome.open(path).notes] == [
        "older than genome.fa, but agrees with it"
    ]


def bgzip_with_its_records(path):
    """Writes a bgzip file of several blocks; the rows of its index as pyfaidx 0.8 wrote them."""
    rng = np.random.default_rng(1)
    texts = {f"c{i}": "".join(rng.choice(list("ACGT"), 50_000)) for i in range(4)}
    write(path, fasta_text(texts), "bgzip")
    rows = []
    with bgzf.BgzfReader(str(path), "rb") as file:
        for name in texts:
            while not file.readline().startswith(b">"):
                pass
            rows.append([name, 50_000, file.tell(), 60, 61])
    return rows


def write_index(path, rows):
    index = Path(f"{path}.fai")
    index.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def test_an_index_with_places_in_the_compressed_file(tmp_path):
    path = tmp_path / "x.fa.gz"
    rows = bgzip_with_its_records(path)
    assert rows[-1][2] > 1 << 16
    write_index(path, rows)
    assert Genome.open(path).notes == ()


@pytest.mark.parametrize("damage", ["another place", "another length", "another width"])
def test_an_index_with_places_in_another_compressed_file(tmp_path, damage):
    path = tmp_path / "x.fa.gz"
    rows = bgzip_with_its_records(path)
    rows[-1][{"another place": 2, "another length": 1, "another width": 4}[damage]] += 1 << 17
    write_index(path, rows)
    with pytest.raises(InputError, match=r"stale, it does not describe x\.fa\.gz"):
        Genome.open(path)


@pytest.mark.parametrize(
    "other",
    [
        ">a\nACGT\nACG\n>b\nACGT\n",  # another length
        ">c\nACGT\nACGA\n>b\nACGT\n",  # another name
        ">a long\nACGT\nACGA\n>b\nACGT\n",  # other places
        ">a\nACGT\nACGA\n>b\nACGT\n>c\nA\n",  # a record too many
        ">a\nACGT\nACGA\n",  # a record too few
        ">a\nACGTA\nCGA\n>b\nACGT\n",  # lines of another length
    ],
)
def test_a_stale_index_beside_the_file(fasta, tmp_path, other):
    path = fasta({"a": "ACGTACGA", "b": "ACGT"}, width=4)
    assert Genome.open(path)
    stale = write(tmp_path / "other.fa", other)
    pyfaidx.Faidx(str(stale)).close()
    shutil.move(f"{stale}.fai", f"{path}.fai")
    with pytest.raises(
        InputError, match=r"genome.fa.fai: stale, .*; delete it or rebuild it with samtools faidx$"
    ):
        Genome.open(path)


@pytest.mark.parametrize(
    "text", ["nonsense\n", "a\t8\t3\t4\n", "a\t8\t3\tx\t5\n", "a\t-8\t3\t4\t5\n", "\n", "\x00\xff"]
)
def test_an_index_beside_the_file_that_is_none(fasta, text):
    path = fasta({"a": "ACGTACGA"}, width=4)
    Path(f"{path}.fai").write_text(text)
    with pytest.raises(
        InputError, match=r"\.fai, line 1: not a FASTA index; delete it or rebuild it"
    ):
        Genome.open(path)


# ---- what is not a genome

GOOD = ">chr1\nACGTACGTAC\nACGT\n>chr2\nTTTT\n"
BIG = ">chr1\n" + "".join(np.random.default_rng(0).choice(list("ACGT"), 200_000)) + "\n"


def truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def corrupted(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


BAD = {
    "missing": (lambda f: f / "x.fa", "no such file"),
    "a folder": (lambda f: f, "not a file"),
    "empty": (lambda f: write(f / "x.fa", ""), "empty"),
    "white": (lambda f: write(f / "x.fa", "\n \n"), "does not begin with '>'"),
    "empty bgzip": (lambda f: write(f / "x.fa.gz", "", "bgzip"), "does not begin with '>'"),
    "no header": (lambda f: write(f / "x.fa", "ACGT\nACGT\n"), "does not begin with '>'"),
    "bed": (lambda f: write(f / "x.fa", "chr1\t0\t100\n"), "does not begin with '>'"),
    "comment only": (
        lambda f: write(f / "x.fa", "; nothing\n"),
        "not FASTA, its first line",
    ),
    "plain gzip": (
        lambda f: write(f / "x.fa.gz", GOOD, "gzip"),
        r"run: gunzip .*x\.fa\.gz && bgzip x\.fa",
    ),
    "truncated gzip": (lambda f: truncated(write(f / "x.fa.gz", GOOD, "gzip"), 30), "run: gunzip"),
    "no end": (
        lambda f: truncated(write(f / "x.fa.gz", GOOD, "bgzip"), -28),
        "truncated .the bgzip end marker",
    ),
    "cut block": (
        lambda f: truncated(write(f / "x.fa.gz", BIG, "bgzip"), 9000),
        "truncated .the bgzip end marker",
    ),
    "corrupt block": (
        lambda f: corrupted(write(f / "x.fa.gz", BIG, "bgzip")),
        "truncated or damaged",
    ),
    "gzip by another name": (lambda f: write(f / "x.fa", GOOD, "bgzip"), "rename it to x.fa.gz"),
    "text by another name": (
        lambda f: write(f / "x.fa.gz", GOOD),
        "not compressed.*rename it to x.fa",
    ),
    "binary": (
        lambda f: write(f / "x.fa", b">chr1\n\xff\xfe\x00\x01\n"),
        "record chr1, position 1: the byte 0xff is not a letter of DNA",
    ),
    "stray return": (
        lambda f: write(f / "x.fa", ">a\nAC\rGT\nACGTT\n"),
        "record a, position 3: a blank or a carriage return inside a line of bases",
    ),
    "returns only": (
        lambda f: write(f / "x.fa", ">a\rACGT\r>b\rACGT\r"),
        r"end with carriage returns only, .*; run: tr '\\r' '\\n' < .*x.fa > x.unix.fa",
    ),
    "returns only, after a comment": (
        lambda f: write(f / "x.fa", "; old\r>a\rACGT\r"),
        "end with carriage returns only",
    ),
    "returns only, large": (
        lambda f: write(f / "x.fa", ">a\r" + "ACGT" * 2_000_000),
        "end with carriage returns only",
    ),
    "a header without end": (
        lambda f: write(f / "x.fa", ">a" + "ACGT" * 2_000_000),
        "a header line is longer than 1,048,576 bytes",
    ),
    "xz": (
        lambda f: write(f / "x.fa.xz", lzma.compress(GOOD.encode())),
        "compressed by xz; run: xz",
    ),
    "lfs": (
        lambda f: write(f / "x.fa", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "a Git LFS pointer, not the file itself; run: git lfs pull",
    ),
    "a web page": (
        lambda f: write(f / "x.fa", "<!DOCTYPE html>\n<html>"),
        "a web page, not the file",
    ),
    "twice": (lambda f: write(f / "x.fa", ">a\nAC\n>b\nAC\n>a\nACG\n"), "two records are called a"),
    "no bases": (lambda f: write(f / "x.fa", ">a\nAC\n>b\n>c\nAC\n"), "record b has no bases"),
    "no bases at the end": (lambda f: write(f / "x.fa", ">a\nAC\n>b\n"), "record b has no bases"),
    "no bases but a line": (lambda f: write(f / "x.fa", ">a\n\n>b\nAC\n"), "record a has no bases"),
    "no name": (
        lambda f: write(f / "x.fa", ">a\nAC\n>\nAC\n"),
        "record 2 has no name; give every record a name",
    ),
    "protein": (
        lambda f: write(f / "x.fa", ">a\nACGT\n>p\nMKVS\nTALS\n"),
        "record p, position 7: 'L' .*protein or RNA",
    ),
    "RNA": (lambda f: write(f / "x.fa", ">a\nACGU\n"), "record a, position 4: 'U'"),
    "gap": (lambda f: write(f / "x.fa", ">a\nAC-GT\n"), "record a, position 3: '-'"),
    "blank inside": (
        lambda f: write(f / "x.fa", ">a\nACG\nT AC\n"),
        "record a, position 5: a blank or a carriage return inside a line",
    ),
    "blank before": (
        lambda f: write(f / "x.fa", ">a\n ACG\n"),
        "record a, position 1: a blank or a carriage return inside a line",
    ),
    "numbers": (lambda f: write(f / "x.fa", ">a\n1ACGT\n"), "record a, position 1: '1'"),
    "no letter": (lambda f: write(f / "x.fa", ">a\nNNNN\n"), "no A, C, G or T"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_get_one_line_and_leave_nothing(tmp_path, monkeypatch, case):
    make, message = BAD[case]
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in")
    before = sorted((tmp_path / "in").iterdir())
    with pytest.raises(InputError, match=message) as caught:
        Genome.open(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert sorted((tmp_path / "in").iterdir()) == before
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("letters", "message"), [("ACGTACGTACXT", "'X' is not a"), ("ACGTACGTAC T", "a blank or a")]
)
def test_a_record_position_is_counted_across_blocks(fasta, monkeypatch, letters, message):
    monkeypatch.setattr(fasta_reader, "BLOCK", 4)
    monkeypatch.setattr(regular_fasta, "_PIECE", 4)
    with pytest.raises(InputError, match=f"record b, position 11: {message}"):
        Genome.open(fasta({"a": "ACGTACG", "b": letters}, width=12))


READ = {
    "blank lines between records": b">a\nACGT\nAC\n\n\n\n>b\nTTTT\n\n\n",
    "blank lines of CRLF": b">a\r\nACGT\r\nAC\r\n\r\n\r\n>b\r\nTTTT\r\n",
    "blanks at line ends": b">a x \nACGT \nAC\t \n>b\nTTTT  ",
    "one LF among CRLF": b">a\r\nACGT\nAC\r\n>b\nTTTT\r\n",
    "one CRLF among LF": b">a\nACGT\r\nAC\n>b\nTTTT\n",
    "uneven lines": b">a\nA\nCGTAC\n>b\nTT\nT\nT\n",
    "a blank line inside a record": b">a\nACGT\n\nAC\n>b\nTTTT\n",
    "blank lines and a comment before": b"\n; made by hand\n\n>a\nACGT\nAC\n>b\nTTTT\n",
    "a byte order mark": b"\xef\xbb\xbf>a\nACGT\nAC\n>b\nTTTT\n",
    "a Latin-1 description": b">a M\xfcller\nACGTAC\n>b\nTTTT\n",
    "a blank before the name": b"> a x\nACGTAC\n>\tb\nTTTT\n",
}


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("container", ["plain", "bgzip"])
@pytest.mark.parametrize("block", [1, 3, 1 << 22])
def test_files_that_mean_only_one_thing_are_read(tmp_path, monkeypatch, case, container, block):
    monkeypatch.setattr(fasta_reader, "BLOCK", block)
    monkeypatch.setattr(regular_fasta, "_PIECE", block)
    monkeypatch.setattr(regular_fasta, "_WIDTH", block)
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "cache"))
    name = "x.fa.gz" if container == "bgzip" else "x.fa"
    genome = Genome.open(write(tmp_path / name, READ[case], container))
    assert list(genome.contigs) == ["a", "b"]
    assert DNA.decode(genome.tokens("a", 0, 6)) == "ACGTAC"
    assert DNA.decode(genome.tokens("b", 0, 4)) == "TTTT"
    assert naive_fasta(READ[case]) == {"a": "ACGTAC", "b": "TTTT"}


pieces = st.sampled_from(
    [
        b"A",
        b"C",
        b"gt",
        b"N",
        b"R",
        b"\n",
        b"\n",
        b"\r\n",
        b" ",
        b"\r",
        b"\t",
        b">",
        b"\n>",
        b"\n>c ",
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.lists(pieces, max_size=40), st.integers(1, 9))
def test_any_text_is_read_as_by_the_naive_reader(tmp_path_factory, parts, block):
    data = b">a x\nACGT" + b"".join(parts)
    folder = tmp_path_factory.mktemp("naive")
    expected = naive_fasta(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta_reader, "BLOCK", block)
        patch.setattr(regular_fasta, "_PIECE", block)
        patch.setattr(regular_fasta, "_WIDTH", block)
        patch.setenv("DNADIFF_CACHE", str(folder / "cache"))
        try:
            genome = Genome.open(write(folder / "x.fa", data))
        except InputError:
            assert expected is None, data
            return
    assert expected is not None, data
    assert genome.contigs == {name: len(letters) for name, letters in expected.items()}
    whole = "".join(expected.values())
    assert DNA.decode(genome.gather(np.array([0]), len(whole), np.array([False]))[0]) == DNA.decode(
        DNA.encode(whole)
    )

    # Runs cover exactly the known bases, and no run goes on from one record into the next.
    runs = genome.edges(0, len(whole)).reshape(-1, 2).tolist()
    covered = [place for start, end in runs for place in range(start, end)]
    assert covered == [place for place, letter in enumerate(whole) if letter in "ACGTacgt"]
    assert not [b for b in genome.offsets.values() for start, end in runs if start < b < end]


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    path = write(tmp_path / "x.fa", b">M\xfcller\nACGT\n>\xc3\xbc\nACGT\n")
    assert list(Genome.open(path).contigs) == ["M\\xfcller", "ü"]


@pytest.mark.parametrize("name", ["data 🧬.fa", os.fsdecode(b"data \xff.fa")])
def test_a_path_may_hold_any_bytes(tmp_path, name):
    path = write(tmp_path / name, ">a\nACGT\n")
    genome = Genome.open(path)
    assert DNA.decode(Genome.open(path).tokens("a", 0, 4)) == "ACGT"
    genome.name.encode()  # can be printed and written to files


def test_a_full_temporary_folder_does_not_matter(fasta, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert Genome.open(fasta({"a": "ACGTTGCATT"}, "genome.fa.gz")).counts.bases == 10


def test_a_full_cache_folder_is_named(fasta, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "_encode", full)
    with pytest.raises(InputError, match=r"No space left on device.*DNADIFF_CACHE") as caught:
        Genome.open(fasta({"a": "ACGTTGCATTA"}))
    assert str(caught.value).startswith(f"{cache_folder() / 'genomes'}: ")


def test_runs_end_where_records_do(genome_of):
    genome = genome_of({"a": "ACGT", "b": "A", "c": "TTN", "d": "NNA", "e": "CC"})
    assert genome.edges(0, 13).reshape(-1, 2).tolist() == [
        [0, 4], [4, 5], [5, 7], [10, 11], [11, 13],
    ]  # fmt: skip


def test_bgzip_of_several_blocks_and_members(tmp_path):
    path = tmp_path / "x.fa.gz"
    with path.open("wb") as out:
        for name in ("one", "two"):  # each with its own end marker, as cat makes them
            with bgzf.BgzfWriter(str(tmp_path / name), "wb") as file:
                file.write(BIG.replace("chr1", name).encode())
            out.write((tmp_path / name).read_bytes())
    genome = Genome.open(path)
    letters = BIG.split("\n")[1]
    assert DNA.decode(genome.tokens("one", 0, len(letters))) == letters
    assert DNA.decode(genome.tokens("two", 65_500, 131_100)) == letters[65_500:131_100]


@pytest.mark.parametrize("header", [">a\n", f">a {'x' * 65_532}\n"])
def test_bgzip_blocks_of_65536_bytes_that_begin_where_a_fetch_does(tmp_path, monkeypatch, header):
    monkeypatch.setattr(fasta_reader, "BLOCK", 65_533 if header == ">a\n" else 100_000)
    letters = BIG.split("\n")[1]
    path = write(tmp_path / "x.fa.gz", f"{header}{letters}\n", "bgzip")
    assert DNA.decode(Genome.open(path).tokens("a", 0, len(letters))) == letters


# ---- real genomes


def compare_with_pyfaidx(path, genome, count, length):
    rng = np.random.default_rng(0)
    oracle = cache_folder() / path.name
    with pyfaidx.Fasta(str(path), indexname=f"{oracle}.fai", gzi_indexname=f"{oracle}.gzi") as file:
        assert {chrom: len(file[chrom]) for chrom in file.keys()} == genome.contigs
        for chrom in rng.choice(list(genome.contigs), count):
            runs = (
                genome.segments(Interval(chrom, 0, genome.contigs[chrom]), length)
                - genome.offsets[chrom]
            )
            low, high = runs[rng.integers(len(runs))]
            start = int(rng.integers(max(0, low - length), high))
            end = min(start + length, genome.contigs[chrom])
            assert (
                DNA.decode(genome.tokens(chrom, start, end)) == file[chrom][start:end].seq.upper()
            )


def test_real_yeast(shared_data):
    path = shared_data / "genomes" / "sacCer3.fa.gz"
    genome = Genome.open(path)
    assert genome.counts == store.Counts(12_157_105, 12_157_105, 0, 0, 0)
    compare_with_pyfaidx(path, genome, 40, 5_000)


@pytest.mark.skipif(
    not os.environ.get("DNADIFF_SLOW_TESTS"), reason="indexes 1.3 Gb: set DNADIFF_SLOW_TESTS"
)
def test_real_human(shared_data):
    path = shared_data / "genomes" / "hg38.fa.gz"
    genome = Genome.open(path)
    assert (genome.counts.bases, genome.counts.scorable) == (1_315_182_004, 53_488_869)
    compare_with_pyfaidx(path, genome, 200, 5_000)
