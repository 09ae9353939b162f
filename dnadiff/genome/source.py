"""A hidden Markov source of DNA: an artificial genome whose exact likelihood is known.

A genome is modelled as an endless series of independent *pieces*: a stretch of background, a gene,
a binding site, a copy of a repeat. Each kind of piece is an `Element`, a small Markov chain whose
states emit one base each. A genome is drawn by choosing an element, entering its chain, emitting a
base in every state on the way, leaving the chain, and choosing the next element. The bases alone
form a hidden Markov model (Rabiner 1989, "A tutorial on hidden Markov models"). The forward
algorithm gives the exact probability of any window of bases, which is the best that a model trained
on such a genome can reach.

Strands. Every element exists twice, as given and as its exact reverse complement
(`Element.reverse_complement`), each with half the weight. The pieces are independent and follow
each other in any order, so the source is *exactly* reverse-complement symmetric: p(x) = p(reverse
complement of x) for every window of every length.

The shipped parameters are in data/demo_source.yaml, which `load_source` and `load_contigs` read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.files import atomic_path, resource
from dnadiff.rng import Stream, uniform

_T = TypeVar("_T")
_K = len(DNA)
_LINE = 60  # bases on a line of FASTA
_LOWER_CASE = 0x20  # the bit that makes an ASCII letter lower case
_MAX_BACKGROUND_ORDER = 8  # whose table has 4^8 states

# Steps of Stream.SOURCE, so that both draw different numbers.
_WALK = 0  # the walk along a genome
_LIBRARY = 1  # the founders of the repeat families


# ---- the pieces of a genome


@dataclass(frozen=True)
class Element:
    """Defines one kind of piece: a Markov chain over n states that is entered, walked and left.

    Attributes:
        name: what it is.
        enter: (n,) probability that a piece begins in each state; sums to 1.
        step: (n, n) probability of the step from state i to state j. The rest of row i, up to 1, is
            the probability that the piece ends after state i.
        emit: (n, 4) probability of each base in each state; rows sum to 1.
        repeat: whether a genome shows it in lower case, as repeat maskers do.

    Raises:
        ValueError: if these are not such probabilities, if a state can never be reached, or if a
            piece may never end.
    """

    name: str
    enter: np.ndarray
    step: np.ndarray
    emit: np.ndarray
    repeat: bool = False

    def __post_init__(self) -> None:
        for what, table in (("enter", self.enter[None]), ("emit", self.emit)):
            if table.min() < 0 or not np.allclose(table.sum(1), 1):
                raise ValueError(f"{self.name}: the rows of {what} are not probabilities: {table}")
        if self.step.min() < 0 or self.step.sum(1).max() > 1 + 1e-9:
            raise ValueError(f"{self.name}: the rows of step are not probabilities: {self.step}")
        if not 0 < self.visits.min() <= self.visits.max() < 1e9:
            raise ValueError(f"{self.name}: a state is never reached, or the piece never ends")

    @property
    def leave(self) -> np.ndarray:
        """(n,) probability that the piece ends after each state."""
        return np.maximum(1 - self.step.sum(1), 0)

    @cached_property
    def visits(self) -> np.ndarray:
        """(n,) expected number of visits of one piece to each state: enter (I - step)^-1."""
        try:
            return np.linalg.solve(np.eye(len(self.enter)) - self.step.T, self.enter)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"{self.name}: the piece never ends") from error

    @property
    def mean_length(self) -> float:
        """Mean number of bases in one piece."""
        return float(self.visits.sum())

    def reverse_complement(self) -> Element:
        """Returns the piece read from the other strand.

        It is the time-reversed chain with complemented emissions. By Bayes' rule, the state before
        j was i with probability visits_i step_ij / visits_j, and a piece that is read backwards
        begins where it ended. States are numbered from the end, so that a chain that moves up by
        one still does.
        """
        back = (self.visits[:, None] * self.step).T / self.visits[:, None]
        return Element(
            name=self.name,
            enter=(self.visits * self.leave)[::-1],
            step=back[::-1, ::-1],
            emit=self.emit[::-1][:, DNA.complement_index],
            repeat=self.repeat,
        )


def background(conditional: np.ndarray, mean_length: float) -> Element:
    """Returns a stretch of an order-k Markov chain, of geometric length.

    It begins in the chain's stationary distribution. The context is the state: state c means that
    the last k bases are c. It emits the last of them, and its successors are the contexts that keep
    the other k - 1.

    Args:
        conditional: (4^k, 4) probability of the next base after each context, k from 1 to 8,
            contexts in alphabetical order.
        mean_length: in bases.

    Raises:
        ValueError: if the table has another shape.
    """
    contexts = len(conditional)
    if conditional.shape[1:] != (_K,) or contexts not in (
        _K**k for k in range(1, _MAX_BACKGROUND_ORDER + 1)
    ):
        raise ValueError(
            f"a table of order k has 4^k rows of 4 probabilities, not the shape {conditional.shape}"
        )
    move = np.zeros((contexts, contexts))
    for context in range(contexts):
        move[context, (context * _K + np.arange(_K)) % contexts] = conditional[context]
    # The stationary distribution solves pi = pi move together with sum(pi) = 1.
    balance = np.vstack([move.T - np.eye(contexts), np.ones(contexts)])
    stationary = np.linalg.lstsq(balance, np.eye(contexts + 1)[-1], rcond=None)[0]
    last_base = np.arange(contexts) % _K
    step = (1 - 1 / mean_length) * move
    return Element("background", stationary, step, np.eye(_K)[last_base])


def gene(codons: Mapping[str, float], stops: Mapping[str, float], mean_codons: float) -> Element:
    """Returns a start codon, a geometric number of independent codons, and a stop codon.

    Inside the run of codons a state stands for the bases of its codon so far; the state of the
    third base no longer holds the first two. So 4 + 16 + 4 states represent a table of 64 codons.

    Args:
        codons: relative usage of each sense codon.
        stops: relative usage of each stop codon.
        mean_codons: mean number of codons between start and stop.

    Raises:
        ValueError: if a codon does not have three bases, or some pair of bases begins no codon.
    """
    for codon in (*codons, *stops):
        if len(codon) != 3:
            raise ValueError(f"{codon!r} is not a codon")
    usage = _codon_usage(codons)
    first, second = usage.sum((1, 2)), usage.sum(2)

    # States: the start codon, then those of the first, second and third base of a codon, then the
    # stop codons.
    body = 3
    one, two, three = np.split(np.arange(body, body + 2 * _K + _K**2), [_K, _K + _K**2])
    end = body + 2 * _K + _K**2
    size = end + 3 * len(stops)

    step = np.diag(np.ones(size - 1), k=1)  # start and stop codons are chains
    step[body - 1 : end] = 0
    step[body - 1, one] = first
    # Each base is drawn given those of its codon before it.
    step[one[:, None], two.reshape(_K, _K)] = second / first[:, None]
    step[two[:, None], three] = (usage / second[..., None]).reshape(-1, _K)
    # After each codon another follows, or a stop codon.
    step[np.ix_(three, one)] = (1 - 1 / mean_codons) * first
    for stop, weight in zip(range(end, size, 3), stops.values(), strict=True):
        step[three, stop] = weight / sum(stops.values()) / mean_codons
        step[stop + 2] = 0

    # The states of a body emit A, C, G, T in turn, those of the second base four times.
    in_body = np.tile(np.arange(_K), _K + 2)
    letters = np.concatenate([_indices("ATG"), in_body, _indices("".join(stops))])
    return Element("gene", np.eye(size)[0], step, np.eye(_K)[letters])


def motif(name: str, consensus: str, fidelity: float) -> Element:
    """Returns a binding site: one state, with one weight column, for each letter of a consensus.

    The bases that an IUPAC code stands for share `fidelity`, and the others share the rest; N is
    uniform.
    """
    n = len(consensus)
    return Element(name, np.eye(n)[0], np.eye(n, k=1), _columns(consensus, fidelity))


def interspersed_repeat(name: str, consensus: str, divergence: float) -> Element:
    """Returns a copy of a repeat family, in which each base diverges with a probability."""
    n = len(consensus)
    columns = _columns(consensus, 1 - divergence)
    return Element(name, np.eye(n)[0], np.eye(n, k=1), columns, repeat=True)


def tandem_repeat(name: str, unit: str, mean_length: float, divergence: float) -> Element:
    """Returns a repeated short unit, of geometric length, that begins anywhere in the unit."""
    n = len(unit)
    around = np.roll(np.eye(n), 1, axis=1)
    columns = _columns(unit, 1 - divergence)
    return Element(name, np.full(n, 1 / n), (1 - 1 / mean_length) * around, columns, repeat=True)


def founder(seed: int, family: int, length: int, gc: float) -> str:
    """Returns the consensus of a repeat family: independent bases, drawn from a seed.

    Args:
        seed: determines the founders of all families.
        family: number of the family.
        length: in bases.
        gc: share of G and C.
    """
    share = np.array([gc if letter in "GC" else 1 - gc for letter in DNA.letters]) / 2
    draws = uniform(seed, Stream.SOURCE, torch.tensor(family), length, step=_LIBRARY).numpy()
    return DNA.decode(DNA.first_id + np.searchsorted(np.cumsum(share)[:-1], draws))


def _columns(code: str, fidelity: float) -> np.ndarray:
    """Returns base probabilities (length, 4) for an IUPAC text."""
    columns = []
    for symbol in code:
        allowed = np.array([letter in DNA.ambiguity.get(symbol, symbol) for letter in DNA.letters])
        if not allowed.any():
            raise ValueError(f"{symbol!r} in {code!r} is not an IUPAC letter")
        # For N nothing is left that is not allowed; the last line makes the column sum to one.
        others = max((~allowed).sum(), 1)
        share = np.where(allowed, fidelity / allowed.sum(), (1 - fidelity) / others)
        columns.append(share / share.sum())
    return np.array(columns)


def _indices(text: str) -> np.ndarray:
    """Returns the place of each base of a text in the alphabet, (L,) int64."""
    return DNA.encode(text) - DNA.first_id


def _codon_usage(codons: Mapping[str, float]) -> np.ndarray:
    """Returns the probability (4, 4, 4) of each codon."""
    usage = np.zeros((_K, _K, _K))
    for codon, weight in codons.items():
        usage[tuple(_indices(codon))] = weight
    if usage.sum(2).min() <= 0:
        raise ValueError("each pair of bases must begin a codon that is used")
    return usage / usage.sum()


# ---- the source


class HiddenMarkovSource:
    """Draws DNA from a stationary source with exact likelihood: independent pieces on both strands.

    The transition matrix over all S states of all elements is step + leave x enter. Inside a piece
    almost every step goes to the next state (`shift`) and a few go elsewhere (`edges`). From piece
    to piece the next state does not depend on the last one, so all such steps share one sum. The
    forward algorithm therefore costs O(S) a base, not O(S^2).

    Args:
        elements: the kinds of pieces, each on one strand; the other strand is added here.
        shares: the expected share of each element among the bases of the genome, in any unit.

    Attributes:
        elements: the elements on both strands.
        enter: (S,) probability that a new piece begins in each state.
        leave: (S,) probability that a piece ends after each state.
        shift: (S,) probability of the step from state s to s + 1.
        edges: (rows, columns, probabilities) of all other steps inside a piece, in order of their
            rows.
        emit: (S, 4) probability of each base in each state.
        repeat: (S,) bool, states of repeats.
        stationary: (S,) distribution of the state at any position of the genome.
    """

    def __init__(self, elements: Sequence[Element], shares: Sequence[float]) -> None:
        if len(elements) != len(shares) or not elements or min(shares) <= 0:
            raise ValueError(
                f"{len(elements)} elements need as many positive shares, not {list(shares)}"
            )
        self.elements = [
            strand for element in elements for strand in (element, element.reverse_complement())
        ]
        # Shares count bases; the rate at which pieces begin is a share over the mean length.
        rates = [share / e.mean_length for e, share in zip(elements, shares, strict=True)]
        both_strands = np.repeat(rates, 2)
        both_strands /= both_strands.sum()
        pieces = list(zip(self.elements, both_strands, strict=True))
        self.enter = np.concatenate([rate * e.enter for e, rate in pieces])
        self.leave = np.concatenate([e.leave for e in self.elements])
        self.emit = np.concatenate([e.emit for e in self.elements])
        self.repeat = np.concatenate([np.full(len(e.enter), e.repeat) for e in self.elements])
        self.shift, self.edges = _join([e.step for e in self.elements])
        # Renewal-reward theorem: the time spent in a state is proportional to its visits.
        visits = np.concatenate([rate * e.visits for e, rate in pieces])
        self.stationary = visits / visits.sum()

    def walk(self, length: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
        """Draws the states and tokens, both (length,) int64, of walk `index`.

        It begins in the stationary distribution. It is a pure function of (seed, index), and a
        shorter walk is the beginning of a longer one.
        """
        draws = uniform(seed, Stream.SOURCE, torch.tensor(index), 2 * length, step=_WALK)
        rows, columns, probabilities = self.edges
        first_edge = np.searchsorted(rows, np.arange(len(self.enter) + 1))
        states, letters = _compiled(_walk)(
            draws.numpy().reshape(length, 2),
            np.cumsum(self.stationary),
            self.shift,
            first_edge,
            columns,
            probabilities,
            np.cumsum(self.enter),
            np.cumsum(self.emit, axis=1),
        )
        return torch.from_numpy(states), torch.from_numpy(letters) + DNA.first_id

    def sample(self, length: int, seed: int = 0, index: int = 0) -> Tensor:
        """Draws the tokens (length,) int64 of sample `index`; see `walk`."""
        return self.walk(length, seed, index)[1]

    def nll(self, tokens: Tensor) -> Tensor:
        """Returns the exact negative log-likelihood of windows, in nats.

        This is the forward algorithm (Rabiner 1989, eq. 19-21). Windows are taken from anywhere in
        an endless genome, so the first state has the stationary distribution. Tokens that are not
        bases (N, mask, pad) are missing bases and are summed over.

        Args:
            tokens: (B, L) ids.

        Returns:
            (B,) float64; 0 for a window without bases, inf for one that the source cannot produce.
        """
        letters = torch.where(DNA.scorable(tokens), DNA.letter_index(tokens), _K).numpy(force=True)
        # Row K belongs to a missing base, which every state explains.
        likelihood = np.vstack([self.emit.T, np.ones(len(self.enter))])
        nats = _compiled(_forward)(
            letters, self.stationary, self.enter, self.leave, self.shift, *self.edges, likelihood
        )
        return torch.from_numpy(nats)


def _join(
    steps: Iterable[np.ndarray],
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Joins matrices as blocks on the diagonal of one.

    Returns:
        Its first upper diagonal (S,), ended by 0, and all other entries as (rows, columns, values).
    """
    shifts, edges, start = [], [], 0
    for step in steps:
        shifts.append(np.append(np.diag(step, k=1), 0))
        rows, columns = np.nonzero(np.where(np.eye(len(step), k=1), 0, step))
        edges.append((rows + start, columns + start, step[rows, columns]))
        start += len(step)
    rows, columns, values = (np.concatenate(part) for part in zip(*edges, strict=True))
    return np.concatenate(shifts), (rows, columns, values)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function by Numba, which is imported only when a source is first used."""
    import numba

    # Sums may be reordered and vectorised; NaN and inf keep their meaning.
    return numba.njit(fastmath={"reassoc", "contract"})(function)


def _walk(
    draws: np.ndarray,
    start_cdf: np.ndarray,
    shift: np.ndarray,
    first_edge: np.ndarray,
    target: np.ndarray,
    probability: np.ndarray,
    enter_cdf: np.ndarray,
    emit_cdf: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Follows the chain base by base; draws (L, 2) are for the step and for the base."""
    states, letters = np.empty(len(draws), np.int64), np.empty(len(draws), np.int64)
    state = 0
    for i in range(len(draws)):
        # Inversion: the probabilities of the possible steps are subtracted one by one.
        left = draws[i, 0]
        if i == 0:
            state = np.searchsorted(start_cdf, left * start_cdf[-1])
        elif left < shift[state]:
            state += 1
        else:
            left -= shift[state]
            edge, end, stay = first_edge[state], first_edge[state + 1], shift[state]
            while edge < end and left >= probability[edge]:
                left -= probability[edge]
                stay += probability[edge]
                edge += 1
            if edge < end:
                state = target[edge]
            else:
                # The piece ends. What is left is uniform up to 1 - stay: it serves a second time.
                state = np.searchsorted(enter_cdf, left / (1 - stay) * enter_cdf[-1])
        states[i] = state
        letters[i] = np.searchsorted(emit_cdf[state], draws[i, 1] * emit_cdf[state, -1])
    return states, letters


