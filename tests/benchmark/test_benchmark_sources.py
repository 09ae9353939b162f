import gzip
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small import write_fasta
from task_files import dna, other_strand, write_places, write_tables, write_texts

from dnadiff.benchmark.sources import find, own_names
from dnadiff.benchmark.tasks import Task, registry
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome

MINE = Task("mine")
CONTENT = {
    "train": {"no": ["ACGTAC", "GGGTTT"], "yes": ["TTTTAA", "NACGTN", "CCCCCC"]},
    "test": {"no": ["AAAAAA"], "yes": ["GATTACA"]},
}


@pytest.mark.parametrize(
    "write",
    [
        write_texts,
        *(
            lambda *a, e=e: write_tables(*a, e)
            for e in ("tsv", "tsv.gz", "csv", "csv.gz", "parquet")
        ),
    ],
    ids=["texts", "tsv", "tsv.gz", "csv", "csv.gz", "parquet"],
)
def test_texts_and_tables_give_the_same_task(tmp_path, write):
    found = find(MINE, write(tmp_path, "mine", CONTENT))
    assert found.classes == ("no", "yes")
    assert found.train.sequences == ["ACGTAC", "GGGTTT", "TTTTAA", "NACGTN", "CCCCCC"]
    assert found.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert found.test.sequences == ["AAAAAA", "GATTACA"]
    assert found.dropped == {} and found.train.places is None


def test_class_ids_follow_the_sorted_names_whatever_the_order_in_the_file(tmp_path):
    (tmp_path / "mine.test.tsv").write_text("class\tsequence\n10\tAA\n9\tCC\n2\tGG\n")
    found = find(MINE, tmp_path)
    assert found.classes == ("10", "2", "9")
    assert found.test.labels.tolist() == [0, 2, 1]
    assert found.train is None


