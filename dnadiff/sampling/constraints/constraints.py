"""The constraints of a run, in the words in which the command line takes them."""

from __future__ import annotations

from collections.abc import Sequence

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.errors import UsageError
from dnadiff.sampling.constraints.gc import parse_share
from dnadiff.sampling.constraints.kmers import largest_kmer
from dnadiff.sampling.constraints.sites import Site, homopolymers, read_sites


class Constraints:
    """What drawn sequences must keep to, and how restricted letters are drawn.

    Letters that would break a constraint are masked when they are drawn, so none is ever broken, and what cannot be
    kept ends with an error. The distribution is not the exact conditional: letters drawn before a constraint bites do
    not know of it.

    Args:
        avoid: sites that occur on neither strand: IUPAC letters ("GGTCTC"), the name of a restriction enzyme ("BsaI"),
            or a file: FASTA, or one site or enzyme on a line.
        require: motifs, in the same words, that every sequence contains on the strand as written.
        gc: shares of G and C, "LOW:HIGH" of the whole sequence or "LOW:HIGH:WINDOW" of every window of so many bases.
        max_homopolymer: the longest run of one letter.
        unique_kmer: no two places have the same k-mer, nor one the reverse complement of the other's.
        approximate: draw letters that a template restricts first, one after another, rather than from their exact joint
            distribution; always so where a constraint is enforced.
        alphabet: the letters.

    Attributes:
        avoid: the sites, runs of one letter among them.
        require: the motifs.
        gc: the shares.
        unique_kmer: k, or None.
        approximate: as given.
        alphabet: as given.

    Raises:
        InputError: naming a site or a file that cannot be read.
        UsageError: naming a number that is out of range.
    """

    def __init__(
        self,
        *,
        avoid: Sequence[str] = (),
        require: Sequence[str] = (),
        gc: Sequence[str] = (),
        max_homopolymer: int | None = None,
        unique_kmer: int | None = None,
        approximate: bool = False,
        alphabet: Alphabet = DNA,
    ) -> None:
        if max_homopolymer is not None and max_homopolymer < 1:
            raise UsageError(f"--max-homopolymer must be at least 1, not {max_homopolymer}")
        if unique_kmer is not None and not 1 <= unique_kmer <= largest_kmer(alphabet):
            raise UsageError(
                f"--unique-kmer must be 1 to {largest_kmer(alphabet)}, not {unique_kmer}"
            )
        runs = [] if max_homopolymer is None else homopolymers(max_homopolymer, alphabet)
        self.avoid: list[Site] = [
            site for text in avoid for site in read_sites("--avoid", text, alphabet)
        ] + runs
        self.require = [
            motif for text in require for motif in read_sites("--require", text, alphabet)
        ]
        self.gc = [parse_share(text) for text in gc]
        self.unique_kmer = unique_kmer
        self.approximate = approximate
        self.alphabet = alphabet
        words = {"avoid": avoid, "require": require, "gc": gc}
        self._words = [f"{key}={','.join(values)}" for key, values in words.items() if values]
        numbers = {"max_homopolymer": max_homopolymer, "unique_kmer": unique_kmer}
        self._words += [f"{key}={value}" for key, value in numbers.items() if value is not None]

    def __str__(self) -> str:
        return " ".join(self._words)

    @property
    def enforced(self) -> bool:
        """Whether any letter may have to be masked."""
        return bool(self.avoid or self.gc or self.unique_kmer)

    @property
    def exact(self) -> bool:
        """Whether letters that a template restricts are drawn from their exact joint distribution."""
        return not (self.approximate or self.enforced)
