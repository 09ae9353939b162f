"""Bad input gets one line that names it, exit 1 or 2, and nothing half-written."""

import gzip
import os
import re
from pathlib import Path

import pytest
from Bio import bgzf
from small import CONTIGS, write_fasta

from dnadiff.cli.main import main

TINY = [
    "--config",
    "smoke",
    "--max-steps",
    "2",
    "--checkpoint-every",
    "2",
    "--eval-windows",
    "4",
    "--window",
    "64",
]
TEXT = ">a\n" + "ACGTTGCA" * 200 + "\n>b\n" + "GATTACAT" * 100 + "\n"


def fasta(text):
    return lambda path: path.write_text(text)


def plain_gzip(path):
    path.write_bytes(gzip.compress(TEXT.encode()))


def truncated_bgzip(path):
    with bgzf.open(path, "wt") as file:
        file.write(TEXT)
    path.write_bytes(path.read_bytes()[:-40])


def stale_index(path):
    path.write_text(TEXT)
    Path(f"{path}.fai").write_text("a\t99\t3\t60\t61\n")
    os.utime(f"{path}.fai", (1, 1))


GENOMES = {
    "empty": (fasta(""), "empty"),
    "no header": (fasta("ACGT\n"), ">"),
    "plain gzip": (plain_gzip, "bgzip"),
    "truncated bgzip": (truncated_bgzip, "truncated"),
    "two records of one name": (fasta(TEXT + TEXT), "two records are called a"),
    "a record of no bases": (fasta(">a\n>b\nACGT\n"), "'?a'?"),
    "protein": (fasta(">a\nMKVLAAGIEQ\n"), "'E'|'Q'|'L'|'I'"),
    "an index of another file": (stale_index, "fai"),
    "shorter than a window": (fasta(">a\nACGTACGT\n"), "window"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(capsys, here, words, pattern):
    """Runs a command that must fail, and checks what it leaves."""
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*")}
    code = main(words)
    out, err = capsys.readouterr()
    assert code in (1, 2) and out == ""
    last = err.splitlines()[-1]
    assert last.startswith("dnadiff: ") and "Error:" not in last
    assert re.search(pattern, last), last
    assert {p: p.stat().st_mtime_ns for p in here.rglob("*")} == before
    return last


@pytest.mark.parametrize("name", GENOMES)
def test_a_genome_that_cannot_be_read(capsys, here, name):
    make, pattern = GENOMES[name]
    path = here / ("genome.fa.gz" if "gzip" in name else "genome.fa")
    make(path)
    line = fails(capsys, here, ["pretrain", *TINY, "--genome", str(path), "--out", "run"], pattern)
    assert "genome.fa" in line


BEDS = {
    "chrQ\t0\t100\ttrain\n": "line 1.*chrQ",
    "one\t500\t100\ttrain\n": "line 1.*reversed",
    "one\t0\t100\ttrain\none\t50\t999999\ttest\n": "line 2.*out of range",
    "one\t0\t2000\ttrain\none\t1000\t3000\ttest\ntwo\t0\t900\tvalid\n": (
        "line 1.*line 2|lines 1 and 2|overlap"
    ),
    "one\t0\t2000\n": "split|train",
    "one\tzero\t2000\ttrain\n": "'zero'",
    "": "no intervals",
}


@pytest.mark.parametrize("text", BEDS)
def test_intervals_that_cannot_be_used(capsys, here, text):
    write_fasta(here / "genome.fa", CONTIGS)
    (here / "regions.bed").write_text(text)
    words = [
        "pretrain",
        *TINY,
        "--genome",
        "genome.fa",
        "--intervals",
        "regions.bed",
        "--out",
        "run",
    ]
    assert "regions.bed" in fails(capsys, here, words, BEDS[text])


TABLES = {
    "name,sequence\na,ACGT\n": "no column named label",
    "label,start\na,1\n": "no column named sequence",
    "label,sequence\na,ACGT\na,ACGA\n": "only the class 'a'",
    "label,sequence\na,ACGT\nb,\n": "line 3: no sequence",
    "label,sequence\na,ACGT\nb,AXGT\n": "line 3: 'X' at position 2",
    "label,sequence\na,ACGT\nb,ACGA\n": "nothing labelled is in the",
}


@pytest.mark.parametrize("text", TABLES)
def test_labels_that_cannot_be_used(capsys, here, text):
    (here / "table.csv").write_text(text)
    words = ["pretrain", *TINY, "--labels", "table.csv", "--out", "run"]
    assert "table.csv" in fails(capsys, here, words, TABLES[text])


def test_labelled_intervals_of_another_genome(capsys, here):
    write_fasta(here / "genome.fa", CONTIGS)
    (here / "table.csv").write_text("label,chrom,start,end\na,chr1,5,9\n")
    words = ["pretrain", *TINY, "--labels", "table.csv", "--genome", "genome.fa", "--out", "run"]
    fails(capsys, here, words, "table.csv, line 2: genome.fa has no chromosome 'chr1'")


def test_short_records_and_ambiguity_codes_are_counted_and_skipped(capsys, here):
    write_fasta(here / "genome.fa", CONTIGS | {"speck": 30, "codes": "ACGTRYKM" * 100})
    assert main(["pretrain", *TINY, "--genome", "genome.fa", "--out", "run"]) == 0
    err = capsys.readouterr().err
    assert err.count("ambiguity codes") == 1 and "400 IUPAC" in err
    assert err.count("shorter than a window") == 1 and "1 training intervals" in err


def test_one_contig_is_split_by_blocks(capsys, here):
    write_fasta(here / "genome.fa", {"only": 20_000})
    assert main(["pretrain", *TINY, "--genome", "genome.fa", "--out", "run"]) == 0
    assert "block" in capsys.readouterr().err


@pytest.fixture
def run(here):
    write_fasta(here / "genome.fa", CONTIGS)
    assert main(["pretrain", *TINY, "--genome", "genome.fa", "--out", "run", "--quiet"]) == 0
    return here


def test_a_folder_that_is_not_empty(capsys, run):
    capsys.readouterr()
    fails(
        capsys, run, ["pretrain", *TINY, "--genome", "genome.fa", "--out", "run"], "run: not empty"
    )


def test_a_folder_that_cannot_be_made(capsys, run):
    capsys.readouterr()
    fails(
        capsys,
        run,
        ["pretrain", *TINY, "--genome", "genome.fa", "--out", "genome.fa/run"],
        "choose another",
    )


def test_tasks_that_cannot_be_run(capsys, run):
    capsys.readouterr()
    words = ["benchmark", "--checkpoint", "run", "--out", "table", "--data", "tasks"]
    (run / "tasks" / "mine" / "train" / "only").mkdir(parents=True)
    (run / "tasks" / "mine" / "train" / "only" / "1.txt").write_text("ACGT")
    fails(capsys, run, [*words, "--task", "human_enhancer_cohn"], "human_enhancers_cohn")
    fails(capsys, run, [*words, "--task", "mine"], "mine")
    fails(capsys, run, [*words, "--task", "human_enhancers"], "human_enhancers_cohn|--genome|TASK")


def test_a_checkpoint_that_is_no_model(capsys, run):
    capsys.readouterr()
    fails(capsys, run, ["generate", "--checkpoint", "genome.fa"], "genome.fa: not a model")
    weights = run / "run" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    fails(capsys, run, ["generate", "--checkpoint", "run"], "model.safetensors: damaged")
