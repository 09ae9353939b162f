"""Times random windows of a genome against pyfaidx, and the building and opening of its store.

    python benchmarks/genome_windows.py --genome hg38.fa.gz
    python benchmarks/genome_windows.py --genome hg38.fa.gz --plain --no-index

Windows, half of them reverse complements, are drawn as batches of token ids. The peer gets their
positions, fetches the same windows one by one, and encodes them with a table. The lower limit is
reading one byte and writing eight for each base, here of bases in the cache. Both run in one thread
on files that the system holds in memory. Times are CPU times, so other processes change little.
Building and opening are measured in processes of their own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyfaidx
import torch
from timing import Others, add_flags, machine, measure, summary, table
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.files import write_json
from dnadiff.genome import Genome, Location, Windows, split_genome
from dnadiff.memory import keep_freed_memory

_COMPLEMENT = np.array(DNA.complement_ids)
_PAIRS_CHECKED = 100  # windows that both must give alike before anything is timed


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints, and returns what --json writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.one:
        result = {"index": index, "start": start}[options.one](options)
        print(json.dumps(result))
        return result
    keep_freed_memory()  # as dnadiff's commands do
    genome = Genome.open(options.genome)
    result = {"genome": genome.name, "bases": genome.counts.bases, **machine()}
    if options.index:
        result["index"] = in_a_process(
            options, "index", DNADIFF_CACHE=tempfile.mkdtemp(prefix="dnadiff-")
        )
    result["start"] = in_a_process(options, "start")
    with Others() as others:
        result["windows"] = compare(genome, options)
    report(result, options)
    print(f"other processes: {others}")
    if options.json:
        write_json(options.json, result)
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    data = os.environ.get("DNADIFF_DATA")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--genome",
        type=Path,
        default=data and Path(data) / "genomes" / "hg38.fa.gz",
        required=not data,
        help="FASTA ($DNADIFF_DATA/genomes/hg38.fa.gz)",
    )
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1024, help="windows of a batch (1024)")
    parser.add_argument(
        "--peer-windows", type=int, default=16, help="windows of a run of the peer (16)"
    )
    parser.add_argument(
        "--plain", action="store_true", help="let the peer read an uncompressed copy, which is made"
    )
    parser.add_argument(
        "--no-index",
        action="store_false",
        dest="index",
        help="do not time the building of the store",
    )
    add_flags(parser, repeats=50)
    parser.set_defaults(threads=1)
    parser.add_argument("--one", choices=("index", "start"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def in_a_process(options: argparse.Namespace, what: str, **environment: str) -> dict:
    """Runs `index` or `start` in a fresh process, and returns what it measures."""
    flags = [
        "--genome",
        options.genome,
        "--window",
        str(options.window),
        "--batch",
        str(options.batch),
    ]
    command = [sys.executable, __file__, "--one", what, *flags, "--threads", str(options.threads)]
    began = time.time()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    result = json.loads(done.stdout)
    return result | {"seconds of the process": result.pop("ended") - began}


def index(options: argparse.Namespace) -> dict:
    """Builds the store in an empty cache, which is then removed."""
    before = peak()
    began, busy = time.perf_counter(), time.process_time()
    Genome.open(options.genome)
    seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - busy}
    shutil.rmtree(os.environ["DNADIFF_CACHE"])
    return {**seconds, "peak": peak(), "peak before": before, "ended": time.time()}


def start(options: argparse.Namespace) -> dict:
    """Opens a genome that has its store, splits it, and draws the first batch."""
    began, busy = time.perf_counter(), time.process_time()
    training_windows(Genome.open(options.genome), options).tokens(torch.arange(options.batch))
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - busy,
        "ended": time.time(),
    }


def peak() -> int:
    """Returns the largest memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def training_windows(genome: Genome, options: argparse.Namespace) -> Windows:
    """Returns random training windows of the genome's own split."""
    return Windows(
        [(genome, split_genome(genome, options.window))],
        split="train",
        length=options.window,
        seed=0,
    )


