import math

import numpy as np
import pytest
import torch
from closed_forms import MarkovSource
from scipy.stats import chisquare
from small import tiny_recipe, write_fasta

import dnadiff
from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import Plaid
from dnadiff.diffusion.absorbing import cross_entropy
from dnadiff.diffusion.objective import Draw
from dnadiff.diffusion.plaid import LearnedSchedule, noise, second_moment_gradient, signal
from dnadiff.errors import UsageError
from dnadiff.model import Model
from dnadiff.sampling import free_template, parse_template, sample
from dnadiff.sampling.plaid import transition
from dnadiff.training.pretrain import pretrain

N = DNA.unknown_id
EPS = 2.0**-53


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Thousands of products too small to share out."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(2)


class Seeing(MarkovSource):
    """The exact leave-one-out prediction of a Markov chain; ignores its earlier prediction."""

    needs_sigma, self_conditioned = True, True

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        return super().__call__(tokens, token_probs=token_probs[..., :4])


class Swayed(Seeing):
    """An inexact network that depends on its earlier prediction."""

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        return 0.5 * super().__call__(tokens, token_probs=token_probs) + 2.0 * token_probs[..., 4:]


def frozen(**options):
    return Plaid(**options).requires_grad_(False)


def levels(value, count):
    return torch.full((count,), float(value), dtype=torch.float64)


# One letter in two dimensions, where every expectation is a Gauss-Hermite sum.


def one_letter(low, high):
    """A source of one letter, and Plaid with embeddings at four angles."""
    source = Seeing(1)
    source.start = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    plaid = Plaid(gamma=(low, high), dimension=2, self_conditioning=False)
    angle = torch.tensor([0.0, 1.1, 2.6, 4.0])
    plaid.letters.weight.data = torch.stack([angle.cos(), angle.sin()], 1)
    return source, plaid


