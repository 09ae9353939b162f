"""``dnadiff data ...``: fetches, simulates, indexes and audits genomes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from dnadiff.cli.flags import command
from dnadiff.errors import InputError


@command
def simulate(
    *, out: str = "demo_genome.fa", source: str = "demo", seed: int = 0, quiet: bool = False
) -> None:
    """Writes a genome drawn from a hidden Markov source, whose exact likelihood is known.

    Args:
        out: a FASTA file that does not exist yet.
        source: demo, or a YAML file with the same keys as the shipped data/demo_source.yaml.
        seed: the same seed gives the same bytes.
        quiet: print nothing.
    """
    from dnadiff.genome.source import load_contigs, load_source, write_genome

    # Checked before the walk along the genome, which takes a while.
    if Path(out).exists():
        raise InputError(f"{out}: exists already; remove it or choose another --out")
    contigs = load_contigs(source)
    write_genome(out, source=load_source(source), contigs=contigs, seed=seed)
    if not quiet:
        print(f"{out}: {len(contigs)} contigs, {sum(contig.length for contig in contigs):,} bases")


@command
def index(genome: list[str], *, quiet: bool = False) -> None:
    """Reads and checks genomes once, so that later commands start immediately.

    Their bases are kept in the cache folder.

    Args:
        genome: FASTA files, plain or bgzipped, or .2bit.
        quiet: no progress bar.
    """
    from dnadiff.genome.fasta import Genome
    from dnadiff.progress import bar

    # One file after another: each line appears as soon as its file is checked.
    for path in genome:
        with bar(f"index {Path(path).name}", quiet=quiet) as progress:
            opened = Genome.open(path, progress=progress)
        counts = opened.counts
        print(
            f"{path}: {len(opened.contigs)} contigs, {counts.bases:,} bases, {counts.scorable:,} "
            f"of them A, C, G or T ({counts.ambiguous:,} other IUPAC codes are read as N)"
        )


@command
def audit(
    genome: list[str],
    *,
    intervals: str | None = None,
    test_fold: str | None = None,
    split: Literal["auto", "legacy"] = "auto",
    blacklist: str | None = None,
    window: int = 1024,
    windows: int = 1024,
    seed: int = 0,
    out: str | None = None,
    quiet: bool = False,
) -> None:
    """Prints what the splits of a run share: bases, and exact 31-mers on either strand.

    Args:
        genome: FASTA files, plain or bgzipped, or .2bit.
        intervals: as for pretrain.
        test_fold: as for pretrain.
        split: as for pretrain.
        blacklist: as for pretrain.
        window: bases of a window.
        windows: size of the sample of held-out windows of each split whose 31-mers are compared.
        seed: seed of the sample.
        out: CSV file for the same table.
        quiet: no progress bar.
    """
    from dnadiff.files import write_text
    from dnadiff.genome.audit import audit_files, table, to_csv
    from dnadiff.progress import bars

    # The table of the splits goes to stderr, so that stdout holds the audit alone.
    with bars(quiet=quiet) as report:
        found = audit_files(
            genome,
            intervals=intervals,
            split=split,
            test_fold=test_fold,
            blacklist=blacklist,
            window=window,
            windows=windows,
            seed=seed,
            log=lambda text: print(text, file=sys.stderr),
            report=report,
        )
    if out is not None:
        write_text(out, to_csv(found))
    print(table(found))


@command
def fetch(
    name: str,
    *,
    out: str | None = None,
    sha256: str | None = None,
    offline: bool = False,
    quiet: bool = False,
) -> None:
    """Downloads and checks a genome, intervals or benchmark coordinates, and prints the path.

    An interrupted download continues where it stopped. Files that are there already are checked.

    Args:
        name: one of the names that dnadiff data list shows.
        out: folder to put it in; by default data/NAME in the cache folder.
        sha256: checksum of the file as downloaded, instead of the one that dnadiff knows.
        offline: use no network, only files that are there already; DNADIFF_OFFLINE=1 does the same.
        quiet: no progress bar and no log.
    """
    from dnadiff import downloads
    from dnadiff.progress import bars

    # Only the path goes to stdout, for use as --genome "$(dnadiff data fetch hg38)".
    with bars(quiet=quiet) as progress:
        path = downloads.fetch(
            name, Path(out) if out else None, sha256=sha256, offline=offline, progress=progress
        )
    print(path)


@command
def show(*, quiet: bool = False) -> None:
    """Lists what dnadiff data fetch can get: size, checksums, description, and path if fetched.

    Args:
        quiet: names only.
    """
    from dnadiff import downloads

    for name, entry in downloads.registry().items():
        # "sha256", "md5", or the word for a checksum that does not ship with dnadiff.
        kinds = {checksum.partition(":")[0] for checksum in entry.files.values()}
        line = f"{name:<20}{entry.size:>7}  {', '.join(kinds):<11}{entry.description}"
        if at := downloads.fetched(name):
            line += f"; at {at}"
        print(name if quiet else line)
