"""Small FASTA files, written as text, bgzip or gzip, and read in the simplest way."""

import gzip
import re
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


def naive_fasta(data: bytes) -> Records | None:
    """Name and letters of each record of a FASTA text; None if it is to be refused.

    It shares nothing with dnadiff's reader, and holds all lines in memory.
    """
    records: Records = {}
    name = None
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = line.rstrip(b" \t\r\v\f")
        if b"\r" in line:
            return None
        if line.startswith(b">"):
            words = line[1:].decode("utf-8", "backslashreplace").encode().split()
            if (
                not words
                or words[0].decode() in records
                or (name is not None and not records[name])
            ):
                return None
            name = words[0].decode()
            records[name] = ""
        elif name is None and line.strip() and not line.startswith(b";"):
            return None
        elif name is not None:
            if not re.fullmatch(b"[ACGTRYSWKMBDHVN]*", line.upper()):
                return None
            records[name] += line.decode()
    known = set("".join(records.values()).upper()) & set("ACGT")
    return records if known and records[name] else None
