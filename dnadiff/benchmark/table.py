"""Result tables: a tidy CSV, a readable page, and a picture. Each says what its numbers are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dnadiff.benchmark.baselines import BASELINES
from dnadiff.benchmark.metrics import METRICS
from dnadiff.benchmark.plan import OFFICIAL
from dnadiff.benchmark.tasks import Task, registry
from dnadiff.files import atomic_path, write_text

BASELINE = "baseline"
COLUMNS = (
    "task", "model", "protocol", "split", "metric", "value", "low", "high", "n_train", "n_test", "seed", "notes",
)  # fmt: skip

_TITLES = {"accuracy": "accuracy", "mcc": "MCC", "auroc": "AUROC"}
_INTRODUCTION = """\
# Benchmark results

Accuracy is the share of right answers (0 to 1), MCC the Matthews correlation (-1 to 1), AUROC the area under the ROC
curve (0 to 1; with more than two classes, the mean of each class against the rest). In parentheses: 95 % intervals by
bootstrap over groups of sequences that share 31-mers, for the classifiers as fitted; what refitting would change is not
in them. The protocol `linear` is a logistic regression on frozen embeddings; a `baseline` uses no model at all: a model
that does not beat them has shown nothing.
"""


def write(results: pd.DataFrame, folder: Path) -> None:
    """Writes results.csv, results.md and results.png into `folder`, each whole or not at all.

    Args:
        results: rows with COLUMNS; value, low and high are fractions (see `metrics.score`).
        folder: is made if it is not there.
    """
    with atomic_path(folder / "results.csv") as temporary:
        results.to_csv(temporary, index=False)
    write_text(folder / "results.md", markdown(results))
    with atomic_path(folder / "results.png") as temporary:
        picture(results).savefig(temporary, format="png", dpi=150)


def markdown(results: pd.DataFrame) -> str:
    """The page: for each task a heading that says what its numbers are, a table, and what is known of the task."""
    known = registry()
    sections = [
        "\n".join(_section(known.get(str(name), Task(str(name))), rows))
        for name, rows in results.groupby("task", sort=False)
    ]
    return "\n".join([_INTRODUCTION, *sections])


def heading(task: Task, split: str) -> str:
    """The task's name and what its numbers are; that they are not the benchmark's, where they are not."""
    if split == OFFICIAL or not task.rows:
        return f"{task.name}: {split}"
    return f"{task.name}: {split}, NOT the benchmark's number"


def _section(task: Task, rows: pd.DataFrame) -> Iterator[str]:
    first = rows.iloc[0]
    yield f"## {heading(task, first['split'])}\n"
    if "inside" in first["split"]:
        yield (
            f"**These numbers come from {first['split']}, because the other split was not found.** Groups of sequences "
            "that share a 31-mer are never parted between folds. They cannot be set beside published numbers.\n"
        )
    yield f"Fitted on {first['n_train']:,} sequences, scored on {first['n_test']:,}; seed {first['seed']}.\n"
    yield from _bullets("Notes", str(first["notes"]).split("; "))
    yield from _lines(rows)
    yield from _bullets("Known faults of this task", task.faults)
    if task.published:
        listed = ", ".join(f"{model} {value:.3f}" for model, value in task.published.items())
        yield f"Published accuracy, by another protocol ({task.published_source}): {listed}.\n"
    baselines = [
        name for name in BASELINES if name in set(rows.loc[rows["protocol"] == BASELINE, "model"])
    ]
    yield from _bullets(
        "Baselines", [f"{name}: {BASELINES[name].description}" for name in baselines]
    )


def _bullets(title: str, items: list[str] | tuple[str, ...]) -> Iterator[str]:
    items = [item for item in items if item]
    if items:
        yield f"{title}:\n"
        yield "\n".join(f"* {item}" for item in items) + "\n"


def _lines(rows: pd.DataFrame) -> Iterator[str]:
    """The table: a line for each model and baseline, a column for each metric."""
    yield "| model | protocol | " + " | ".join(_TITLES[metric] for metric in METRICS) + " |"
    yield "|---" * (2 + len(METRICS)) + "|"
    for (protocol, model), group in rows.groupby(["protocol", "model"], sort=False):
        cells = group.set_index("metric").loc[list(METRICS), ["value", "low", "high"]]
        yield (
            f"| {model} | {protocol} | "
            + " | ".join(_cell(*values) for values in cells.to_numpy())
            + " |"
        )
    yield ""


def _cell(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "undefined"
    return (
        f"{value:.3f} ({low:.3f} to {high:.3f})"
        if not pd.isna(low)
        else f"{value:.3f} (no interval)"
    )


def picture(results: pd.DataFrame) -> Figure:
    """Accuracy with its interval, a panel for each task: models above, baselines below the line in grey."""
    tasks = [*results.loc[results["metric"] == "accuracy"].groupby("task", sort=False)]
    rows = [len(panel) for _, panel in tasks]
    figure = Figure(figsize=(8, sum(0.3 * count + 1.2 for count in rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(tasks), 1, squeeze=False, sharex=True, height_ratios=[count + 1 for count in rows]
    )[:, 0]
    known = registry()
    for (name, panel), ax in zip(tasks, axes, strict=True):
        _panel(ax, panel)
        title = heading(known.get(str(name), Task(str(name))), panel.iloc[0]["split"])
        ax.set_title(title.replace(": ", ":\n", 1), fontsize="medium")
    axes[-1].set_xlabel("accuracy (share of right answers), with 95 % interval")
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    rows = rows.iloc[(rows["protocol"] == BASELINE).argsort(kind="stable")]
    baseline = (rows["protocol"] == BASELINE).to_numpy()
    for height, (_, row) in enumerate(rows.iterrows()):
        colour, marker = ("0.5", "s") if baseline[height] else ("C0", "o")
        ax.plot([row["low"], row["high"]], [height, height], color=colour)
        ax.plot(row["value"], height, marker, color=colour)
    if 0 < baseline.sum() < len(rows):
        ax.axhline((~baseline).sum() - 0.5, color="0.8", linewidth=1)
    labels = rows["model"] + rows["protocol"].map(lambda protocol: f" ({protocol})")
    ax.set_yticks(range(len(rows)), labels)
    ax.invert_yaxis()
    ax.set_xlim(right=1)
    ax.grid(axis="x", color="0.9")
