import pytest
import torch
from checker import violations
from closed_forms import CausalMarkovSource, MarkovSource
from scipy.stats import chisquare

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.diffusion import Autoregressive
from dnadiff.errors import InputError, UsageError
from dnadiff.model import Model
from dnadiff.sampling import (
    Constraints,
    SamplerConfig,
    free_template,
    parse_template,
    resolve_sampler,
    sample,
)
from dnadiff.sampling.constraints import ConstrainedBatch


class Chain(CausalMarkovSource):
    """Takes a prefix of any length."""

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        whole = torch.full((len(tokens), self.length), DNA.mask_id)
        whole[:, : tokens.shape[1]] = tokens
        return super().__call__(whole)[:, : tokens.shape[1]]


class RecurrentChain(Chain):
    """The same chain; its state is the last token."""

    recurrent = True

    def __init__(self, length):
        super().__init__(length)
        self.law = self.step
        self.step = lambda tokens, state: (self.law[tokens - DNA.first_id].log(), None)

    def begin(self, batch, label=None):
        return self.start.log().expand(batch, 4), None

    def nll(self, tokens):
        return Chain(self.length).nll(tokens)


def mamba(**options):
    torch.manual_seed(0)
    ssm = SSMConfig(d_state=4)
    denoiser = LMDenoiser(
        CaduceusLM(CaduceusConfig(12, 2, rcps=False, bidirectional=False, ssm_cfg=ssm)), **options
    )
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return denoiser.eval()


