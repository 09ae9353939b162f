import pytest
import torch
from closed_forms import CausalMarkovSource, JointSource, MarkovSource

from dnadiff.alphabet import DNA
from dnadiff.diffusion import Autoregressive

SOURCE = CausalMarkovSource(length=12)


def test_it_is_the_likelihood_of_each_sequence():
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


def test_a_two_sided_network_is_refused_for_it_would_give_less_than_the_entropy():
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
        """Sees nothing to the right, but the letter that it is to predict."""

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            return super().__call__(tokens) + torch.nn.functional.one_hot(
                DNA.letter_index(tokens), 4
            )

    for source in (Liar(length=12), OwnLetter(length=12)):
        with pytest.raises(ValueError, match="outputs move"):
            Autoregressive().bound(source, source.sample(4))
