"""A hidden Markov source of DNA: a made-up genome of which the exact likelihood is known.

A genome is modelled as an endless series of independent *pieces*: a stretch of background, a gene, a binding site, a
copy of a repeat. Each kind of piece is an `Element`, a small Markov chain whose states emit one letter each. Walking
the genome means: choose an element, enter its chain, emit a letter in every state passed, leave it, choose the next
element. Whoever sees only the letters faces a hidden Markov model (Rabiner 1989, "A tutorial on hidden Markov models"),
and the forward algorithm gives the exact probability of any window of letters: the true answer for a model that was
trained on such a genome.

Strands. Every element is there twice, as drawn and as its exact reverse complement (`Element.reverse_complement`), each
with half the weight. The pieces are independent and follow each other in any order, so the source is *exactly*
reverse-complement symmetric: p(x) = p(reverse complement of x) for every window of every length.

The parameters of the source that ships are in data/demo_source.yaml, which `load_source` and `load_contigs` read.
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
_LINE = 60  # letters on a line of FASTA
_WALK, _LIBRARY = (
    0,
    1,
)  # steps of Stream.SOURCE: the walk along a genome, the founders of the repeat families


# ---- the pieces of a genome


@dataclass(frozen=True)
class Element:
    """One kind of piece: a Markov chain over n states that is entered, walked and left.

    Attributes:
        name: what it is.
        enter: (n,) probability that a piece begins in each state; sums to 1.
        step: (n, n) probability of going on from state i to state j. What row i lacks to 1 is the probability that the
            piece ends after state i.
        emit: (n, 4) probability of each letter in each state; rows sum to 1.
        repeat: whether a genome shows it in lower case, as repeat maskers do.

    Raises:
        ValueError: if these are not such probabilities, or a state can never be reached, or never be left.
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
        """(n,) expected number of times that one piece passes each state: enter (I - step)^-1."""
        try:
            return np.linalg.solve(np.eye(len(self.enter)) - self.step.T, self.enter)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"{self.name}: the piece never ends") from error

    @property
    def mean_length(self) -> float:
        """Mean number of letters in one piece."""
        return float(self.visits.sum())

    def reverse_complement(self) -> Element:
        """The same piece read from the other strand: the time-reversed chain with complemented emissions.

        Bayes' rule turns a chain round: the state before j was i with probability visits_i step_ij / visits_j, and a
        piece read backwards begins where it used to end. States are numbered from the end, so that a chain that moves
        up by one still does.
        """
        back = (self.visits[:, None] * self.step).T / self.visits[:, None]
        complement = np.array(DNA.complement_ids)[DNA.ids] - DNA.first_id
        return Element(
            name=self.name,
            enter=(self.visits * self.leave)[::-1],
            step=back[::-1, ::-1],
            emit=self.emit[::-1][:, complement],
            repeat=self.repeat,
        )


def background(conditional: np.ndarray, mean_length: float) -> Element:
    """A stretch of an order-k Markov chain, of geometric length, begun in the chain's stationary distribution.

    The context is part of the state: state c means that the last k letters are c. It emits the last of them and goes on
    to the contexts that keep the other k - 1.

    Args:
        conditional: (4^k, 4) probability of the next letter after each context, k >= 1, contexts in alphabetical order.
        mean_length: letters.

    Raises:
        ValueError: if the table has another shape.
    """
    contexts = len(conditional)
    if conditional.shape[1:] != (_K,) or contexts not in (_K**k for k in range(1, 9)):
        raise ValueError(
            f"a table of order k has 4^k rows of 4 probabilities, not the shape {conditional.shape}"
        )
    move = np.zeros((contexts, contexts))
    for context in range(contexts):
        move[context, (context * _K + np.arange(_K)) % contexts] = conditional[context]
    balance = np.vstack([move.T - np.eye(contexts), np.ones(contexts)])
    stationary = np.linalg.lstsq(balance, np.eye(contexts + 1)[-1], rcond=None)[0]
    return Element(
        "background", stationary, (1 - 1 / mean_length) * move, np.eye(_K)[np.arange(contexts) % _K]
    )


