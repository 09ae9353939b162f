"""What may change when a run is resumed, who may write it, and how signals end it."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from small import CONTIGS, power_cut, tiny_recipe, write_fasta

import dnadiff
from dnadiff.errors import InputError, Interrupted
from dnadiff.training.checkpoints import read_checkpoint
from dnadiff.training.module import Pretraining
from dnadiff.training.pretrain import pretrain
from dnadiff.training.recipe import Recipe

BED = "one\t0\t6000\ttrain\ntwo\t0\t5000\tvalid\nthree\t0\t900\ttest\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe, and a run of it killed at step 5 of 8, whose last checkpoint is of step 3."""
    folder = tmp_path_factory.mktemp("resume")
    genome = write_fasta(folder / "tiny.fa", CONTIGS)
    (folder / "split.bed").write_text(BED)
    recipe = tiny_recipe(genome, intervals=str(folder / "split.bed"), max_steps=8)
    with power_cut(5):
        pretrain(recipe, folder / "cut", quiet=True)
    return recipe, folder / "cut"


@pytest.fixture
def cut(made, tmp_path):
    """The recipe, and a copy of the interrupted run."""
    shutil.copytree(made[1], tmp_path / "run")
    return made[0], tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 32}, "window was 64 and is 32 now"),
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"learning_rate": 1e-3}, "learning_rate was 0.004 and is 0.001 now"),
        ({"intervals": None}, r"intervals was .*split\.bed and is none now"),
        ({"max_steps": 2}, "is at step 3 already, past max_steps 2"),
        ({"max_time": "0.000001s"}, "has trained for .* past max_time"),
    ],
)
def test_what_may_not_change_is_named(cut, changes, message):
    recipe, run = cut
    before = (run / "config.yaml").read_text()
    with pytest.raises(InputError, match=message):
        pretrain(replace(recipe, **changes), run, resume=True, quiet=True)
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize("name", ["genome", "intervals"])
def test_a_file_with_another_content_is_named(cut, tmp_path, name):
    recipe, run = cut
    other = tmp_path / "other.x"
    if name == "genome":
        write_fasta(other, CONTIGS, seed=1)
        changed = replace(recipe, genome=[str(other)])
    else:
        swapped = BED.replace("train", "-").replace("test", "train").replace("-", "test")
        other.write_text(swapped)
        changed = replace(recipe, intervals=str(other))
    with pytest.raises(InputError, match=rf"other\.x \({name}\) is not the file .*SHA-256"):
        pretrain(changed, run, resume=True, quiet=True)


def test_a_run_may_end_earlier_in_another_way_from_moved_files(cut, tmp_path):
    recipe, run = cut
    moved = shutil.copy(recipe.intervals, tmp_path / "moved.bed")
    changed = replace(
        recipe, intervals=moved, max_steps=4, warmup=0.0, cooldown=0.25, eval_windows=4, log_every=1
    )
    summary = pretrain(changed, run, resume=True, quiet=True)
    assert summary["steps"] == 4 and summary["test"]["windows"] == 4
    assert Recipe.read(run / "config.yaml") == changed


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(cut):
    recipe, run = cut
    with power_cut(7):
        pretrain(recipe, run, resume=True, quiet=True)
    last = run / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == 6
    last.write_bytes(b"")
    summary = pretrain(recipe, run, resume=True, quiet=True)
    assert summary["steps"] == 8


def test_one_process_at_a_time_writes_a_run(cut):
    recipe, run = cut
    with FileLock(run / ".lock"), pytest.raises(InputError, match="another process is writing"):
        pretrain(recipe, run, resume=True, quiet=True)


def test_an_interrupted_run_is_not_begun_anew(cut):
    recipe, run = cut
    with pytest.raises(InputError, match=r"interrupted run; go on with it .*--resume"):
        pretrain(recipe, run, quiet=True)
    (run / "checkpoints").rename(run.parent / "gone")
    with pytest.raises(InputError, match=r"ended before its first checkpoint.*auto"):
        pretrain(recipe, run, quiet=True)
    with pytest.raises(InputError, match="nothing to resume"):
        pretrain(recipe, run, resume=True, quiet=True)


def test_auto_starts_goes_on_and_ends(made, tmp_path):
    recipe = replace(made[0], max_steps=4)
    with power_cut(1):
        pretrain(recipe, tmp_path / "run", resume="auto", quiet=True)
    with power_cut(3):
        pretrain(recipe, tmp_path / "run", resume="auto", quiet=True)
    summary = pretrain(recipe, tmp_path / "run", resume="auto", quiet=True)
    assert summary["steps"] == 4
    assert pretrain(recipe, tmp_path / "run", resume="auto", quiet=True) == summary
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        pretrain(recipe, tmp_path / "notes", resume="auto", quiet=True)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_ends_a_run_with_a_checkpoint_from_which_it_is_the_same(
    made, tmp_path, monkeypatch, signum, code
):
    """Also between the regular checkpoints, and with losses that no row of the log has yet."""
    recipe = replace(made[0], max_steps=6, checkpoint_every=4, log_every=3)
    pretrain(recipe, tmp_path / "whole", quiet=True)
    step = Pretraining.training_step

    def signalled(self, batch, batch_idx):
        if batch.step == 1:
            os.kill(os.getpid(), signum)
        return step(self, batch, batch_idx)

    before = signal.getsignal(signum)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="--resume") as caught:
        patch.setattr(Pretraining, "training_step", signalled)
        pretrain(recipe, tmp_path / "run", quiet=True)
    assert caught.value.code == code and "after step 2" in str(caught.value)
    assert signal.getsignal(signum) is before
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2

    pretrain(recipe, tmp_path / "run", resume=True, quiet=True)
    models = [dnadiff.load(tmp_path / name).digest for name in ("whole", "run")]
    assert models[0] == models[1]
    logs = []
    for name in ("whole", "run"):
        rows = (tmp_path / name / "metrics.csv").read_text().splitlines()
        logs.append([(row.split(",")[0], row.split(",")[3:]) for row in rows])
    assert logs[0] == logs[1]


def test_a_signal_before_the_steps_ends_a_run_at_once(made, tmp_path, monkeypatch):
    def audit(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dnadiff.training.pretrain.audit", audit)
    with pytest.raises(Interrupted, match="before its first checkpoint; start it again"):
        pretrain(made[0], tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_checkpoints_by_the_clock(made, tmp_path):
    recipe = replace(made[0], max_steps=3, checkpoint_every=100, checkpoint_time="0.000001s")
    with power_cut(2):
        pretrain(recipe, tmp_path / "run", quiet=True)
    names = {"last.ckpt": 2, "previous.ckpt": 1}
    folder = tmp_path / "run" / "checkpoints"
    assert {p.name: read_checkpoint(p)["global_step"] for p in folder.iterdir()} == names


def test_another_number_of_devices_is_refused(cut, monkeypatch):
    recipe, run = cut
    monkeypatch.setattr("lightning.Trainer.world_size", 2)
    with pytest.raises(InputError, match="trained on 1 devices, and there are 2 now"):
        pretrain(recipe, run, resume=True, quiet=True)


def test_paths_are_kept_from_the_root(made, tmp_path, monkeypatch):
    recipe, _ = made
    monkeypatch.chdir(Path(recipe.genome[0]).parent)
    relative = replace(recipe, genome=["tiny.fa"], intervals="split.bed")
    with power_cut(0):
        pretrain(relative, tmp_path / "run", quiet=True)
    assert Recipe.read(tmp_path / "run" / "config.yaml").genome == recipe.genome