def _forward(
    letters: np.ndarray,
    start: np.ndarray,
    enter: np.ndarray,
    leave: np.ndarray,
    shift: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    probabilities: np.ndarray,
    likelihood: np.ndarray,
) -> np.ndarray:
    """Returns -log p (B,) of each row of letters (B, L), which are 4 where missing.

    `likelihood` (5, S) is the probability of a letter in a state; its last row is 1.
    """
    nats = np.zeros(len(letters))
    seen = np.empty_like(start)
    for window in range(len(letters)):
        predicted = start.copy()  # p(state | the bases before)
        for letter in letters[window]:
            total, hub = 0.0, 0.0
            for s in range(len(seen)):
                seen[s] = predicted[s] * likelihood[letter, s]
                total += seen[s]
                hub += seen[s] * leave[s]
            if letter < len(likelihood) - 1:
                nats[window] -= np.log(total)  # p(base | the bases before)
            if total == 0:
                break
            # Normalised at each base, so that long windows do not underflow.
            scale = 1 / total
            predicted[0] = scale * hub * enter[0]
            for s in range(1, len(seen)):
                predicted[s] = scale * (seen[s - 1] * shift[s - 1] + hub * enter[s])
            for e in range(len(rows)):
                predicted[columns[e]] += scale * seen[rows[e]] * probabilities[e]
    return nats


