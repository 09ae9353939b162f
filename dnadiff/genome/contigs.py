"""Contig names: the one rule by which two files can name one contig differently."""

from __future__ import annotations

from collections.abc import Container

_MITOCHONDRION = ("M", "MT")


def aliases(name: str) -> list[str]:
    """Lists the names under which another file may have a contig, the name itself first.

    Names are the same up to a leading "chr" (UCSC writes chr1, Ensembl 1), and chrM, M, chrMT and
    MT are one contig.
    """
    bare = name.removeprefix("chr")
    bares = [bare]
    if bare in _MITOCHONDRION:
        # The given spelling stays first: hg19 of UCSC has both chrM and chrMT, of other sequences.
        bares += [other for other in _MITOCHONDRION if other != bare]
    others = [prefix + bare for bare in bares for prefix in ("chr", "")]
    return [name, *(other for other in others if other != name)]


def find_contig(name: str, contigs: Container[str]) -> str | None:
    """Returns the name among `contigs` that means the contig `name`, or None if there is none."""
    return next((alias for alias in aliases(name) if alias in contigs), None)


def ucsc_name(name: str) -> str:
    """Returns the name of a contig as UCSC writes it: with "chr", chrM for the mitochondrion."""
    bare = name.removeprefix("chr")
    return "chrM" if bare in _MITOCHONDRION else f"chr{bare}"
