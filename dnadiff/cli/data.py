"""``dnadiff data ...``: genomes made and indexed."""

from __future__ import annotations

from pathlib import Path

from dnadiff.errors import InputError


def simulate(out: str = "demo_genome.fa", source: str = "demo", seed: int = 0, quiet: bool = False) -> None:
    """Writes a genome drawn from a hidden Markov source, whose exact likelihood is known.

    Args:
        out: a FASTA file that does not exist yet.
        source: "demo", or a YAML file with the same keys as the shipped data/demo_source.yaml.
        seed: the same seed gives the same bytes.
        quiet: say nothing.
    """
    from dnadiff.genome.source import load_contigs, load_source, write_genome

    if Path(out).exists():
        raise InputError(f"{out}: exists already; remove it or choose another --out")
    contigs = load_contigs(source)
    write_genome(out, source=load_source(source), contigs=contigs, seed=seed)
    if not quiet:
        print(f"{out}: {len(contigs)} contigs, {sum(contig.length for contig in contigs):,} bases")


def index(genome: list[str], quiet: bool = False) -> None:
    """Reads and checks FASTA files once and keeps their bases in the cache folder, so that later reads are fast.

    Args:
        genome: FASTA files, plain or bgzipped.
        quiet: no progress bar.
    """
    from dnadiff.genome.fasta import Genome
    from dnadiff.progress import bar

    for path in genome:
        with bar(f"index {Path(path).name}", quiet=quiet) as progress:
            opened = Genome.open(path, progress=progress)
        counts = opened.counts
        print(
            f"{path}: {len(opened.contigs)} contigs, {counts.bases:,} bases, {counts.scorable:,} of them A, C, G or T"
            f" ({counts.ambiguous:,} other IUPAC codes are read as N)"
        )


COMMANDS = {"data simulate": simulate, "data index": index}
