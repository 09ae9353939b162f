"""FASTA, BED and VCF on disk to windows of token ids, and leak-free splits."""