def gene(codons: Mapping[str, float], stops: Mapping[str, float], mean_codons: float) -> Element:
    """A start codon, a geometric number of independent codons, and a stop codon.

    Inside the run of codons a state knows the letters of its codon so far, and forgets them with the third one:
    4 + 16 + 4 states say all that a table of 64 codons does.

    Args:
        codons: relative usage of each sense codon.
        stops: relative usage of each stop codon.
        mean_codons: mean number of codons between start and stop.

    Raises:
        ValueError: if a codon is not three letters, or some pair of letters begins no codon.
    """
    for codon in (*codons, *stops):
        if len(codon) != 3:
            raise ValueError(f"{codon!r} is not a codon")
    usage = _codon_usage(codons)
    first, second = usage.sum((1, 2)), usage.sum(2)
    one, two, three = np.split(
        np.arange(3, 27), [_K, _K + _K * _K]
    )  # states of the first, second, third letter
    size = 27 + 3 * len(stops)
    step = np.diag(np.ones(size - 1), k=1)  # start and stop codons are chains
    step[2:27] = 0
    step[2, one] = first
    step[one[:, None], two.reshape(_K, _K)] = second / first[:, None]
    step[two[:, None], three] = (usage / second[..., None]).reshape(-1, _K)
    step[np.ix_(three, one)] = (1 - 1 / mean_codons) * first
    for stop, weight in zip(range(27, size, 3), stops.values(), strict=True):
        step[three, stop] = weight / sum(stops.values()) / mean_codons
        step[stop + 2] = 0
    letters = np.concatenate(
        [_indices("ATG"), np.tile(np.arange(_K), _K + 2), _indices("".join(stops))]
    )
    return Element("gene", np.eye(size)[0], step, np.eye(_K)[letters])


def motif(name: str, consensus: str, fidelity: float) -> Element:
    """A binding site: one state, with one weight column, for each letter of an IUPAC consensus.

    The letters that a code stands for share `fidelity` and the others share the rest; N is uniform.
    """
    n = len(consensus)
    return Element(name, np.eye(n)[0], np.eye(n, k=1), _columns(consensus, fidelity))


def interspersed_repeat(name: str, consensus: str, divergence: float) -> Element:
    """A copy of a repeat family; each letter differs from the consensus with probability `divergence`."""
    n = len(consensus)
    return Element(
        name, np.eye(n)[0], np.eye(n, k=1), _columns(consensus, 1 - divergence), repeat=True
    )


def tandem_repeat(name: str, unit: str, mean_length: float, divergence: float) -> Element:
    """A short unit again and again, for a geometric number of letters, begun anywhere in the unit."""
    n = len(unit)
    around = np.roll(np.eye(n), 1, axis=1)
    columns = _columns(unit, 1 - divergence)
    return Element(name, np.full(n, 1 / n), (1 - 1 / mean_length) * around, columns, repeat=True)


def founder(seed: int, family: int, length: int, gc: float) -> str:
    """The consensus of a repeat family, derived from a seed: independent letters, a share `gc` of them G or C."""
    share = np.array([gc if letter in "GC" else 1 - gc for letter in DNA.letters]) / 2
    draws = uniform(seed, Stream.SOURCE, torch.tensor(family), length, step=_LIBRARY).numpy()
    return DNA.decode(DNA.first_id + np.searchsorted(np.cumsum(share)[:-1], draws))


def _columns(code: str, fidelity: float) -> np.ndarray:
    """(length, 4) letter probabilities for an IUPAC text."""
    columns = []
    for symbol in code:
        allowed = np.array([letter in DNA.ambiguity.get(symbol, symbol) for letter in DNA.letters])
        if not allowed.any():
            raise ValueError(f"{symbol!r} in {code!r} is not an IUPAC letter")
        share = np.where(
            allowed, fidelity / allowed.sum(), (1 - fidelity) / max((~allowed).sum(), 1)
        )
        columns.append(share / share.sum())
    return np.array(columns)


def _indices(text: str) -> np.ndarray:
    return DNA.encode(text) - DNA.first_id


def _codon_usage(codons: Mapping[str, float]) -> np.ndarray:
    """(4, 4, 4) probability of each codon."""
    usage = np.zeros((_K, _K, _K))
    for codon, weight in codons.items():
        usage[tuple(_indices(codon))] = weight
    if usage.sum(2).min() <= 0:
        raise ValueError("each pair of letters must begin a codon that is used")
    return usage / usage.sum()


# ---- the source