def test_columns_are_found_in_any_order_and_case(tmp_path):
    (tmp_path / "mine.train.csv").write_text("note,Sequence, CLASS\nx,acgt,b\ny,ggnn,a\n")
    assert find(MINE, tmp_path).train.sequences == ["ACGT", "GGNN"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.train.csv", "label,sequence\n b ,ACGT\na,GGNN\nb,CC\n"),
        ("mine.train.csv", "\ufeffClass;note;Sequence\nb;x;acgt\na ;y;ggnn\nb;;cc\n"),
        ("mine.TRAIN.TSV", "LABEL\tsequence\nb\tACGT\na\tGGNN\nb\tCC\n"),
    ],
)
def test_tables_for_training_are_tables_for_the_benchmark(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = find(MINE, tmp_path)
    assert found.classes == ("a", "b") and found.train.labels.tolist() == [1, 0, 1]
    assert found.train.sequences == ["ACGT", "GGNN", "CC"]
    assert own_names(tmp_path) == ["mine"]


def test_a_class_may_be_called_na(tmp_path):
    (tmp_path / "mine.train.csv").write_text("class,sequence\nNA,ACGT\nnull,GGCC\n")
    assert find(MINE, tmp_path).classes == ("NA", "null")


def test_sequences_without_a_known_base_are_dropped_and_counted(tmp_path):
    (tmp_path / "mine.test.csv").write_text("class,sequence\na,ACGT\nb,NNNN\nb,RYNN\nb,NNNA\n")
    found = find(MINE, tmp_path)
    assert found.test.sequences == ["ACGT", "NNNA"]
    assert found.dropped == {"without a known base": 2}


def table(name, text):
    return lambda root: (root / name).write_text(text)


def cut_short(root):
    (root / "mine.test.tsv.gz").write_bytes(
        gzip.compress(("class\tsequence\n" + "a\tACGT\n" * 9999).encode())[:-40]
    )


BAD = {
    "one class": (
        table("mine.test.csv", "class,sequence\na,AC\na,GT\n"),
        r"mine.test.csv: test has only the class a",
    ),
    "no rows": (table("mine.test.csv", "class,sequence\n"), r"mine.test.csv: nothing but a header"),
    "empty file": (table("mine.test.csv", ""), r"mine.test.csv: empty"),
    "not DNA": (
        table("mine.test.csv", "class,sequence\na,AC\nb,ACXT\n"),
        r"mine.test.csv, line 3: 'X' at position 3",
    ),
    "no sequence": (
        table("mine.test.csv", "class,sequence\na,\nb,A\n"),
        r"mine.test.csv, line 2: no sequence; write it",
    ),
    "missing value": (
        table("mine.test.csv", "class,sequence\na,ACGT\nb,NA\n"),
        r"mine.test.csv, line 3: no sequence \('NA' stands for a missing value\)",
    ),
    "ragged": (
        table("mine.test.csv", "class,sequence\na,ACGT\nb,ACGA,x\n"),
        r"mine.test.csv, line 3: 3 cells",
    ),
    "places without a genome": (
        table("mine.test.csv", "class,chrom,start,end\na,1,2,3\nb,1,2,3\n"),
        r"mine.test.csv: only coordinates; give the genome that they are cut from",
    ),
    "no class": (
        table("mine.test.csv", "class,sequence\n,A\nb,A\n"),
        r"mine.test.csv, line 2: its label is empty",
    ),
    "no column": (
        table("mine.test.csv", "kind,seq\na,A\n"),
        r"mine.test.csv: no column named label or class; it has kind, seq",
    ),
    "not parquet": (
        table("mine.test.parquet", "class,sequence\na,A\n"),
        r"mine.test.parquet: cannot be read",
    ),
    "cut short": (cut_short, r"mine.test.tsv.gz: truncated or damaged"),
    "two tables": (
        lambda root: (
            write_tables(root, "mine", CONTENT, "csv"),
            write_tables(root, "mine", CONTENT, "tsv"),
        ),
        r"mine.test.tsv: a second test table beside mine.test.csv",
    ),
    "other classes": (
        lambda root: write_texts(
            root, "mine", {"train": CONTENT["train"], "test": {"no": ["A"], "maybe": ["A"]}}
        ),
        r"the classes of train are no, yes but those of test are maybe, no",
    ),
    "one class folder": (
        lambda root: write_texts(root, "mine", {"train": {"yes": ["A"]}}),
        r"mine: train has only the class yes",
    ),
    "empty class folder": (
        lambda root: write_texts(root, "mine", {"train": {"yes": ["A"], "no": []}}),
        r"no: no .txt file in it",
    ),
    "bad text": (
        lambda root: write_texts(root, "mine", {"train": {"yes": ["A"], "no": [">x\nACGT"]}}),
        r"no/0.txt: '>' at position 1 is not a letter of DNA",
    ),
}


@pytest.mark.parametrize(("write", "message"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_an_error_of_one_line(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        find(MINE, tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_data_may_be_the_tasks_own_folder(tmp_path):
    write_texts(tmp_path, "mine", CONTENT)
    assert find(MINE, tmp_path / "mine").source == str(tmp_path / "mine")
    assert own_names(tmp_path / "mine") == ["mine"]
    assert find(Task("other"), tmp_path / "mine") is None


def test_without_data_the_packages_cache_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(MINE) is None and own_names(None) == []
    write_texts(tmp_path / ".genomic_benchmarks", "mine", CONTENT)
    assert len(find(MINE).train) == 5
    assert own_names(None) == ["mine"]


def test_own_names_are_those_of_folders_and_tables(tmp_path):
    write_texts(tmp_path, "texts", CONTENT)
    write_tables(tmp_path, "a.table", CONTENT)
    (tmp_path / "unrelated").mkdir()
    (tmp_path / "readme.txt").touch()
    assert own_names(tmp_path) == ["a.table", "texts"]


@pytest.mark.parametrize(("name", "message"), [("none", "no such folder"), ("file", "is a file")])
def test_data_must_be_a_folder(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        find(MINE, tmp_path / name)


@pytest.fixture
def chromosome():
    return dna(1, 100, seed=4)[0][:60] + "N" * 10 + dna(1, 30, seed=5)[0]


@pytest.fixture
def genome(tmp_path, chromosome):
    return Genome.open(write_fasta(tmp_path / "genome.fa", {"chr1": chromosome, "2": "ACGT" * 25}))


def test_coordinates_are_zero_based_half_open_and_stranded(tmp_path, genome, chromosome):
    lines = {
        "plus": ["0,chr1,0,10,+", "1,1,5,25,+", "2,chr2,1,3,", "3,chr1,70,100,"],
        "minus": ["0,chr1,0,10,-", "1,2,1,4,-"],
    }
    found = find(MINE, write_places(tmp_path, "mine", {"test": lines}), genome)
    assert found.classes == ("minus", "plus")
    assert found.test.sequences == [
        other_strand(chromosome[:10]),
        other_strand("CGT"),
        chromosome[:10],
        chromosome[5:25],
        "CG",
        chromosome[70:100],
    ]
    assert found.test.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert found.test.places.iloc[2].to_dict() == {
        "chrom": "chr1",
        "start": 0,
        "end": 10,
        "strand": "+",
    }
    assert found.dropped == {}


def test_tables_of_intervals_are_cut_from_the_genome(tmp_path, genome, chromosome):
    rows = ["a,chr1,0,10,-", "b,2,1,4,", "b,chr1,55,61,+"]
    (tmp_path / "mine.test.csv").write_text("\n".join(["label,chrom,start,end,strand", *rows]))
    found = find(MINE, tmp_path, genome)
    assert found.test.sequences == [other_strand(chromosome[:10]), "CGT"]
    assert found.test.places["strand"].tolist() == ["-", "+"]
    assert found.dropped == {"on N": 1}


def test_what_the_genome_does_not_have_is_dropped_and_counted(tmp_path, genome):
    lines = {
        "a": [
            "0,chr1,0,10,+",
            "1,chr1,55,61,+",
            "2,chr1,95,101,+",
            "3,chr9,0,10,+",
            "4,chrM,0,10,+",
        ],
        "b": ["0,chr1,69,75,-", "1,chr1,30,30,-", "2,chr1,-1,5,-", "3,chr1,70,75,-"],
    }
    found = find(MINE, write_places(tmp_path, "mine", {"train": lines}), genome)
    assert len(found.train) == 2 and len(found.train.places) == 2
    assert found.dropped == {
        "on N": 2,
        "outside of its contig": 3,
        "on a contig that the genome lacks": 2,
    }


def test_coordinates_without_strand(tmp_path, genome, chromosome):
    folder = tmp_path / "mine" / "test"
    folder.mkdir(parents=True)
    for label in ("a", "b"):
        pd.DataFrame({"region": ["chr1"], "start": [3], "end": [9]}).to_csv(
            folder / f"{label}.csv.gz", index=False
        )
    assert find(MINE, tmp_path, genome).test.sequences == [chromosome[3:9]] * 2


@pytest.mark.parametrize(
    "line", ["0,chr1,x,10,+", "0,chr1,1,,+", "0,chr1,1,10,?", "0,chr1,1.5,10,+", "0,,1,10,+"]
)
def test_a_bad_line_of_coordinates_is_named(tmp_path, genome, line):
    write_places(tmp_path, "mine", {"test": {"a": ["0,chr1,0,10,+", line], "b": ["0,chr1,0,10,+"]}})
    with pytest.raises(InputError, match=r"a.csv.gz, line 3: .*(integer|strand|no chromosome)"):
        find(MINE, tmp_path, genome)


def test_coordinates_alone_ask_for_the_genome_they_need(tmp_path):
    write_places(tmp_path, "human_enhancers_cohn", {"test": {"negative": ["0,chr1,0,10,+"]}})
    with pytest.raises(
        InputError, match=r"only coordinates; give the genome .*\(hg38, human genome GRCh38\)"
    ):
        find(registry()["human_enhancers_cohn"], tmp_path)


def stand_in(contigs):
    return SimpleNamespace(path="some.fa", contigs=contigs, tokens=None)


@pytest.mark.parametrize(
    ("task", "contigs", "message"),
    [
        (
            "human_enhancers_cohn",
            {"chr1": 249_250_621},
            "its chr1 has 249,250,621 bases, not 248,956,422",
        ),
        (
            "human_enhancers_cohn",
            {"1": 249_250_621},
            "its chr1 has 249,250,621 bases, not 248,956,422",
        ),
        ("dummy_mouse_enhancers_ensembl", {"chr1": 248_956_422}, "mm10 .*, which some.fa is not"),
        (
            "demo_human_or_worm",
            {"chr1": 248_956_422, "chrX": 156_040_895},
            "worm sequences are cut from ce11",
        ),
        ("demo_human_or_worm", {"chr1": 248_956_422}, "no chromosome named like chrI"),
    ],
)
def test_another_genome_is_refused(tmp_path, task, contigs, message):
    lines = {label: ["0,chr1,0,10,+"] for label in registry()[task].classes}
    write_places(tmp_path, task, {"test": lines})
    with pytest.raises(InputError, match=message):
        find(registry()[task], tmp_path, stand_in(contigs))


def test_a_class_that_the_genome_cannot_give_names_its_reference(tmp_path):
    name = "demo_coding_vs_intergenomic_seqs"
    write_places(
        tmp_path,
        name,
        {"test": {"coding_seqs": ["0,ENST01,0,4,+"], "intergenomic_seqs": ["0,chr1,0,4,+"]}},
    )
    human = Genome.open(write_fasta(tmp_path / "g.fa", {"chr1": 50}))
    human.contigs = {"chr1": 248_956_422}
    human.tokens = lambda *_: torch.tensor([7, 8, 9, 10])
    with pytest.raises(
        InputError, match=r"only the class intergenomic_seqs .*coding_seqs needs human transcripts"
    ):
        find(registry()[name], tmp_path, human)


def test_sequences_come_before_coordinates(tmp_path):
    write_places(tmp_path, "mine", {"test": {"a": ["0,chr1,0,10,+"], "b": ["0,chr1,0,10,+"]}})
    write_tables(tmp_path, "mine", CONTENT)
    assert len(find(MINE, tmp_path).train) == 5


@pytest.mark.parametrize(
    ("name", "count"),
    [("human_enhancers_cohn", (3474, 3474)), ("human_nontata_promoters", (4119, 4915))],
)
def test_the_published_test_splits(shared_data, name, count):
    found = find(registry()[name], shared_data / "genomic_benchmarks" / "sequences")
    assert found.classes == ("negative", "positive")
    assert tuple(np.bincount(found.test.labels)) == count
    assert found.train is None and found.dropped == {}
