"""Two processes on the CPU do what one does."""

import os
import subprocess
import sys

import torch
from small import CONTIGS, write_fasta

from dnadiff.backbones.weights import read_tensors


def train(folder, genome, name, *flags):
    """Runs the command as a user would; Lightning starts it again for the second device."""
    words = (
        "pretrain --config smoke --max-steps 4 --checkpoint-every 2 --log-every 2 --window 64"
        f" --eval-windows 8 --genome {genome} --out {name}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "dnadiff", *words.split(), *flags],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_two_devices_are_one_with_the_same_batch(tmp_path):
    genome = write_fasta(tmp_path / "tiny.fa", CONTIGS)
    (tmp_path / "runs").mkdir()
    done = train(tmp_path / "runs", genome, "two", "--devices", "2", "--batch-size", "4")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["two"]
    assert done.stdout.count("test <=") == 1 and done.stderr.count("4 steps") == 1

    train(tmp_path / "runs", genome, "one", "--batch-size", "8")
    one, two = (
        read_tensors(tmp_path / "runs" / name / "model" / "model.safetensors")
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-5, rtol=1e-4)
    rows = [
        (tmp_path / "runs" / name / "metrics.csv").read_text().splitlines()[1:]
        for name in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1]) == 4
    for first, second in zip(*rows, strict=True):
        ours, theirs = first.split(","), second.split(",")
        assert ours[:2] == theirs[:2]
        figures = [float(cells[3] or cells[4]) for cells in (ours, theirs)]
        assert abs(figures[0] - figures[1]) < 2e-3
