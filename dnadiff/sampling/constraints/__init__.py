"""Constraints on sampled sequences: sites to avoid, required motifs, GC content, unique k-mers.

`Constraints` holds what the user asked for, and `ConstrainedBatch` draws bases under it; each kind
of constraint has a file of its own.

Every position of a sequence holds the set of bases that it can still become, as bits: one base
where it is fixed or drawn, what the template leaves open where it is not drawn yet, all bases where
an unknown base (N) is fixed. A constraint is two compiled functions on those sets: which bases it
forbids at a position, and what to update when a set changes. A constraint counts as violated only
if every choice for the open positions violates it. So an unknown base never violates one by itself.
"""

from dnadiff.sampling.constraints.constrained_batch import ConstrainedBatch
from dnadiff.sampling.constraints.constraints import Constraints
from dnadiff.sampling.constraints.require import place_motifs

__all__ = ["ConstrainedBatch", "Constraints", "place_motifs"]
