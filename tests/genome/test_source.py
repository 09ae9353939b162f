import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from pyfaidx import Fasta
from scipy.linalg import block_diag

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.files import resource
from dnadiff.genome.markov import MarkovModel
from dnadiff.genome.source import (
    Contig,
    Element,
    HiddenMarkovSource,
    background,
    founder,
    gene,
    interspersed_repeat,
    load_contigs,
    load_source,
    motif,
    tandem_repeat,
    write_genome,
)

CHAIN = np.array(
    [[0.5, 0.1, 0.2, 0.2], [0.3, 0.3, 0.1, 0.3], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]
)
CODONS = {"".join(codon): 1 + i % 5 for i, codon in enumerate(itertools.product("ACGT", repeat=3))}
STOPS = {"TAA": 2.0, "TAG": 1.0, "TGA": 1.0}
for stop in STOPS:
    del CODONS[stop]

ELEMENTS = {
    "background": background(CHAIN, mean_length=4),
    "background of order 2": background(np.roll(np.tile(CHAIN, (4, 1)), 1, axis=0), mean_length=5),
    "motif": motif("site", "TAWN", fidelity=0.8),
    "repeat": interspersed_repeat("family", "ACCGA", divergence=0.1),
    "tandem": tandem_repeat("satellite", "CAG", mean_length=6, divergence=0.05),
    "gene": gene(CODONS, STOPS, mean_codons=2),
}


@pytest.fixture(scope="module")
def tiny():
    """Every kind of element, small enough to enumerate."""
    return HiddenMarkovSource(list(ELEMENTS.values()), [3, 2, 2, 2, 1, 2])


@pytest.fixture(scope="module")
def demo():
    return load_source()


def every(length):
    """All 4^length windows."""
    return torch.tensor(list(itertools.product(DNA.ids, repeat=length)))


def window(text):
    return torch.from_numpy(DNA.encode(text))[None]


def dense(source):
    """The whole transition matrix, from the elements alone."""
    return block_diag(*[e.step for e in source.elements]) + np.outer(source.leave, source.enter)


def dense_nats(source, tokens):
    """The forward algorithm as it is written in textbooks."""
    likelihood = np.hstack([source.emit, np.ones((len(source.emit), 1))])[:, tokens - DNA.first_id]
    state = source.stationary * likelihood[:, 0]
    for column in likelihood.T[1:]:
        state = state @ dense(source) * column
    return -math.log(state.sum())


def piece_probability(element, letters):
    """p(one piece of this element spells these letters, and ends)."""
    state = element.enter * element.emit[:, letters[0]]
    for letter in letters[1:]:
        state = state @ element.step * element.emit[:, letter]
    return state @ element.leave


# ---- elements


@pytest.mark.parametrize("name", ELEMENTS)
def test_reverse_complement_spells_every_word_backwards(name):
    element = ELEMENTS[name]
    other = element.reverse_complement()
    for length in (1, 3, 5):
        for letters in itertools.product(range(4), repeat=length):
            backwards = [3 - letter for letter in reversed(letters)]
            assert piece_probability(other, backwards) == pytest.approx(
                piece_probability(element, letters), rel=1e-9, abs=1e-15
            )


@pytest.mark.parametrize("name", ELEMENTS)
def test_reverse_complement_twice_is_the_element_itself(name):
    element = ELEMENTS[name]
    twice = element.reverse_complement().reverse_complement()
    for field in ("enter", "step", "emit"):
        assert np.allclose(getattr(twice, field), getattr(element, field), atol=1e-12)
    assert (twice.name, twice.repeat) == (element.name, element.repeat)


@pytest.mark.parametrize(
    ("name", "length"),
    # a gene: start, two codons on average (geometric, at least one), stop
    [
        ("background", 4),
        ("background of order 2", 5),
        ("motif", 4),
        ("repeat", 5),
        ("tandem", 6),
        ("gene", 12),
    ],
)
def test_mean_length(name, length):
    assert ELEMENTS[name].mean_length == pytest.approx(length)
    assert ELEMENTS[name].reverse_complement().mean_length == pytest.approx(length)


def test_background_begins_in_the_stationary_distribution():
    element = background(CHAIN, mean_length=4)
    assert element.enter @ CHAIN == pytest.approx(element.enter)
    deep = ELEMENTS["background of order 2"]
    assert deep.enter @ (deep.step / deep.step.sum(1, keepdims=True)) == pytest.approx(deep.enter)


