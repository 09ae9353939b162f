"""Sequences that are longer than the window: exact by enumeration where that is claimed."""

import itertools

import numpy as np
import pytest
import torch
from closed_forms import MarkovSource
from exact_laws import Source, p_value, windowed_law

from dnadiff.alphabet import DNA
from dnadiff.diffusion import Plaid
from dnadiff.sampling import Constraints, free_template, parse_template, sample
from dnadiff.sampling.semi_autoregressive import WindowPlanner


def stationary(step):
    return torch.linalg.matrix_power(step, 400)[0]


def chain(length):
    """A Markov chain of order 1 that begins in its stationary law, as windows of it do."""
    source = MarkovSource(length)
    source.start = stationary(source.step)
    return source


def walk(length):
    """A walk on the circle A-C-G-T that hardly ever stands still: no letter is ever forgotten."""
    source = chain(length)
    step = torch.tensor([[0, 0.9, 0, 0.1], [0.1, 0, 0.9, 0], [0, 0.1, 0, 0.9], [0.9, 0, 0.1, 0]])
    source.step = (step.double() + 1e-6) / (step.double() + 1e-6).sum(1, keepdim=True)
    source.start = torch.full((4,), 0.25, dtype=torch.float64)
    return source


class Cells:
    """Sequences as cells of a table, for `p_value`."""

    @staticmethod
    def index(tokens):
        return (DNA.letter_index(tokens) * 4 ** torch.arange(tokens.shape[1] - 1, -1, -1)).sum(1)


def table_of(source):
    """The law of a chain's sequences (4, ..., 4)."""
    everything = torch.cartesian_prod(*[torch.arange(7, 11)] * source.length)
    return (-source.nll(everything)).exp().view([4] * source.length)


def conditional(table, template, allowed=None):
    """p(sequence | template) (4^L,), by enumeration."""
    sequences = torch.cartesian_prod(*[torch.arange(4)] * len(template))
    fits = ((sequences + 7 == template) | (template == DNA.mask_id)).all(1)
    if allowed is not None:
        fits &= torch.stack([allowed[i, sequences[:, i]] for i in range(len(template))], 1).all(1)
    law = table.reshape(-1) * fits
    return law / law.sum()


def planned(template, window, stride):
    fixed = (template != DNA.mask_id).numpy()
    nothing = np.zeros_like(fixed)
    return WindowPlanner(~fixed, fixed, nothing, window, stride).windows()


def total_variation(law, other):
    return float((law - other).abs().sum() / 2)


def longest_gap(fixed):
    """Free letters between two neighbouring fixed ones."""
    return max((b - a - 1 for a, b in itertools.pairwise(fixed)), default=0)


SIZES = [(3, 1), (3, 2), (4, 1), (4, 3), (5, 2)]


@pytest.mark.parametrize(("window", "stride"), SIZES)
@pytest.mark.parametrize("make", [chain, walk])
def test_of_a_chain_every_template_without_a_long_gap_gives_the_exact_conditional(
    make, window, stride
):
    """All 63 sets of fixed positions of six letters, by enumeration of the law of the windows."""
    table, part = table_of(make(6)), table_of(make(window))
    checked = 0
    for size in range(6):
        for fixed in itertools.combinations(range(6), size):
            template = torch.full((6,), DNA.mask_id)
            template[list(fixed)] = torch.tensor([8, 9, 10, 7, 8, 9])[list(fixed)]
            law = windowed_law(part, template, planned(template, window, stride), window)
            error = total_variation(law, conditional(table, template))
            if longest_gap(fixed) <= window - 2:
                assert error < 1e-9, (fixed, error)
                checked += 1
            else:
                assert error > 1e-4, (fixed, error)  # the claim is not too modest
    assert checked >= 31


def test_of_a_source_of_order_two_gaps_need_two_known_letters_at_each_end():
    pairs = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pairs = pairs**4 / (pairs**4).sum(2, keepdim=True)
    start = torch.full((4, 4), 1 / 16, dtype=torch.float64)
    for _ in range(300):
        start = torch.einsum("ab,abc->bc", start, pairs)

    def table(length):
        law = start
        for _ in range(2, length):
            law = law[..., None] * pairs
        return law

    for text, window, stride, exact in (
        ("NNNNNN", 4, 2, True),
        ("NNNNAC", 4, 2, True),
        ("GTNNNN", 4, 2, True),
        ("GTNNAC", 5, 2, False),
        ("GTNNCA", 5, 1, False),
        ("GTNCAN", 5, 2, True),
    ):
        template, _ = parse_template(text)
        law = windowed_law(table(window), template, planned(template, window, stride), window)
        error = total_variation(law, conditional(table(len(text)), template))
        assert (error < 1e-9) == exact, (text, error)


