"""Pictures of runs and samples. Each function takes a table and returns a matplotlib figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnadiff.alphabet import DNA

TRAIN, VALID, TEST, GUIDE = "#9aa5b1", "#0072b2", "#d55e00", "#555555"
_BASE_COLOURS = ("#109648", "#255c99", "#f7b32b", "#d62839")


def training_curve(
    metrics: pd.DataFrame,
    test: Mapping[str, float] | None = None,
    guides: Mapping[str, float] | None = None,
) -> Figure:
    """Draws training loss and valid bound against bases seen, and the test bound's interval.

    Args:
        metrics: metrics.csv.
        test: the test bound of summary.json.
        guides: further levels to draw, in nats per base, by name.
    """
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    axes = figure.subplots()
    # A row of metrics.csv has the training loss, the valid bound, or both.
    train = metrics.dropna(subset=["train_nats_per_base"])
    valid = metrics.dropna(subset=["valid_nats_per_base"])
    axes.plot(
        train.bases_seen / 1e6, train.train_nats_per_base, color=TRAIN, lw=1, label="training loss"
    )
    axes.plot(
        valid.bases_seen / 1e6,
        valid.valid_nats_per_base,
        "o-",
        ms=3,
        color=VALID,
        label="valid bound (average)",
    )
    # The interval is that of the test bound; the other levels have none.
    if test is not None:
        value, se = test["nats_per_base"], test["se"] or 0.0
        axes.axhline(value, color=TEST, lw=1.2, label=f"test bound {value:.4f} ± {se:.4f}")
        axes.axhspan(value - 1.96 * se, value + 1.96 * se, color=TEST, alpha=0.2, lw=0)
    levels = {"uniform bases, ln 4": math.log(len(DNA))} | dict(guides or {})
    for (name, level), style in zip(levels.items(), itertools.cycle((":", "--", "-"))):
        axes.axhline(level, color=GUIDE, ls=style, lw=1, label=name)
    axes.set(xlabel="bases seen (millions)", ylabel="nats per base")
    _finish(axes)
    return figure


def window_bounds(bounds: pd.DataFrame) -> Figure:
    """Draws how the bound is distributed over the held-out windows.

    Args:
        bounds: bounds.csv.
    """
    figure = Figure(figsize=(8.5, 2.8), layout="constrained")
    axes = figure.subplots()
    # A window of N alone has no bases to divide by.
    known = bounds[bounds.bases > 0]
    per_base = known.nats / known.bases
    # The same bins for both splits, so that they can be compared.
    bins = np.histogram_bin_edges(per_base, 40).tolist()
    for split, colour in (("valid", VALID), ("test", TEST)):
        chosen = per_base[known.split == split]
        axes.hist(chosen, bins, density=True, histtype="stepfilled", alpha=0.35, color=colour, lw=0)
        axes.hist(
            chosen,
            bins,
            density=True,
            histtype="step",
            color=colour,
            label=f"{split}, {len(chosen):,} windows",
        )
    axes.axvline(math.log(len(DNA)), color=GUIDE, ls=":", lw=1, label="uniform bases, ln 4")
    axes.set(xlabel="nats per base of a window (upper bound)", ylabel="density")
    _finish(axes)
    return figure


def composition(sequences: Sequence[str]) -> Figure:
    """Draws the share of each base, and the distribution of GC over the sequences."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    bases, spread = figure.subplots(1, 2, width_ratios=[1, 2])
    joined = "".join(sequences)
    counts = np.array([joined.count(base) for base in DNA.letters])
    bases.bar(list(DNA.letters), counts / max(counts.sum(), 1), color=_BASE_COLOURS)
    bases.set(ylabel="share of bases", title="bases")
    gc = [(s.count("G") + s.count("C")) / max(len(s), 1) for s in sequences]
    spread.hist(gc, np.linspace(0, 1, 51).tolist(), color=VALID)
    spread.set(xlabel="GC share of a sequence", ylabel="sequences", title="GC", xlim=(0, 1))
    spread.yaxis.get_major_locator().set_params(integer=True)
    for axes in (bases, spread):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _finish(axes: Axes) -> None:
    """Removes the frame, and puts the legend beside the axes where it hides nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
