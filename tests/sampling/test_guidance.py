import itertools

import exact_laws
import pytest
import torch
from closed_forms import FromLogits, JointSource, with_mask_output
from exact_laws import (
    Source,
    absorbing_law,
    ancestral_lift,
    distance,
    grid,
    one_by_one_law,
    uniform_law,
)
from scipy.stats import chi2_contingency

from dnadiff.alphabet import DNA
from dnadiff.diffusion import MDLM, SEDD, UDLM, Autoregressive, Plaid
from dnadiff.errors import UsageError
from dnadiff.sampling import free_template, sample
from dnadiff.sampling.guidance import ClassifierFree, ClassifierGuided, apply_guidance

COUNT = 10_000


class TwoClasses:
    """A joint distribution of class and sequence, as a conditional denoiser and as a classifier."""

    causal, needs_sigma, outputs = False, False, 4
    labels = ("first", "second")
    share = 0.3  # of class 0

    def __init__(self, length=3):
        self.classes = [Source(length, seed=1), Source(length, seed=2)]
        self.both = Source(length)
        self.both.table = (
            self.share * self.classes[0].table + (1 - self.share) * self.classes[1].table
        )

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        if label is None:
            return self.both(tokens, token_probs=token_probs)
        answers = [source(tokens, token_probs=token_probs) for source in self.classes]
        return torch.where((label == 0)[:, None, None], *answers)

    def log_first(self, tokens, token_probs=None):
        """log p(class 0 | what is seen)."""
        known, letters = DNA.scorable(tokens), DNA.letter_index(tokens)
        agrees = (
            ((self.both.sequences[None] == letters[:, None]) | ~known[:, None]).all(-1).double()
        )
        joint, total = (
            agrees @ table.reshape(-1)
            for table in (self.share * self.classes[0].table, self.both.table)
        )
        return (joint / total).log()


class LeftToRight(TwoClasses):
    """The same, each letter given those before it; also one letter after the other."""

    causal, recurrent = True, False

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        tables = [self.both.table] if label is None else [source.table for source in self.classes]
        answers = [
            torch.stack([self.next(t, tokens[:, :i]) for i in range(tokens.shape[1])], 1)
            for t in tables
        ]
        return answers[0] if label is None else torch.where((label == 0)[:, None, None], *answers)

    def next(self, table, before):
        hidden = list(range(before.shape[1] + 1, table.ndim))
        seen = table.sum(hidden) if hidden else table
        return seen[tuple(DNA.letter_index(before).T)].expand(len(before), 4).log()

    def begin(self, batch, sigma=None, label=None):
        return self.step(None, (torch.zeros(batch, 0, dtype=torch.int64), label))

    def step(self, tokens, state):
        before, label = state
        before = before if tokens is None else torch.cat([before, tokens[:, None]], 1)
        shown = torch.nn.functional.pad(before, (0, 1), value=DNA.mask_id)
        return self(shown, label=label)[:, -1], (before, label)


SOURCE = TwoClasses()
LABEL = torch.zeros(COUNT, dtype=torch.int64)


def drawn(denoiser, label=None, sampler="first_hitting", count=COUNT, seed=4, **options):
    label = None if label is None else label[:count]
    return sample(
        denoiser, free_template(count, 3), label=label, sampler=sampler, seed=seed, **options
    )


def p_value(tokens, table):
    return exact_laws.p_value(tokens, SOURCE.both, table.reshape(-1))


def test_classifier_free_guidance_of_weight_one_is_the_class_and_of_zero_unconditional():
    assert p_value(drawn(ClassifierFree(SOURCE, 1.0), LABEL), SOURCE.classes[0].table) > 1e-3
    assert p_value(drawn(ClassifierFree(SOURCE, 0.0), LABEL), SOURCE.both.table) > 1e-3
    assert p_value(drawn(ClassifierFree(SOURCE, 0.0), LABEL), SOURCE.classes[0].table) < 1e-9


def test_the_exact_classifier_with_weight_one_gives_the_class():
    guided = ClassifierGuided(SOURCE, SOURCE.log_first, 1.0, exact=True)
    assert p_value(drawn(guided), SOURCE.classes[0].table) > 1e-3
    none = ClassifierGuided(SOURCE, SOURCE.log_first, 0.0, exact=True)
    assert p_value(drawn(none), SOURCE.both.table) > 1e-3