def test_blind_to_the_far_end_of_a_long_gap_the_error_is_what_the_source_remembers():
    """Four letters between two fixed ones, and windows of four: two are drawn blind to the end."""
    template, _ = parse_template("ANNNNG")
    for make, low, high in ((chain, 1e-3, 0.2), (walk, 0.2, 1.0)):
        law = windowed_law(table_of(make(4)), template, planned(template, 4, 2), 4)
        error = total_variation(law, conditional(table_of(make(6)), template))
        assert low < error < high
    # What a source has forgotten costs nothing: here half of each letter is drawn afresh.
    mild = chain(6)
    mild.step = 0.1 * mild.step + 0.9 * mild.start
    part = chain(4)
    part.step = mild.step
    law = windowed_law(table_of(part), template, planned(template, 4, 2), 4)
    assert total_variation(law, conditional(table_of(mild), template)) < 1e-3


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("text", ["NNNNN", "NNNNC", "NNGNN", "NANGNN"])
def test_samples_follow_the_exact_conditional(stride, text):
    template, _ = parse_template(text)
    options = {"sampler": "first_hitting", "window": 3, "stride": stride}
    drawn = sample(chain(3), template.repeat(4_000, 1), seed=1, **options)
    law = conditional(table_of(chain(len(text))), template)
    assert p_value(drawn, Cells, law) > 1e-3


@pytest.mark.parametrize("options", [{"steps": 128}, {"sampler": "remasking", "steps": 128}])
@pytest.mark.parametrize("text", ["NNNNN", "NNNNC"])
def test_so_do_samplers_with_a_grid_of_times(options, text):
    template, _ = parse_template(text)
    drawn = sample(chain(3), template.repeat(2_000, 1), window=3, stride=1, seed=1, **options)
    assert p_value(drawn, Cells, conditional(table_of(chain(5)), template)) > 1e-3


@pytest.mark.parametrize("stride", [1, 2])
def test_a_fixed_letter_several_windows_ahead_is_respected_from_the_first_letter_on(stride):
    source, template = walk(3), torch.full((4_000, 9), DNA.mask_id)
    template[:, 8] = 8
    drawn = sample(source, template, sampler="semi_autoregressive", window=3, stride=stride, seed=1)
    # The walk changes between A, G and C, T with every letter: eight letters before C is C or T.
    assert set(drawn[:, 0].tolist()) == {8, 10}
    assert p_value(drawn[:, 5:], Cells, conditional(table_of(walk(4)), template[0, 5:])) > 1e-3


def test_rows_of_a_batch_have_windows_of_their_own():
    texts = ["NNNNNC", "ANNNNN", "NNGNNN", "NNNNNN", "NRNNNY"]
    templates = [parse_template(text) for text in texts]
    every = torch.ones(6, 4, dtype=torch.bool)
    tokens = torch.stack([tokens for tokens, _ in templates])
    allowed = torch.stack([every if some is None else some for _, some in templates])
    together = sample(chain(3), tokens, allowed, window=3, seed=7)
    for row in range(len(texts)):
        one = slice(row, row + 1)
        index = torch.tensor([row])
        alone = sample(chain(3), tokens[one], allowed[one], window=3, seed=7, index=index)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("text", ["NNNR", "RNNNN", "NRYN", "NRNYA", "ANNYN"])
def test_restricted_letters_of_a_chain_are_exact_if_they_share_a_window_with_the_next_fixed(text):
    template, allowed = parse_template(text)
    count = 10_000
    drawn = sample(
        chain(3),
        template.repeat(count, 1),
        allowed.repeat(count, 1, 1),
        sampler="first_hitting",
        window=3,
        stride=1,
        seed=3,
    )
    law = conditional(table_of(chain(len(text))), template, allowed)
    if text in ("NRNYA", "ANNYN"):  # no window shows the restricted letters and the fixed one
        assert p_value(drawn, Cells, law) < 1e-3
    else:
        assert p_value(drawn, Cells, law) > 1e-3