# ---- from parameters to a FASTA


@dataclass(frozen=True)
class Contig:
    """Lays out a sequence of a genome.

    Attributes:
        name: as in the FASTA.
        length: in bases.
        gaps: (start, end) of runs of N, 0-based and half-open.

    Raises:
        ValueError: if it is empty, or a gap does not lie within it.
    """

    name: str
    length: int
    gaps: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.name or self.length < 1:
            raise ValueError(
                f"contig {self.name!r} of length {self.length}: it needs a name and a base or more"
            )
        for start, end in self.gaps:
            if not 0 <= start < end <= self.length:
                raise ValueError(
                    f"contig {self.name}: gap from {start} to {end} (0-based, half-open) is not "
                    f"within its {self.length} bases"
                )


def load_source(name_or_path: str | os.PathLike[str] = "demo") -> HiddenMarkovSource:
    """Loads the source that a YAML file describes.

    Args:
        name_or_path: "demo" for the shipped one, or a file with the keys of data/demo_source.yaml.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    return _load(name_or_path, _source)


def load_contigs(name_or_path: str | os.PathLike[str] = "demo") -> list[Contig]:
    """Loads the contigs that a YAML file lays out for `write_genome`; see `load_source`.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    return _load(name_or_path, _contigs)


def write_genome(
    path: str | os.PathLike[str],
    *,
    source: HiddenMarkovSource,
    contigs: Sequence[Contig],
    seed: int,
) -> None:
    """Writes a FASTA, 60 bases a line, whole or not at all. The same seed gives the same bytes.

    Contig i is walk i of the source, with repeats in lower case and its gaps as N. Neither changes
    the likelihood of the remaining bases: gaps are independent of the sequence, and
    `HiddenMarkovSource.nll` ignores case. (The case shows where the repeats are, which the bases
    alone do not.)

    Raises:
        ValueError: if two contigs have one name.
    """
    if len({contig.name for contig in contigs}) < len(contigs):
        raise ValueError(f"contigs share a name: {[contig.name for contig in contigs]}")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for index, contig in enumerate(contigs):
            text = _spell(source, contig, seed, index)
            file.write(f">{contig.name} simulated, seed {seed}\n".encode())
            for start in range(0, contig.length, _LINE):
                file.write(text[start : start + _LINE] + b"\n")


