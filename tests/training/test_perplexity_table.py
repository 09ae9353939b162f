"""The script that rebuilds the paper's table: from start to end, killed, and read again."""

import re
import runpy
import sys
from pathlib import Path

from small import CONTIGS, write_fasta

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "perplexity_table.py")
FIGURE = re.compile(
    r"(≤ )?[+-]?\d\.\d{4} ± \d\.\d{4} \((\d\.\d{4}|one block)\)"
)  # over windows (over blocks)


def test_the_table_is_made_and_made_again(tmp_path, monkeypatch, capsys):
    genome = write_fasta(tmp_path / "tiny.fa", CONTIGS)
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    left = tmp_path / "runs" / "mamba"  # killed before its first checkpoint
    left.mkdir(parents=True)
    for name in ("config.yaml", "metrics.csv", "audit.csv"):
        (left / name).write_text("unfinished")
    flags = [
        "--genome",
        genome,
        "--scale",
        "smoke",
        "--out",
        tmp_path / "runs",
        "--rows",
        "mamba",
        "mdlm",
        "sedd",
    ]
    monkeypatch.syspath_prepend(str(Path(SCRIPT).parent))  # as for a script that is run
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, flags), "--write", str(page)])
    texts = []
    for _ in range(2):
        runpy.run_path(SCRIPT, run_name="__main__")
        texts.append(page.read_text())
        capsys.readouterr()
    assert texts[0] == texts[1] and texts[0].startswith("before\n<!-- table -->\n| model |")
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ") for line in texts[0].splitlines()[4:-2]
    }
    assert list(rows) == ["mamba", "mdlm", "sedd", "sedd, normalised"]
    assert "≤" not in rows["mamba"][3] and all("≤" in rows[name][3] for name in list(rows)[1:])
    assert rows["mamba"][2] == rows["mdlm"][2] == f"{9 * 4 * 64:,}"  # both stages
    assert all(FIGURE.fullmatch(row[3]) for row in rows.values())
    assert FIGURE.fullmatch(rows["sedd"][5])
    gaps = {name: float(row[5].split()[0]) for name, row in rows.items() if row[5].strip()}
    figures = {name: float(row[3].removeprefix("≤ ").split()[0]) for name, row in rows.items()}
    for name, gap in gaps.items():
        assert abs(figures[name] - figures["mdlm"] - gap) < 2e-4
    assert figures["sedd, normalised"] <= figures["sedd"] and "mdlm" not in gaps
