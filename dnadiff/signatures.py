"""Recognises, by their first bytes, files that dnadiff does not read; says what to do with each."""

from __future__ import annotations

from pathlib import Path

SIGNATURE_BYTES = 64
"""Number of leading bytes that `foreign_kind` needs."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# First bytes -> (what the file is, what to do).
# {path} is the file, {stem} its name without the last suffix.
_KINDS: dict[bytes, tuple[str, str]] = {
    b"\xfd7zXZ\x00": ("compressed by xz", "run: xz --decompress --keep {path}"),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", "run: zstd --decompress {path}"),
    b"BZh": ("compressed by bzip2", "run: bunzip2 --keep {path}"),
    b"\x1f\x9d": ("compressed by compress", "run: uncompress {path}"),
    b"PK\x03\x04": (
        "a zip archive or an Excel workbook",
        "unpack it with unzip, or save the sheet as text",
    ),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it with 7z x"),
    _LFS_POINTER: ("a Git LFS pointer, not the file itself", "run: git lfs pull"),
    b"BCF\x02": ("BCF, the binary form of VCF", "run: bcftools view {path} > {stem}.vcf"),
    b"BAM\x01": ("BAM, aligned reads", "give the file that this command asks for"),
}

_WEB_PAGE = b"<!doctype", b"<html", b"<?xml"


def foreign_kind(path: Path, head: bytes) -> str | None:
    """Returns what a file is, and what to do with it, if it is of a kind that is not read.

    The words fit after the file's name: ``f"{path}: {foreign_kind(path, head)}"``.

    Args:
        path: the file, which the advice names.
        head: its first `SIGNATURE_BYTES` bytes, or all of a shorter file.

    Returns:
        For example ``"compressed by xz; run: xz --decompress --keep x.fa.xz"``; None for any other
        file.
    """
    for magic, (kind, advice) in _KINDS.items():
        if head.startswith(magic):
            return f"{kind}; {advice.format(path=path, stem=path.stem)}"
    if _is_utf16(head):
        return f"UTF-16 text; run: iconv -f UTF-16 -t UTF-8 {path} > {path.stem}.utf8"
    if is_web_page(head):
        return "a web page, not the file itself; download the file that the page links to"
    return None


def is_web_page(head: bytes) -> bool:
    """Tells whether a file begins like a web page, e.g. the login page of a network."""
    return head.lstrip().lower().startswith(_WEB_PAGE)


def _is_utf16(head: bytes) -> bool:
    """Tells whether a file begins with a mark of UTF-16 and a character of ASCII."""
    mark, first = head[:2], head[2:4]
    if mark == b"\xff\xfe":
        return first[1:] == b"\0" and first[:1] != b"\0"
    return mark == b"\xfe\xff" and first[:1] == b"\0" and first[1:] != b"\0"
