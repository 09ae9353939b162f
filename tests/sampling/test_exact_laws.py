"""Each sampler against its own law at few steps, and that law against the source's.

The figures are those of theory.
"""

import itertools

import numpy as np
import pytest
import torch
from closed_forms import FromLogits, with_mask_output
from exact_laws import (
    Source,
    absorbing_law,
    ancestral_lift,
    distance,
    grid,
    p_value,
    remasking_lift,
    skewed_source,
    uniform_law,
)

from dnadiff.diffusion import SEDD
from dnadiff.sampling import free_template, sample

DRAWN = 40_000


def cap(eta):
    return lambda t, s: min(eta, s / (1 - t)) if t < 1 else 0.0


def rescale(eta):
    return lambda t, s: eta * min(1.0, s / (1 - t)) if t < 1 else 0.0


@pytest.mark.parametrize(
    ("again", "figures"),
    [
        (lambda steps: lambda t, s: 0.0, {16: 0.0406, 64: 0.0103, 256: 0.0026}),
        (lambda steps: cap(0.05), {16: 0.0494, 64: 0.0239}),
        (lambda steps: rescale(0.3), {16: 0.0633, 64: 0.0279}),
        (lambda steps: cap(3 / steps), {16: 0.0770, 64: 0.0229, 256: 0.0061}),
    ],
    ids=["ancestral", "cap", "rescale", "cap of order 1/T"],
)
def test_the_errors_of_few_steps(again, figures):
    source = skewed_source()
    for steps, figure in figures.items():
        law = absorbing_law(source, grid(steps), remasking_lift(again(steps)), again(steps))
        assert distance(law, source) == pytest.approx(figure, abs=6e-5)


def test_uniform_noise_converges_as_one_over_the_steps():
    source = Source(length=2)
    errors = [distance(uniform_law(source, steps), source) for steps in (4, 16, 64, 256)]
    for before, after in itertools.pairwise(errors):
        assert 3.3 < before / after < 4.7


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_ancestral_follows_its_own_law(steps):
    source = Source(length=3)
    drawn = sample(source, free_template(DRAWN, 3), sampler="ancestral", steps=steps, seed=1)
    assert p_value(drawn, source, absorbing_law(source, grid(steps), ancestral_lift)) > 1e-3


@pytest.mark.parametrize("mass", [1.0, 0.5, 1.7])
def test_scores_with_another_mass_change_the_rate_of_unmasking_by_it(mass):
    source = Source(length=3)
    scores = FromLogits(source, lambda logits: logits + torch.tensor(mass).double().log())
    law = absorbing_law(
        source, grid(4), lambda t, s: min(1.0, mass * ancestral_lift(t, s)) if s > 0 else 1.0
    )
    drawn = sample(
        scores, free_template(DRAWN, 3), sampler="analytic", steps=4, seed=2, objective=SEDD()
    )
    assert p_value(drawn, source, law) > 1e-3
    if mass != 1.0:
        assert p_value(drawn, source, absorbing_law(source, grid(4), ancestral_lift)) < 1e-6
    # Of any other objective the constant of the logits means nothing.
    plain = sample(scores, free_template(DRAWN, 3), sampler="analytic", steps=4, seed=2)
    assert p_value(plain, source, absorbing_law(source, grid(4), ancestral_lift)) > 1e-3


def test_a_network_that_answers_mask_is_sampled_by_its_own_reverse_steps():
    source, share = Source(length=3), 0.3
    hesitant = FromLogits(source, with_mask_output(share), outputs=5)

    def lift(
        t, s
    ):  # x_theta plugged into q(z_s | z_t, x); masks that survive are lifted in the last step
        return 1 - (s + (1 - s) * share) / (t + (1 - t) * share) if s > 0 else 1.0

    drawn = sample(hesitant, free_template(DRAWN, 3), steps=4, seed=3)
    assert p_value(drawn, source, absorbing_law(source, grid(4), lift)) > 1e-3
    assert p_value(drawn, source, absorbing_law(source, grid(4), ancestral_lift)) < 1e-6


# A loop lowers the mask rate to a tenth, holds it there from 0.45 to 0.95 of the steps, then ends.
LOOP = np.interp(np.linspace(0, 1, 21), [0, 0.45, 0.95, 1], [1, 0.1, 0.1, 0]).tolist()


@pytest.mark.parametrize(
    ("remask", "eta", "rates", "again"),
    [
        ("cap", 0.2, grid(6), cap(0.2)),
        ("rescale", 0.6, grid(6), rescale(0.6)),
        ("loop", 0.1, LOOP, lambda t, s: 0.1 if t == s else 0.0),
    ],
)
def test_remasking_follows_its_own_law(remask, eta, rates, again):
    source, steps = Source(length=3), len(rates) - 1
    options = {"sampler": "remasking", "steps": steps, "remask": remask, "eta": eta}
    drawn = sample(source, free_template(DRAWN, 3), seed=4, **options)
    assert p_value(drawn, source, absorbing_law(source, rates, remasking_lift(again), again)) > 1e-3
    never = absorbing_law(source, grid(steps), ancestral_lift)
    assert p_value(drawn, source, never) < 1e-6
    drawn = sample(
        source, free_template(DRAWN, 3), seed=4, **options | {"remask": "cap", "eta": 0.0}
    )
    assert p_value(drawn, source, never) > 1e-3


def test_uniform_noise_follows_its_own_law():
    source = Source(length=3)
    drawn = sample(source, free_template(DRAWN, 3), sampler="uniform", steps=3, seed=5)
    law = uniform_law(source, 3)
    assert p_value(drawn, source, law) > 1e-3 and distance(law, source) > 0.05
