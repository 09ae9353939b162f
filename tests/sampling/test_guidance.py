import torch
from closed_forms import JointSource
from scipy.stats import chisquare

from dnadiff.alphabet import DNA
from dnadiff.sampling import sample
from dnadiff.sampling.guidance import ClassifierFree, ClassifierGuided

COUNT = 20_000


class TwoClasses:
    """A joint distribution of class and sequence, as a denoiser that may be told the class, and as its classifier."""

    causal, needs_sigma, outputs = False, False, 4
    share = 0.3  # of class 0

    def __init__(self, length=3):
        self.classes = [JointSource(length, seed=1), JointSource(length, seed=2)]
        self.both = JointSource(length)
        self.both.table = self.share * self.classes[0].table + (1 - self.share) * self.classes[1].table

    def __call__(self, tokens, sigma=None, label=None, soft=None):
        if label is None:
            return self.both(tokens)
        answers = [source(tokens) for source in self.classes]
        return torch.where((label == 0)[:, None, None], *answers)

    def log_first(self, tokens, soft=None):
        """log p(class 0 | what is seen)."""
        known, letters = DNA.scorable(tokens), DNA.letter_index(tokens)
        agrees = ((self.both.sequences[None] == letters[:, None]) | ~known[:, None]).all(-1).double()
        joint, total = (agrees @ table.reshape(-1) for table in (self.share * self.classes[0].table, self.both.table))
        return (joint / total).log()


SOURCE = TwoClasses()
LABEL = torch.zeros(COUNT, dtype=torch.int64)


def drawn(denoiser, label=None, **options):
    template = torch.full((COUNT, 3), DNA.mask_id)
    return sample(denoiser, template, label=label, sampler="first_hitting", seed=4, **options)


def p_value(tokens, table):
    counts = torch.bincount(SOURCE.both.index(tokens), minlength=64)
    return chisquare(counts.numpy(), (table.reshape(-1) * len(tokens)).numpy()).pvalue


def test_classifier_free_weight_one_is_the_class_and_weight_zero_ignores_it():
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

    def linear(tokens, soft):
        if soft is None:
            index = torch.where(tokens == DNA.mask_id, 4, DNA.letter_index(tokens))
            soft = torch.nn.functional.one_hot(index, 5).float()
        return (soft * scores).sum((1, 2))

    tokens = torch.full((8, 3), DNA.mask_id)
    tokens[:4, 2] = 9
    one, other = (ClassifierGuided(SOURCE, linear, 2.0, exact=exact)(tokens) for exact in (True, False))
    hidden = tokens == DNA.mask_id
    torch.testing.assert_close(one[hidden], other[hidden], rtol=1e-5, atol=1e-5)


def test_guidance_leaves_the_unmasking_alone():
    """What is drawn when depends on the seed alone; the guided logits are normalised, so no rate can come from them."""
    tokens = torch.full((5, 3), DNA.mask_id)
    for guided in (ClassifierFree(SOURCE, 3.0), ClassifierGuided(SOURCE, SOURCE.log_first, 3.0, exact=True)):
        logits = guided(tokens, label=LABEL[:5])
        torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(5, 3, dtype=torch.float64), rtol=0, atol=1e-9)