@pytest.mark.parametrize("chain", [Chain, RecurrentChain])
def test_samples_follow_the_exact_distribution(chain):
    source = chain(length=3)
    drawn = sample(source, free_template(20_000, 3), seed=1)
    law = source.nll(torch.cartesian_prod(*[torch.arange(7, 11)] * 3)).neg().exp()
    letters = DNA.letter_index(drawn)
    counts = torch.bincount(letters[:, 0] * 16 + letters[:, 1] * 4 + letters[:, 2], minlength=64)
    assert chisquare(counts.numpy(), (law * 20_000).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("chain", [Chain, RecurrentChain])
def test_a_prefix_gives_the_exact_conditional(chain):
    source = chain(length=4)
    tokens, allowed = parse_template("GTNN")
    assert allowed is None
    drawn = sample(source, tokens.repeat(20_000, 1), seed=2)
    assert (drawn[:, :2] == torch.tensor([9, 10])).all()
    rows = torch.cat(
        [tokens[:2].expand(16, 2), torch.cartesian_prod(*[torch.arange(7, 11)] * 2)], 1
    )
    law = source.nll(rows).neg().softmax(0)
    letters = DNA.letter_index(drawn)
    counts = torch.bincount(letters[:, 2] * 4 + letters[:, 3], minlength=16)
    assert chisquare(counts.numpy(), (law * 20_000).numpy()).pvalue > 1e-3


def test_allowed_letters_and_temperature():
    source = Chain(length=6)
    tokens, allowed = parse_template("NNRNWN")
    drawn = sample(
        source,
        tokens.repeat(500, 1),
        allowed.repeat(500, 1, 1),
        constraints=Constraints(approximate=True),
    )
    assert set(drawn[:, 2].tolist()) == {7, 9} and set(drawn[:, 4].tolist()) == {7, 10}
    cold = sample(source, free_template(3, 6), temperature=1e-4)
    for place in range(6):
        assert torch.equal(cold[:, place], source(cold)[:, place].argmax(-1) + DNA.first_id)


def test_the_recurrent_form_draws_what_full_calls_draw():
    denoiser = mamba()
    recurrent = sample(denoiser, free_template(20, 50), seed=4)
    denoiser.recurrent = False
    assert torch.equal(sample(denoiser, free_template(20, 50), seed=4), recurrent)
    assert len({tuple(row.tolist()) for row in recurrent}) == 20


@pytest.mark.parametrize(
    "make", [mamba, lambda: LMDenoiser(HyenaLM(HyenaConfig(d_model=12, l_max=30))).eval()]
)
def test_a_sample_depends_on_its_number_not_on_its_batch(make):
    denoiser = make()
    together = sample(denoiser, free_template(40, 30), seed=8)
    for index in ([0], [4, 39, 17], list(range(20, 40))):
        alone = sample(denoiser, free_template(len(index), 30), seed=8, index=torch.tensor(index))
        assert torch.equal(alone, together[index])
    assert not torch.equal(together, sample(denoiser, free_template(40, 30), seed=9))


def test_rows_may_have_prefixes_of_different_lengths_and_unknown_letters_in_them():
    denoiser = mamba()
    tokens = torch.tensor([[7, 8, 11, 9, 3, 3], [3, 3, 3, 3, 3, 3], [10, 10, 10, 10, 10, 10]])
    drawn = sample(denoiser, tokens, seed=3)
    fixed = tokens != DNA.mask_id
    assert torch.equal(drawn[fixed], tokens[fixed]) and DNA.scorable(drawn[~fixed]).all()
    for row in range(3):
        assert torch.equal(
            sample(denoiser, tokens[row, None], seed=3, index=torch.tensor([row]))[0], drawn[row]
        )


def test_samples_are_of_the_class_that_is_given():
    denoiser = mamba(labels=("one", "two"))
    denoiser.conditioning.scale_shift.weight.data.normal_()
    drawn = [
        sample(denoiser, free_template(2, 30), label=torch.full((2,), label)) for label in (0, 1)
    ]
    again = sample(denoiser, free_template(2, 30), label=torch.tensor([0, 1]))
    assert not torch.equal(*drawn)
    assert torch.equal(again[0], drawn[0][0]) and torch.equal(again[1], drawn[1][1])


def test_auto_is_autoregressive_for_causal_networks_without_a_noise_level():
    def chosen(denoiser, sampler="auto"):
        return resolve_sampler(SamplerConfig(sampler), denoiser, 5).sampler

    assert chosen(Chain(5)) == chosen(mamba()) == "autoregressive"
    assert chosen(MarkovSource(5)) == chosen(mamba(needs_sigma=True)) == "ancestral"
    assert chosen(mamba(), "first_hitting") == "first_hitting"


@pytest.mark.parametrize(
    ("denoiser", "template", "options", "message"),
    [
        (Chain(4), "NNAN", {}, "position 3 of row 0 is fixed, and position 2 before it is free"),
        (
            Chain(4),
            "NNNN",
            {"steps": 4},
            "autoregressive takes one call for each free letter: leave steps out",
        ),
        (MarkovSource(4), "NNNN", {"sampler": "autoregressive"}, "only what lies to the left"),
        (mamba(needs_sigma=True), "NNNN", {"sampler": "autoregressive"}, "noise level"),
    ],
)
def test_what_is_not_possible_is_named(denoiser, template, options, message):
    with pytest.raises(UsageError, match=message):
        sample(denoiser, parse_template(template)[0][None], **options)


def test_a_model_that_was_trained_from_left_to_right_is_sampled_so():
    held = Model(mamba(), Autoregressive())
    assert held.generate(2, length=20, seed=3) == held.generate(
        2, length=20, seed=3, sampler="autoregressive"
    )
    assert held.generate(1, template="GATTACANNN")[0].startswith("GATTACA")
    for sampler in ("ancestral", "first_hitting"):
        with pytest.raises(
            UsageError, match=f"trained from left to right, and {sampler} shows it masks"
        ):
            held.generate(1, length=20, sampler=sampler)


TIGHT = {
    "avoid": ["ACG", "TTNAA"],
    "gc": ["0.4:0.6:20", "0.4:0.6:5"],
    "max_homopolymer": 2,
    "unique_kmer": 5,
}


@pytest.mark.parametrize("chain", [Chain, RecurrentChain])
def test_constraints_are_kept_by_going_back(chain):
    source, template, constraints = chain(60), free_template(9, 60), Constraints(**TIGHT)
    drawn = sample(source, template, constraints=constraints, seed=5)
    assert [violations(DNA.decode(row), **TIGHT) for row in drawn] == [[]] * 9
    assert len(drawn.unique(dim=0)) == 9
    for part in torch.arange(9).split(4):
        again = sample(source, template[part], constraints=constraints, seed=5, index=part)
        assert torch.equal(again, drawn[part])
    free = sample(source, template, seed=5)
    loose = sample(source, template, seed=5, constraints=Constraints(max_homopolymer=59))
    assert torch.equal(free, loose)


def test_mamba_goes_back_to_the_state_that_it_had():
    """After a dead end, logits are those that a fresh call gives for the letters as they are."""
    denoiser, template, constraints = mamba(), free_template(20, 120), Constraints(**TIGHT)
    asked = []

    attempt = ConstrainedBatch.attempt

    def recorded(self, tokens, now, quantile, logits):
        before = tokens.clone()
        asked.append((before, now, logits, attempt(self, tokens, now, quantile, logits)))
        return asked[-1][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConstrainedBatch, "attempt", recorded)
        drawn = sample(denoiser, template, constraints=constraints)
    assert [violations(DNA.decode(row), **TIGHT) for row in drawn] == [[]] * 20
    assert sum(int(stuck.sum()) for *_, stuck in asked) > 3
    for before, now, logits, _ in asked[:: len(asked) // 40]:
        expected = denoiser(before)[now].double().log_softmax(-1)
        assert torch.allclose(logits, expected, atol=1e-4)


def test_a_dead_end_without_a_way_out():
    with pytest.raises(InputError, match="max_homopolymer 1: no letter fits at position"):
        sample(
            Chain(12), free_template(1, 12), constraints=Constraints(max_homopolymer=1, avoid=DEAD)
        )


DEAD = ["AC", "AG", "AT", "CA", "CG", "GA", "GC", "TA"]


def test_required_motifs_are_refused():
    with pytest.raises(UsageError, match="leave require out"):
        sample(Chain(9), free_template(1, 9), constraints=Constraints(require=["TATA"]))


def test_restricted_letters_are_drawn_approximately_or_not_at_all():
    tokens, allowed = parse_template("NNRN")
    with pytest.raises(UsageError, match="set approximate"):
        sample(Chain(4), tokens[None], allowed[None])
    assert sample(Chain(4), tokens[None], torch.ones_like(allowed[None])).shape == (
        1,
        4,
    )  # nothing is restricted
