"""The three main commands on a tiny simulated genome, and on real yeast."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from Bio import SeqIO
from small import CONTIGS, write_fasta

import dnadiff
from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.cli.main import main
from dnadiff.diffusion import Autoregressive
from dnadiff.model import Model

TINY = [
    "--config",
    "smoke",
    "--max-steps",
    "4",
    "--checkpoint-every",
    "2",
    "--eval-windows",
    "8",
    "--window",
    "64",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a genome and a finished run under runs/."""
    folder = tmp_path_factory.mktemp("world")
    genome = write_fasta(folder / "tiny.fa", CONTIGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["pretrain", *TINY, "--genome", str(genome), "--quiet"]) == 0
    return folder


@pytest.fixture
def here(world, monkeypatch):
    monkeypatch.chdir(world)
    return world


def fasta(text):
    """Records by name; a name is without the digest of its run."""
    with Path(text).open() as file:
        found = {r.id: (r.description, str(r.seq)) for r in SeqIO.parse(file, "fasta")}
    return {re.sub("_[0-9a-f]{8}_", "_", name): record for name, record in found.items()}


def test_pretrain_names_its_run_after_the_genome(here):
    (run,) = (here / "runs").iterdir()
    assert re.fullmatch(r"tiny-mdlm-\d{8}-\d{6}", run.name)


def test_a_run_can_be_repeated_from_the_config_that_it_wrote(here, capsys):
    (run,) = (here / "runs").iterdir()
    assert (
        main(["pretrain", "--config", str(run / "config.yaml"), "--out", "again", "--quiet"]) == 0
    )
    assert dnadiff.load("again").digest == dnadiff.load(run).digest
    out = capsys.readouterr().out
    assert re.search(
        r"again: test <= \d\.\d{4} \+- \d\.\d{4} nats per base, perplexity .* \(8 windows\)", out
    )


def test_generate_takes_the_newest_run_and_says_so(here, capsys):
    assert main(["generate", "--length", "60", "--num", "2", "--steps", "5"]) == 0
    out, err = capsys.readouterr()
    assert "model: runs/tiny-mdlm" in err and "sampler=ancestral steps=5 (sampler=auto)" in err
    (here / "drawn.txt").write_text(out)
    records = fasta(here / "drawn.txt")
    assert list(records) == ["sample_0", "sample_1"]
    for i, (description, sequence) in enumerate(records.values()):
        assert len(sequence) == 60 and set(sequence) <= set("ACGT")
        digest = dnadiff.load(next((here / "runs").iterdir())).digest
        made = f"model={digest} sampler=ancestral steps=5 temperature=1 seed=0"
        assert re.fullmatch(
            rf"sample_[0-9a-f]{{8}}_{i} {made} design=[0-9a-f]{{8}} index={i} length=60",
            description,
        )


def test_long_sequences_are_drawn_in_windows_of_the_training_length(here, capsys, tmp_path):
    assert main(["generate", "--length", "150", "--steps", "3"]) == 0
    out, err = capsys.readouterr()
    chosen = "sampler=ancestral steps=3 window=64 stride=32"
    assert chosen in err and f" {chosen} " in out.splitlines()[0]
    flags = ["--sampler", "ancestral", "--window", "64", "--stride", "32"]
    assert main(["generate", "--length", "150", "--steps", "3", *flags]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        (
            ["--sampler", "analytic", "--steps", "4"],
            "sampler=analytic steps=4 temperature=1 seed=0",
        ),
        (
            ["--sampler", "remasking", "--steps", "4"],
            "sampler=remasking steps=4 remask=cap eta=0.25 temperature=1",
        ),
        (
            ["--sampler", "remasking", "--steps", "4", "--remask", "loop", "--eta", "0.1"],
            "sampler=remasking steps=4 remask=loop eta=0.1",
        ),
        (
            ["--temperature", "0.8", "--top-p", "0.9", "--steps", "4"],
            "steps=4 temperature=0.8 top_p=0.9 seed=0",
        ),
    ],
)
def test_a_header_says_how_it_was_made(here, capsys, flags, made):
    assert main(["generate", "--length", "30", *flags]) == 0
    assert made in capsys.readouterr().out


