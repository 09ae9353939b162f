import copy
import pickle

import pytest
import torch
from closed_forms import CausalMarkovSource, JointSource, MarkovSource

from dnadiff.alphabet import DNA
from dnadiff.diffusion import Autoregressive, conditioned

SOURCE = CausalMarkovSource(length=12)


def test_the_bound_is_the_exact_likelihood_of_each_sequence():
    tokens = SOURCE.sample(500)
    bound = Autoregressive().bound(SOURCE, tokens)
    torch.testing.assert_close(bound.nats, SOURCE.nll(tokens))
    assert bound.kind == "exact" and not bound.se.any()
    loss = Autoregressive().loss(SOURCE, tokens)
    torch.testing.assert_close(loss.value, SOURCE.nll(tokens).sum() / 6000)


def test_unknown_letters_are_context():
    tokens = SOURCE.sample(500)
    tokens[:, [2, 5]] = DNA.unknown_id
    bound = Autoregressive().bound(SOURCE, tokens)
    torch.testing.assert_close(bound.nats, SOURCE.nll(tokens))
    assert torch.equal(bound.bases, torch.full((500,), 10))


def test_a_bidirectional_network_is_refused_as_its_result_is_below_the_entropy():
    source = JointSource(length=3)
    tokens = source.sample(2000)
    pseudo = Autoregressive().per_token_nelbo(source, tokens).sum(1)
    assert pseudo.mean() < source.entropy() - 0.1
    for call in (Autoregressive().bound, Autoregressive().loss):
        with pytest.raises(ValueError, match="sees only what lies to the left"):
            call(source, tokens)


def test_a_network_that_only_claims_to_be_causal_is_refused():
    class Liar(MarkovSource):
        causal = True

    class OwnLetter(CausalMarkovSource):
        """Sees nothing to the right, but the base that it has to predict."""

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            return super().__call__(tokens) + torch.nn.functional.one_hot(
                DNA.letter_index(tokens), 4
            )

    for source in (Liar(length=12), OwnLetter(length=12)):
        with pytest.raises(ValueError, match="outputs of this one change"):
            Autoregressive().bound(source, source.sample(4))


class Copies:
    """A network that claims to be causal, and sees the base `ahead` positions further on."""

    causal, needs_sigma, outputs = True, False, 4

    def __init__(self, ahead, at=slice(None), strength=9.0):
        self.ahead, self.at, self.strength, self.rows = ahead, at, strength, 0

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        self.rows += len(tokens)
        padded = torch.nn.functional.pad(tokens, (1, self.ahead), value=DNA.unknown_id)
        length = tokens.shape[1]
        logits = torch.nn.functional.one_hot(DNA.letter_index(padded[:, :length]), 4).float()
        ahead = DNA.letter_index(padded[:, 1 + self.ahead :])
        known = torch.nn.functional.one_hot(ahead, 4).float() * self.strength
        logits[:, self.at] += known[:, self.at]
        return logits


@pytest.mark.parametrize("ahead", [0, 1, 31, 32, 33, 40, 100, 254, 255])
@pytest.mark.parametrize("strength", [9.0, 0.02])
def test_a_network_that_looks_ahead_by_any_distance_is_refused(ahead, strength):
    tokens = torch.randint(7, 11, (2, 256), generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        with pytest.raises(ValueError, match="outputs of this one change"):
            Autoregressive().bound(Copies(ahead, strength=strength), tokens, seed=seed)


def test_a_network_that_looks_ahead_at_some_positions_only_is_refused():
    """Sees 40 positions ahead from one stretch of 64 out of 256."""
    tokens = torch.randint(7, 11, (2, 256), generator=torch.Generator().manual_seed(0))
    for start in (0, 64, 128):
        with pytest.raises(ValueError, match="outputs of this one change"):
            Autoregressive().bound(Copies(40, slice(start, start + 64)), tokens)


def test_an_impossible_base_does_not_hide_that_a_network_looks_ahead():
    def denoiser(tokens, sigma=None, label=None, token_probs=None):
        certain = torch.nn.functional.one_hot(DNA.letter_index(tokens), 4).float()
        return certain.log()  # minus infinity for the other three

    denoiser.causal, denoiser.needs_sigma, denoiser.outputs = True, False, 4
    with pytest.raises(ValueError, match="outputs of this one change"):
        Autoregressive().bound(denoiser, torch.randint(7, 11, (2, 50)))


def test_a_network_is_probed_once_and_again_for_longer_sequences():
    objective, network = Autoregressive(), Copies(1, slice(0))
    tokens = torch.randint(7, 11, (3, 64))
    calls = []
    for length in (32, 32, 16, 64, 64):
        network.rows = 0
        objective.bound(network, tokens[:, :length])
        calls.append(network.rows - len(tokens))
    assert calls == [5, 0, 0, 2, 0]
    # Another network, and one that is wrapped for the classes of a batch, are probed for
    # themselves.
    with pytest.raises(ValueError, match="outputs of this one change"):
        objective.bound(Copies(3), tokens)
    objective.bound(conditioned(network, torch.zeros(3, dtype=torch.int64)), tokens)


def test_look_ahead_beyond_the_length_of_the_first_sequence_is_found_in_a_longer_one():
    objective, network = Autoregressive(), Copies(100)
    tokens = torch.randint(7, 11, (2, 256))
    objective.bound(network, tokens[:, :90])  # nothing to see 100 positions ahead
    with pytest.raises(ValueError, match="outputs of this one change"):
        objective.bound(network, tokens)


def test_an_objective_that_has_probed_a_network_can_be_copied_and_pickled():
    objective, tokens = Autoregressive(), SOURCE.sample(4)
    nats = objective.bound(SOURCE, tokens).nats
    for other in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert torch.equal(other.bound(SOURCE, tokens).nats, nats)
