"""FASTA, BED and VCF on disk to windows of token ids, and leak-free splits."""

from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import BedRow, Interval, merge, read_bed
from dnadiff.genome.splits import SPLITS, Splits, split_by_intervals, split_genome, summary
from dnadiff.genome.windows import HeldOut, Location, Windows, held_out

__all__ = [
    "SPLITS",
    "BedRow",
    "Genome",
    "HeldOut",
    "Interval",
    "Location",
    "Splits",
    "Windows",
    "held_out",
    "merge",
    "read_bed",
    "split_by_intervals",
    "split_genome",
    "summary",
]
