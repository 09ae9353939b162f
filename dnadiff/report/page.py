"""The report: one HTML file with its pictures inside, which opens anywhere and asks the network for nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from Bio import SeqIO
from matplotlib.figure import Figure

from dnadiff.benchmark import table
from dnadiff.errors import InputError
from dnadiff.files import read_json
from dnadiff.report import plots

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #cbd2d9; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .8rem; text-align: right; }
th { border-bottom: 2px solid #cbd2d9; } td { border-bottom: 1px solid #e4e7eb; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; } figcaption, .note { color: #52606d; font-size: 90%; }
pre { background: #f5f7fa; padding: .8rem; overflow-x: auto; font-size: 85%; }
"""


def report(paths: Sequence[Path], title: str = "dnadiff report") -> str:
    """One page about run folders, FASTA files of samples, and results.csv files.

    Raises:
        InputError: for a path that is none of these.
    """
    sections = "\n".join(_section(Path(path)) for path in paths)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{sections}\n</body></html>\n"
    )


def _section(path: Path) -> str:
    if (path / "metrics.csv").is_file():
        return _run(path)
    if path.name.endswith(".csv") and path.is_file():
        return _benchmark(path)
    if path.is_file():
        return _samples(path)
    raise InputError(f"{path}: not a run folder, a FASTA file or a results.csv")


def _run(folder: Path) -> str:
    """Curve, bounds and settings of a run; of one that is still going on, what there is."""
    summary = read_json(folder / "summary.json") if (folder / "summary.json").is_file() else None
    parts = [f"<h2>Run {escape(str(folder))}</h2>"]
    if summary is None:
        parts.append('<p class="note">This run is not finished: there are no final bounds yet.</p>')
    else:
        parts.append(
            f"<p>{summary['params']:,} parameters, {summary['steps']:,} steps, {summary['bases_seen']:,} bases at "
            f"{summary['bases_per_second']:,.0f} bases/s.</p>"
        )
        parts.append(_table(["split", "nats per base", "standard error", "perplexity", "kind", "windows", "bases"], [
            [s, f"{b['nats_per_base']:.4f}", "-" if b["se"] is None else f"{b['se']:.4f}", f"{b['ppl']:.3f}",
             {"upper": "upper bound", "exact": "exact"}[b["bound"]], f"{b['windows']:,}", f"{b['bases']:,}"]
            for s, b in ((s, summary[s]) for s in ("valid", "test"))
        ]))  # fmt: skip
    test = None if summary is None else summary["test"]
    curve = plots.training_curve(pd.read_csv(folder / "metrics.csv"), test)
    parts.append(
        _figure(
            curve,
            "Training loss of single draws, and the bound of the averaged weights on valid windows.",
        )
    )
    if (folder / "bounds.csv").is_file():
        spread = plots.window_bounds(pd.read_csv(folder / "bounds.csv"))
        parts.append(
            _figure(spread, "Held-out windows differ: repeats are easy, unique sequence is hard.")
        )
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    parts.append(
        f"<details><summary>Settings</summary><pre>{escape(yaml.safe_dump(settings))}</pre></details>"
    )
    return "\n".join(parts)


def _samples(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            records = list(SeqIO.parse(file, "fasta"))
    except ValueError as error:
        raise InputError(f"{path}: not a FASTA file ({error})") from error
    if not records:
        raise InputError(f"{path}: no FASTA records in it")
    sequences = [str(record.seq).upper() for record in records]
    lengths = [len(sequence) for sequence in sequences]
    shown = "\n".join(
        f">{r.description}\n{s[:240]}{'...' if len(s) > 240 else ''}"
        for r, s in zip(records[:4], sequences, strict=False)
    )
    return "\n".join([
        f"<h2>Samples {escape(str(path))}</h2>",
        f"<p>{len(records):,} sequences of {min(lengths):,} to {max(lengths):,} bases.</p>",
        _figure(plots.composition(sequences), "Composition of the sequences."),
        f"<pre>{escape(shown)}</pre>",
    ])  # fmt: skip


def _benchmark(path: Path) -> str:
    try:
        results = pd.read_csv(
            path, keep_default_na=False, na_values={"value": [""], "low": [""], "high": [""]}
        )
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    if missing := [column for column in table.COLUMNS if column not in results]:
        raise InputError(f"{path}: not a benchmark's results.csv, it has no column {missing[0]!r}")
    parts = [
        f"<h2>Benchmark {escape(str(path))}</h2>",
        _figure(table.picture(results), "95 % intervals."),
    ]
    for (task, split), rows in results.groupby(["task", "split"], sort=False):
        parts.append(
            f"<h3>{escape(str(task))}</h3><p>{escape(str(split))}; {rows.n_test.iloc[0]:,} sequences scored.</p>"
        )
        wide = rows.pivot_table(
            index=["model", "protocol"], columns="metric", values="value", sort=False
        )
        cells = [
            [*(str(name) for name in names), *(f"{value:.3f}" for value in row)]
            for names, row in zip(wide.index, wide.to_numpy(), strict=True)
        ]
        parts.append(_table(["model", "protocol", *wide.columns], cells))
    return "\n".join(parts)


def _table(heads: Sequence[Any], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in heads)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _figure(figure: Figure, caption: str) -> str:
    """The figure as inline SVG."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{escape(caption)}</figcaption></figure>"
