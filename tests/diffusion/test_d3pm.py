import itertools

import pytest
import torch
from closed_forms import IndependentSource, JointSource, MarkovSource, MixtureSource

from dnadiff.alphabet import DNA
from dnadiff.diffusion import D3PM, MDLM, UDLM, make_objective
from dnadiff.errors import UsageError


class Imperfect(JointSource):
    """A wrong network: depends on its own base and on time, and gives the mask some probability."""

    needs_sigma = True

    def __init__(self, length: int, outputs: int) -> None:
        super().__init__(length)
        self.outputs = outputs

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        logits = super().__call__(tokens, token_probs=token_probs) * (
            0.4 + 0.4 * (-sigma.double()).exp()[:, None, None]
        )
        if token_probs is not None:
            logits = logits + token_probs * torch.tensor([0.3, -0.2, 0.1, 0.0])
        if self.outputs == 5:
            logits = torch.cat([logits, logits[..., :1] * 0.2 - 1.5], -1)
        return logits


def literal(denoiser, x, *, absorbing, steps):
    """Returns the bound and -log p of one sequence, by matrices of the steps over all states.

    Over K letters, and the mask last where noise absorbs. Rows are where a step begins, columns
    where it ends.
    """
    size = 5 if absorbing else 4
    target = torch.eye(5)[4] if absorbing else torch.full((4,), 0.25)
    states = torch.tensor(list(itertools.product(range(size), repeat=len(x))))

    def move(alpha):
        return alpha * torch.eye(size, dtype=torch.float64) + (1 - alpha) * target.double()

    tokens = torch.where(states == 4, DNA.mask_id, states + DNA.first_id)
    law = torch.zeros(len(states), dtype=torch.float64)
    law[(states == 4).all(1) if absorbing else slice(None)] = 1.0
    law, bound = law / law.sum(), 0.0
    for i in range(steps, 0, -1):
        now, before, step = (
            move(1 - i / steps),
            move(1 - (i - 1) / steps),
            move((steps - i) / (steps - i + 1)),
        )
        token_probs = None if absorbing else now.T[states]
        sigma = (
            torch.full((len(states),), i / steps, dtype=torch.float64)
            .clamp(max=1 - 2.0**-30)
            .neg()
            .log1p()
            .neg()
        )
        x_theta = torch.zeros(len(states), len(x), size, dtype=torch.float64)
        x_theta[..., : denoiser.outputs] = denoiser(
            tokens, sigma=sigma, token_probs=token_probs
        ).softmax(-1)

        def posterior(
            x_law, step=step, before=before
        ):  # of z_s given z_t, by Bayes, with this law of x
            weight = step.T[states] * (x_law @ before)
            return weight / weight.sum(-1, keepdim=True)

        p, q = (
            posterior(x_theta),
            posterior(torch.eye(size, dtype=torch.float64)[x].expand_as(x_theta)),
        )
        kl = torch.where(q > 0, q * (q.clamp(min=1e-300) / p.clamp(min=1e-300)).log(), 0.0).sum(
            (1, 2)
        )
        seen = torch.stack([now[x[place], states[:, place]] for place in range(len(x))]).prod(0)
        bound += (seen[seen > 0] * kl[seen > 0]).sum()
        jump = torch.stack([p[:, place][:, states[:, place]] for place in range(len(x))]).prod(0)
        law = law @ torch.where(law[:, None] > 0, jump, 0.0)
    return bound, -law[(states == x).all(1)].log()[0]


