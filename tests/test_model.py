import json

import numpy as np
import pandas as pd
import pytest
import torch
from closed_forms import MarkovSource

import dnadiff
from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.network_input import NetworkInput
from dnadiff.backbones.weights import read_tensors, write_tensors
from dnadiff.diffusion import MDLM, UDLM
from dnadiff.errors import InputError, UsageError
from dnadiff.model import Model


def model(rcps=True, seed=0):
    torch.manual_seed(seed)
    lm = CaduceusLM(CaduceusConfig(d_model=12, n_layer=2, rcps=rcps, ssm_cfg=SSMConfig(d_state=4)))
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return Model(LMDenoiser(lm), MDLM(), {"window": 64})


class Known(Model):
    """A bundle around an exact denoiser, which has no weights and no device."""

    device = torch.device("cpu")

    def __init__(self, source):
        self.denoiser, self.objective = source, MDLM()


def complement(text):
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


SEQUENCES = ["ACGTTGCA" * 5, "GATTACANNN" * 4, "ACGTTGCA" * 5, "TTTTGGGGCC", "A"]


def test_save_and_load(tmp_path):
    one = model()
    one.save(tmp_path / "run" / "model")
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        two = dnadiff.load(path)
        assert two.digest == one.digest and two.about == one.about
        assert two.generate(2, length=30) == one.generate(2, length=30)
    assert model(seed=1).digest != one.digest


def test_what_the_published_format_has_no_place_for_is_saved_too(tmp_path):
    one = model()
    told = LMDenoiser(one.denoiser.lm, needs_sigma=True, labels=("on", "off"), outputs=5)
    torch.nn.init.normal_(told.conditioning.scale_shift.weight)
    Model(told, MDLM(zero_masking=False, steps=50)).save(tmp_path)
    two = dnadiff.load(tmp_path)
    assert two.objective.options == MDLM(zero_masking=False, steps=50).options
    assert two.denoiser.labels == ("on", "off") and two.denoiser.needs_sigma
    tokens, sigma = torch.randint(7, 11, (2, 30)), torch.tensor([0.1, 2.0])
    assert torch.equal(two.denoiser(tokens, sigma=sigma), told.eval()(tokens, sigma=sigma))
    assert two.digest == Model(told, MDLM(zero_masking=False)).digest != one.digest
    assert two.params == one.params + sum(p.numel() for p in told.conditioning.parameters())


def test_embeddings_of_a_network_that_is_told_the_noise_are_of_no_noise():
    lm = model().denoiser.lm
    told = LMDenoiser(lm, needs_sigma=True)
    torch.nn.init.normal_(told.conditioning.scale_shift.weight)
    modulation = told.conditioning(torch.zeros(1), None, 1)
    tokens = torch.from_numpy(DNA.encode("ACGTTGCA"))[None]
    expected = lm.states(NetworkInput(tokens, modulation=modulation)).mean((0, 1)).detach().numpy()
    np.testing.assert_allclose(Model(told, MDLM()).embed(["ACGTTGCA"])[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop("dnadiff.conditioning.time.0.bias"),
            "missing weight dnadiff.conditioning.time.0.bias",
        ),
        (lambda t: t.update({"dnadiff.more": torch.zeros(1)}), "unexpected weight dnadiff.more"),
        (
            lambda t: t["dnadiff.conditioning.time.0.bias"].fill_(torch.nan),
            "time.0.bias is damaged",
        ),
        (
            lambda t: t.update({"dnadiff.conditioning.time.0.bias": torch.zeros(3)}),
            "time.0.bias is damaged",
        ),
    ],
)
def test_damage_to_them_is_named(tmp_path, change, said):
    Model(LMDenoiser(model().denoiser.lm, needs_sigma=True), MDLM()).save(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    change(tensors)
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(InputError, match=said):
        dnadiff.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"objective": "best"}, "unknown objective 'best'"),
        ({"objective_options": {"speed": 3}}, "mdlm has no option 'speed'"),
        ({"objective_options": {"steps": 0}}, "steps must be at least 1"),
        ({"objective_options": {"steps": 2.5}}, "steps cannot be 2.5"),
        ({"objective_options": {"carry_over": "false"}}, "carry_over cannot be 'false'"),
        ({"objective": "plaid", "objective_options": {"gamma": [1]}}, "gamma needs two numbers"),
        ({"objective": "plaid", "objective_options": {"gamma": 5}}, "gamma cannot be 5"),
        ({"needs_sigma": "yes"}, "needs_sigma cannot be 'yes'"),
        ({"labels": "on"}, "labels cannot be 'on'"),
    ],
)
def test_a_description_that_makes_no_sense_is_named(tmp_path, field, said):
    model().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["dnadiff"] |= field
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"config.json: .*{said}"):
        dnadiff.load(tmp_path)


