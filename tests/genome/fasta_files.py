"""Small FASTA files, written as text, bgzip or gzip."""

import gzip
from pathlib import Path

from Bio import bgzf

Records = dict[str, str]


def fasta_text(records: Records, width: int = 60, end: str = "\n") -> str:
    lines = []
    for name, letters in records.items():
        lines += [f">{name}", *(letters[i : i + width] for i in range(0, len(letters), width))]
    return end.join(lines) + end


def write(path: Path, text: str | bytes, container: str = "plain") -> Path:
    data = text.encode() if isinstance(text, str) else text
    if container == "bgzip":
        with bgzf.BgzfWriter(str(path), "wb") as file:
            file.write(data)
    else:
        path.write_bytes(gzip.compress(data) if container == "gzip" else data)
    return path