def hermite(count):
    """Nodes (M, 2) and weights (M,) of the standard normal distribution in the plane."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    x, w = torch.from_numpy(x), torch.from_numpy(w / w.sum())
    return torch.cartesian_prod(x, x), torch.outer(w, w).flatten()


def legendre(low, high, count):
    """Nodes and weights (M,) of the integral from low to high."""
    x, w = np.polynomial.legendre.leggauss(count)
    return low + (high - low) * (1 + torch.from_numpy(x)) / 2, (high - low) / 2 * torch.from_numpy(
        w
    )


def answers(source, plaid, gamma, letters, normal):
    """Returns evidence, log P of the source and log P0 without a network, each (M, L, 4)."""
    evidence = plaid.evidence(plaid.noised(letters, gamma, normal), gamma)
    log_p = plaid.log_posterior(source, torch.full_like(letters, DNA.mask_id), evidence, gamma)
    return evidence, log_p, evidence.log_softmax(-1)


def expected(source, plaid, gamma, count=60):
    """Expected -log P and |E - x^|^2, with and without the network, for each letter: (4, 4)."""
    nodes, weights = hermite(count)
    columns = []
    for letter in range(4):
        letters = torch.full((len(nodes), 1), letter)
        _, *both = answers(source, plaid, gamma.expand(len(nodes)), letters, nodes[:, None])
        columns.append(
            torch.stack(
                [
                    weights @ f(p, letters)[:, 0]
                    for p in both
                    for f in (cross_entropy, plaid.distance)
                ]
            )
        )
    return torch.stack(columns, 1)


def integral(source, plaid, which, count=60):
    """Of exp(-gamma) |E - x^|^2 / 2 from low to high, for each letter (4,)."""
    gammas, weights = legendre(plaid.schedule.low, plaid.schedule.high, count)
    each = torch.stack([expected(source, plaid, gamma, count)[which] for gamma in gammas])
    return (weights * torch.exp(-gammas) / 2) @ each


def total(source, plaid, count=60):
    """The mean of the bound, by quadrature."""
    terms = expected(source, plaid, plaid.schedule.low, count)[0] + integral(
        source, plaid, 1, count
    )
    return (source.start @ terms + plaid.prior()).item()


@pytest.mark.parametrize(
    ("low", "high", "gap"), [(-1, 3, 8.11e-3), (-3, 6, 3.97e-4), (-5, 8, 5.4e-5), (-6, 10, 7.3e-6)]
)
def test_the_gap_of_a_single_base_is_the_divergence_from_the_prior(low, high, gap):
    source, plaid = one_letter(low, high)
    plaid.requires_grad_(False)
    excess = total(source, plaid) - source.entropy()
    assert excess == pytest.approx(gap, rel=0.005, abs=1.5e-6)
    # KL(q(z_1) || N(0, I)) by another route: the densities themselves.
    nodes, weights = hermite(60)
    s2, centres = (
        torch.sigmoid(plaid.schedule.high),
        torch.sigmoid(-plaid.schedule.high).sqrt() * plaid.embedding,
    )
    z = centres[:, None] + s2.sqrt() * nodes
    log_q = (source.start.log() - (z[..., None, :] - centres).square().sum(-1) / 2 / s2).logsumexp(
        -1
    ) - s2.log()
    kl = (source.start[:, None] * weights * (log_q + z.square().sum(-1) / 2)).sum()
    assert excess == pytest.approx(float(kl), abs=1e-6)


def test_the_bound_without_a_network_is_known_for_every_base():
    source, plaid = one_letter(-2.0, 2.0)
    plaid.requires_grad_(False)
    low, high = (
        expected(source, plaid, end)[2] for end in (plaid.schedule.low, plaid.schedule.high)
    )
    torch.testing.assert_close(integral(source, plaid, 3), high - low, rtol=1e-6, atol=1e-6)


class Wavering(Seeing):
    """A network that depends on the noise level, so that the bound has a slope at both ends."""

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        return (
            super().__call__(tokens, token_probs=token_probs)
            * 2
            * (1 - torch.exp(-sigma.double()))[:, None, None]
        )


def test_the_ends_of_the_schedule_have_the_gradient_of_the_bound():
    source = Wavering(1)
    source.start = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)

    def slope(low, high):
        """Of the bound, as the ends move this far."""
        up, down = (
            one_letter(-1.0 + s * low, 2.0 + s * high)[1].requires_grad_(False)
            for s in (1e-3, -1e-3)
        )
        return (total(source, up, 24) - total(source, down, 24)) / 2e-3

    plaid, tokens, gradients = one_letter(-1.0, 2.0)[1], source.sample(4000), []
    for step in range(20):
        plaid.zero_grad()
        plaid.loss(source, tokens, seed=2, step=step).value.backward()
        through = torch.sigmoid(plaid.schedule.width.detach())  # the softplus
        gradients.append(
            torch.stack([plaid.schedule.lowest.grad, plaid.schedule.width.grad / through])
        )
    mean, se = torch.stack(gradients).mean(0), torch.stack(gradients).std(0) / 20**0.5
    assert (
        abs(mean[0] - slope(1, 1)) < 4 * se[0] < 0.3 * abs(slope(1, 1))
    )  # `lowest` moves both ends
    assert abs(mean[1] - slope(0, 1)) < 4 * se[1] < 0.3 * abs(slope(0, 1))


# Sequences.


@pytest.mark.parametrize("self_conditioning", [False, True])
def test_the_bound_of_the_exact_denoiser_is_the_entropy_apart_from_the_ends(self_conditioning):
    source = Seeing(length=6)
    tokens = source.sample(10_000)
    plaid = frozen(gamma=(-4.0, 8.0), dimension=4, self_conditioning=self_conditioning)
    # Few levels where letters are plain and where nothing is seen: the schedule that its gradient
    # leads to.
    middle = torch.linspace(-4, 8, 32)
    plaid.schedule.shares.data = -((middle + 1.5) / 2.5).square()
    bound = plaid.bound(source, tokens, draws=8, seed=3)
    paired = bound.nats - source.nll(tokens)
    se = paired.std() / len(tokens) ** 0.5
    assert bound.kind == "upper" and se < 0.005 * source.entropy()
    assert abs(paired.mean()) < 3 * se


def two_letters(source, plaid, gammas, count=6):
    """Sum of H(x_l | z), H(x | z) and sum of |E - x^|^2 of a pair at levels (G,), by quadrature."""
    nodes, weights = hermite(count)
    normal = torch.stack([nodes.repeat_interleave(len(nodes), 0), nodes.repeat(len(nodes), 1)], 1)
    weight = torch.outer(weights, weights).flatten()
    pairs, law = (
        torch.cartesian_prod(torch.arange(4), torch.arange(4)),
        source.start[:, None] * source.step,
    )
    sums = torch.zeros(3, len(gammas), dtype=torch.float64)
    for place, gamma in enumerate(gammas):
        for own, (pair, p) in enumerate(zip(pairs, law.flatten(), strict=True)):
            letters = pair.expand(len(weight), 2)
            e, log_p, _ = answers(source, plaid, gamma.expand(len(weight)), letters, normal)
            joint = law.flatten().log() + e[:, 0, pairs[:, 0]] + e[:, 1, pairs[:, 1]]
            parts = (
                cross_entropy(log_p, letters).sum(1),
                -joint.log_softmax(1)[:, own],
                plaid.distance(log_p, letters),
            )
            sums[:, place] += p * torch.stack(
                [weight @ part.view(len(weight), -1).sum(1) for part in parts]
            )
    return sums


def test_the_gap_is_the_lost_dependence_at_time_0_and_the_divergence_from_the_prior_at_time_1():
    source, plaid = Seeing(2), frozen(gamma=(-0.5, 2.0), dimension=2, self_conditioning=False)
    gammas, weights = legendre(plaid.schedule.low, plaid.schedule.high, 6)
    ends = torch.stack([plaid.schedule.low, plaid.schedule.high])
    apart, together, distance = two_letters(source, plaid, torch.cat([gammas, ends]))
    diffusion = (weights * torch.exp(-gammas) / 2 * distance[:6]).sum()
    gap = apart[6] + diffusion + 2 * plaid.prior() - source.entropy()
    # H(x) - H(x | z_1) is what z_1 says of x: take it from the KL given x, and that of z_1's own
    # law is left.
    kl = 2 * plaid.prior() - (source.entropy() - together[7])
    assert apart[6] - together[6] > 0.02 and kl > 0.01
    assert gap.item() == pytest.approx((apart[6] - together[6] + kl).item(), abs=1e-3)


def test_the_gap_shrinks_as_the_range_widens():
    source = Seeing(length=8)
    tokens = source.sample(4000)
    gaps = []
    for low, high in ((0.0, 1.0), (-1.0, 2.0), (-3.0, 5.0)):
        plaid = frozen(gamma=(low, high), dimension=4, self_conditioning=False)
        paired = plaid.bound(source, tokens, draws=8, seed=4).nats - source.nll(tokens)
        gaps.append((float(paired.mean()), float(paired.std()) / len(tokens) ** 0.5))
    assert gaps[0][0] > 1.5 * gaps[1][0] > 0 and gaps[1][0] > 0.5
    assert abs(gaps[2][0]) < 0.05 + 3 * gaps[2][1]


def test_a_bound_with_self_conditioning_is_valid_and_differs():
    source = Swayed(length=6)
    tokens = source.sample(4000)
    means = []
    for self_conditioning in (True, False):
        plaid = frozen(dimension=4, self_conditioning=self_conditioning)
        network = source if self_conditioning else Blind(source)
        paired = plaid.bound(network, tokens, draws=6, seed=5).nats - source.nll(tokens)
        means.append((float(paired.mean()), 3 * float(paired.std()) / len(tokens) ** 0.5))
    assert means[0][0] > means[0][1] and means[1][0] > means[1][1]
    assert abs(means[0][0] - means[1][0]) > 0.02


class Blind:
    """The same network without an earlier prediction."""

    causal, needs_sigma, outputs, self_conditioned = False, True, 4, False

    def __init__(self, source):
        self.source = source

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        return self.source(
            tokens, sigma, label, torch.cat([token_probs, torch.zeros_like(token_probs)], -1)
        )


class Counting(Seeing):
    """Records the rows and inputs of its calls."""

    def __init__(self, length):
        super().__init__(length)
        self.seen = []

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        self.seen.append((tokens, sigma, token_probs))
        return super().__call__(tokens, token_probs=token_probs)


def test_a_quarter_of_the_rows_have_self_conditioning_in_training_and_all_in_a_bound():
    source = Counting(length=5)
    tokens = source.sample(4000)
    tokens[:, 2] = N
    Plaid().loss(source, tokens)
    first, second = source.seen
    assert abs(len(first[0]) / 4000 - 0.25) < 0.03 and len(second[0]) == 4000
    assert (first[2][..., 4:] == 0).all()
    shown = (second[2][..., 4:] != 0).any(-1).any(-1)
    assert int(shown.sum()) == len(first[0])
    torch.testing.assert_close(
        second[2][..., 4:].sum(-1)[shown], torch.ones(len(first[0]), 5).double()
    )
    # Every letter is hidden, N is not; the levels are finite and well spread where the network is
    # told them.
    assert (second[0][:, 2] == N).all() and (second[0][:, [0, 1, 3, 4]] == DNA.mask_id).all()
    log_odds = torch.log(torch.expm1(second[1].double()))
    assert -3.8 < log_odds.min() < -3.5 and 2.7 < log_odds.max() < 3.1
    source.seen.clear()
    frozen().bound(source, tokens, draws=1)
    assert [len(tokens) for tokens, _, _ in source.seen] == [4000] * 4


def test_a_network_without_self_conditioning_is_called_without_it():
    source = Blind(Seeing(length=3))
    tokens = source.source.sample(20)
    both = [
        Plaid(self_conditioning=how).bound(source, tokens, draws=2).nats for how in (True, False)
    ]
    assert torch.equal(*both) and both[0].isfinite().all()


def test_the_training_loss_has_the_mean_of_the_bound():
    source = Seeing(length=6)
    tokens = source.sample(20_000)
    plaid = frozen(dimension=4)
    loss = [float(plaid.loss(source, tokens, seed=1, step=step).value) * 6 for step in range(4)]
    bound = plaid.bound(source, tokens, draws=6, seed=1).nats.mean()
    assert abs(np.mean(loss) - float(bound)) < 0.15


# The schedule.


def test_the_schedule_rises_from_end_to_end_and_its_slope_is_its_derivative():
    schedule = LearnedSchedule(-3.0, 6.0)
    with torch.no_grad():
        schedule.shares += torch.randn(32, generator=torch.Generator().manual_seed(0)) * 3
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    gamma, slope, log_share = schedule(t)
    assert gamma.dtype == torch.float64
    assert (gamma.diff() > 0).all()
    assert gamma[0].item() == pytest.approx(-3, abs=1e-6) and gamma[-1].item() == pytest.approx(
        6, abs=1e-6
    )
    close = 1e-7
    rise = (schedule(t[1:-1] + close).gamma - schedule(t[1:-1] - close).gamma) / (2 * close)
    within = rise.isclose(slope[1:-1], rtol=1e-6)  # but for a t on the border of two bins
    assert within.double().mean() > 0.99
    torch.testing.assert_close(slope * log_share.exp(), torch.full_like(slope, 9 / 32))


def test_the_schedule_learns_by_the_gradient_of_the_second_moment():
    schedule = LearnedSchedule(-2.0, 3.0)
    with torch.no_grad():
        schedule.shares += torch.randn(32, generator=torch.Generator().manual_seed(1))

    def estimates():
        """Integrand over gamma at 50 times in each bin, and the probability of each time."""
        share = schedule.shares.detach().double().softmax(0)[:, None]
        t = share.cumsum(0) - share * (1 - (torch.arange(50) + 0.5) / 50)
        level = schedule(t.flatten())
        return (
            level,
            level.slope * torch.exp(-(level.gamma - 0.5).square()),
            (share / 50).expand(32, 50).flatten(),
        )

    level, value, weight = estimates()
    scorable = torch.tensor([[True, True, False]]).expand(len(value), 3)
    zeros = second_moment_gradient(
        torch.stack([value, value, value * 99], 1), scorable, level.log_share
    )
    assert (zeros == 0).all()
    (weight[:, None] * zeros * scorable).sum().backward()
    for place in (0, 9, 15, 31):
        moments = []
        for step in (1e-2, -2e-2):
            with torch.no_grad():
                schedule.shares[place] += step
                _, value, weight = estimates()
            moments.append(float((weight * value.square()).sum()))
        with torch.no_grad():
            schedule.shares[place] += 1e-2
        slope = (moments[0] - moments[1]) / 2e-2
        assert float(schedule.shares.grad[place]) == pytest.approx(slope, rel=1e-2, abs=1e-5)


def test_the_gradient_of_the_schedule_reduces_the_variance_and_does_not_change_the_loss():
    source = Seeing(length=8)
    tokens = source.sample(2048)
    plaid = frozen(dimension=4, self_conditioning=False)
    plaid.schedule.shares.requires_grad_(True)

    def spread():
        with torch.no_grad():
            return float(
                (plaid.bound(source, tokens, draws=1, seed=9).nats - source.nll(tokens)).std()
            )

    before = spread()
    optimizer = torch.optim.Adam([plaid.schedule.shares], lr=0.1)
    for step in range(40):
        optimizer.zero_grad()
        plaid.loss(source, tokens[:1024], seed=6, step=step).value.backward()
        optimizer.step()
    assert spread() < 0.7 * before


def test_a_training_step_changes_every_parameter_and_the_embedding_keeps_its_norm():
    source = Seeing(length=6)
    plaid = Plaid()
    torch.testing.assert_close(
        plaid.embedding @ plaid.embedding.T, torch.eye(4, dtype=torch.float64)
    )
    optimizer = torch.optim.Adam(plaid.parameters(), lr=0.05)
    plaid.loss(source, source.sample(256)).value.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in plaid.parameters())
    optimizer.step()
    torch.testing.assert_close(plaid.embedding.norm(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": (3.0, 3.0)}, "gamma must rise"),
        ({"dimension": 0}, "dimension must be at least 1"),
    ],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Plaid(**options)


# The ends of time, little to score, low precision.


@pytest.mark.parametrize("quantile", [EPS, 0.125 - EPS, 0.125, 0.125 + EPS, 1 - EPS])
@pytest.mark.parametrize("gamma", [(-3.0, 6.0), (-20.0, 30.0)])
def test_values_are_finite_at_both_ends_of_time(quantile, gamma):
    source = Seeing(length=5)
    tokens = source.sample(4)
    tokens[1:, 1:] = N  # one letter to score
    tokens[3] = N  # and none
    plaid = Plaid(gamma=gamma)
    draw = Draw(levels(quantile, 4), 0, 0, torch.arange(4))
    for nats in (plaid.per_token_nelbo, plaid.per_token_loss):
        plaid.zero_grad()
        value = nats(source, tokens, draw)
        assert value.isfinite().all() and (value[tokens == N] == 0).all()
        value.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in plaid.parameters())


def test_bfloat16_is_close_to_float32():
    denoiser = network(rcps=True)
    tokens = MarkovSource(20).sample(6)
    plaid = frozen()
    with torch.no_grad():
        exact = plaid.bound(denoiser, tokens, draws=4).nats
        with torch.autocast("cpu", torch.bfloat16):
            rough = plaid.bound(denoiser, tokens, draws=4).nats
    assert rough.isfinite().all()
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.5)


# Networks.


def network(rcps, seed=0, **options):
    """A network whose weights are all far from their initial values."""
    torch.manual_seed(seed)
    lm = CaduceusLM(CaduceusConfig(d_model=12, n_layer=2, rcps=rcps, ssm_cfg=SSMConfig(d_state=4)))
    denoiser = LMDenoiser(lm, needs_sigma=True, self_conditioned=True, **options).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return denoiser


def test_caduceus_ps_is_equivariant_in_evidence_and_earlier_predictions():
    denoiser, plaid = network(rcps=True), frozen()
    rng = torch.Generator().manual_seed(3)
    tokens = torch.full((3, 21), DNA.mask_id)
    tokens[:, 4] = N
    gamma = torch.tensor([-2.0, 1.0, 4.0], dtype=torch.float64)
    evidence = plaid.evidence(torch.randn(3, 21, 16, generator=rng, dtype=torch.float64), gamma)
    self_cond = torch.randn(3, 21, 4, generator=rng, dtype=torch.float64).softmax(-1)
    with torch.no_grad():
        forward = plaid.log_posterior(denoiser, tokens, evidence, gamma, self_cond)
        opposite = plaid.log_posterior(
            denoiser, tokens.flip(1), evidence.flip(1, 2), gamma, self_cond.flip(1, 2)
        )
        unguessed = plaid.log_posterior(denoiser, tokens, evidence, gamma)
    torch.testing.assert_close(
        opposite.flip(1, 2), forward, rtol=1e-4, atol=1e-4
    )  # ACGT complemented is TGCA
    assert (forward - unguessed).abs().max() > 0.01


@pytest.mark.parametrize("rcps", [True, False])
def test_an_untrained_network_ignores_its_earlier_prediction(rcps):
    lm = network(rcps).lm
    plain, shown = LMDenoiser(lm), LMDenoiser(lm, self_conditioned=True)
    rng = torch.Generator().manual_seed(4)
    tokens, token_probs = torch.full((2, 9), DNA.mask_id), torch.rand(2, 9, 8, generator=rng)
    with torch.no_grad():
        assert torch.allclose(
            plain(tokens, token_probs=token_probs[..., :4]),
            shown(tokens, token_probs=token_probs),
            atol=1e-6,
        )


def test_save_and_load(tmp_path):
    one = Model(network(rcps=True), Plaid(gamma=(-4.0, 5.0), dimension=3))
    with torch.no_grad():
        one.objective.schedule.shares += torch.arange(32) / 10
        one.objective.letters.weight += 0.3
    one.save(tmp_path)
    two = dnadiff.load(tmp_path)
    assert two.digest == one.digest and two.objective.options == one.objective.options
    tokens = MarkovSource(20).sample(3)
    bounds = [m.objective.bound(m.denoiser, tokens, draws=2).nats for m in (one, two)]
    assert torch.equal(*bounds)


def test_a_short_training_run(tmp_path):
    genome = write_fasta(
        tmp_path / "genome.fa", {"one": 6000, "two": 5000, "three": 900, "four": 800}
    )
    result = pretrain(tiny_recipe(genome, objective="plaid"), tmp_path / "run", quiet=True)
    assert result["test"]["bound"] == "upper" and math.isfinite(result["test"]["nats_per_base"])
    model = dnadiff.load(tmp_path / "run")
    assert model.denoiser.self_conditioned and model.denoiser.needs_sigma
    start = Plaid().state_dict()
    assert all(
        not torch.equal(value, start[name]) for name, value in model.objective.state_dict().items()
    )
    again = pretrain(tiny_recipe(genome, objective="plaid"), tmp_path / "again", quiet=True)
    assert again["test"] == result["test"]


def test_a_trained_network_ends_between_the_entropy_and_independent_bases():
    source = MarkovSource(length=64)
    torch.manual_seed(0)
    plaid = Plaid()
    denoiser = LMDenoiser(
        CaduceusLM(CaduceusConfig(d_model=32, n_layer=2, rcps=False)),
        needs_sigma=True,
        self_conditioned=True,
    )
    parameters = [*denoiser.parameters(), *plaid.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, betas=(0.9, 0.95))
    for step in range(120):
        optimizer.zero_grad()
        plaid.loss(denoiser, source.sample(16, seed=100 + step), step=step).value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    tokens = source.sample(400, seed=7)
    nats = plaid.bound(denoiser.eval(), tokens, draws=4).nats
    paired = (nats - source.nll(tokens)) / 64
    share = torch.bincount(DNA.letter_index(tokens).flatten(), minlength=4) / tokens.numel()
    alone = float(-(share * share.log()).sum()) - source.entropy() / 64
    assert 3 * float(paired.std()) / 20 < 0.05
    assert 0.0 < float(paired.mean()) < 0.5 * alone


# Sampling.


def test_a_reverse_step_is_bayes_rule():
    gamma, earlier = levels(1.3, 1), levels(0.4, 1)
    z, denoised, zero = (torch.full((1, 1, 1), v, dtype=torch.float64) for v in (0.37, -0.6, 0.0))
    a_t, s_t, a_s, s_s = (f(g)[0, 0, 0] for g in (gamma, earlier) for f in (signal, noise))
    kept, step_var = a_t / a_s, s_t**2 - (a_t / a_s * s_s) ** 2  # of q(z_t | z_s)
    variance = 1 / (1 / s_s**2 + kept**2 / step_var)
    mean = variance * (a_s * -0.6 / s_s**2 + kept * 0.37 / step_var)
    assert transition(z, denoised, gamma, earlier, zero).item() == pytest.approx(
        float(mean), rel=1e-12
    )
    spread = transition(z, denoised, gamma, earlier, zero + 1) - transition(
        z, denoised, gamma, earlier, zero
    )
    assert spread.item() == pytest.approx(float(variance.sqrt()), rel=1e-12)
    # And q(z_s | z_t, x) averaged over q(z_t | x) is q(z_s | x): moments of one more draw.
    rng = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 200_000, 1, 1, generator=rng, dtype=torch.float64)
    back = transition(a_t * -0.6 + s_t * one, denoised, gamma, earlier, two)
    assert float(back.mean()) == pytest.approx(float(a_s * -0.6), abs=5e-3)
    assert float(back.var()) == pytest.approx(float(s_s**2), rel=1e-2)


def test_samples_approach_the_source_as_steps_grow():
    source = Seeing(length=2)
    law = (source.start[:, None] * source.step).flatten()
    plaid = frozen(gamma=(-6.0, 8.0), dimension=4)
    distance = []
    for steps in (4, 16, 64):
        drawn = DNA.letter_index(
            sample(source, free_template(20_000, 2), objective=plaid, steps=steps, seed=1)
        )
        share = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16) / 20_000
        distance.append(float((share - law).abs().sum() / 2))
    assert distance[0] > 2 * distance[1] > 0.04
    assert distance[2] < 0.025  # noise alone gives about 0.01


@pytest.mark.parametrize("text", ["NCN", "NRN"])
def test_templates_give_the_exact_conditional(text):
    source = Seeing(length=3)
    tokens, allowed = parse_template(text)
    rows = 6000
    drawn = DNA.letter_index(
        sample(
            source, tokens.repeat(rows, 1), None if allowed is None else allowed.repeat(rows, 1, 1),
            objective=frozen(gamma=(-6.0, 8.0), dimension=4), steps=100, seed=2,
        )
    )  # fmt: skip
    law = source.start[:, None, None] * source.step[:, :, None] * source.step[None]
    kept = torch.zeros(4, dtype=torch.float64)
    kept[[1] if text == "NCN" else [0, 2]] = 1.0
    law = law * kept[None, :, None]
    law = (law / law.sum()).flatten()
    counts = torch.bincount(drawn[:, 0] * 16 + drawn[:, 1] * 4 + drawn[:, 2], minlength=64)
    assert counts[law == 0].sum() == 0
    assert chisquare(counts[law > 0].numpy(), (law[law > 0] * rows).numpy()).pvalue > 1e-3


def test_a_sample_does_not_depend_on_its_batch_and_n_is_kept():
    denoiser, plaid = network(rcps=True), frozen()
    template = free_template(5, 14)
    template[:, 3], template[:, 6] = N, 9
    together = sample(denoiser, template, objective=plaid, steps=5, seed=8)
    assert (together[:, 3] == N).all() and (together[:, 6] == 9).all()
    assert DNA.scorable(together[:, [0, 1, 2, 4, 5]]).all()
    for number in (0, 4):
        alone = sample(
            denoiser, template[:1], objective=plaid, steps=5, seed=8, index=torch.tensor([number])
        )
        assert torch.equal(alone[0], together[number])
    assert len({tuple(row.tolist()) for row in together}) == 5
    assert not torch.equal(together, sample(denoiser, template, objective=plaid, steps=5, seed=9))


def test_zero_steps_are_refused():
    with pytest.raises(UsageError, match="steps must be at least 1"):
        sample(Seeing(length=3), free_template(1, 3), objective=Plaid(), steps=0)