def test_a_gene_is_codons_with_their_usage():
    element = gene(CODONS, STOPS, mean_codons=2)
    total = sum(CODONS.values())
    for codon, then, stop in (("CTG", "AAA", "TAA"), ("ACG", "TGG", "TGA")):
        expected = CODONS[codon] / total * 0.5 * CODONS[then] / total * 0.5 * STOPS[stop] / 4
        letters = DNA.encode("ATG" + codon + then + stop) - DNA.first_id
        assert piece_probability(element, letters) == pytest.approx(expected)
    for not_a_gene in ("ATGTAA", "CTGCTGTAA", "ATGTAACTGTAA", "ATGCTG", "ATGCTGCTAA"):
        assert piece_probability(element, DNA.encode(not_a_gene) - DNA.first_id) == 0


def test_a_motif_has_the_columns_of_its_consensus():
    assert motif("site", "TRN", fidelity=0.88).emit == pytest.approx(
        np.array([[0.04, 0.04, 0.04, 0.88], [0.44, 0.06, 0.44, 0.06], [0.25] * 4])
    )


def test_founders_come_from_the_seed():
    assert founder(1, 0, 50, 0.4) == founder(1, 0, 60, 0.4)[:50]
    assert len({founder(seed, family, 50, 0.4) for seed in (1, 2) for family in (0, 1)}) == 4
    letters = Counter(founder(1, 0, 40_000, 0.4))
    assert letters["G"] + letters["C"] == pytest.approx(16_000, abs=400)
    assert letters["A"] == pytest.approx(12_000, abs=400)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Element("x", np.array([0.5, 0.4]), np.zeros((2, 2)), np.full((2, 4), 0.25)),
            "x: the rows of enter",
        ),
        (
            lambda: Element("x", np.ones(1), np.array([[-0.1]]), np.full((1, 4), 0.25)),
            "x: the rows of step",
        ),
        (
            lambda: Element("x", np.ones(1), np.array([[1.2]]), np.full((1, 4), 0.25)),
            "x: the rows of step",
        ),
        (
            lambda: Element("x", np.ones(1), np.ones((1, 1)), np.full((1, 4), 0.25)),
            "x: the piece never ends",
        ),
        (
            lambda: Element("x", np.ones(1), np.zeros((1, 1)), np.full((1, 4), 0.3)),
            "x: the rows of emit",
        ),
        (
            lambda: Element("x", np.eye(2)[0], np.zeros((2, 2)), np.full((2, 4), 0.25)),
            "x: a state is never reached",
        ),
        (lambda: motif("x", "TATAZ", 0.9), "'Z' in 'TATAZ'"),
        (lambda: motif("x", "TATA", 1.9), "x: the rows of emit"),
        (lambda: background(np.full((5, 4), 0.25), 10), r"\(5, 4\)"),
        (lambda: background(np.full((4, 4), 0.25), 0.5), "background: the rows of step"),
        (lambda: gene({"AAA": 1.0}, STOPS, 3), "each pair of bases"),
        (lambda: gene({**CODONS, "AC": 1.0}, STOPS, 3), "'AC' is not a codon"),
        (lambda: gene({**CODONS, "ACQ": 1.0}, STOPS, 3), "'Q' at position 3"),
        (lambda: gene(CODONS, {"TA": 1.0}, 3), "'TA' is not a codon"),
        (lambda: HiddenMarkovSource([ELEMENTS["motif"]], [1, 2]), "1 elements need"),
        (lambda: HiddenMarkovSource([ELEMENTS["motif"]], [0]), r"positive shares, not \[0\]"),
        (lambda: Contig("chr1", 0), "'chr1' of length 0"),
        (lambda: Contig("chr1", 10, ((5, 11),)), r"gap from 5 to 11"),
        (lambda: Contig("chr1", 10, ((5, 5),)), r"gap from 5 to 5"),
    ],
)
def test_refuses(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ---- the exact likelihood


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_all_windows_sum_to_one(tiny, length):
    assert torch.exp(-tiny.nll(every(length))).sum().item() == pytest.approx(1, abs=1e-12)


def test_agrees_with_the_dense_forward_algorithm(tiny):
    windows = torch.stack([tiny.sample(40, seed=1, index=i) for i in range(5)])
    windows[1:3, 10:14] = DNA.unknown_id
    for row, nats in zip(windows, tiny.nll(windows), strict=True):
        assert nats.item() == pytest.approx(dense_nats(tiny, row.numpy()), abs=1e-11)


def test_demo_agrees_with_the_dense_forward_algorithm(demo):
    row = demo.sample(30, seed=1)
    assert demo.nll(row[None]).item() == pytest.approx(dense_nats(demo, row.numpy()), abs=1e-11)


@pytest.mark.parametrize("missing", [(0,), (2,), (4,), (1, 2), (0, 4)])
@pytest.mark.parametrize("token", [DNA.unknown_id, DNA.mask_id, DNA.pad_id])
def test_a_missing_letter_is_summed_over(tiny, missing, token):
    windows = every(5)
    some = windows[::37].clone()
    some[:, missing] = token
    nats = tiny.nll(some)
    p = torch.exp(-tiny.nll(windows))
    for row, value in zip(some, nats, strict=True):
        fits = ((windows == row) | (row == token)).all(1)
        assert value.item() == pytest.approx(-math.log(p[fits].sum().item()), abs=1e-12)


def test_windows_without_letters(tiny):
    assert tiny.nll(torch.full((2, 7), DNA.unknown_id)).tolist() == [0, 0]
    assert tiny.nll(torch.empty(2, 0, dtype=torch.int64)).tolist() == [0, 0]
    assert tiny.nll(torch.empty(0, 4, dtype=torch.int64)).tolist() == []


def test_a_window_that_cannot_be(tiny):
    only = HiddenMarkovSource([tandem_repeat("AC", "AC", mean_length=5, divergence=0)], [1])
    # both strands: AC repeats and GT repeats, each piece begun at any of two places
    assert only.nll(window("A")).item() == pytest.approx(math.log(4))
    assert only.nll(window("CC")).item() == pytest.approx(-math.log(1 / 4 * 1 / 5 * 1 / 4))
    assert HiddenMarkovSource([motif("A", "A", 1.0)], [1]).nll(window("ACT")).item() == math.inf


@pytest.mark.parametrize(
    ("elements", "shares", "text", "p"),
    [
        ([motif("W", "W", 1.0)], [1], "ATTA", 0.5**4),  # each letter is a piece of its own
        (
            [motif("A", "A", 1.0), motif("CC", "CC", 1.0)],
            [1, 1],
            "A",
            0.25,
        ),  # half of the genome, half of it as T
        # the window's C is the second of a CC (1/8); the next piece is A, T, CC, GG with
        # 1/3, 1/3, 1/6, 1/6
        ([motif("A", "A", 1.0), motif("CC", "CC", 1.0)], [1, 1], "CA", 1 / 8 * 1 / 3),
        ([motif("A", "A", 1.0), motif("CC", "CC", 1.0)], [1, 1], "CC", 1 / 8 + 1 / 8 * 1 / 6),
    ],
)
def test_closed_forms(elements, shares, text, p):
    assert HiddenMarkovSource(elements, shares).nll(window(text)).item() == pytest.approx(
        -math.log(p), abs=1e-12
    )


def test_a_source_of_background_alone_is_a_markov_chain():
    # a chain that is its own reverse complement; at a seam between pieces the next letter has the
    # stationary law
    conditional = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
    source = HiddenMarkovSource([background(conditional, mean_length=10)], [1])
    move = 0.9 * conditional + 0.1 / 4
    for text in ("A", "AAC", "GATTACA"):
        letters = DNA.encode(text) - DNA.first_id
        expected = math.log(4) - np.log(move[letters[:-1], letters[1:]]).sum()
        assert source.nll(window(text)).item() == pytest.approx(expected, abs=1e-12)


def test_both_strands_of_a_window_have_one_probability(tiny, demo):
    windows = every(5)
    assert torch.allclose(
        tiny.nll(windows), tiny.nll(DNA.reverse_complement(windows)), atol=1e-11, rtol=0
    )
    windows = demo.sample(20 * 256, seed=2).view(20, 256)
    windows[3, 40:60] = DNA.unknown_id
    assert torch.allclose(
        demo.nll(windows), demo.nll(DNA.reverse_complement(windows)), atol=1e-9, rtol=0
    )


# ---- walks


@pytest.mark.parametrize("which", ["tiny", "demo"])
def test_stationary_distribution(which, request):
    source = request.getfixturevalue(which)
    matrix = dense(source)
    assert np.allclose(matrix.sum(1), 1, atol=1e-12)
    assert np.allclose(source.stationary @ matrix, source.stationary, atol=1e-15)


def test_shares_are_shares_of_the_letters(tiny):
    mass = np.split(tiny.stationary, np.cumsum([len(e.enter) for e in tiny.elements])[:-1])
    expected = np.repeat([3, 2, 2, 2, 1, 2], 2) / 24
    assert [part.sum() for part in mass] == pytest.approx(expected)
    states, _ = tiny.walk(200_000, seed=3, index=0)
    seen = np.bincount(states.numpy(), minlength=len(tiny.enter)) / 200_000
    assert np.abs(seen - tiny.stationary).sum() < 0.02


def test_walks_begin_anywhere(tiny):
    first = torch.cat([tiny.walk(1, seed=9, index=i)[0] for i in range(2000)])
    element = np.repeat(np.arange(12), [len(e.enter) for e in tiny.elements])
    seen, expected = (
        np.bincount(element[first], minlength=12),
        2000 * np.repeat([3, 2, 2, 2, 1, 2], 2) / 24,
    )
    assert (
        (seen - expected) ** 2 / expected
    ).sum() < 31.3  # chi-square, 11 degrees of freedom, p = 0.001


def test_a_walk_is_a_function_of_seed_and_index(tiny):
    states, tokens = tiny.walk(500, seed=4, index=7)
    assert torch.equal(tiny.sample(300, seed=4, index=7), tokens[:300])
    assert (tokens.dtype, states.dtype) == (torch.int64, torch.int64)
    assert DNA.scorable(tokens).all()
    for other in (tiny.sample(500, seed=5, index=7), tiny.sample(500, seed=4, index=8)):
        assert (other == tokens).float().mean() < 0.5


def test_walks_have_the_probabilities_that_nats_says(tiny):
    words = tiny.sample(400_000, seed=5).view(-1, 20)[
        :, :3
    ]  # 17 letters apart: all but independent
    seen = np.bincount(
        ((words - DNA.first_id) * torch.tensor([16, 4, 1])).sum(1).numpy(), minlength=64
    )
    expected = len(words) * torch.exp(-tiny.nll(every(3))).numpy()
    assert (
        (seen - expected) ** 2 / expected
    ).sum() < 103.4  # chi-square, 63 degrees of freedom, p = 0.001


def test_nats_of_walks_average_to_the_entropy(tiny):
    p = torch.exp(-tiny.nll(every(6)))
    entropy = -(p * p.log()).sum().item()
    nats = tiny.nll(tiny.sample(120_000, seed=6).view(-1, 20)[:, :6])  # and 14 that are skipped
    assert nats.mean().item() == pytest.approx(
        entropy, abs=4 * nats.std().item() / len(nats) ** 0.5
    )


def test_genes_can_be_read_off_a_walk():
    source = HiddenMarkovSource(
        [gene(CODONS, STOPS, mean_codons=20), motif("spacer", "NNN", 1.0)], [9, 1]
    )
    states, tokens = source.walk(60_000, seed=7, index=0)
    text = DNA.decode(tokens)
    begins = np.flatnonzero(states.numpy() == 0)
    usage = Counter()
    for begin in begins[:-2]:
        codons = [text[i : i + 3] for i in range(begin, len(text) - 2, 3)]
        length = next(i for i, codon in enumerate(codons) if codon in STOPS)
        assert codons[0] == "ATG"
        assert states[begin + 3 * length + 3] not in range(30, 36)  # the stop codon ended it
        usage.update(codons[1:length])
    total = sum(usage.values())
    assert total > 5000
    for codon in ("ACG", "TTT", "GCA", "CCC"):
        p = CODONS[codon] / sum(CODONS.values())
        assert usage[codon] / total == pytest.approx(p, abs=4 * math.sqrt(p / total))


# ---- genomes on disk


CONTIGS = [Contig("chr1", 1234, ((0, 30), (400, 410))), Contig("chr2", 600), Contig("tiny", 1)]


def test_a_genome_is_walks_with_gaps_and_soft_masking(tiny, tmp_path):
    path = tmp_path / "genome.fa"
    write_genome(path, source=tiny, contigs=CONTIGS, seed=8)
    lines = path.read_text().splitlines()
    assert [line for line in lines if line[0] == ">"] == [
        f">{c.name} simulated, seed 8" for c in CONTIGS
    ]
    assert {len(line) for line in lines if line[0] != ">"} <= {60, 1234 % 60, 1}
    with Fasta(str(path)) as fasta:
        for index, contig in enumerate(CONTIGS):
            text = str(fasta[contig.name])
            states, tokens = tiny.walk(contig.length, 8, index)
            assert len(text) == contig.length
            for place, (letter, state) in enumerate(zip(DNA.decode(tokens), states, strict=True)):
                gap = any(start <= place < end for start, end in contig.gaps)
                shown = letter.lower() if tiny.repeat[state] else letter
                assert text[place] == ("N" if gap else shown)


def test_the_same_seed_gives_the_same_bytes(tiny, tmp_path):
    for name, seed in (("a", 8), ("b", 8), ("c", 9)):
        write_genome(tmp_path / name, source=tiny, contigs=CONTIGS, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_genome_appears_whole_or_not_at_all(tiny, tmp_path, monkeypatch):
    path = tmp_path / "genome.fa"
    path.write_text("old")
    monkeypatch.setattr(HiddenMarkovSource, "walk", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_genome(path, source=tiny, contigs=CONTIGS, seed=8)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_contigs_must_differ_in_name(tiny, tmp_path):
    with pytest.raises(ValueError, match="'chr2', 'chr2'"):
        write_genome(tmp_path / "x.fa", source=tiny, contigs=[CONTIGS[1], CONTIGS[1]], seed=8)
    assert not list(tmp_path.iterdir())


def test_the_demo_leaves_much_to_learn_beyond_low_orders(demo):
    training, windows = (
        demo.sample(1_000_000, seed=1),
        demo.sample(300_000, seed=1, index=1).view(-1, 1000),
    )
    exact = demo.nll(windows) / 1000
    low = MarkovModel.fit([training], 3).nll(windows) / 1000
    assert exact.mean().item() == pytest.approx(1.02, abs=0.04)
    assert low.mean().item() == pytest.approx(1.30, abs=0.02)
    assert (low - exact).mean().item() == pytest.approx(0.28, abs=0.03)


def test_the_demo_genome(demo):
    contigs = load_contigs()
    assert 8 <= len(contigs) <= 10
    assert 4_000_000 < sum(contig.length for contig in contigs) < 6_000_000
    assert all(contig.gaps for contig in contigs)
    assert 0.15 < demo.stationary[demo.repeat].sum() < 0.35


YAML = resource("data", "demo_source.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "not a source of DNA"),
        ("a: [", "not a source of DNA: while parsing"),
        ("[1, 2]", "not a source of DNA"),
        (YAML.replace("genes:", "jeans:"), "the key 'genes' is missing"),
        (YAML.replace("TGACGTCA", "TGAZGTCA"), "'Z' in 'GRTGAZGTCAYC'"),
        (YAML.replace("mean_codons: 300", "mean_codons: 0"), "division by zero"),
        (YAML.replace("share: 0.24", "share: 0"), "positive shares"),
        (YAML.replace("mean_codons: ", "mean_codons: x"), "not a source of DNA"),
    ],
)
def test_load_source_refuses(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_source(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contigs: {chr1: {length: 10, gaps: [[4, 12]]}}", r"gap from 4 to 12"),
        ("contigs: {chr1: {size: 10}}", "the key 'length' is missing"),
        ("contigs: {chr1: {length: 10, gaps: [4]}}", "not a source of DNA"),
    ],
)
def test_load_contigs_refuses(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_contigs(path)


def test_load_from_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(YAML)
    window = load_source("demo").sample(50)
    assert torch.equal(load_source(path).sample(50), window)
    path.write_text("contigs: {chr1: {length: 10, gaps: [[4, 6]]}, chr2: {length: 5}}")
    assert load_contigs(path) == [Contig("chr1", 10, ((4, 6),)), Contig("chr2", 5)]
