"""Checks a sequence against constraints in plain Python, without any code of the sampler."""

import re

from Bio import Restriction
from Bio.Data.IUPACData import ambiguous_dna_values
from Bio.Seq import Seq


def occurs(motif: str, sequence: str) -> bool:
    classes = "".join(f"[{ambiguous_dna_values[letter]}]" for letter in motif)
    return re.search(classes, sequence) is not None


def other_strand(sequence: str) -> str:
    return str(Seq(sequence).reverse_complement())


def violations(
    sequence, avoid=(), require=(), gc=(), max_homopolymer=None, unique_kmer=None
) -> list[str]:
    """Returns what a sequence of A, C, G and T violates; arguments are those of `Constraints`."""
    found = [f"not DNA: {letter}" for letter in sorted(set(sequence) - set("ACGT"))]
    for word in avoid:
        enzyme = getattr(Restriction, word, None)
        if enzyme is not None:
            site = enzyme.site
            assert bool(enzyme.search(Seq(sequence))) <= (
                occurs(site, sequence) or occurs(site, other_strand(sequence))
            )
        else:
            site = word
        found += [
            f"avoid {word}" for strand in (sequence, other_strand(sequence)) if occurs(site, strand)
        ]
    found += [f"require {word}" for word in require if not occurs(word, sequence)]
    for share in gc:
        low, high, *window = share.split(":")
        size = min(int(window[0]), len(sequence)) if window else len(sequence)
        for start in range(len(sequence) - size + 1):
            part = sequence[start : start + size]
            if (
                not float(low) - 1e-9
                <= (part.count("G") + part.count("C")) / size
                <= float(high) + 1e-9
            ):
                found.append(f"gc {share} at {start}")
    if max_homopolymer and any(letter * (max_homopolymer + 1) in sequence for letter in "ACGT"):
        found.append("homopolymer")
    if unique_kmer:
        seen = set()
        for start in range(len(sequence) - unique_kmer + 1):
            kmer = sequence[start : start + unique_kmer]
            if kmer in seen or other_strand(kmer) in seen:
                found.append(f"k-mer {kmer}")
            seen.add(kmer)
    return found
