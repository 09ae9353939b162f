"""Reads the data of a run: genomes, splits, training windows and held-out windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dnadiff.genome.audit import Shared, audit_labelled, audit_splits
from dnadiff.genome.fasta import Genome
from dnadiff.genome.labelled import LabelledTable, LabelledWindows, read_labelled
from dnadiff.genome.run_splits import make_splits
from dnadiff.genome.sources import open_sources
from dnadiff.genome.splits import Splits
from dnadiff.genome.windows import HeldOut, Windows, held_out
from dnadiff.progress import bar, bars
from dnadiff.training.recipe import Recipe

Log = Callable[[str], None]
"""Called with each line that the user should see."""

_MIN_SCORABLE = 0.5  # least share of A, C, G, T in a held-out window


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        sources: genomes and their splits.
        train: random training windows, or those of a labelled table.
        held_out: fixed samples of the windows of "valid" and "test".
        table: the labelled table, if there is one.
    """

    sources: list[tuple[Genome, Splits]]
    train: Windows | LabelledWindows
    held_out: Mapping[str, HeldOut | LabelledWindows]
    table: LabelledTable | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the table; empty without one."""
        return () if self.table is None else self.table.names


def open_genomes(recipe: Recipe, quiet: bool) -> list[Genome]:
    """Opens the genomes of a run, which reads each new file once; see `Genome.open` for errors."""
    genomes = []
    for path in recipe.genome:
        with bar(f"index {Path(path).name}", quiet=quiet) as progress:
            genomes.append(Genome.open(path, progress=progress))
    return genomes


def read_data(recipe: Recipe, log: Log, quiet: bool) -> Data:
    """Opens the genomes, splits them and lays out the windows.

    Args:
        recipe: of the run.
        log: called with the notes on the genomes and the table of the splits.
        quiet: no progress bar.

    Raises:
        InputError: naming the file that cannot be used.
    """
    with bars(quiet=quiet) as report:
        sources = open_sources(
            recipe.genome,
            recipe.window,
            intervals=recipe.intervals,
            split=recipe.split,
            test_fold=recipe.test_fold,
            blacklist=recipe.blacklist,
            log=log,
            report=report,
        )
    if recipe.labels is not None:
        return _labelled(recipe, sources, log)

    # Training windows are a function of their number; the held-out ones are a fixed sample.
    train = Windows(
        sources,
        split="train",
        length=recipe.window,
        seed=recipe.seed,
        reverse_complement=recipe.reverse_complement,
        tiled=recipe.tiled,
        jitter=recipe.jitter,
        shares=recipe.genome_weight or None,
        min_scorable=recipe.min_scorable,
        soft_mask_weight=recipe.soft_mask_weight,
    )
    if train.skipped:
        log(
            f"note: {train.skipped:,} training intervals are shorter than a window of "
            f"{recipe.window:,} bases: skipped"
        )
    samples = {
        split: held_out(
            sources,
            split=split,
            length=recipe.window,
            limit=recipe.eval_windows,
            seed=recipe.seed,
            # A window of N alone has nothing to score.
            min_scorable=max(_MIN_SCORABLE, recipe.min_scorable),
        )
        for split in ("valid", "test")
    }
    return Data(sources, train, samples)


def splits_of(recipe: Recipe, genome: Genome) -> Splits:
    """Returns train, valid and test of one of the run's genomes; see `make_splits` for errors."""
    return make_splits(
        genome,
        recipe.window,
        intervals=recipe.intervals,
        split=recipe.split,
        test_fold=recipe.test_fold,
        blacklist=recipe.blacklist,
    )


def audit(data: Data, windows: int, quiet: bool) -> list[Shared]:
    """Compares the splits; see `audit_splits`.

    Args:
        data: of the run.
        windows: how many held-out windows of each split to look at, at most.
        quiet: no progress bar.
    """
    with bar("audit", quiet=quiet) as progress:
        # The windows of a table are compared one by one, those of a genome by its intervals.
        if data.table is not None:
            return audit_labelled(data.table.windows, limit=windows, progress=progress)
        samples = {
            split: sample for split, sample in data.held_out.items() if isinstance(sample, HeldOut)
        }
        return audit_splits(data.sources, samples, windows=windows, progress=progress)


def classes_of(sample: HeldOut | LabelledWindows, rows: Tensor | slice) -> Tensor | None:
    """Returns the classes (B,) of held-out windows, or None if they have none."""
    return sample.label[rows] if isinstance(sample, LabelledWindows) else None


def _labelled(recipe: Recipe, sources: list[tuple[Genome, Splits]], log: Log) -> Data:
    """Returns the windows of a labelled table: all for training, a sample of the held-out ones."""
    assert recipe.labels is not None
    # Without a genome the sequences are in the table itself; the recipe allows one at most.
    source = sources[0] if sources else None
    table = read_labelled(
        recipe.labels,
        recipe.window,
        recipe.seed,
        source,
        reverse_complement=recipe.reverse_complement,
    )
    for note in table.notes:
        log(f"note: {note}")
    log(str(table))
    # All windows train; those of the final bounds are limited as for a genome.
    samples = {
        split: table.windows[split].limited(recipe.eval_windows) for split in ("valid", "test")
    }
    return Data(sources, table.windows["train"], samples, table)