def _spell(source: HiddenMarkovSource, contig: Contig, seed: int, index: int) -> bytes:
    """Returns the sequence of a contig, walk `index`, as it is written."""
    states, tokens = source.walk(contig.length, seed, index)
    text = np.frombuffer(DNA.decode(tokens).encode(), np.uint8)
    text = np.where(source.repeat[states], text | _LOWER_CASE, text)
    for start, end in contig.gaps:
        text[start:end] = ord(DNA.unknown)
    return text.tobytes()


def _load(name_or_path: str | os.PathLike[str], build: Callable[[Mapping[str, Any]], _T]) -> _T:
    """Calls `build` with the parameters of a YAML file; its errors become a line with the file."""
    path = resource("data", "demo_source.yaml") if name_or_path == "demo" else Path(name_or_path)
    try:
        return build(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f'{path}: {error.strerror}; give the YAML file of a source, or "demo"'
        ) from error
    except KeyError as error:
        raise InputError(
            f"{path}: the key {error} is missing; compare it with the demo source"
        ) from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a source of DNA: {reason}; compare it with the demo source"
        ) from error


def _source(parameters: Mapping[str, Any]) -> HiddenMarkovSource:
    """Builds the source from the sections of the YAML file."""
    chance, genes, motifs = parameters["background"], parameters["genes"], parameters["motifs"]
    repeats, tandems = parameters["interspersed_repeats"], parameters["tandem_repeats"]
    table = np.array(chance["conditional"], float)
    pieces = [
        (background(table / table.sum(1, keepdims=True), chance["mean_length"]), chance["share"]),
        (gene(genes["codons"], genes["stops"], genes["mean_codons"]), genes["share"]),
    ]
    for name, entry in motifs["sites"].items():
        pieces.append((motif(name, entry["consensus"], motifs["fidelity"]), entry["share"]))
    for family, (name, entry) in enumerate(repeats["families"].items()):
        ancestor = founder(repeats["seed"], family, entry["length"], repeats["gc"])
        pieces.append((interspersed_repeat(name, ancestor, entry["divergence"]), entry["share"]))
    for name, entry in tandems.items():
        tandem = tandem_repeat(name, entry["unit"], entry["mean_length"], entry["divergence"])
        pieces.append((tandem, entry["share"]))
    return HiddenMarkovSource(*zip(*pieces, strict=True))


def _contigs(parameters: Mapping[str, Any]) -> list[Contig]:
    """Builds the contigs from the section of the YAML file."""
    contigs = []
    for name, entry in parameters["contigs"].items():
        gaps = tuple((start, end) for start, end in entry.get("gaps", []))
        contigs.append(Contig(name, entry["length"], gaps))
    return contigs