@pytest.mark.parametrize("rcps", [True, False])
def test_embeddings_do_not_depend_on_strand_or_batch(rcps):
    held = model(rcps)
    together = held.embed(SEQUENCES)
    assert together.shape == (5, 12) and together.dtype == np.float32
    assert np.array_equal(together[0], together[2])
    for i, sequence in enumerate(SEQUENCES):
        np.testing.assert_allclose(held.embed([sequence])[0], together[i], atol=2e-5)
        np.testing.assert_allclose(held.embed([complement(sequence)])[0], together[i], atol=2e-5)


def test_embedding_is_the_mean_of_hidden_states():
    held = model(rcps=False)
    tokens = torch.from_numpy(DNA.encode(SEQUENCES[0]))[None]
    with torch.no_grad():
        states = [held.denoiser.lm.backbone(t)[0] for t in (tokens, DNA.reverse_complement(tokens))]
    expected = torch.cat(states).mean(0).numpy()
    np.testing.assert_allclose(held.embed(SEQUENCES[:1])[0], expected, atol=1e-5)


def test_score_gives_a_row_for_each_sequence_in_order():
    held = model()
    table = held.score(SEQUENCES, draws=4)
    assert list(table.columns) == ["name", "length", "nats", "nats_per_base", "ppl", "se"]
    assert list(table.length) == [40, 40, 40, 10, 1]
    assert table.nats[1] / table.nats_per_base[1] == pytest.approx(28)  # N is not scored
    np.testing.assert_allclose(table.ppl, np.exp(table.nats_per_base))
    np.testing.assert_allclose(held.score(SEQUENCES[:2], draws=4).nats, table.nats[:2], rtol=1e-5)


def test_a_series_keeps_its_order_and_its_index():
    held = model()
    series = pd.Series(SEQUENCES, index=[4, 0, 1, 3, 2])
    assert np.array_equal(held.embed(series), held.embed(SEQUENCES))
    filtered = series[series.str.len() == 40]
    table = held.score(filtered, draws=4)
    expected = held.score(SEQUENCES[:3], draws=4)
    assert list(table.index) == [4, 0, 1] and list(table.name) == ["4", "0", "1"]
    assert list(table.nats) == list(expected.nats)
    assert len(held.embed(filtered)) == 3


def test_names_of_a_dict_are_kept():
    assert list(model().score({"a": "ACGT", "b": "GGCC"}).name) == ["a", "b"]


def test_nothing_to_score_gives_an_empty_table():
    assert model().score([]).empty and model().embed([]).shape == (0, 12)


def test_score_is_the_objectives_bound():
    source = MarkovSource(length=12)
    held = Known(source)
    tokens = source.sample(400)
    table = held.score([DNA.decode(row) for row in tokens], draws=8)
    paired = torch.tensor(table.nats) - source.nll(tokens)
    assert abs(paired.mean()) < 4 * paired.std() / 20


