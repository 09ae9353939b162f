"""Reads FASTA, BED and VCF files into windows of token ids, and splits genomes without leaks."""

from dnadiff.genome.audit import Shared, audit_files, audit_labelled, audit_splits
from dnadiff.genome.bed import BedRow, read_bed
from dnadiff.genome.bed_splits import published_splits, split_by_intervals
from dnadiff.genome.contigs import find_contig
from dnadiff.genome.copies import Copies, find_copies
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval, merge, overlap, subtract
from dnadiff.genome.labelled import LabelledTable, LabelledWindows, read_labelled
from dnadiff.genome.run_splits import make_all_splits, make_splits, split_genome, split_genomes
from dnadiff.genome.sources import open_sources
from dnadiff.genome.splits import SPLITS, Splits, summary
from dnadiff.genome.vcf import Variant, Variants
from dnadiff.genome.windows import Drawn, HeldOut, Location, Windows, held_out

__all__ = [
    "SPLITS",
    "BedRow",
    "Copies",
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
    "audit_files",
    "audit_labelled",
    "audit_splits",
    "find_contig",
    "find_copies",
    "held_out",
    "make_all_splits",
    "make_splits",
    "merge",
    "open_sources",
    "overlap",
    "published_splits",
    "read_bed",
    "read_labelled",
    "split_by_intervals",
    "split_genome",
    "split_genomes",
    "subtract",
    "summary",
]