X = torch.tensor([0, 2, 3])


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    "objective",
    [
        lambda t: D3PM(steps=t),
        lambda t: D3PM(steps=t, zero_masking=True),
        lambda t: D3PM(noise="uniform", steps=t),
    ],
    ids=["absorbing", "zero-masking", "uniform"],
)
def test_the_bound_is_the_divergence_of_transition_matrices(objective, steps):
    objective = objective(steps)
    net = Imperfect(3, objective.outputs)
    exact, nats_of_chain = literal(
        net, X, absorbing=objective.options["noise"] == "absorbing", steps=steps
    )
    assert exact > nats_of_chain - 1e-9
    if steps == 1:
        assert exact == pytest.approx(float(nats_of_chain))
    bound = objective.bound(net, X.expand(10_000, 3) + DNA.first_id, draws=4, seed=2)
    se = bound.nats.std() / 10_000**0.5
    assert se < 0.005 * exact
    assert abs(bound.nats.mean() - exact) < 3 * se + 1e-6


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
@pytest.mark.parametrize(
    "source",
    [IndependentSource(length=8, seed=1), MarkovSource(length=12), MixtureSource(length=4)],
    ids=lambda source: type(source).__name__,
)
def test_the_bound_of_the_exact_denoiser_tends_to_the_entropy_with_many_steps(source, noise):
    tokens = source.sample(10_000)
    above, ses = {}, {}
    for steps in (2, 1000):
        objective = D3PM(noise=noise, steps=steps, zero_masking=noise == "absorbing")
        paired = objective.bound(source, tokens, draws=8).nats - source.nll(tokens)
        above[steps], ses[steps] = paired.mean(), paired.std() / 100
        assert ses[steps] < 0.005 * source.entropy()
        assert above[steps] > -3 * ses[steps]
    assert above[1000] < 3 * ses[1000] + 0.001 * source.entropy()
    if not isinstance(
        source, IndependentSource
    ):  # letters without neighbours have no gap however few the steps
        assert above[2] > 10 * ses[2]


def test_with_zero_masking_it_is_masked_diffusion_in_steps_and_tends_to_it():
    source = MarkovSource(length=12)
    tokens = source.sample(2000)
    for steps in (3, 1000):
        ours = D3PM(steps=steps, zero_masking=True).bound(source, tokens, draws=2)
        assert torch.equal(ours.nats, MDLM(steps=steps).bound(source, tokens, draws=2).nats)
    paired = ours.nats - MDLM(estimator="time").bound(source, tokens, draws=2).nats
    assert abs(paired.mean()) < 3 * paired.std() / 2000**0.5 + 0.02


def test_uniform_noise_tends_to_continuous_time_draw_by_draw():
    """Over a million steps, the cost of a step over its share of time is the integrand."""
    net, tokens = Imperfect(3, 4), X.expand(500, 3) + DNA.first_id
    steps = D3PM(noise="uniform", steps=10**9).bound(net, tokens, draws=4, seed=1)
    torch.testing.assert_close(
        steps.nats, UDLM().bound(net, tokens, draws=4, seed=1).nats, rtol=1e-4, atol=1e-4
    )


def test_without_carry_over_visible_bases_are_predicted_too():
    net = Imperfect(3, 4)
    tokens = X[None] + DNA.first_id
    with_it = D3PM(steps=3, zero_masking=True).bound(net, tokens, draws=4)
    without = D3PM(steps=3, zero_masking=True, carry_over=False).bound(net, tokens, draws=4)
    log_p = net(tokens, sigma=torch.zeros(1)).log_softmax(-1)[0]
    torch.testing.assert_close(without.nats - with_it.nats, -log_p[range(3), X].sum()[None])


def test_outputs_and_options():
    assert (D3PM().outputs, D3PM(zero_masking=True).outputs, D3PM(noise="uniform").outputs) == (
        5,
        4,
        4,
    )
    assert D3PM(steps=7).options == {
        "noise": "absorbing",
        "steps": 7,
        "zero_masking": False,
        "carry_over": True,
    }
    assert D3PM().time_conditioned
    again = make_objective("d3pm", D3PM(noise="uniform", steps=7).options)
    assert (again.steps, again.outputs) == (7, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "gaussian"}, "unknown noise 'gaussian'; there are absorbing, uniform"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"noise": "uniform", "steps": -2}, "steps must be at least 1, not -2"),
        ({"noise": "uniform", "zero_masking": True}, "absorbing noise"),
        ({"noise": "uniform", "carry_over": False}, "absorbing noise"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        make_objective("d3pm", options)


def test_a_network_with_the_wrong_number_of_outputs_is_refused():
    with pytest.raises(
        UsageError, match="D3PM needs 5 outputs for each position, and the network has 4"
    ):
        D3PM().bound(MarkovSource(length=4), MarkovSource(length=4).sample(2))
