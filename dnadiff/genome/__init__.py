"""FASTA, BED and VCF on disk to windows of token ids, and leak-free splits."""

from dnadiff.genome.audit import Shared, audit_labelled, audit_splits
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import BedRow, Interval, merge, overlap, read_bed, subtract
from dnadiff.genome.labelled import LabelledTable, LabelledWindows, read_labelled
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
from dnadiff.genome.windows import Drawn, HeldOut, Location, Windows, held_out

__all__ = [
    "SPLITS",
    "BedRow",
    "Drawn",
    "Genome",
    "HeldOut",
    "Interval",
    "LabelledTable",
    "LabelledWindows",
    "Location",
    "Shared",
    "Splits",
    "Variant",
    "Variants",
    "Windows",
    "audit_labelled",
    "audit_splits",
    "held_out",
    "make_splits",
    "merge",
    "overlap",
    "published_splits",
    "read_bed",
    "read_labelled",
    "split_by_intervals",
    "split_genome",
    "subtract",
    "summary",
]
