"""What every backbone promises to objectives, samplers and users."""

import numpy as np
import pytest
import torch
from closed_forms import CausalMarkovSource

import dnadiff
from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.backbones.network_input import NetworkInput
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM
from dnadiff.diffusion import MDLM, Autoregressive
from dnadiff.errors import UsageError
from dnadiff.model import Model

SSM = SSMConfig(d_state=4)
BACKBONES = {
    "caduceus-ps": lambda: CaduceusLM(CaduceusConfig(12, 2, ssm_cfg=SSM)),
    "caduceus-ph": lambda: CaduceusLM(CaduceusConfig(12, 2, rcps=False, ssm_cfg=SSM)),
    "mamba": lambda: CaduceusLM(
        CaduceusConfig(12, 2, rcps=False, bidirectional=False, ssm_cfg=SSM)
    ),
    "hyena": lambda: HyenaLM(HyenaConfig(d_model=12, l_max=32)),
    "transformer": lambda: TransformerLM(TransformerConfig(d_model=12, n_layer=2, head_dim=8)),
    "causal transformer": lambda: TransformerLM(
        TransformerConfig(d_model=12, n_layer=2, head_dim=8, causal=True)
    ),
}
CAUSAL = ("mamba", "hyena", "causal transformer")
STACKS = (
    "hyena",
    "transformer",
    "causal transformer",
)  # Caduceus and Mamba have kernels, and tests, of their own


def network(name, **options):
    """Weights far from their initial values, so that everything that can be seen is seen."""
    torch.manual_seed(0)
    denoiser = LMDenoiser(BACKBONES[name](), **options).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return denoiser


def letters(batch=2, length=40, seed=1):
    return torch.randint(7, 11, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("place", [0, 1, 17, 39])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_causal_networks_outputs_see_what_lies_before_them_and_all_of_it(name, place):
    denoiser = network(name)
    tokens, changed = letters(), letters()
    changed[:, place] = DNA.mask_id
    with torch.no_grad():
        moved = (denoiser(tokens) - denoiser(changed)).abs().amax((0, 2))
    assert denoiser.causal == (name in CAUSAL)
    if denoiser.causal:
        assert moved[: place + 1].max() < 1e-5
        assert (moved[place + 1 :] > 1e-5).all()
    else:
        assert (moved > 1e-5).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_the_autoregressive_objective_takes_causal_networks_and_refuses_others(name):
    denoiser = network(name)
    if name in CAUSAL:
        assert Autoregressive().bound(denoiser, letters()).kind == "exact"
        return
    for call in (Autoregressive().bound, Autoregressive().loss):
        with pytest.raises(UsageError, match="sees only what lies to the left"):
            call(denoiser, letters())


class Rounded(CausalMarkovSource):
    """A causal network whose outputs all change slightly with any token, as under an FFT."""

    def __init__(self, size):
        super().__init__(length=40)
        self.size, self.autocast = size, []

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        rounding = self.size * tokens.double().square().sum().sin()
        return super().__call__(tokens) + rounding * torch.tensor([1.0, 0.0, 0.0, 0.0])


def test_rounding_is_not_taken_for_looking_ahead():
    with torch.autocast("cpu", torch.bfloat16):
        network = Rounded(1e-5)
        assert Autoregressive().bound(network, letters()).kind == "exact"
        # The probe is in float32, the bound as it is asked for.
        assert not any(network.autocast[:-1]) and network.autocast[-1]
        with pytest.raises(UsageError, match="outputs of this one change"):
            Autoregressive().bound(Rounded(1e-2), letters())


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in CAUSAL])
def test_a_network_that_only_claims_to_be_causal_is_found_out(name):
    denoiser = network(name)
    denoiser.causal = True  # which also shifts its input: it still sees what comes after
    with pytest.raises(UsageError, match="change when a token at or after them is changed"):
        Autoregressive().bound(denoiser, letters())


@pytest.mark.parametrize("name", BACKBONES)
def test_one_hot_weights_equal_the_letters(name):
    denoiser = network(name)
    ids = torch.tensor([[7, 8, 9, 10, 11, 4, 7, 10, 8, 9] * 2])
    token_probs = torch.nn.functional.one_hot(DNA.letter_index(ids), 4).float()
    hidden = ids.masked_fill(DNA.scorable(ids), DNA.mask_id)
    with torch.no_grad():
        torch.testing.assert_close(
            denoiser(hidden, token_probs=token_probs), denoiser(ids), rtol=1e-4, atol=1e-5
        )
        assert (denoiser(hidden) - denoiser(ids)).abs().max() > 0.01


@pytest.mark.parametrize("name", BACKBONES)
def test_a_condition_reaches_every_norm_and_starts_at_zero(name):
    torch.manual_seed(0)
    lm = BACKBONES[name]()
    plain, told = LMDenoiser(lm), LMDenoiser(lm, needs_sigma=True, labels=("one", "two"))
    sigma, tokens = torch.tensor([0.1, 3.0]), letters()
    with torch.no_grad():
        assert torch.equal(told(tokens, sigma=sigma, label=torch.tensor([0, 1])), plain(tokens))
    told.conditioning.scale_shift.weight.data.normal_()
    told(tokens, sigma=sigma, label=torch.tensor([0, 1])).square().sum().backward()
    reached = told.conditioning.scale_shift.weight.grad.view(lm.norms, 2, 12, -1).abs().amax((2, 3))
    assert (reached > 0).all()


