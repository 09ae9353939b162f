"""Result tables: a tidy CSV, a readable page, and a picture. Each says what its numbers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dnadiff.benchmark import escape
from dnadiff.benchmark.baselines import BASELINES
from dnadiff.benchmark.metrics import METRICS, MIN_COMPONENTS
from dnadiff.benchmark.plan import OFFICIAL
from dnadiff.benchmark.tasks import Task, registry
from dnadiff.errors import InputError
from dnadiff.files import atomic_path, write_text

BASELINE = "baseline"
COLUMNS = (
    "task", "model", "protocol", "split", "metric", "value", "low", "high",
    "n_train", "n_test", "n_components", "seed", "notes",
)  # fmt: skip

_TEXTS = ("task", "model", "protocol", "split", "metric", "notes")
_NUMBERS = ("value", "low", "high")
_TITLES = {"accuracy": "accuracy", "mcc": "MCC", "auroc": "AUROC"}
_INTRODUCTION = f"""\
# Benchmark results

Accuracy is the share of right answers (0 to 1), MCC the Matthews correlation (-1 to 1), AUROC the
area under the ROC curve (0 to 1; with more than two classes, the mean of each class against the
rest). In parentheses: 95 % intervals that count groups of sequences which share 31-mers, and not
single sequences; there are none for fewer than {MIN_COMPONENTS} groups. They hold for the
classifiers as fitted, and leave out what refitting would change. The protocol `linear` is a
logistic regression on frozen embeddings; a `baseline` uses no model at all: a model that does not
beat them has shown nothing.
"""


def write(results: pd.DataFrame, folder: Path) -> None:
    """Writes results.csv, results.md and results.png into `folder`, each whole or not at all.

    In results.csv, texts that a spreadsheet would run as a formula begin with an apostrophe; `read`
    takes it off.

    Args:
        results: rows with COLUMNS; value, low and high are fractions (see `metrics.score`).
        folder: is made if it does not exist.
    """
    # Only texts are escaped: numbers such as -0.1 must stay numbers.
    safe = results.copy()
    for column in _TEXTS:
        safe[column] = [escape.csv_cell(str(text)) for text in results[column]]
    with atomic_path(folder / "results.csv") as temporary:
        safe.to_csv(temporary, index=False)
    write_text(folder / "results.md", markdown(results))
    with atomic_path(folder / "results.png") as temporary:
        picture(results).savefig(temporary, format="png", dpi=150)


def read(path: Path) -> pd.DataFrame:
    """Reads a results.csv, also an older one without n_components.

    Raises:
        InputError: naming the file, if it is no such table.
    """
    try:
        # A class or model may be called NA: only numbers may be missing.
        missing = {column: [""] for column in _NUMBERS}
        results = pd.read_csv(path, keep_default_na=False, na_values=missing)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a table ({reason})") from error
    for column in COLUMNS:
        if column not in results and column != "n_components":
            raise InputError(f"{path}: not a benchmark's results.csv, it has no column {column!r}")
    for column in _TEXTS:
        results[column] = [escape.from_csv_cell(str(text)) for text in results[column]]
    return results


def markdown(results: pd.DataFrame) -> str:
    """Returns the page: for each task a heading that names its split, a table, and notes."""
    known = registry()
    sections = []
    for name, rows in results.groupby("task", sort=False):
        task = known.get(str(name), Task(str(name)))
        sections.append("\n".join(_section(task, rows)))
    return "\n".join([_INTRODUCTION, *sections])


def heading(task: Task, split: str) -> str:
    """Returns a task's name and split, marked where published numbers are not comparable."""
    # A user's own task has no published number that it could be mistaken for.
    if split == OFFICIAL or not task.rows:
        return f"{task.name}: {split}"
    return f"{task.name}: {split}, NOT the benchmark's number"