SAMPLERS = {
    "ancestral": {},
    "first_hitting": {"steps": None},
    "analytic": {},
    "remasking": {"remask": "confidence", "eta": 0.3},
    "uniform": {},
    "semi_autoregressive": {"window": 16},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sequence_depends_on_seed_and_number_alone(sampler):
    """Not on what else is drawn, nor with how many threads."""
    held = model()
    held.objective = UDLM() if sampler == "uniform" else MDLM()
    options = {"sampler": sampler, "length": 24, "seed": 5, "steps": 6, **SAMPLERS[sampler]}
    together = held.generate(9, **options)
    assert len(set(together)) == 9
    for batch_size in (1, 7):
        assert held.generate(9, batch_size=batch_size, **options) == together
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert held.generate(9, **options) == together
    finally:
        torch.set_num_threads(threads)


def test_batches_fit_into_the_memory_that_there_is(monkeypatch):
    held, sizes = model(), []
    held.denoiser.register_forward_hook(lambda module, inputs, logits: sizes.append(len(inputs[0])))
    options = {"length": 50, "steps": 1}
    together = held.generate(12, **options)
    assert set(sizes) == {12}
    for memory, batch in ((3e6, 12), (1.15e6, 7), (1e3, 1)):
        sizes.clear()
        monkeypatch.setattr(
            "dnadiff.sampling.generation.free_memory", lambda device, memory=memory: int(memory)
        )
        assert held.generate(12, **options) == together
        assert max(sizes) == batch
    monkeypatch.undo()
    assert held.generate(12, start=5, **options) == together[5:]


def test_auto_fits_objective_and_length():
    held = model()  # trained on windows of 64
    assert str(held.resolve_sampler(length=64)) == "sampler=ancestral steps=128"
    assert str(held.resolve_sampler(length=65)) == "sampler=ancestral steps=128 window=64 stride=32"
    assert (
        str(held.resolve_sampler(length=65, steps=3))
        == "sampler=ancestral steps=3 window=64 stride=32"
    )
    assert str(held.resolve_sampler(length=65, sampler="first_hitting")) == "sampler=first_hitting"
    assert (
        str(held.resolve_sampler(length=65, window=32))
        == "sampler=ancestral steps=128 window=32 stride=16"
    )
    assert held.generate(2, length=70, steps=3) == held.generate(
        2, length=70, sampler="ancestral", steps=3, window=64, stride=32
    )
    held.objective = UDLM()
    assert held.resolve_sampler(length=10).sampler == "uniform"
    held.about = {}
    assert str(held.resolve_sampler(length=1000)) == "sampler=uniform steps=128"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.embed(["ACGT", ""]), InputError, "sequence 2 is empty"),
        (lambda m: m.embed(["ACGT", "AC*"]), InputError, r"sequence 2: '\*' at position 3"),
        (lambda m: m.embed("ACGT"), UsageError, r"one str .* write \[sequence\]"),
        (lambda m: m.score("ACGT"), UsageError, r"one str .* write \[sequence\]"),
        (lambda m: m.score(["ACGT", float("nan")]), InputError, "sequence 2 is missing"),
        (lambda m: m.embed(["ACGT"], pooling="max"), UsageError, "pooling"),
        (lambda m: m.generate(1, length=3, template="ACGT"), UsageError, "contradicts"),
        (lambda m: m.generate(-1), UsageError, "at least 1"),
        (lambda m: m.generate(sampler="uniform"), UsageError, "trained with absorbing noise"),
    ],
)
def test_bad_calls_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(model())


def test_what_is_not_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        dnadiff.load(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match=r"has not finished.*--resume"):
        dnadiff.load(tmp_path)
    held = model()
    held.save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"mdlm"', '"telepathy"'))
    with pytest.raises(InputError, match="unknown objective 'telepathy'"):
        dnadiff.load(tmp_path)


def test_a_bundle_of_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        dnadiff.foo  # noqa: B018
