import random

import pytest
import torch

from dnadiff.errors import InputError
from dnadiff.training.checkpoints import (
    SealedCheckpoints,
    clear_leftovers,
    keep_best,
    newest_checkpoint,
    read_checkpoint,
)


def write(folder, step):
    content = {"global_step": step, "state_dict": {"w": torch.full((500,), float(step))}}
    SealedCheckpoints().save_checkpoint(content, folder / "last.ckpt")


def test_the_last_two_and_the_best_are_kept(tmp_path):
    write(tmp_path, 1)
    keep_best(tmp_path)
    write(tmp_path, 2)
    write(tmp_path, 3)
    steps = {path.name: read_checkpoint(path)["global_step"] for path in tmp_path.iterdir()}
    assert steps == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 1}


def test_it_is_a_file_that_torch_reads_with_the_permissions_of_other_files(tmp_path):
    write(tmp_path, 1)
    path = tmp_path / "last.ckpt"
    assert torch.load(path, weights_only=True)["state_dict"]["w"][0] == 1
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_nothing_goes_through_the_folder_of_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    write(tmp_path / "run", 1)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


def test_each_flipped_bit_is_found(tmp_path):
    write(tmp_path, 1)
    path = tmp_path / "last.ckpt"
    sound = path.read_bytes()
    rng = random.Random(0)
    places = [0, len(sound) - 1, *(rng.randrange(len(sound)) for _ in range(100))]
    for place in places:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"last\.ckpt"):
            read_checkpoint(path)
    path.write_bytes(sound)
    assert read_checkpoint(path)["global_step"] == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "is truncated"),
        (lambda data: data[:100] + b"?" + data[101:], "is damaged"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "is truncated or not a"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path, caplog, damage, reason):
    write(tmp_path, 1)
    keep_best(tmp_path)
    write(tmp_path, 2)
    write(tmp_path, 3)
    last = tmp_path / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    path, content = newest_checkpoint(tmp_path)
    assert path.name == "previous.ckpt" and content["global_step"] == 2
    assert f"last.ckpt: {reason}" in caplog.text and "step 2" in caplog.text

    # The next checkpoint must not put the damaged one in place of the sound one.
    clear_leftovers(tmp_path, path)
    write(tmp_path, 4)
    assert newest_checkpoint(tmp_path)[1]["global_step"] == 4
    assert read_checkpoint(tmp_path / "previous.ckpt")["global_step"] == 2


def test_a_kill_between_the_two_moves_loses_nothing(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "last.ckpt").replace(tmp_path / "previous.ckpt")
    (tmp_path / ".last.ckpt.1.ab.part").write_bytes(b"half of it")
    path, content = newest_checkpoint(tmp_path)
    assert content["global_step"] == 1
    clear_leftovers(tmp_path, path)
    assert [path.name for path in tmp_path.iterdir()] == ["previous.ckpt"]


def test_no_sound_one_is_an_error_that_names_each(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "last.ckpt").touch()
    (tmp_path / "best.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"last\.ckpt: is empty; .*best\.ckpt: is trunc.*anew"):
        newest_checkpoint(tmp_path)