def _section(task: Task, rows: pd.DataFrame) -> Iterator[str]:
    """Yields the part of the page on one task."""
    # All rows of a task share split, counts and notes.
    first = rows.iloc[0]
    yield f"## {escape.markdown(heading(task, first['split']))}\n"
    if "inside" in first["split"]:
        split = escape.markdown(first["split"])
        yield (
            f"**These numbers come from {split}, because the other split was not found.** All "
            "sequences that share a "
            "31-mer are in the same fold. The numbers cannot be compared with published ones.\n"
        )
    groups = first["n_components"]
    yield (
        f"Fitted on {first['n_train']:,} sequences, scored on {first['n_test']:,} in {groups:,} "
        "groups that share no "
        f"31-mer; seed {first['seed']}.\n"
    )
    notes = [escape.markdown(note) for note in str(first["notes"]).split("; ")]
    if groups < MIN_COMPONENTS:
        notes.append(f"{groups:,} groups are too few for an interval; it takes {MIN_COMPONENTS}")
    yield from _bullets("Notes", notes)
    yield from _lines(rows)
    yield from _bullets("Known faults of this task", task.faults)
    if task.published:
        listed = ", ".join(f"{model} {value:.3f}" for model, value in task.published.items())
        yield f"Published accuracy, by another protocol ({task.published_source}): {listed}.\n"
    yield from _bullets("Baselines", _baselines(rows))


def _baselines(rows: pd.DataFrame) -> list[str]:
    """Describes each baseline in a table."""
    present = set(rows.loc[rows["protocol"] == BASELINE, "model"])
    return [f"{name}: {BASELINES[name].description}" for name in BASELINES if name in present]


def _bullets(title: str, items: Sequence[str]) -> Iterator[str]:
    """Yields a titled list, or nothing if it would be empty."""
    lines = [f"* {item}" for item in items if item]
    if lines:
        yield f"{title}:\n"
        yield "\n".join(lines) + "\n"


def _lines(rows: pd.DataFrame) -> Iterator[str]:
    """Yields the table: a line for each model and baseline, a column for each metric."""
    titles = " | ".join(_TITLES[metric] for metric in METRICS)
    yield f"| model | protocol | {titles} |"
    yield "|---" * (2 + len(METRICS)) + "|"
    for (protocol, model), group in rows.groupby(["protocol", "model"], sort=False):
        values = group.set_index("metric").loc[list(METRICS), list(_NUMBERS)].to_numpy()
        cells = " | ".join(_cell(*row) for row in values)
        yield f"| {escape.markdown(model)} | {escape.markdown(protocol)} | {cells} |"
    yield ""


def _cell(value: float, low: float, high: float) -> str:
    """Returns a metric and its interval as text."""
    if pd.isna(value):
        return "undefined"
    if pd.isna(low):
        return f"{value:.3f} (no interval)"
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def picture(results: pd.DataFrame) -> Figure:
    """Draws accuracies with intervals, a panel for each task: models above, baselines below."""
    tasks = [*results.loc[results["metric"] == "accuracy"].groupby("task", sort=False)]
    rows = [len(panel) for _, panel in tasks]
    figure = Figure(figsize=(8, sum(0.3 * count + 1.2 for count in rows)), layout="constrained")
    # Without pyplot, which would keep the figure in memory and may open a window.
    FigureCanvasAgg(figure)
    ratios = [count + 1 for count in rows]
    axes = figure.subplots(len(tasks), 1, squeeze=False, sharex=True, height_ratios=ratios)[:, 0]
    known = registry()
    for (name, panel), ax in zip(tasks, axes, strict=True):
        _panel(ax, panel)
        title = heading(known.get(str(name), Task(str(name))), panel.iloc[0]["split"])
        # Names may hold a $, which matplotlib would otherwise read as the beginning of a formula.
        ax.set_title(
            escape.printable(title).replace(": ", ":\n", 1), fontsize="medium", parse_math=False
        )
    axes[-1].set_xlabel("accuracy (share of right answers), with 95 % interval")
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    """Draws the accuracies on one task."""
    # Stable, so that models and baselines each keep their order.
    rows = rows.iloc[(rows["protocol"] == BASELINE).argsort(kind="stable")]
    baseline = (rows["protocol"] == BASELINE).to_numpy()
    for height, (_, row) in enumerate(rows.iterrows()):
        colour, marker = ("0.5", "s") if baseline[height] else ("C0", "o")
        ax.plot([row["low"], row["high"]], [height, height], color=colour)
        ax.plot(row["value"], height, marker, color=colour)
    if 0 < baseline.sum() < len(rows):
        ax.axhline((~baseline).sum() - 0.5, color="0.8", linewidth=1)
    names = zip(rows["model"], rows["protocol"], strict=True)
    labels = [escape.printable(f"{model} ({protocol})") for model, protocol in names]
    ax.set_yticks(range(len(rows)), labels, parse_math=False)
    # The first row on top, as in the table.
    ax.invert_yaxis()
    ax.set_xlim(right=1)
    ax.grid(axis="x", color="0.9")