class HiddenMarkovSource:
    """A stationary source of DNA with exact likelihood: independent pieces, on both strands.

    Its transition matrix over all S states of all elements is  step + leave x enter:  inside a piece almost every step
    goes to the next state in line (`shift`), a few go elsewhere (the `edges`), and between pieces everything passes
    through one hub. The forward algorithm therefore costs O(S) a letter, not O(S^2).

    Args:
        elements: the kinds of pieces, each on the strand it was written on; the other strand is added here.
        shares: the expected share of each element among the letters of the genome, in any unit.

    Attributes:
        elements: the elements on both strands.
        enter: (S,) probability that a new piece begins in each state.
        leave: (S,) probability that a piece ends after each state.
        shift: (S,) probability of the step from state s to s + 1.
        edges: (rows, columns, probabilities) of all other steps inside a piece, in order of their rows.
        emit: (S, 4) probability of each letter in each state.
        repeat: (S,) bool, states of repeats.
        stationary: (S,) distribution of the state at any place of the genome.
    """

    def __init__(self, elements: Sequence[Element], shares: Sequence[float]) -> None:
        if len(elements) != len(shares) or not elements or min(shares) <= 0:
            raise ValueError(
                f"{len(elements)} elements need as many positive shares, not {list(shares)}"
            )
        self.elements = [
            strand for element in elements for strand in (element, element.reverse_complement())
        ]
        rates = np.repeat(
            [share / e.mean_length for e, share in zip(elements, shares, strict=True)], 2
        )
        rates /= rates.sum()  # of all pieces, how many are of this element and strand
        pieces = list(zip(self.elements, rates, strict=True))
        self.enter = np.concatenate([rate * e.enter for e, rate in pieces])
        self.leave = np.concatenate([e.leave for e in self.elements])
        self.emit = np.concatenate([e.emit for e in self.elements])
        self.repeat = np.concatenate([np.full(len(e.enter), e.repeat) for e in self.elements])
        self.shift, self.edges = _join([e.step for e in self.elements])
        visits = np.concatenate([rate * e.visits for e, rate in pieces])
        self.stationary = (
            visits / visits.sum()
        )  # renewal-reward theorem: time in a state is proportional to visits

    def walk(self, length: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
        """States and tokens, both (length,) int64, of walk `index`: begun in the stationary distribution.

        A pure function of (seed, index), and a shorter walk is the beginning of a longer one.
        """
        draws = (
            uniform(seed, Stream.SOURCE, torch.tensor(index), 2 * length, step=_WALK)
            .numpy()
            .reshape(length, 2)
        )
        rows, columns, probabilities = self.edges
        states, letters = _compiled(_walk)(
            draws,
            np.cumsum(self.stationary),
            self.shift,
            np.searchsorted(rows, np.arange(len(self.enter) + 1)),
            columns,
            probabilities,
            np.cumsum(self.enter),
            np.cumsum(self.emit, axis=1),
        )
        return torch.from_numpy(states), torch.from_numpy(letters) + DNA.first_id

    def sample(self, length: int, seed: int = 0, index: int = 0) -> Tensor:
        """Tokens (length,) int64 of sample `index`. See `walk`."""
        return self.walk(length, seed, index)[1]

    def nll(self, tokens: Tensor) -> Tensor:
        """Exact -log p, in nats, of the letters of each window: the forward algorithm (Rabiner 1989, eq. 19-21).

        Windows are taken from anywhere in an endless genome, so the first state has the stationary distribution. Tokens
        that are no letters (N, mask, pad) are missing letters and are summed over.

        Args:
            tokens: (B, L) ids.

        Returns:
            (B,) float64; 0 for a window without letters, inf for one that the source cannot produce.
        """
        letters = torch.where(DNA.scorable(tokens), DNA.letter_index(tokens), _K).numpy(force=True)
        likelihood = np.vstack([self.emit.T, np.ones(len(self.enter))])
        nats = _compiled(_forward)(
            letters, self.stationary, self.enter, self.leave, self.shift, *self.edges, likelihood
        )
        return torch.from_numpy(nats)


def _join(
    steps: Iterable[np.ndarray],
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The matrix with these blocks on its diagonal: its first upper diagonal, the rest as (rows, columns, values)."""
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
    """`function` through Numba, which is only imported when a source is first walked or scored."""
    import numba

    return numba.njit(fastmath={"reassoc", "contract"})(
        function
    )  # sums may be vectorised; NaN and inf stay themselves


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
    """Follows the chain letter by letter; draws (L, 2) are for the step and for the letter."""
    states, letters = np.empty(len(draws), np.int64), np.empty(len(draws), np.int64)
    state = 0
    for i in range(len(draws)):
        left = draws[i, 0]  # what is left of the draw as the ways on are taken off it one by one
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
            state = (
                target[edge]
                if edge < end
                else np.searchsorted(enter_cdf, left / (1 - stay) * enter_cdf[-1])
            )
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
    """-log p of each row of letters (B, L), 4 where missing; `likelihood` (5, S) is 1 in its last row."""
    nats = np.zeros(len(letters))
    seen = np.empty_like(start)
    for window in range(len(letters)):
        predicted = start.copy()  # p(state | the letters before)
        for letter in letters[window]:
            total, hub = 0.0, 0.0
            for s in range(len(seen)):
                seen[s] = predicted[s] * likelihood[letter, s]
                total += seen[s]
                hub += seen[s] * leave[s]
            if letter < len(likelihood) - 1:
                nats[window] -= np.log(total)  # p(letter | the letters before)
            if total == 0:
                break
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
    """A sequence of a genome.

    Attributes:
        name: as in the FASTA.
        length: letters.
        gaps: 0-based half-open (start, end) runs of N.

    Raises:
        ValueError: if it is empty, or a gap does not lie within it.
    """

    name: str
    length: int
    gaps: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.name or self.length < 1:
            raise ValueError(f"contig {self.name!r}: length {self.length}")
        for start, end in self.gaps:
            if not 0 <= start < end <= self.length:
                raise ValueError(
                    f"contig {self.name}: gap [{start}, {end}) is not within its {self.length} letters"
                )


def load_source(name_or_path: str | os.PathLike[str] = "demo") -> HiddenMarkovSource:
    """The source that a YAML file describes; "demo" is the one that ships, and data/demo_source.yaml explains the keys.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    return _load(name_or_path, _source)


def load_contigs(name_or_path: str | os.PathLike[str] = "demo") -> list[Contig]:
    """The contigs that a YAML file lays out for `write_genome`.

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
    """Writes a FASTA, 60 letters a line, whole or not at all. The same seed gives the same bytes.

    Contig i is walk i of the source, with repeats in lower case and its gaps laid over as N. Neither touches the
    likelihood of the letters that remain: gaps fall without regard to the sequence, and `HiddenMarkovSource.nats` does
    not look at case (whoever does, sees where the repeats are and knows more than the source tells).

    Raises:
        ValueError: if two contigs have one name.
    """
    if len({contig.name for contig in contigs}) < len(contigs):
        raise ValueError(f"contigs share a name: {[contig.name for contig in contigs]}")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for index, contig in enumerate(contigs):
            text = _spell(source, contig, seed, index)
            file.write(f">{contig.name} simulated, seed {seed}\n".encode())
            file.writelines(
                text[start : start + _LINE] + b"\n" for start in range(0, contig.length, _LINE)
            )


def _spell(source: HiddenMarkovSource, contig: Contig, seed: int, index: int) -> bytes:
    states, tokens = source.walk(contig.length, seed, index)
    text = np.frombuffer(DNA.decode(tokens).encode(), np.uint8)
    text = np.where(
        source.repeat[states], text | 0x20, text
    )  # bit 5 is the case of an ASCII letter
    for start, end in contig.gaps:
        text[start:end] = ord(DNA.unknown)
    return text.tobytes()


def _load(name_or_path: str | os.PathLike[str], build: Callable[[Mapping[str, Any]], _T]) -> _T:
    """`build` of the parameters in a YAML file; what it raises becomes one line that names the file."""
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
    """Elements and their shares of the genome, from the sections of the YAML file."""
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
        pieces.append(
            (
                tandem_repeat(name, entry["unit"], entry["mean_length"], entry["divergence"]),
                entry["share"],
            )
        )
    return HiddenMarkovSource(*zip(*pieces, strict=True))


def _contigs(parameters: Mapping[str, Any]) -> list[Contig]:
    return [
        Contig(name, entry["length"], tuple((start, end) for start, end in entry.get("gaps", [])))
        for name, entry in parameters["contigs"].items()
    ]