def test_batch_size_and_number_do_not_change_a_sequence(here, tmp_path):
    drawn = ["generate", "--length", "40", "--steps", "12"]
    for name, flags in {
        "a": ["--num", "5"],
        "b": ["--num", "5", "--batch-size", "2"],
        "c": ["--num", "3"],
    }.items():
        assert main([*drawn, "--out", str(tmp_path / name), *flags]) == 0
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b and a.startswith(c)
    assert main([*drawn, "--num", "5", "--seed", "1", "--out", str(tmp_path / "d")]) == 0
    assert (tmp_path / "d").read_text() != a


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting"])
def test_templates_are_kept(here, capsys, sampler):
    assert main(["generate", "--template", "NNTATAWARNNN", "--num", "3", "--sampler", sampler]) == 0
    sequences = re.findall(r"^[ACGTN]+$", capsys.readouterr().out, re.M)
    assert len(sequences) == 3
    assert all(re.fullmatch("..TATA[AT]A[AG]...", s) for s in sequences)


def test_a_killed_command_goes_on_without_a_duplicate(here, tmp_path):
    flags = ["generate", "--length", "40", "--steps", "4", "--num", "3000", "--seed", "3"]
    out, part = tmp_path / "new.fa", tmp_path / "new.fa.part"
    process = subprocess.Popen(
        [sys.executable, "-m", "dnadiff", *flags, "--batch-size", "7", "--out", str(out)]
    )
    try:
        deadline = time.monotonic() + 120
        while not (part.exists() and part.stat().st_size > 2000):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not out.exists() and part.read_text().count(">") < 3000
    assert main([*flags, "--out", str(out)]) == 0 and not part.exists()
    assert main([*flags, "--out", str(tmp_path / "straight.fa")]) == 0
    assert out.read_text() == (tmp_path / "straight.fa").read_text()
    assert len(set(re.findall(r"index=(\d+)", out.read_text()))) == 3000


