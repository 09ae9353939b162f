"""Guides: classifiers of masked sequences on hidden states, their skill and their guidance."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import MDLM, SEDD, UDLM
from dnadiff.errors import InputError, UsageError
from dnadiff.genome import read_labelled
from dnadiff.model import Model
from dnadiff.rng import Stream, uniform
from dnadiff.sampling.guidance import _first_order
from dnadiff.training.guide import RATES, LinearGuide, fit_guide, pooled

LENGTH = 40


def model(rcps=True, objective=None, needs_sigma=False):
    """A model with random weights: enough for classes that differ in GC content."""
    torch.manual_seed(0)
    denoiser = LMDenoiser(
        CaduceusLM(CaduceusConfig(d_model=12, n_layer=1, rcps=rcps, ssm_cfg=SSMConfig(d_state=4))),
        needs_sigma=needs_sigma,
    )
    if needs_sigma:
        torch.nn.init.normal_(denoiser.conditioning.scale_shift.weight)
    return Model(denoiser, objective or MDLM(), {"window": LENGTH})


def write_table(path, classes, count=150):
    """Writes sequences of independent bases, with the GC content of each class."""
    rng, rows = torch.Generator().manual_seed(1), ["label,sequence"]
    for name, gc in classes.items():
        letters = torch.multinomial(
            torch.tensor([1 - gc, gc, gc, 1 - gc]), count * LENGTH, True, generator=rng
        )
        rows += [f"{name},{DNA.decode(row + DNA.first_id)}" for row in letters.view(count, LENGTH)]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(
        tmp_path_factory.mktemp("table") / "gc.csv", {"poor": 0.3, "middle": 0.5, "rich": 0.7}
    )


@pytest.fixture(scope="module")
def guide(table):
    return fit_guide(model(), table)


def some_tokens(rows=6, seed=3):
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(7, 11, (rows, LENGTH), generator=rng)
    return tokens.masked_fill(torch.rand(rows, LENGTH, generator=rng) < 0.5, DNA.mask_id)


def any_guide(held):
    """A head with random weights."""
    rng = torch.Generator().manual_seed(4)
    weight, bias = (
        torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((3, 12), (3,))
    )
    return LinearGuide(held.denoiser, ("poor", "middle", "rich"), (), 0.3 * weight, bias)


def gc(sequences):
    text = "".join(sequences)
    return (text.count("G") + text.count("C")) / len(text)


def test_skills_are_measured_on_held_out_sequences(guide, table):
    test = read_labelled(table, LENGTH, 0).windows["test"].limited(256)
    tokens, label = test.tokens(slice(None)), test.label.numpy()
    shares = np.bincount(label) / len(label)
    for step, (rate, skill) in enumerate(zip(RATES, guide.skills, strict=True)):
        hidden = uniform(0, Stream.MASK, torch.arange(len(tokens)), LENGTH, step=step) < rate
        p = guide.log_p(tokens.masked_fill(hidden, DNA.mask_id)).exp().detach().numpy()
        assert skill.nats == pytest.approx(log_loss(label, p), rel=1e-4)
        assert skill.accuracy == accuracy_score(label, p.argmax(1))
        assert skill.shares == pytest.approx(
            log_loss(label, np.tile(shares, (len(label), 1))), rel=1e-6
        )
        assert skill.sequences == test.windows and str(skill).startswith(
            f"guide, {rate:.0%} masked: accuracy 0."
        )
    nats = [skill.nats for skill in guide.skills]
    assert nats == sorted(nats) and guide.skills[0].significant and guide.skills[0].accuracy > 0.7


@pytest.mark.parametrize("rcps", [True, False])
def test_both_strands_have_the_same_class(rcps):
    guide, tokens = any_guide(model(rcps)), some_tokens()
    torch.testing.assert_close(
        guide.log_p(tokens), guide.log_p(DNA.reverse_complement(tokens)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("rcps", [True, False])
@pytest.mark.parametrize("needs_sigma", [False, True])
def test_gradients_agree_with_finite_differences(rcps, needs_sigma):
    """One-hot weights equal the letters, and finite differences of them equal the gradient."""
    held = model(rcps, SEDD() if needs_sigma else None, needs_sigma)
    tokens, wanted = some_tokens(2), any_guide(held).of("rich")
    token_probs = torch.nn.functional.one_hot(
        torch.where(tokens == DNA.mask_id, 4, DNA.letter_index(tokens)), 5
    ).float()
    torch.testing.assert_close(
        wanted(tokens, token_probs), wanted(tokens, None), rtol=1e-4, atol=1e-4
    )
    gains = _first_order(wanted, tokens, DNA)
    step = 0.01
    for row, place in (tokens == DNA.mask_id).nonzero()[:5].tolist():
        slopes = []
        for letter in range(4):
            ends = []
            for way in (-step, step):
                moved = token_probs.clone()
                moved[row, place, letter] += way
                ends.append(wanted(tokens, moved)[row].item())
            slopes.append((ends[1] - ends[0]) / (2 * step))
        assert gains[row, place].tolist() == pytest.approx(slopes, abs=1e-3, rel=0.01)


def test_time_conditioning_gets_the_share_of_masks():
    denoiser = model(objective=SEDD(), needs_sigma=True).denoiser
    tokens = some_tokens(1)
    tokens[:, :4] = DNA.unknown_id
    share = float((tokens == DNA.mask_id).sum()) / (LENGTH - 4)
    expected = denoiser.pooled(tokens, -torch.log1p(-torch.tensor([share])))
    torch.testing.assert_close(pooled(denoiser, tokens), expected)


@pytest.mark.parametrize("length", [30_000, 1_000_000])
def test_the_noise_level_is_right_where_nearly_everything_is_masked(length):
    """With one visible base in L, alpha is 1 / L; in float32 it would be off by L / 2^24."""

    class Watched:
        needs_sigma = True

        def pooled(self, tokens, sigma, token_probs):
            return sigma

    tokens = torch.full((1, length), DNA.mask_id)
    tokens[:, 5] = 7
    assert pooled(Watched(), tokens).item() == pytest.approx(np.log(length), abs=2e-6)


def test_guidance_reaches_its_classes_and_a_sequence_does_not_depend_on_its_batch(guide):
    held = model()
    options = {"length": LENGTH, "steps": 8, "seed": 1, "guide": guide}
    drawn = {
        label: held.generate(8, label=label, guidance=4.0, **options) for label in ("poor", "rich")
    }
    assert gc(drawn["rich"]) - gc(drawn["poor"]) > 0.15
    assert (
        held.generate(3, label="rich", guidance=4.0, batch_size=1, **options) == drawn["rich"][:3]
    )
    del options["guide"]
    assert held.generate(5, label="rich", guidance=0.0, guide=guide, **options) == held.generate(
        5, **options
    )


def test_fitting_a_guide_does_not_change_the_model(table):
    held = model()
    fit_guide(held, table)
    assert all(parameter.requires_grad for parameter in held.denoiser.parameters())


def test_fitting_twice_gives_the_same_guide(guide, table):
    assert fit_guide(model(), table).skills == guide.skills


def test_a_guide_of_two_classes(tmp_path):
    table = write_table(tmp_path / "two.csv", {"poor": 0.3, "rich": 0.7})
    guide = fit_guide(model(), table)
    p = guide.log_p(some_tokens()).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(6, dtype=torch.float64))
    ends = torch.from_numpy(np.stack([DNA.encode("AT" * 20), DNA.encode("GC" * 20)]))
    assert guide.log_p(ends).argmax(1).tolist() == [0, 1]


def test_a_guide_no_better_than_the_class_shares_is_refused(tmp_path):
    table = write_table(tmp_path / "same.csv", {"one": 0.5, "other": 0.5})
    with pytest.raises(
        InputError,
        match=r"same.csv: the hidden states .* do not tell its classes apart \(guide, 10%",
    ):
        fit_guide(model(), table)


def test_what_a_guide_cannot_be_fitted_to_is_refused(table, tmp_path):
    with pytest.raises(
        UsageError, match=r"a guide is for models trained with masks, .* with uniform noise"
    ):
        fit_guide(model(objective=UDLM(), needs_sigma=True), table)
    with pytest.raises(
        UsageError, match=r"gc.csv: no class 'huge' in it; there are middle, poor, rich"
    ):
        fit_guide(model(), table, "huge")
    with pytest.raises(InputError, match="No such file"):
        fit_guide(model(), tmp_path / "none.csv")