def test_both_kinds_agree_for_the_exact_classifier():
    tokens = torch.full((64, 3), DNA.mask_id)
    tokens[:, 1] = 7 + torch.arange(64) % 4
    for weight in (0.5, 1.0, 3.0):
        free = ClassifierFree(SOURCE, weight)(tokens, label=LABEL[:64])
        guided = ClassifierGuided(SOURCE, SOURCE.log_first, weight, exact=True)(tokens)
        hidden = tokens == DNA.mask_id
        torch.testing.assert_close(free[hidden], guided[hidden], rtol=1e-9, atol=1e-9)


def test_a_letter_that_the_class_excludes_is_never_drawn():
    source = TwoClasses()
    source.classes[0].table[0] = 0.0
    source.classes[0].table /= source.classes[0].table.sum()
    for weight in (0.0, 1.0, 2.5):
        guided = ClassifierFree(source, weight)
        tokens = drawn(guided, LABEL)
        assert weight == 0 or (tokens[:, 0] != DNA.ids[0]).all()
        assert not guided(torch.full((2, 3), DNA.mask_id), label=LABEL[:2]).isnan().any()


def test_the_gradient_is_exact_for_a_classifier_that_is_linear_in_the_letters():
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))

    def linear(tokens, token_probs):
        if token_probs is None:
            index = torch.where(tokens == DNA.mask_id, 4, DNA.letter_index(tokens))
            token_probs = torch.nn.functional.one_hot(index, 5).float()
        return (token_probs * scores).sum((1, 2))

    tokens = torch.full((8, 3), DNA.mask_id)
    tokens[:4, 2] = 9
    one, other = (
        ClassifierGuided(SOURCE, linear, 2.0, exact=exact)(tokens) for exact in (True, False)
    )
    hidden = tokens == DNA.mask_id
    torch.testing.assert_close(one[hidden], other[hidden], rtol=1e-5, atol=1e-5)


def weighted(weight):
    """The sources that guidance to class 0 combines."""
    return [(weight, SOURCE.classes[0]), (1 - weight, SOURCE.both)]


def letters_of(weight):
    """The same as a source whose distribution in every state is written out here."""

    def answer(tokens, sigma=None, label=None, token_probs=None):
        mixed = sum(weight * source(tokens) for weight, source in weighted(weight))
        return mixed.log_softmax(-1)

    answer.length = 3
    return answer


def test_weight_two_one_base_at_a_time_samples_its_chain_exactly():
    law = one_by_one_law(weighted(2.0), list(itertools.permutations(range(3))))
    assert p_value(drawn(ClassifierFree(SOURCE, 2.0), LABEL), law) > 1e-3
    guided = ClassifierGuided(SOURCE, SOURCE.log_first, 2.0, exact=True)
    assert p_value(drawn(guided), law) > 1e-3
    # It is not a power of the class: each base is sharpened without regard to later ones.
    power = SOURCE.classes[0].table ** 2 / SOURCE.both.table
    assert 0.01 < (law - (power / power.sum()).reshape(-1)).abs().sum() / 2 < 0.2


@pytest.mark.parametrize("sampler", ["ancestral", "remasking", "analytic"])
def test_weight_two_in_few_steps_samples_its_chain_exactly(sampler):
    law = absorbing_law(letters_of(2.0), grid(3), ancestral_lift)
    options = {"eta": 0.0} if sampler == "remasking" else {}
    assert (
        p_value(drawn(ClassifierFree(SOURCE, 2.0), LABEL, sampler, steps=3, **options), law) > 1e-3
    )


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_autoregressive_sampling_can_be_guided(weight, recurrent):
    source = LeftToRight()
    source.recurrent = recurrent
    guided = ClassifierFree(source, weight)
    law = one_by_one_law(weighted(weight), [(0, 1, 2)])
    assert p_value(drawn(guided, LABEL, "autoregressive", objective=Autoregressive()), law) > 1e-3
    if weight < 2:
        torch.testing.assert_close(law, weighted(weight)[weight < 1][1].table.reshape(-1))


@pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
def test_under_uniform_noise_the_reverse_kernels_are_combined(weight):
    tokens = drawn(ClassifierFree(SOURCE, weight), LABEL, "uniform", steps=3, objective=UDLM())
    assert p_value(tokens, uniform_law(weighted(weight), 3)) > 1e-3
    if weight == 5.0:  # combining clean bases would be different
        assert p_value(tokens, uniform_law([(1.0, ByLetter(5.0))], 3)) < 1e-6


class ByLetter:
    """What is not done: the distributions of clean bases, combined."""

    sequences = SOURCE.both.sequences

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, tokens, token_probs):
        return sum(
            weight * source(tokens, token_probs=token_probs)
            for weight, source in weighted(self.weight)
        ).log_softmax(-1)


def test_many_steps_of_uniform_noise_sample_the_class():
    assert distance(uniform_law(weighted(1.0), 128), SOURCE.classes[0]) < 0.01


def test_gaussian_noise_with_weight_zero_and_one():
    objective = Plaid(self_conditioning=False, dimension=4)
    options = {"sampler": "plaid", "steps": 4, "objective": objective, "count": 500}
    for weight, alone in ((1.0, SOURCE.classes[0]), (0.0, SOURCE.both)):
        assert torch.equal(
            drawn(ClassifierFree(SOURCE, weight), LABEL, **options), drawn(alone, **options)
        )


def test_guided_gaussian_noise_is_the_chain_with_combined_estimates():
    """Against a chain that is written out literally, with other random numbers."""
    steps, weight, count, rng = 3, 2.0, 6000, torch.Generator().manual_seed(5)
    objective = Plaid(self_conditioning=False, dimension=4)
    embedding = objective.embedding.detach()
    gammas = [6.0 - 9.0 * i / steps for i in range(steps + 1)]
    z = torch.randn(count, 3, 4, generator=rng, dtype=torch.float64)
    hidden = free_template(count, 3)
    for i, gamma in enumerate(gammas):
        alpha2, noise2 = (
            1 / (1 + torch.tensor(gamma).double().exp()),
            1 / (1 + torch.tensor(-gamma).double().exp()),
        )
        evidence = alpha2.sqrt() / noise2 * z @ embedding.T
        log_p = [
            (s(hidden, token_probs=evidence.softmax(-1)) + evidence).log_softmax(-1)
            for _, s in weighted(weight)
        ]
        if i < steps:
            # q(z_s | z_t, x) ~ N(z_s; alpha_s x, noise_s) N(z_t; (alpha_t / alpha_s) z_s, noise_t -
            # (..)^2 noise_s)
            a_s = 1 / (1 + torch.tensor(gammas[i + 1]).double().exp())
            n_s, ratio = 1 - a_s, (alpha2 / a_s).sqrt()
            between = noise2 - ratio**2 * n_s
            precision = 1 / n_s + ratio**2 / between
            clean = weight * log_p[0].exp() @ embedding + (1 - weight) * log_p[1].exp() @ embedding
            mean = (a_s.sqrt() * clean / n_s + ratio * z / between) / precision
            z = mean + torch.randn(z.shape, generator=rng, dtype=torch.float64) / precision.sqrt()
    law = (weight * log_p[0] + (1 - weight) * log_p[1]).softmax(-1)
    literal = torch.multinomial(law.reshape(-1, 4), 1, generator=rng).view(count, 3) + DNA.first_id
    ours = drawn(
        ClassifierFree(SOURCE, weight), LABEL, "plaid", count, steps=steps, objective=objective
    )
    plain = drawn(SOURCE, LABEL, "plaid", count, steps=steps, objective=objective)
    counts = [
        torch.bincount(SOURCE.both.index(tokens), minlength=64) for tokens in (literal, ours, plain)
    ]
    often = counts[0] + counts[1] > 20
    assert chi2_contingency(torch.stack(counts[:2])[:, often].numpy()).pvalue > 1e-3
    assert chi2_contingency(torch.stack(counts[::2])[:, often].numpy()).pvalue < 1e-6