@pytest.mark.parametrize(
    ("begun", "other"),
    [
        (["--length", "20"], ["--length", "30"]),
        (["--template", "ACGTNNNN"], ["--template", "TTTTNNNN"]),
        (["--template", "NNNNNNRN"], ["--template", "NNNNNNYN"]),
        (["--length", "20", "--avoid", "AAA"], ["--length", "20", "--avoid", "CCC"]),
        (
            ["--length", "20", "--require", "RYRY"],
            ["--length", "20", "--require", "RYRY", "--approximate"],
        ),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_a_command_resumes_only_records_of_the_same_request(here, tmp_path, capsys, begun, other):
    def named(flags):  # a site comes from a file whose name stays
        path = tmp_path / "sites.txt"
        path.write_text(flags[-1])
        return [str(path) if word == flags[-1] and "--avoid" in flags else word for word in flags]

    out, part = tmp_path / "new.fa", tmp_path / "new.fa.part"
    assert main(["generate", *named(begun), "--num", "2", "--steps", "2", "--out", str(out)]) == 0
    out.rename(part)
    before = part.read_text()
    assert main(["generate", *named(other), "--num", "4", "--steps", "2", "--out", str(out)]) == 1
    assert "record 1 is not of this command" in capsys.readouterr().err
    assert part.read_text() == before and not out.exists()


def test_wrong_usage_is_reported_for_any_number_of_templates(here, tmp_path, capsys):
    (tmp_path / "two.fa").write_text(">a\nACNN\n>b\nNNGT\n")
    assert main(["generate", "--template", str(tmp_path / "two.fa"), "--temperature", "0"]) == 2
    assert "dnadiff: temperature must be above 0" in capsys.readouterr().err


def test_constraints_are_kept_and_recorded(here, tmp_path):
    words = [
        "--avoid",
        "BsaI",
        "--avoid",
        "GAATTC",
        "--require",
        "TATAWAAG",
        "--gc",
        "0.4:0.6",
        "--gc",
        "0.2:0.8:20",
    ]
    words += ["--max-homopolymer", "4", "--unique-kmer", "10"]
    for name, flags in {"a": [], "b": ["--batch-size", "2"]}.items():
        assert (
            main(
                [
                    "generate",
                    "--length",
                    "120",
                    "--num",
                    "5",
                    *words,
                    *flags,
                    "--out",
                    str(tmp_path / name),
                ]
            )
            == 0
        )
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    for description, sequence in fasta(tmp_path / "a").values():
        assert re.search("TATA[AT]AAG", sequence) and not re.search(
            "GGTCTC|GAGACC|GAATTC", sequence
        )
        assert (
            "avoid=BsaI,GAATTC require=TATAWAAG gc=0.4:0.6,0.2:0.8:20 max_homopolymer=4 "
            "unique_kmer=10" in description
        )


def test_templates_from_files(here, tmp_path):
    (tmp_path / "designs.fa").write_text(">a\nACGTNNNNRR\n>b\nNNNNNNNNNNTTT\n>c\nNNNNNNNNNNAAA\n")
    flags = [
        "generate",
        "--template",
        str(tmp_path / "designs.fa"),
        "--num",
        "2",
        "--steps",
        "4",
        "--out",
    ]
    assert main([*flags, str(tmp_path / "all")]) == 0
    drawn = fasta(tmp_path / "all")
    assert list(drawn) == ["a_0", "a_1", "b_0", "b_1", "c_0", "c_1"]
    assert (
        re.fullmatch("ACGT....[AG][AG]", drawn["a_1"][1]) and " letters=exact " in drawn["a_1"][0]
    )
    assert drawn["b_0"][1].endswith("TTT") and "letters" not in drawn["b_0"][0]
    assert (
        drawn["b_0"][1][:10] != drawn["c_0"][1][:10]
    )  # templates do not share their random numbers
    assert main([*flags, str(tmp_path / "one"), "--batch-size", "1"]) == 0
    assert main([*flags, str(tmp_path / "fast"), "--approximate"]) == 0
    assert (tmp_path / "one").read_text() == (tmp_path / "all").read_text()
    assert " letters=approximate " in fasta(tmp_path / "fast")["a_0"][0]


def test_an_interval_of_a_genome_is_redesigned(here, tmp_path):
    (tmp_path / "sites.bed").write_text("one\t100\t120\n")
    flags = ["--template", str(tmp_path / "sites.bed"), "--genome", "tiny.fa", "--length", "60"]
    assert (
        main(["generate", *flags, "--num", "2", "--steps", "4", "--out", str(tmp_path / "new.fa")])
        == 0
    )
    genome, drawn = fasta("tiny.fa")["one"][1], fasta(tmp_path / "new.fa")
    assert list(drawn) == ["one:101-120_0", "one:101-120_1"]
    for description, sequence in drawn.values():
        assert sequence[:20] == genome[80:100] and sequence[40:] == genome[120:140]
        assert sequence[20:40] != genome[100:120] and "within=one:81-140" in description


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--length", "0"], 2, "length must be at least 1"),
        (["--num", "0"], 2, "at least 1"),
        (["--length", "5", "--template", "ACGN"], 2, "contradicts a template of 4 bases"),
        (["--template", "ACXG"], 1, "position 3: 'X'"),
        (["--temperature", "0"], 2, "above 0"),
        (["--sampler", "first_hitting", "--steps", "4"], 2, "leave steps out"),
        (["--sampler", "uniform"], 2, "trained with absorbing noise"),
        (["--eta", "0.1"], 2, "ancestral has no such setting: leave eta out"),
        (["--top-p", "0"], 2, "--top-p must be above 0"),
        (["--window", "8", "--stride", "8"], 2, "stride must be from 1 to 7"),
        (["--batch-size", "0"], 2, "--batch-size must be at least 1"),
        (
            ["--template", "NNGGTCTCNN", "--avoid", "BsaI"],
            1,
            "avoid BsaI (GGTCTC): the template's letters break it",
        ),
        (["--length", "9", "--avoid", "EcoR1"], 1, "did you mean EcoRI"),
        (["--gc", "60"], 2, "gc 60: write LOW:HIGH"),
        (["--template", "sites.bed"], 2, "sites.bed: a BED file needs the genome"),
        (["--genome", "tiny.fa"], 2, "genome goes with a BED file"),
        (["--out", "tiny.fa"], 1, "tiny.fa: exists already"),
        (["--out", "new.fa.gz"], 2, "leave .gz out"),
        (["--out", "tiny.fa/x"], 1, "choose another path"),
    ],
)
def test_generate_says_what_is_wrong_and_writes_nothing(here, capsys, flags, code, message):
    before = sorted(here.rglob("*"))
    assert main(["generate", *flags]) == code
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1]
    assert sorted(here.rglob("*")) == before