def compare(genome: Genome, options: argparse.Namespace) -> dict:
    """Measures bases per second of batches, of copying alone, and of the peer, in turn."""
    windows = training_windows(genome, options)
    batch, few = options.batch, options.peer_windows
    with peer(options) as fasta:
        check_agreement(windows, fasta)
        batches = iter([next_batch(batch, i) for i in range(options.repeats)])
        places = iter([windows.locate(next_batch(few, i)) for i in range(options.repeats)])
        out = torch.empty(batch, options.window, dtype=torch.int64)
        codes = torch.from_numpy(genome.codes[: out.numel()].copy()).view_as(out)
        runs = {
            "dnadiff": lambda: windows.tokens(next(batches)),
            "bytes alone": lambda: out.copy_(codes),
            "pyfaidx": partial(fetch, fasta, places),
        }
        times = measure(runs, options.repeats, cpu_clock)
    units = {name: float(options.window * (few if name == "pyfaidx" else batch)) for name in runs}
    rows = summary(times, units)
    for name, row in rows.items():
        row["bases_per_second"] = 1e3 * units[name] / row["median"]
    return {
        "batch": batch,
        "peer reads": "plain FASTA" if options.plain else options.genome.name,
        **rows,
    }


def cpu_clock(run: Callable[[], object]) -> float:
    """Returns the milliseconds of CPU time that a call takes."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def next_batch(size: int, number: int) -> Tensor:
    """Returns the indices of batch `number`."""
    return torch.arange(number * size, (number + 1) * size)


class peer:
    """Opens the genome by pyfaidx, with its index in a temporary folder, in a `with` statement."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = tempfile.TemporaryDirectory(prefix="dnadiff-")

    def __enter__(self) -> pyfaidx.Fasta:
        folder, path = Path(self.folder.name), self.options.genome
        if self.options.plain and path.suffix == ".gz":
            with gzip.open(path) as file, (folder / path.stem).open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 24)
            path = folder / path.stem
        names = {"indexname": folder / "fai", "gzi_indexname": folder / "gzi"}
        self.fasta = pyfaidx.Fasta(path, as_raw=True, **names)
        return self.fasta

    def __exit__(self, *error: object) -> None:
        self.fasta.close()
        self.folder.cleanup()


def fetch(fasta: pyfaidx.Fasta, places: Iterator[list[Location]]) -> Tensor:
    """Returns the token ids (B, L) of the windows of the next locations."""
    rows = []
    for _, chrom, start, end, strand in next(places):
        tokens = DNA.encode(fasta[chrom][start:end])
        if strand == "-":
            tokens = _COMPLEMENT[tokens[::-1]]
        rows.append(torch.from_numpy(tokens))
    return torch.stack(rows)


def check_agreement(windows: Windows, fasta: pyfaidx.Fasta) -> None:
    """Ends the program if the two do not give the same windows."""
    some = torch.arange(_PAIRS_CHECKED)
    if not torch.equal(windows.tokens(some), fetch(fasta, iter([windows.locate(some)]))):
        raise SystemExit("the two do not agree: nothing was timed")


def report(result: dict, options: argparse.Namespace) -> None:
    """Prints what was measured."""
    print(f"{result['genome']}, {result['bases']:,} bases, {result['threads']} thread")
    if "index" in result:
        found = result["index"]
        most, before = (found[key] / 2**20 for key in ("peak", "peak before"))
        print(
            f"store built in {found['seconds']:.1f} s ({found['cpu']:.1f} of CPU); "
            f"memory {most:,.0f} MiB at most, {before:,.0f} before it"
        )
    found = result["start"]
    after = f"first batch {found['seconds']:.2f} s ({found['cpu']:.2f} of CPU) after the imports"
    print(f"{after}, {found['seconds of the process']:.2f} s after the start of the process")
    rows = [["", "", "million bases/s", "times slower", "95 % interval"]]
    for name in ("dnadiff", "bytes alone", "pyfaidx"):
        row = result["windows"][name]
        ratio = ["", ""]  # of the first row, which the others are compared with
        if "ratio" in row:
            ratio = [f"{row['ratio']:.2f}", "{:.2f} to {:.2f}".format(*row["interval"])]
        rows.append([name, "", f"{row['bases_per_second'] / 1e6:,.1f}", *ratio])
    windows = result["windows"]
    print(
        f"batches of {windows['batch']} windows of {options.window:,} bases; "
        f"pyfaidx reads {windows['peer reads']}"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
