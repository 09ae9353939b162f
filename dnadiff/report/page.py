"""The report: one HTML file with its pictures inside, which needs no network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from Bio import SeqIO
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from dnadiff.benchmark import table
from dnadiff.benchmark.escape import printable
from dnadiff.errors import InputError
from dnadiff.files import read_json
from dnadiff.report import plots

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_SHOWN_RECORDS = 4
_SHOWN_BASES = 240
_BOUND_HEADS = (
    "split", "nats per base", "standard error", "perplexity", "kind", "windows", "bases",
)  # fmt: skip
_BOUND_KINDS = {"upper": "upper bound", "exact": "exact"}


@dataclass
class _Section:
    """What the page shows of one path.

    Attributes:
        title: its heading.
        blocks: what page.html.j2 shows of it, in order; the key kind decides how.
    """

    title: str
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, text: str, **more: object) -> None:
        """Adds a paragraph, heading, note, code or details."""
        self.blocks.append({"kind": kind, "text": text, **more})

    def add_table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Adds a table."""
        self.blocks.append({"kind": "table", "heads": heads, "rows": rows})

    def add_figure(self, figure: Figure, caption: str) -> None:
        """Adds a figure as inline SVG."""
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        svg = text.getvalue()
        # Matplotlib escapes texts. The XML header before <svg> is only for a separate file.
        inline = Markup(svg[svg.index("<svg") :])
        self.blocks.append({"kind": "figure", "svg": inline, "caption": caption})


def report(paths: Sequence[Path], title: str = "dnadiff report") -> str:
    """Returns one HTML page about run folders, FASTA files of samples, and results.csv files.

    Raises:
        InputError: for a path that is none of these.
    """
    # StrictUndefined: a value that the template misses is an error, not an empty string.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    sections = [_section(Path(path)) for path in paths]
    page = environment.get_template(_TEMPLATE.name).render(title=title, sections=sections)
    return page.strip() + "\n"


def _finalize(value: object) -> object:
    """Shows unprintable characters as escapes; line breaks and figures stay as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(printable(line) for line in value.split("\n"))


def _section(path: Path) -> _Section:
    """Returns the section on one path: a run, a benchmark or samples."""
    # metrics.csv is written from the first step on, so that a running run can be shown.
    if (path / "metrics.csv").is_file():
        return _run(path)
    if path.name.lower().endswith(".csv") and path.is_file():
        return _benchmark(path)
    if path.is_file():
        return _samples(path)
    raise InputError(f"{path}: not a run folder, a FASTA file or a results.csv")


def _run(folder: Path) -> _Section:
    """Returns the section on a run: curve, bounds and settings, as far as there are any."""
    section = _Section(f"Run {folder}")
    summary = read_json(folder / "summary.json") if (folder / "summary.json").is_file() else None
    # summary.json is written at the end.
    if summary is None:
        section.add("note", "This run is not finished: there are no final bounds yet.")
    else:
        section.add(
            "paragraph",
            f"{summary['params']:,} parameters, {summary['steps']:,} steps, "
            f"{summary['bases_seen']:,} bases at "
            f"{summary['bases_per_second']:,.0f} bases/s.",
        )
        rows = [_bound_cells(split, summary[split]) for split in ("valid", "test")]
        section.add_table(_BOUND_HEADS, rows)

    test = None if summary is None else summary["test"]
    section.add_figure(
        plots.training_curve(pd.read_csv(folder / "metrics.csv"), test),
        "Training loss of single draws, and the bound of the averaged weights on valid windows.",
    )
    if (folder / "bounds.csv").is_file():
        section.add_figure(
            plots.window_bounds(pd.read_csv(folder / "bounds.csv")),
            "Held-out windows differ: repeats are easy, unique sequence is hard.",
        )
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    section.add("details", yaml.safe_dump(settings), title="Settings")
    return section


def _bound_cells(split: str, bound: dict[str, Any]) -> list[str]:
    """Returns the bound of one split as cells under _BOUND_HEADS."""
    error = "-" if bound["se"] is None else f"{bound['se']:.4f}"
    return [
        split,
        f"{bound['nats_per_base']:.4f}",
        error,
        f"{bound['ppl']:.3f}",
        _BOUND_KINDS[bound["bound"]],
        f"{bound['windows']:,}",
        f"{bound['bases']:,}",
    ]


def _samples(path: Path) -> _Section:
    """Returns the section on a FASTA file: number, lengths, composition, first sequences."""
    try:
        with path.open(encoding="utf-8") as file:
            records = list(SeqIO.parse(file, "fasta"))
    except ValueError as error:
        raise InputError(f"{path}: not a FASTA file ({error})") from error
    if not records:
        raise InputError(f"{path}: no FASTA records in it")
    sequences = [str(record.seq).upper() for record in records]
    lengths = [len(sequence) for sequence in sequences]

    section = _Section(f"Samples {path}")
    section.add(
        "paragraph",
        f"{len(records):,} sequences of {min(lengths):,} to {max(lengths):,} bases.",
    )
    section.add_figure(plots.composition(sequences), "Composition of the sequences.")
    # The beginnings of a few records: a page with all of them could be gigabytes.
    shown = []
    for record, sequence in zip(records[:_SHOWN_RECORDS], sequences, strict=False):
        dots = "..." if len(sequence) > _SHOWN_BASES else ""
        shown.append(f">{record.description}\n{sequence[:_SHOWN_BASES]}{dots}")
    section.add("code", "\n".join(shown))
    return section


def _benchmark(path: Path) -> _Section:
    """Returns the section on a results.csv: a picture, and a table for each task."""
    results = table.read(path)
    section = _Section(f"Benchmark {path}")
    section.add_figure(table.picture(results), "95 % intervals.")
    for (task, split), rows in results.groupby(["task", "split"], sort=False):
        section.add("heading", str(task))
        section.add(
            "paragraph", f"{split}; {rows.n_test.iloc[0]:,} sequences scored{_groups(rows)}."
        )
        # A column for each metric, models in the order of the table.
        wide = rows.pivot_table(
            index=["model", "protocol"], columns="metric", values="value", sort=False
        )
        cells = []
        for names, values in zip(wide.index, wide.to_numpy(), strict=True):
            cells.append([*map(str, names), *(f"{value:.3f}" for value in values)])
        section.add_table(["model", "protocol", *map(str, wide.columns)], cells)
    return section


def _groups(rows: pd.DataFrame) -> str:
    """Says how many independent groups were scored; "" for older tables without the number."""
    if "n_components" not in rows:
        return ""
    return f", in {rows.n_components.iloc[0]:,} groups that share no 31-mer"
