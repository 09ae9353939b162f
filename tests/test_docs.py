"""Every command of every tutorial runs as it stands; every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from dnadiff.alphabet import DNA
from dnadiff.cli.main import VERBS, main

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def commands(page):
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def files(page):
    """What a page shows as the text of a file that its commands read."""
    return dict(re.findall(r"```text (\S+)\n(.*?)```", page.read_text(), re.S))


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.stem)
def test_tutorials_run(page, request, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "tasks")
    if "sacCer3.fa.gz" in page.read_text():
        genome = request.getfixturevalue("shared_data") / "genomes" / "sacCer3.fa.gz"
        (tmp_path / genome.name).symlink_to(genome)
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    for command in commands(page):
        program, *words = shlex.split(command)
        assert program == "dnadiff"
        assert main(words) == 0, f"{command}: {capsys.readouterr().err}"


def write_task(folder):
    """A small task for the benchmark's tutorial: GC-rich against AT-rich sequences."""
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        rows = ["class\tsequence"]
        for label, weights in (("promoter", [2.0, 3.0, 3.0, 2.0]), ("other", [3.0, 2.0, 2.0, 3.0])):
            letters = torch.multinomial(torch.tensor(weights), 60 * 100, True, generator=rng).view(
                60, 100
            )
            rows += [f"{label}\t{DNA.decode(row + DNA.first_id)}" for row in letters]
        (folder / f"promoters.{split}.tsv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda p: p.stem
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_shows_verbs_and_flags_that_exist():
    text = (ROOT / "README.md").read_text()
    for line in re.findall(r"^    dnadiff (\w+)", text, re.M):
        assert line in VERBS
