"""Lists what can be downloaded, from the shipped file data/downloads.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from dnadiff.files import resource

FIRST = "first"
"""Stands for the checksum of a file that is not known before its first download."""


@dataclass(frozen=True)
class Download:
    """Describes an entry of data/downloads.yaml, which explains the fields.

    Attributes:
        name: name of the entry, as in ``dnadiff data fetch NAME``.
        description: what it is.
        size: size of the download as text, such as "1 GB".
        mirrors: URLs of folders, the preferred one first.
        files: path below a mirror -> how the file is checked.
    """

    name: str
    description: str
    size: str
    mirrors: tuple[str, ...]
    files: Mapping[str, str]

    def path(self, folder: Path, file: str) -> Path:
        """Returns where a file is put. FASTA is unpacked, because plain gzip cannot be indexed."""
        # Tables stay compressed: they are read as they are.
        return folder / (file.removesuffix(".gz") if file.endswith(".fa.gz") else file)

    def result(self, folder: Path) -> Path:
        """Returns the path that `fetch` returns: the only file, or the folder of several."""
        if len(self.files) > 1:
            return folder
        (file,) = self.files
        return self.path(folder, file)


def registry() -> dict[str, Download]:
    """Returns what can be fetched, by name."""
    entries = yaml.safe_load(resource("data", "downloads.yaml").read_text(encoding="utf-8"))
    return {
        name: Download(name, **entry | {"mirrors": tuple(entry["mirrors"])})
        for name, entry in entries.items()
    }


def hint(path: Path) -> str:
    """Returns how to fetch the genome that a missing file is named after; "" if it is unknown."""
    # hg38.fa and hg38.fa.gz are both the entry hg38.
    name = path.name.removesuffix(".gz").removesuffix(".fa")
    known = name in registry()
    return f"dnadiff data fetch {name} downloads it and prints its path" if known else ""