def test_an_overlap_of_one_letter_forgets_what_a_source_of_order_two_remembers():
    """Letters that depend on the last but one: an overlap of two does not forget it."""
    pairs = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pairs = pairs**4 / (pairs**4).sum(2, keepdim=True)
    start = torch.full((4, 4), 1 / 16, dtype=torch.float64)
    for _ in range(200):
        start = torch.einsum("ab,abc->bc", start, pairs)

    def second_order(length):
        source = Source(length)
        source.table = start
        for _ in range(2, length):
            source.table = source.table[..., None] * pairs
        return source

    for stride, exact in ((1, True), (2, False)):
        options = {"sampler": "first_hitting", "window": 3, "stride": stride}
        drawn = sample(second_order(3), free_template(4_000, 5), seed=2, **options)
        p = p_value(drawn, Cells, second_order(5).table.reshape(-1))
        assert p > 1e-3 if exact else p < 1e-6


class Seeing(MarkovSource):
    """A chain that takes whatever Plaid tells a network."""

    needs_sigma, self_conditioned = True, True

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        return super().__call__(tokens, token_probs=token_probs[..., :4])


@pytest.mark.parametrize("text", ["NNNNN", "NNNNC"])
@pytest.mark.parametrize("sampler", ["uniform", "plaid"])
def test_samplers_without_masks_go_by_windows_too(sampler, text):
    template, _ = parse_template(text)
    source, options = chain(3), {"sampler": "uniform", "steps": 64}
    if sampler == "plaid":
        source = Seeing(3)
        source.start = chain(3).start
        options = {"objective": Plaid(gamma=(-6.0, 8.0), dimension=4), "steps": 100}
    drawn = sample(source, template.repeat(2_000, 1), window=3, stride=2, seed=1, **options)
    assert p_value(drawn, Cells, conditional(table_of(chain(5)), template)) > 1e-3


@pytest.mark.parametrize("sampler", ["ancestral", "uniform"])
def test_constraints_are_kept_across_windows_in_any_order(sampler):
    text = "NNNNNNNNNNNNACNNNNNNNNNNNNNNNNTTNNNNNNNN"
    template, _ = parse_template(text)
    constraints = Constraints(avoid=["GG", "TAT"], max_homopolymer=2, gc=["0.3:0.6"])
    options = {"sampler": sampler, "steps": 8, "window": 8, "stride": 4, "seed": 2}
    drawn = sample(MarkovSource(8), template.repeat(20, 1), constraints=constraints, **options)
    for row in drawn:
        sequence = DNA.decode(row)
        assert not any(word in sequence for word in ("GG", "CC", "TAT", "ATA", "AAA", "TTT"))
        assert 0.3 <= sum(sequence.count(letter) for letter in "GC") / 40 <= 0.6
        assert sequence[12:14] == "AC" and sequence[30:32] == "TT"


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(10, 4, 2), (11, 4, 3), (9, 8, 1), (9, 8, 7), (100, 8, 3)]
)
def test_windows_cover_everything_once(length, window, stride):
    spans = []

    class Blank:
        causal, needs_sigma, outputs = False, False, 4

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            assert tokens.shape[1] == window
            spans.append(int((tokens[0] == DNA.mask_id).sum()))
            return torch.zeros(*tokens.shape, 4)

    drawn = sample(Blank(), free_template(2, length), window=window, stride=stride, steps=1)
    assert DNA.scorable(drawn).all()
    assert spans[0] == window and sum(spans) == length
    assert set(spans[1:-1]) <= {stride} and 1 <= spans[-1] <= stride


@pytest.mark.parametrize(("window", "stride"), [(2, 1), (5, 4), (8, 4), (9, 2)])
def test_whatever_the_template_every_letter_is_drawn_once_in_a_window_that_shows_it(window, stride):
    rng = np.random.default_rng(0)
    for _ in range(50):
        length = int(rng.integers(window + 1, 60))
        kind = rng.choice(4, length, p=[0.7, 0.1, 0.1, 0.1])  # free, fixed, restricted, unknown
        planner = WindowPlanner(np.isin(kind, [0, 2]), kind == 1, kind == 2, window, stride)
        drawn = np.zeros(length, int)
        for one in planner.windows():
            assert 0 <= one.start <= one.first < one.last <= one.start + window <= length
            part = kind[one.first : one.last] == 2
            if not one.restricted:
                part = (kind[one.first : one.last] == 0) | part & (drawn[one.first : one.last] == 0)
            drawn[one.first : one.last] += part
        assert (drawn == np.isin(kind, [0, 2])).all()
