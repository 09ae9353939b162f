"""Measures what each sampler costs and how good its sequences are, at several numbers of calls.

    python benchmarks/sampling.py --checkpoint RUN ... --json sampling.json --png sampling.png

Every row draws 64 sequences. Calls are network calls for each sequence; seconds are of wall clock.
Quality is the Jensen-Shannon divergence, in nats, between the 6-mers of the drawn sequences and
those of the run's test split, both strands counted as one (2,080 kinds). It is the plug-in
estimate, which is too high: a perfect sampler would not show 0 but about (2,080 - 1) / 8n for n
independent 6-mers, and more for real sequences, whose 6-mers are alike within each sequence. So it
is to be compared with the row of real windows, of the same number and length, which also has the
standard deviation between such samples; every row has the same sample size, hence nearly the same
bias. A source whose sequences are less alike within themselves, like the Markov chain, can have a
lower divergence than the real windows: it depends on 6-mers and on nothing longer. Errors of rows
are jackknife, over sequences.

Rows are measured from the cheapest on, and none is begun that would not end within --minutes. They
are kept in --json, and the next start with the same file continues with those that are missing.
"""

from __future__ import annotations

import argparse
import os

# Before torch is imported: a waiting thread must not spin on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args
from unittest.mock import patch

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from timing import Others, machine, table

from dnadiff import load
from dnadiff.alphabet import DNA
from dnadiff.benchmark.kmers import canonical_kmers
from dnadiff.diffusion import name_of
from dnadiff.files import read_json, write_json
from dnadiff.genome.fasta import Genome
from dnadiff.genome.markov import MarkovModel
from dnadiff.genome.windows import held_out
from dnadiff.memory import keep_freed_memory
from dnadiff.model import Model
from dnadiff.sampling import SAMPLERS
from dnadiff.sampling.sampler_config import Strategy
from dnadiff.training.data import splits_of
from dnadiff.training.recipe import Recipe

K = 6
REAL_SAMPLES = 20  # of real windows, for the spread between them
REFERENCE = 8192  # windows of the test split that all are compared with
TRAINING = 20_000  # windows that the Markov chain is fitted on
_LETTERS = DNA.ids[0], DNA.ids[-1] + 1


class Row(NamedTuple):
    """Options of `Model.generate`, and about how many calls on the whole length they take."""

    options: dict[str, Any]
    calls: float


def main(arguments: list[str] | None = None) -> dict:
    """Measures what is missing, prints the table, and returns what --json holds."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    end = time.monotonic() + 60 * options.minutes
    result = resume(options.json, {"sequences": options.num, "length": options.length, **machine()})
    for run in options.checkpoint:
        add(result, run, options, end)
    print(report(result))
    if options.png:
        picture(result).savefig(options.png, dpi=150)
    return result


def add(result: dict, run: Path, options: argparse.Namespace, end: float) -> None:
    """Measures the rows of a run that are missing, from the cheapest on, while there is time."""
    model = load(run)
    found = result["runs"].setdefault(
        model.digest, {"objective": name_of(model.objective), "rows": {}}
    )
    missing = {name: row for name, row in rows(model, options).items() if name not in found["rows"]}
    if not missing:
        return
    yardstick = Yardstick(run, options.num, options.length)
    found |= {"real": yardstick.real(), "markov": yardstick.markov()}
    call = seconds_per_call(model, options.num, options.length)
    for name, row in sorted(missing.items(), key=lambda item: item[1].calls):
        if time.monotonic() + row.calls * call > end:
            print(
                f"left out: {found['objective']} {name}, about {row.calls * call / 60:.1f} minutes"
            )
            continue
        found["rows"][name] = measure(model, row, yardstick, options)
        if options.json:
            write_json(options.json, result)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", required=True, help="run folders, with their genome"
    )
    parser.add_argument("--num", type=int, default=64, help="sequences of each row (64)")
    parser.add_argument("--length", type=int, default=1024, help="their bases (1024)")
    parser.add_argument(
        "--calls", type=int, nargs="+", default=[1024, 256, 64, 16], help="steps (1024 256 64 16)"
    )
    parser.add_argument(
        "--samplers", nargs="+", help="of these only; semi_autoregressive is one of them"
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="begin nothing that ends later (10)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="8 sequences of 128 bases, at 16 and 4 steps"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--json", type=Path, help="keep the rows here, and go on from there")
    parser.add_argument("--png", type=Path, help="draw divergence against calls")
    options = parser.parse_args(arguments)
    if options.quick:
        options.num, options.length, options.calls = 8, 128, [16, 4]
    return options


def resume(path: Path | None, facts: dict) -> dict:
    """Reads the rows that a file already has, measured under the same conditions."""
    if path is None or not path.exists():
        return {**facts, "runs": {}}
    found = read_json(path)
    for name, value in facts.items():
        if found.get(name) != value:
            raise SystemExit(
                f"{path}: its {name} is {found.get(name)}, not {value}: choose another --json"
            )
    return found


def rows(model: Model, options: argparse.Namespace) -> dict[str, Row]:
    """Returns what to measure, by name: the model's samplers at every number of steps."""
    result = {}
    for name, (corruption, settings) in SAMPLERS.items():
        if corruption != model.objective.corruption:
            continue
        if "steps" not in settings:
            result[name] = Row({"sampler": name}, options.length)
            continue
        variants = [{"remask": s} for s in get_args(Strategy)] if "remask" in settings else [{}]
        for steps in options.calls:
            # These two need no call for a step in which no letter is drawn.
            sparing = name in ("ancestral", "remasking")
            calls = expected_calls(steps, options.length) if sparing else steps
            for more in variants:
                words = " ".join([name, *more.values(), str(steps)])
                result[words] = Row({"sampler": name, "steps": steps, **more}, calls)

    if not model.objective.causal:
        for steps in options.calls:
            name, window = "semi_autoregressive", options.length // 2
            # There are three windows, and a call on half of the length counts as half a call.
            calls = 1.5 * expected_calls(steps, options.length / 3)
            settings = {"sampler": name, "steps": steps, "window": window}
            result[f"{name} {steps}"] = Row(settings, calls)
    if options.samplers:
        result = {name: row for name, row in result.items() if name.split()[0] in options.samplers}
    return result


