"""``dnadiff generate``: sequences as FASTA."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, TextIO

from dnadiff.cli.runs import init_means_checkpoint, newest_run
from dnadiff.errors import InputError, UsageError
from dnadiff.files import whole


def generate(
    checkpoint: str | None = None,
    length: int | None = None,
    num: int = 1,
    template: str | None = None,
    sampler: Literal[
        "auto",
        "ancestral",
        "first_hitting",
        "analytic",
        "remasking",
        "uniform",
        "plaid",
        "autoregressive",
        "semi_autoregressive",
    ] = "auto",
    steps: int | None = None,
    remask: Literal["cap", "rescale", "confidence", "loop"] | None = None,
    eta: float | None = None,
    window: int | None = None,
    stride: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int | None = None,
    seed: int = 0,
    out: str = "-",
    quiet: bool = False,
) -> None:
    """Draws sequences of A, C, G and T. The same seed gives the same sequences, whatever the batch size.

    Args:
        checkpoint: a run folder, a model folder or hf:OWNER/NAME; by default the newest run under ./runs.
        length: bases of each sequence; 1,024 by default.
        num: how many sequences.
        template: IUPAC letters: A, C, G and T stay, N is free, other codes restrict; instead of --length.
        sampler: auto fits the model's objective, and slides a window over what is longer than it was trained on.
        steps: network calls at most, for each window; 128 by default. More steps, less error. first_hitting and
            autoregressive take one call for each base instead.
        remask: how the remasking sampler hides letters again; cap by default.
        eta: how many of them in each step, 0 to 1; 1/steps by default.
        window: bases that the network is shown at once; by default what it was trained on, or all for a named sampler.
        stride: by how many bases the window moves; half of it by default.
        temperature: 1 samples the model as it is, less than 1 prefers likely letters.
        top_p: 1 samples the model as it is, less leaves out the least likely letters, whose share of the probability is
            together at most 1 minus this.
        batch_size: sequences drawn together; by default as many as show the network 32,768 bases at once.
        seed: determines the sequences.
        out: a FASTA file that does not exist yet, or - for stdout.
        quiet: no progress bar.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {batch_size}")
    from dnadiff.model import load
    from dnadiff.progress import bar

    wanted: dict[str, Any] = {"length": length, "template": template, "sampler": sampler, "steps": steps}
    wanted |= {"remask": remask, "eta": eta, "window": window, "stride": stride}
    folder = newest_run() if checkpoint is None else Path(checkpoint)
    with _destination(out) as file:
        model = load(folder)
        choice = model.choose(**wanted)
        if sampler == "auto":
            print(f"{choice} (choose with --sampler)", file=sys.stderr)
        sequences = model.stream(num, temperature=temperature, top_p=top_p, seed=seed, batch_size=batch_size, **wanted)
        nucleus = f" top_p={top_p:g}" if top_p < 1 else ""
        made = f"model={model.digest} {choice} temperature={temperature:g}{nucleus} seed={seed}"
        with bar("generate", quiet=quiet or out == "-") as progress:
            for record in _records(sequences, made, lambda done: progress(done, num)):
                file.write(record)


def _records(sequences: Iterable[str], made: str, tell: Callable[[int], None]) -> Iterator[str]:
    for i, sequence in enumerate(sequences):
        lines = "\n".join(wrap(sequence, 60))
        yield f">sample_{i} {made} index={i} length={len(sequence)}\n{lines}\n"
        tell(i + 1)


@contextmanager
def _destination(out: str) -> Iterator[TextIO]:
    """Stdout, or a new file that appears whole or not at all."""
    if out == "-":
        yield sys.stdout
        return
    path = Path(out)
    if path.exists():
        raise InputError(f"{path}: exists already; remove it or choose another --out")
    with whole(path) as temporary:
        try:
            file = temporary.open("w", encoding="ascii")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
        with file:
            yield file


prepare = init_means_checkpoint
COMMANDS = {"generate": generate}
