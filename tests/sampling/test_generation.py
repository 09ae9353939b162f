"""What a model draws and writes: configurations, names, headers, and files that continue."""

import re

import pytest
import torch
from Bio import SeqIO

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import MDLM
from dnadiff.errors import InputError, UsageError
from dnadiff.model import Model
from dnadiff.sampling import Constraints, SamplerConfig, generation, parse_template
from dnadiff.sampling.templates import Template


def model(weights=0, labels=()):
    torch.manual_seed(weights)
    denoiser = LMDenoiser(CaduceusLM(CaduceusConfig(8, 1)), labels=labels)
    if labels:
        torch.nn.init.normal_(denoiser.conditioning.scale_shift.weight)
    return Model(denoiser, MDLM(), {"window": 16})


OPTIONS = {"length": 12, "steps": 2}


def records(path):
    with path.open() as file:
        return {r.id: (r.description, str(r.seq)) for r in SeqIO.parse(file, "fasta")}


def test_a_file_has_what_generate_draws_and_how_it_was_made(tmp_path):
    held, counts = model(), []
    lab = Constraints(avoid=["GAATTC"])
    held.write_fasta(
        tmp_path / "new.fa",
        3,
        seed=5,
        constraints=lab,
        progress=lambda *count: counts.append(count),
        **OPTIONS,
    )
    found = records(tmp_path / "new.fa")
    drawn = held.generate(3, seed=5, constraints=lab, **OPTIONS)
    assert [sequence for _, sequence in found.values()] == drawn
    assert counts == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for i, (description, _) in enumerate(found.values()):
        made = f"model={held.digest} sampler=ancestral steps=2 temperature=1 seed=5 avoid=GAATTC"
        assert re.fullmatch(
            rf"sample_[0-9a-f]{{8}}_{i} {made} design=[0-9a-f]{{8}} index={i} length=12",
            description,
        )


def test_a_file_is_continued_after_its_last_whole_record(tmp_path):
    held = model()
    held.write_fasta(tmp_path / "whole.fa", 5, **OPTIONS)
    text = (tmp_path / "whole.fa").read_text()
    (tmp_path / "new.fa.part").write_text(text[: text.index(">", len(text) // 2) + 9])
    held.write_fasta(tmp_path / "new.fa", 5, batch_size=2, **OPTIONS)
    assert (tmp_path / "new.fa").read_text() == text
    with pytest.raises(InputError, match="exists already"):
        held.write_fasta(tmp_path / "new.fa", 5, **OPTIONS)


def test_names_differ_between_models_seeds_and_settings_but_not_between_batches(tmp_path):
    runs = {
        "first": (model(0), {}),
        "another model": (model(1), {}),
        "another seed": (model(0), {"seed": 1}),
        "other steps": (model(0), {"steps": 3}),
        "another temperature": (model(0), {"temperature": 0.9}),
        "other constraints": (model(0), {"constraints": Constraints(max_homopolymer=5)}),
        "same": (model(0), {"batch_size": 1}),
    }
    names = {}
    for name, (held, options) in runs.items():
        held.write_fasta(tmp_path / name, 2, **{**OPTIONS, **options})
        names[name] = tuple(records(tmp_path / name))
    assert names["first"] == names["same"]
    assert len({one for pair in names.values() for one in pair}) == 2 * (len(runs) - 1)


def test_no_class_is_none_and_null_is_the_name_of_a_class(tmp_path):
    held = model(labels=("null", "b"))
    options = {"length": 16, "steps": 4}
    drawn = {label: held.generate(20, label=label, **options) for label in (None, "null", "b")}
    assert drawn[None] != drawn["null"] != drawn["b"]
    for name, label, words in (("a", "null", " label=null guidance=1 "), ("b", None, "")):
        held.write_fasta(tmp_path / name, label=label, **options)
        (description, _) = next(iter(records(tmp_path / name).values()))
        assert words in description and ("label" in description) == (label is not None)


def test_a_sampler_is_resolved_once_for_a_length_however_many_batches(monkeypatch):
    calls, resolve = [], generation.resolve_sampler

    def counting(config, denoiser, length, **more):
        calls.append(length)
        return resolve(config, denoiser, length, **more)

    monkeypatch.setattr(generation, "resolve_sampler", counting)
    held = model()
    held.generate(4, batch_size=2, **OPTIONS)
    assert calls == [12]
    calls.clear()
    texts = ["ACNN", "NNNNN", "NNNN", "NNGNN"]
    templates = [Template(*parse_template(text), number=i) for i, text in enumerate(texts)]
    held.generate(2, template=templates, batch_size=1, steps=2)
    assert calls == [4, 5]


def test_a_configuration_may_be_passed_whole():
    held, config = model(), SamplerConfig("remasking", steps=3, eta=0.5)
    assert held.generate(2, length=9, sampler=config) == held.generate(
        2, length=9, sampler="remasking", steps=3, eta=0.5
    )
    assert held.resolve_sampler(length=9, sampler=config).remask == "cap"
    with pytest.raises(UsageError, match="eta is given twice"):
        held.generate(length=9, sampler=config, eta=0.1)


def test_a_template_may_be_a_path(tmp_path):
    (tmp_path / "designs.fa").write_text(">a\nACGTNNNN\n")
    assert model().generate(template=tmp_path / "designs.fa", steps=2)[0].startswith("ACGT")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num, the number of sequences, must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"sampler": "first_hitting", "steps": 2}, "leave steps out"),
        ({"stride": 2, "length": 8, "sampler": "ancestral"}, "stride needs a window"),
        ({"length": 5, "template": "ACGN"}, "length 5 contradicts"),
    ],
)
def test_messages_name_parameters_and_not_flags(options, message):
    with pytest.raises(UsageError, match=message) as error:
        model().generate(**options)
    assert "--" not in str(error.value)
