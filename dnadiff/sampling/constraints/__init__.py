"""What a drawn sequence must keep to: one file per idea, and the draft in which letters are drawn under all of them.

Every place of a sequence holds the set of letters that it can still be, as bits: one letter where it is fixed or drawn,
what the template leaves open where it is not drawn yet, all letters where an unknown letter (N) is fixed. A constraint
is two compiled functions on those sets: which letters it forbids at a place, and what changes when a set does. It is
broken where it would be whatever the open places become; so an unknown letter is taken for whatever breaks nothing.
"""

from dnadiff.sampling.constraints.constrained_batch import ConstrainedBatch
from dnadiff.sampling.constraints.constraints import Constraints
from dnadiff.sampling.constraints.require import place_motifs

__all__ = ["ConstrainedBatch", "Constraints", "place_motifs"]