def test_a_causal_model_is_sampled_from_left_to_right_and_the_header_says_so(tmp_path, capsys):
    config = CaduceusConfig(d_model=8, n_layer=1, rcps=False, bidirectional=False)
    Model(LMDenoiser(CaduceusLM(config)), Autoregressive()).save(tmp_path)
    command = ["generate", "--checkpoint", str(tmp_path), "--template"]
    assert main([*command, "GATTACANNNN", "--num", "2"]) == 0
    header, sequence, *_ = capsys.readouterr().out.splitlines()
    assert " sampler=autoregressive temperature=1 " in header and re.fullmatch(
        "GATTACA[ACGT]{4}", sequence
    )
    for words, message in (
        (["NNA"], "position 3 of row 0 is fixed"),
        (["NN", "--sampler", "ancestral"], "leave sampler out"),
    ):
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A folder with a table of two classes, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("classes")
    rng, rows = torch.Generator().manual_seed(0), ["label,sequence"]
    for name, gc in (("GC rich", 0.8), ("AT rich", 0.2)):
        letters = torch.multinomial(
            torch.tensor([1 - gc, gc, gc, 1 - gc]), 200 * 40, True, generator=rng
        )
        rows += [f"{name},{DNA.decode(row + DNA.first_id)}" for row in letters.view(200, 40)]
    (folder / "gc.csv").write_text("\n".join(rows) + "\n")
    words = [
        "--config",
        "smoke",
        "--window",
        "40",
        "--max-steps",
        "120",
        "--learning-rate",
        "0.02",
        "--quiet",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["pretrain", *words, "--labels", "gc.csv"]) == 0
    return folder


def gc_content(text):
    sequences = "".join(re.findall(r"^[ACGT]+$", text, re.M))
    return (sequences.count("G") + sequences.count("C")) / len(sequences)


def test_samples_of_a_class_have_its_gc_content_and_the_header_names_it(
    classes, monkeypatch, capsys
):
    monkeypatch.chdir(classes)
    command = ["generate", "--length", "40", "--num", "20", "--steps", "10"]
    shares = {}
    for name, flags in {
        "none": [],
        "GC": ["--label", "GC rich"],
        "AT": ["--label", "AT rich"],
        "more": ["--label", "GC rich", "--guidance", "3"],
        "zero": ["--label", "GC rich", "--guidance", "0"],
    }.items():
        assert main([*command, *flags]) == 0
        out = capsys.readouterr().out
        shares[name] = gc_content(out)
        label = (
            f" label='{flags[1]}' guidance={flags[-1] if len(flags) > 2 else 1}" if flags else ""
        )
        assert f" seed=0{label} design=" in out
    assert shares["GC"] - shares["AT"] > 0.25 and 0.35 < shares["none"] < 0.65
    assert shares["more"] > shares["GC"] + 0.02 and shares["zero"] == shares["none"]
    (run,) = (classes / "runs").iterdir()
    assert run.name.startswith("gc-mdlm-")
    model = dnadiff.load(run)
    drawn = model.generate(3, length=40, steps=10, label="GC rich", guidance=3.0, batch_size=2)
    assert model.generate(2, length=40, steps=10, label="GC rich", guidance=3.0) == drawn[:2]