def expected_calls(steps: int, letters: float) -> float:
    """Returns the expected number of steps in which at least one of n letters is drawn."""
    return steps * (1 - (1 - 1 / steps) ** letters)


def measure(model: Model, row: Row, yardstick: Yardstick, options: argparse.Namespace) -> dict:
    """Draws a row's sequences, and returns what they cost and how good they are."""
    asked = 0

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the same call, which counts its rows."""

        def counted(tokens: torch.Tensor, *more: Any, **others: Any) -> Any:
            nonlocal asked
            asked += len(tokens)
            return call(tokens, *more, **others)

        return counted

    network = model.denoiser
    # A network is called on whole sequences, or run letter by letter.
    calls = {name: counting(getattr(network, name)) for name in ("forward", "step")}
    with patch.multiple(network, **calls), Others() as others:
        start = time.perf_counter()
        drawn = model.generate(options.num, length=options.length, **row.options)
        seconds = time.perf_counter() - start
    divergence, error = yardstick.divergence(drawn)
    return {
        "sampler": str(model.resolve_sampler(length=options.length, **row.options)),
        "calls": asked / options.num,
        "seconds per 1,024 bases": seconds * 1024 / options.num / options.length,
        "divergence": divergence,
        "error": error,
        "cores used by others": others.cores,
    }


def seconds_per_call(model: Model, num: int, length: int) -> float:
    """Returns the seconds of a call on all sequences."""
    sequences = [DNA.decode(row) for row in torch.randint(*_LETTERS, (num, length))]
    times = []
    # The first call compiles the kernels, and is not counted.
    for _ in range(2):
        start = time.perf_counter()
        model.score(sequences, draws=1)
        times.append(time.perf_counter() - start)
    return times[-1]


class Yardstick:
    """The 6-mers of a run's test split, to compare sequences with.

    Args:
        run: its folder.
        num: sequences of a sample.
        length: their bases.
    """

    def __init__(self, run: Path, num: int, length: int) -> None:
        recipe = Recipe.read(run / "config.yaml")
        genomes = [Genome.open(path) for path in recipe.genome]
        self.sources = [(genome, splits_of(recipe, genome)) for genome in genomes]
        self.num, self.length = num, length
        limit = REFERENCE + REAL_SAMPLES * num
        tokens = held_out(
            self.sources, split="test", length=length, limit=limit, seed=0, min_scorable=1.0
        ).tokens_all
        groups = min(REAL_SAMPLES, len(tokens) // num // 2)
        if groups < 2:
            raise SystemExit(
                f"the test split has {len(tokens)} whole windows of {length} bases; lower --num"
            )
        counts = kmers([DNA.decode(row) for row in tokens])
        self.samples = counts[: groups * num].reshape(groups, num, -1).sum(1)
        self.reference = counts[groups * num :].sum(0)

    def divergence(self, sequences: Sequence[str]) -> tuple[float, float]:
        """Returns the divergence of sequences, and its jackknife standard error over them."""
        counts = kmers(sequences)
        total = counts.sum(0)
        without = np.array([jensen_shannon(total - one, self.reference) for one in counts])
        n = len(counts)
        return jensen_shannon(total, self.reference), float(np.sqrt((n - 1) * without.var()))

    def real(self) -> dict:
        """Returns the mean and standard deviation over samples of other real windows."""
        values = [jensen_shannon(sample, self.reference) for sample in self.samples]
        return {
            "divergence": float(np.mean(values)),
            "error": float(np.std(values, ddof=1)),
            "of": len(values),
        }

    def markov(self) -> dict:
        """Returns the divergence of a Markov chain of order 6, fitted on training windows."""
        training = held_out(
            self.sources, split="train", length=self.length, limit=TRAINING, seed=0
        ).tokens_all
        drawn = MarkovModel.fit(training.split(256), K).sample(torch.arange(self.num), self.length)
        divergence, error = self.divergence([DNA.decode(row) for row in drawn])
        return {"divergence": divergence, "error": error}


def kmers(sequences: Sequence[str]) -> np.ndarray:
    """Returns counts (n, 4^K) of each sequence's canonical k-mers."""
    counts = np.zeros((len(sequences), len(DNA) ** K), np.int32)
    for kmer, owner in canonical_kmers(sequences, K):
        np.add.at(counts, (owner, kmer.astype(np.int64)), 1)
    return counts


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the Jensen-Shannon divergence, in nats, of two laws given as counts."""
    p, q = one / one.sum(), other / other.sum()
    middle = (p + q) / 2

    def relative(law: np.ndarray) -> float:
        seen = law > 0
        return float((law[seen] * np.log(law[seen] / middle[seen])).sum())

    return (relative(p) + relative(q)) / 2


def report(result: dict) -> str:
    """Returns the table of all rows."""
    lines = [
        [
            "trained with",
            "sampler",
            "",
            "calls",
            "seconds per 1,024 bases",
            "6-mer divergence",
            "error",
        ]
    ]
    for run in result["runs"].values():
        if not run["rows"]:
            continue
        real = [
            "test windows",
            "",
            f"mean and deviation of {run['real']['of']} samples",
            "",
            "",
            *digits(run["real"]),
        ]
        for line in (real, ["order-6 Markov", "", "", "", "", *digits(run["markov"])]):
            lines += [line] if line not in lines else []
        for row in sorted(
            run["rows"].values(), key=lambda row: (row["sampler"].split()[0], -row["calls"])
        ):
            name, _, settings = row["sampler"].removeprefix("sampler=").partition(" ")
            costs = [f"{row['calls']:.1f}", f"{row['seconds per 1,024 bases']:.3f}"]
            lines.append([run["objective"], name, settings, *costs, *digits(row)])
    every = [
        row["cores used by others"] or 0.0
        for run in result["runs"].values()
        for row in run["rows"].values()
    ]
    title = (
        f"{result['sequences']} sequences of {result['length']:,} bases a row, "
        f"{result['threads']} threads"
    )
    others = f"other processes used at most {max(every, default=0.0):.2f} cores meanwhile"
    return f"{title}\n{table(lines)}\n{others}"


def picture(result: dict) -> Figure:
    """Draws divergence against calls, a line for each sampler, and that of real windows."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=colormaps["tab20"].colors)
    for run in result["runs"].values():
        by_sampler = defaultdict(list)
        for name, row in run["rows"].items():
            by_sampler[" ".join(word for word in name.split() if not word.isdigit())].append(row)
        for sampler, points in by_sampler.items():
            points.sort(key=lambda row: row["calls"])
            calls, height, error = zip(
                *((p["calls"], p["divergence"], p["error"]) for p in points), strict=True
            )
            label = f"{run['objective']}, {sampler}"
            axes.errorbar(
                calls, height, error, marker="o", markersize=4, linewidth=1, capsize=2, label=label
            )
    real, markov = next(
        (run["real"], run["markov"]) for run in result["runs"].values() if run["rows"]
    )
    low, high = real["divergence"] - real["error"], real["divergence"] + real["error"]
    axes.axhspan(low, high, color="0.8", label="real windows, deviation between samples")
    axes.axhline(markov["divergence"], color="0.4", linestyle=":", label="order-6 Markov chain")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="network calls for a sequence",
        ylabel="6-mer divergence, nats",
    )
    axes.set_title(
        f"{result['sequences']} sequences of {result['length']:,} bases against the test split"
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def digits(row: dict) -> list[str]:
    """Returns a divergence and its error, as the table has them."""
    return [f"{row['divergence']:.4f}", f"{row['error']:.4f}"]


if __name__ == "__main__":
    main()
