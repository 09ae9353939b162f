"""Which run a command uses, and how a new one is named."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small import CONTIGS, write_fasta

from dnadiff.cli import pretrain as verb
from dnadiff.cli.main import main
from dnadiff.cli.runs import chosen_model, is_unfinished, newest_run
from dnadiff.errors import InputError, UsageError
from dnadiff.model import shipped_model
from dnadiff.training.recipe import Recipe

RECIPE = Recipe(genome=["some/tiny.fa.gz"], max_steps=1)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_folder(name, *files):
    for file in files:
        path = Path("runs") / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return Path("runs") / name


FINISHED = ("config.yaml", "model/config.json", "summary.json")


def test_the_newest_finished_run_is_used(capsys):
    run_folder("a", *FINISHED)
    older = run_folder("a", "model/config.json")
    # Killed in its final bounds: its model is there, and is newer.
    unfinished = run_folder("b", "config.yaml", "model/config.json", "checkpoints/last.ckpt")
    assert is_unfinished(unfinished) and not is_unfinished(older)
    assert newest_run() == older
    assert "model: runs/a (the newest finished run" in capsys.readouterr().err


def test_a_model_that_no_run_wrote_counts():
    copied = run_folder("copied", "model/config.json")
    assert newest_run() == copied


@pytest.mark.parametrize(
    "words", [["generate"], ["export", "--out", "x"], ["benchmark", "--task", "x"]]
)
def test_unfinished_runs_are_named_with_what_to_type(words, capsys):
    run_folder("b", "config.yaml", "model/config.json")
    assert main(words) == 1
    assert capsys.readouterr().err == (
        "dnadiff: no finished run under ./runs: runs/b has not finished; go on with dnadiff "
        "pretrain --resume runs/b, or give --checkpoint\n"
    )
    assert main([*words, "--checkpoint", "runs/b"]) == 1
    assert (
        "runs/b: this run has not finished, so it has no model yet: go on with dnadiff pretrain "
        "--resume runs/b" in capsys.readouterr().err
    )


def test_a_named_model_is_not_looked_into():
    assert chosen_model("hf:owner/name") == Path("hf:owner/name")
    assert chosen_model("nowhere") == Path("nowhere")


def test_where_there_is_no_run_the_shipped_model_is_taken(here, capsys):
    assert chosen_model(None) == shipped_model()
    assert "model: default (shipped with dnadiff" in capsys.readouterr().err


def test_a_copy_without_the_shipped_model_says_how_to_make_one(here, monkeypatch):
    def missing():
        raise InputError("default: no such file")

    monkeypatch.setattr("dnadiff.model.shipped_model", missing)
    with pytest.raises(InputError, match=r"no model under \./runs: make one"):
        chosen_model(None)


def test_runs_that_begin_within_a_second_have_names_of_their_own():
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: verb._make_folder(RECIPE), range(24)))
    assert len(set(folders)) == 24 and all(folder.is_dir() for folder in folders)
    assert all(folder.name.startswith("tiny-mdlm-2") for folder in folders)


def test_a_run_that_writes_nothing_leaves_nothing(here):
    with pytest.raises(InputError), verb._run_folder(RECIPE, None) as folder:
        assert folder.is_dir()
        raise InputError("no such genome")
    assert not list(here.iterdir())
    with pytest.raises(InputError), verb._run_folder(RECIPE, None) as folder:
        (folder / "config.yaml").touch()
        raise InputError("killed")
    assert (folder / "config.yaml").exists()


def test_processes_for_further_devices_write_to_the_same_folder():
    with verb._run_folder(RECIPE, None) as folder:
        # Lightning starts them with the same command line and environment.
        with verb._run_folder(RECIPE, None) as other:
            assert other == folder
            (other / "config.yaml").touch()
    with verb._run_folder(RECIPE, None) as next_run:
        assert next_run != folder


@pytest.mark.parametrize(
    "environment", [{"WORLD_SIZE": "2"}, {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}]
)
def test_other_launchers_need_a_folder(environment, monkeypatch, here):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="give --out"), verb._run_folder(RECIPE, None):
        pass
    with verb._run_folder(RECIPE, "given") as folder:
        assert folder == Path("given")
    assert not list(here.iterdir())


def test_runs_that_is_a_file(here):
    (here / "runs").touch()
    with pytest.raises(InputError, match="runs"):
        verb._make_folder(RECIPE)


def test_two_runs_at_once_and_an_undecodable_path(here, capsys):
    path = write_fasta(here / "g\udcff 🧬.fa", CONTIGS)
    words = ["pretrain", "--config", "smoke", "--max-steps", "2", "--window", "64"]
    words += ["--eval-windows", "4", "--quiet"]
    for _ in range(2):
        assert main([*words, "--genome", str(path)]) == 0, capsys.readouterr().err
    runs = list((here / "runs").iterdir())
    assert len(runs) == 2
    for run in runs:
        assert not is_unfinished(run) and json.loads((run / "summary.json").read_text())["steps"]