def test_a_guide_leads_to_a_class_and_says_how_well(classes, monkeypatch, capsys):
    monkeypatch.chdir(classes)
    command = [
        "generate",
        "--length",
        "40",
        "--num",
        "8",
        "--steps",
        "8",
        "--guide",
        "gc.csv",
        "--guidance",
        "8",
    ]
    assert main([*command, "--label", "GC rich"]) == 0
    out, err = capsys.readouterr()
    assert re.findall(r"guide, (\d+)% masked: accuracy [01]\.\d+ \(most frequent class", err) == [
        "10",
        "50",
        "90",
    ]
    assert " seed=0 label='GC rich' guidance=8 guide=gc.csv:" in out
    assert main([*command, "--label", "AT rich", "--quiet"]) == 0
    assert gc_content(out) - gc_content(capsys.readouterr().out) > 0.1


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--label", "rich"], 2, "no class 'rich'; there are AT rich, GC rich"),
        (["--guidance", "2"], 2, "guidance goes with label"),
        (["--guide", "gc.csv"], 2, "--guide goes with --label"),
        (["--label", "GC rich", "--guidance", "-1"], 2, "guidance must be 0 or more"),
        (
            ["--label", "rich", "--guide", "gc.csv"],
            2,
            "no class 'rich' in it; there are AT rich, GC rich",
        ),
        (["--label", "GC rich", "--guide", "none.csv"], 1, "none.csv: No such file"),
    ],
)
def test_a_class_that_cannot_be_drawn_is_named(classes, monkeypatch, capsys, flags, code, message):
    monkeypatch.chdir(classes)
    assert main(["generate", "--length", "40", *flags]) == code
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1]


def test_a_model_without_labels_draws_no_class(here, capsys):
    assert main(["generate", "--length", "40", "--label", "GC rich"]) == 2
    assert "trained without labels: leave label out" in capsys.readouterr().err


def test_a_report_of_a_run_and_samples(here, tmp_path, capsys):
    (run,) = (here / "runs").iterdir()
    samples, page = tmp_path / "samples.fa", tmp_path / "report.html"
    assert main(["generate", "--length", "50", "--num", "3", "--out", str(samples)]) == 0
    assert main(["report", str(run), str(samples), "--out", str(page)]) == 0
    html = page.read_text()
    assert html.count("<svg") == 3 and "3 sequences of 50 to 50 bases" in html
    assert not re.search(r'(src|href)="http', html)
    assert str(page) in capsys.readouterr().out


def test_the_demo_genome_is_the_same_twice(tmp_path):
    for name in ("a.fa", "b.fa"):
        assert main(["data", "simulate", "--out", str(tmp_path / name), "--quiet"]) == 0
    assert (tmp_path / "a.fa").read_bytes() == (tmp_path / "b.fa").read_bytes()
    assert main(["data", "simulate", "--out", str(tmp_path / "a.fa")]) == 1


def test_an_audit_as_a_table_and_as_a_file(here, capsys, tmp_path):
    flags = [
        "--genome",
        "tiny.fa",
        "--window",
        "64",
        "--windows",
        "8",
        "--out",
        str(tmp_path / "audit.csv"),
    ]
    assert main(["data", "audit", *flags]) == 0
    out, err = capsys.readouterr()
    assert (
        "test in train" in out
        and "exact 31-mers of a sample" in out
        and "tiny: whole contigs" in err
    )
    (run,) = (here / "runs").iterdir()
    assert (tmp_path / "audit.csv").read_text() == (run / "audit.csv").read_text()
    assert main(["data", "audit", "--genome", "tiny.fa", "--windows", "0"]) == 2
    assert main(["data", "audit", "--genome", "tiny.fa", "--test-fold", "1"]) == 2


def test_the_three_commands_on_yeast(shared_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    genome = shared_data / "genomes" / "sacCer3.fa.gz"
    assert main(["pretrain", *TINY, "--genome", str(genome)]) == 0
    assert "chr" in capsys.readouterr().err
    assert (
        main(["generate", "--length", "1024", "--num", "2", "--steps", "16", "--out", "new.fa"])
        == 0
    )
    assert [len(sequence) for _, sequence in fasta("new.fa").values()] == [1024, 1024]
    data = shared_data / "genomic_benchmarks" / "sequences"
    flags = ["--data", str(data), "--max-items", "300", "--out", "table", "--quiet"]
    assert main(["benchmark", "--task", "human_nontata", *flags]) == 0
    out = capsys.readouterr().out
    assert "NOT the benchmark's number" in out and "| majority |" in out
    assert {p.name for p in (tmp_path / "table").iterdir()} == {
        "results.csv",
        "results.md",
        "results.png",
    }
