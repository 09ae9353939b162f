import pytest
import torch
from literal import Literal, published, random_tensors
from test_published import IDS, once, relative, write

from dnadiff.alphabet import DNA
from dnadiff.backbones import load_classifier
from dnadiff.errors import InputError

SCORE = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))


def fine_tune(folder, score=SCORE, **changes):
    """A published fine-tune, and the literal implementation of its backbone."""
    config = published(architectures=["CaduceusForSequenceClassification"], **changes)
    tensors = random_tensors(config)
    head = {"score.weight": score} | {
        k: v for k, v in tensors.items() if not k.startswith("lm_head")
    }
    write(folder, config, once(head, config))
    return Literal(tensors, config)


def pooled(states, pooling):
    return states.mean(1) if pooling == "mean" else states.max(1).values


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("fused", [True, False])
def test_ps_scores_each_strand_and_averages(tmp_path, fused, n_layer, pooling):
    literal = fine_tune(tmp_path, fused_add_norm=fused, n_layer=n_layer)
    hidden = literal.hidden(IDS)
    strands = hidden[..., :6], hidden[..., 6:].flip(1, 2)
    expected = sum(pooled(strand, pooling) @ SCORE.double().T for strand in strands) / 2
    classifier = load_classifier(tmp_path, pooling=pooling)
    with torch.no_grad():
        found, opposite = classifier(IDS), classifier(DNA.reverse_complement(IDS))
    assert found.shape == (2, 3)
    assert relative(found, expected) < 1e-4
    torch.testing.assert_close(opposite, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_ph_scores_one_strand_or_averages_two(tmp_path, pooling):
    literal = fine_tune(tmp_path, rcps=False)
    both = torch.stack([IDS, DNA.reverse_complement(IDS)], -1)
    alone, other = (
        pooled(literal.hidden(ids), pooling) @ SCORE.double().T for ids in both.unbind(-1)
    )
    classifier = load_classifier(tmp_path, pooling=pooling)
    with torch.no_grad():
        assert relative(classifier(IDS), alone) < 1e-4
        assert relative(classifier(both), (alone + other) / 2) < 1e-4


def test_labels_have_their_names(tmp_path):
    fine_tune(tmp_path)
    assert load_classifier(tmp_path).labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    fine_tune(tmp_path, id2label={"2": "c", "0": "a", "1": "b"}, label2id={"a": 0, "b": 1, "c": 2})
    assert load_classifier(tmp_path).labels == ["a", "b", "c"]
    fine_tune(tmp_path, id2label={"0": "a", "1": "b"})
    with pytest.raises(InputError, match=r"config.json: id2label does not name the 3 classes"):
        load_classifier(tmp_path)


def test_what_is_no_fine_tune_is_named(tmp_path):
    config = published()
    write(tmp_path, config, random_tensors(config))
    with pytest.raises(InputError, match=r"not a classifier \(it has no score.weight\)"):
        load_classifier(tmp_path)
    fine_tune(tmp_path, score=torch.ones(3, 7))
    with pytest.raises(InputError, match=r"score.weight has shape \(3, 7\); it must be \(3, 6\)"):
        load_classifier(tmp_path)
    fine_tune(tmp_path)
    with pytest.raises(ValueError, match="both strands by itself"):
        load_classifier(tmp_path)(torch.stack([IDS, IDS], -1))