@pytest.mark.parametrize("kind", ["labels", "classifier"])
@pytest.mark.parametrize("mass", [1.0, 1.7])
def test_the_unmasking_rate_is_that_of_the_network(kind, mass):
    """Weight 3, by a sampler whose unmasking rate depends on the scores."""
    scores = FromLogits(SOURCE, lambda logits: logits + torch.tensor(mass).double().log())
    guided = ClassifierFree(scores, 3.0)
    if kind == "classifier":
        guided = ClassifierGuided(scores, SOURCE.log_first, 3.0, exact=True)
    law = absorbing_law(
        letters_of(3.0),
        grid(4),
        lambda t, s: min(1.0, mass * ancestral_lift(t, s)) if s > 0 else 1.0,
    )
    tokens = drawn(
        guided, LABEL if kind == "labels" else None, "analytic", seed=5, steps=4, objective=SEDD()
    )
    assert p_value(tokens, law) > 1e-3


def test_a_network_with_a_mask_output_keeps_its_unmasking_rate():
    share = 0.3
    hesitant = FromLogits(SOURCE, with_mask_output(share), outputs=5)

    def lift(t, s):
        return 1 - (s + (1 - s) * share) / (t + (1 - t) * share) if s > 0 else 1.0

    for guided in (
        ClassifierFree(hesitant, 2.0),
        ClassifierGuided(hesitant, SOURCE.log_first, 2.0, exact=True),
    ):
        label = LABEL if isinstance(guided, ClassifierFree) else None
        tokens = drawn(guided, label, "analytic", steps=4)
        assert p_value(tokens, absorbing_law(letters_of(2.0), grid(4), lift)) > 1e-3


class Words:
    """A guide of two classes."""

    labels = ("first", "second")

    def of(self, label):
        return SOURCE.log_first


def test_apply_guidance_returns_the_right_denoiser():
    assert apply_guidance(SOURCE, None, None, None, MDLM()) == (SOURCE, None)
    assert (
        apply_guidance(SOURCE, "second", None, None, MDLM())
        == apply_guidance(SOURCE, "second", 1.0, None, MDLM())
        == (SOURCE, 1)
    )
    assert apply_guidance(SOURCE, "second", 0.0, None, MDLM()) == (SOURCE, None)
    guided, number = apply_guidance(SOURCE, "first", 2.5, None, UDLM())
    assert isinstance(guided, ClassifierFree) and guided.weight == 2.5 and number == 0
    guided, number = apply_guidance(JointSource(3), "first", None, Words(), MDLM())
    assert isinstance(guided, ClassifierGuided) and guided.weight == 1.0 and number is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2.0, None, MDLM()), "^guidance goes with label"),
        ((None, None, Words(), MDLM()), "^guide goes with label"),
        (("third", None, None, MDLM()), "no class 'third'; there are first, second"),
        (("third", None, Words(), MDLM()), "no class 'third'; there are first, second"),
        (("first", -1.0, None, MDLM()), "guidance must be 0 or more, not -1"),
        (("first", float("nan"), None, MDLM()), "guidance must be 0 or more"),
        (
            ("first", None, Words(), UDLM()),
            "a guide is for models trained with masks, .* with uniform noise",
        ),
        (("first", None, Words(), Plaid()), "with gaussian noise"),
        (("first", None, Words(), Autoregressive()), "trained with masks, .* from left to right"),
    ],
)
def test_a_class_that_cannot_be_sampled_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        apply_guidance(SOURCE, *arguments)
    with pytest.raises(
        UsageError, match="trained without labels: leave label out, or give a guide"
    ):
        apply_guidance(JointSource(3), "first", None, None, MDLM())


@pytest.mark.parametrize("objective", [UDLM(), Plaid(self_conditioning=False)])
def test_a_classifier_of_masked_sequences_is_refused_for_other_noises(objective):
    with pytest.raises(UsageError, match="absorbing noise"):
        drawn(
            ClassifierGuided(SOURCE, SOURCE.log_first, 1.0),
            None,
            "auto",
            steps=2,
            objective=objective,
        )


def test_guidance_does_not_change_the_unmasking():
    """The order of unmasking depends on the seed alone, and guided logits stay normalised."""
    tokens = torch.full((5, 3), DNA.mask_id)
    for guided in (
        ClassifierFree(SOURCE, 3.0),
        ClassifierGuided(SOURCE, SOURCE.log_first, 3.0, exact=True),
    ):
        logits = guided(tokens, label=LABEL[:5])
        torch.testing.assert_close(
            logits.logsumexp(-1), torch.zeros(5, 3, dtype=torch.float64), rtol=0, atol=1e-9
        )
