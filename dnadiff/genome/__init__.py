"""FASTA, BED and VCF on disk to windows of token ids, and leak-free splits."""

from dnadiff.genome.audit import Shared, audit_splits
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import BedRow, Interval, merge, overlap, read_bed, subtract
from dnadiff.genome.splits import (
    SPLITS,
    Splits,
    make_splits,
    published_splits,
    split_by_intervals,
    split_genome,
    summary,
)
from dnadiff.genome.vcf import Variant, Variants
from dnadiff.genome.windows import HeldOut, Location, Windows, held_out

__all__ = [
    "SPLITS",
    "BedRow",
    "Genome",
    "HeldOut",
    "Interval",
    "Location",
    "Shared",
    "Splits",
    "Variant",
    "Variants",
    "Windows",
    "audit_splits",
    "held_out",
    "make_splits",
    "merge",
    "overlap",
    "published_splits",
    "read_bed",
    "split_by_intervals",
    "split_genome",
    "subtract",
    "summary",
]
