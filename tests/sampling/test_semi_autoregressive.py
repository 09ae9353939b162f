import pytest
import torch
from closed_forms import MarkovSource
from exact_laws import Source, p_value

from dnadiff.alphabet import DNA
from dnadiff.diffusion import Plaid
from dnadiff.sampling import free_template, sample


def chain(length):
    """A Markov chain of order 1 that begins in its stationary law, as windows of it do."""
    source = MarkovSource(length)
    source.start = torch.linalg.matrix_power(source.step, 200)[0]
    return source


class Cells:
    """Sequences as cells of a table, for `p_value`."""

    @staticmethod
    def index(tokens):
        return (DNA.letter_index(tokens) * 4 ** torch.arange(tokens.shape[1] - 1, -1, -1)).sum(1)


def law_of(source, template):
    """p(sequence | letters of the template) (4^L,), by enumeration."""
    everything = torch.cartesian_prod(*[torch.arange(7, 11)] * source.length)
    p = (-source.nll(everything)).exp()
    p = p * ((everything == template) | (template == DNA.mask_id)).all(1)
    return p / p.sum()


@pytest.mark.parametrize(
    "options",
    [{"sampler": "first_hitting"}, {"steps": 256}, {"sampler": "remasking", "steps": 128}],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_exact_for_a_source_whose_memory_fits_into_what_is_known(options, stride):
    drawn = sample(chain(3), free_template(4_000, 5), window=3, stride=stride, seed=1, **options)
    assert p_value(drawn, Cells, law_of(chain(5), torch.full((5,), DNA.mask_id))) > 1e-3


def test_and_only_for_such_a_source():
    """Letters that depend on the last but one: an overlap of one letter forgets, one of two does not."""
    everything = free_template(4_000, 5)
    pairs = (
        torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) ** 4
    )
    pairs = pairs / pairs.sum(2, keepdim=True)
    start = torch.full((16,), 1 / 16, dtype=torch.float64)
    for _ in range(200):
        start = (start.view(4, 4, 1) * pairs).sum(0).reshape(16)

    def second_order(length):
        source = Source(length)
        source.table = start.view(4, 4)
        for _ in range(2, length):
            source.table = source.table[..., None] * pairs
        return source

    for stride, exact in ((1, True), (2, False)):
        drawn = sample(
            second_order(3), everything, sampler="first_hitting", window=3, stride=stride, seed=2
        )
        p = p_value(drawn, Cells, second_order(5).table.reshape(-1))
        assert p > 1e-3 if exact else p < 1e-6


def test_a_template_is_kept_and_both_sides_of_a_gap_in_a_window_are_used():
    template = torch.full((6,), DNA.mask_id)
    template[[0, 3, 5]] = torch.tensor([8, 7, 10])
    drawn = sample(
        chain(4), template.repeat(4_000, 1), sampler="first_hitting", window=4, stride=2, seed=3
    )
    # The first window reaches to the fixed letter at 3, the last from 2 to the one at 5: nothing is out of sight.
    assert p_value(drawn, Cells, law_of(chain(6), template)) > 1e-3


def test_uniform_noise_goes_by_windows_too():
    drawn = sample(
        chain(3), free_template(4_000, 5), sampler="uniform", steps=64, window=3, stride=2, seed=1
    )
    assert p_value(drawn, Cells, law_of(chain(5), torch.full((5,), DNA.mask_id))) > 1e-3


def test_plaid_goes_by_windows_too():
    class Seeing(MarkovSource):
        needs_sigma, self_conditioned = True, True

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            return super().__call__(tokens, token_probs=token_probs[..., :4])

    source = Seeing(3)
    source.start = chain(3).start
    plaid = Plaid(gamma=(-6.0, 8.0), dimension=4)
    drawn = sample(
        source, free_template(4_000, 5), objective=plaid, steps=100, window=3, stride=2, seed=1
    )
    assert p_value(drawn, Cells, law_of(chain(5), torch.full((5,), DNA.mask_id))) > 1e-3


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