@pytest.mark.parametrize("name", STACKS)
def test_every_weight_has_a_gradient_that_is_right(name):
    """Along a random direction the loss changes as its gradient says.

    In float64, by a central difference.
    """
    denoiser = network(name).double()
    tokens = letters(length=12)

    def loss():
        return torch.nn.functional.cross_entropy(
            denoiser(tokens).flatten(0, 1), DNA.letter_index(tokens).flatten()
        )

    loss().backward()
    rng, step = torch.Generator().manual_seed(3), 1e-6
    for key, parameter in denoiser.named_parameters():
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        with torch.no_grad():
            ends = []
            for sign in (1, -2):
                parameter += sign * step * direction
                ends.append(loss())
            parameter += step * direction
        expected = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(
            (parameter.grad * direction).sum(), expected, rtol=1e-4, atol=1e-7, msg=key
        )
        assert parameter.grad.any(), key


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_row_is_the_same_in_any_batch(name, batch):
    denoiser, ids = network(name), letters(8)
    with torch.no_grad():
        assert torch.equal(denoiser(ids)[:batch], denoiser(ids[:batch]))


@pytest.mark.parametrize("length", [1, 2, 3, 100])
@pytest.mark.parametrize("name", BACKBONES)
def test_any_length_will_do(name, length):
    with torch.no_grad():
        assert network(name)(letters(length=length)).isfinite().all()


@pytest.mark.parametrize("name", STACKS)
def test_bfloat16_is_close_and_logits_stay_in_float32(name):
    denoiser, tokens = network(name), letters()
    with torch.autocast("cpu", torch.bfloat16):
        logits = denoiser(tokens)
        logits.sum().backward()
    assert logits.dtype == torch.float32
    expected = denoiser(tokens)
    assert (logits - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_bundle_saves_embeds_and_scores(name, tmp_path):
    held = Model(network(name), Autoregressive() if name in CAUSAL else MDLM())
    held.save(tmp_path)
    again = dnadiff.load(tmp_path, device="cpu")
    assert again.digest == held.digest and again.denoiser.causal == held.denoiser.causal
    sequences = [
        "GATTACATTTTCCCAG",
        "ACGTTGCA" * 5,
        "CTGGGAAAATGTAATC",
    ]  # the last is the first's complement
    assert held.score(sequences).equals(again.score(sequences))
    embedded = again.embed(sequences)
    assert embedded.shape == (3, 12) and np.array_equal(embedded, held.embed(sequences))
    np.testing.assert_allclose(embedded[0], embedded[2], atol=1e-5)  # both strands are averaged
    states = [
        held.denoiser.lm.states(NetworkInput(torch.from_numpy(DNA.encode(s))[None]))
        for s in (sequences[0], sequences[2])
    ]
    expected = torch.cat([s.mean((0, 1))[None] for s in states]).mean(0)
    np.testing.assert_allclose(embedded[0], expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_only_ps_treats_both_strands_alike(name):
    denoiser, ids = network(name), letters()
    with torch.no_grad():
        forward, opposite = denoiser(ids), denoiser(DNA.reverse_complement(ids))
    error = (opposite.flip(1, 2) - forward).abs().max()
    assert error < 1e-4 if name == "caduceus-ps" else error > 0.01


# Mamba, letter by letter.


@pytest.mark.parametrize("options", [{}, {"labels": ("one", "two")}, {"outputs": 5}], ids=str)
@pytest.mark.parametrize("d_conv", [1, 4])
def test_the_recurrent_form_gives_the_same_outputs_from_a_state_of_constant_size(options, d_conv):
    torch.manual_seed(0)
    ssm = SSMConfig(d_state=5, d_conv=d_conv, bias=True)
    lm = CaduceusLM(CaduceusConfig(12, 3, rcps=False, bidirectional=False, ssm_cfg=ssm))
    denoiser = LMDenoiser(lm, **options).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        tokens = letters(3, 60)
        tokens[1, 20:25] = DNA.unknown_id
        label = torch.tensor([0, 2, 1]) if "labels" in options else None
        expected = denoiser(tokens, label=label)
        logits, state = denoiser.begin(3, label=label)
        found, sizes = [logits], set()
        for place in range(59):
            logits, state = denoiser.step(tokens[:, place], state)
            found.append(logits)
            sizes.add(sum(tensor.numel() for layer in state[1] for tensor in layer))
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-5, atol=1e-5)
    assert sizes == {3 * 3 * 24 * (d_conv - 1 + 5)}


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "mamba"])
def test_only_mamba_has_a_state_of_constant_size(name):
    denoiser = network(name)
    assert not denoiser.recurrent
    with pytest.raises(ValueError, match="no recurrent form"):
        denoiser.begin(2)
