"""Training with classes: conditioning, the label gain, and runs that repeat."""

import json
import math
from dataclasses import replace

import pytest
import torch
from closed_forms import MarkovSource
from small import CONTIGS, power_cut, tiny_recipe, write_fasta

import dnadiff
from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import MDLM, OBJECTIVES, SEDD, conditioned, make_objective
from dnadiff.diffusion.objective import select_rows
from dnadiff.errors import InputError, UsageError
from dnadiff.training.batches import Batch
from dnadiff.training.module import Pretraining
from dnadiff.training.pretrain import build, pretrain
from dnadiff.training.recipe import Recipe

LENGTH = 4
SOURCES = {"one": MarkovSource(LENGTH, seed=1), "other": MarkovSource(LENGTH, seed=2)}


def write_table(path, sizes):
    """Writes this many sequences of each class, by split."""
    rows = ["label,split,sequence"]
    for seed, (split, count) in enumerate(sizes.items()):
        for name, source in SOURCES.items():
            rows += [f"{name},{split},{DNA.decode(row)}" for row in source.sample(count, seed=seed)]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def labelled_recipe(table, **changes):
    return replace(tiny_recipe("", labels=table, window=LENGTH, eval_draws=2), genome=[], **changes)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(
        tmp_path_factory.mktemp("table") / "chains.csv", {"train": 60, "valid": 12, "test": 12}
    )


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, pretrain(labelled_recipe(table), folder, quiet=True)


def test_the_label_gain_is_the_mutual_information(tmp_path):
    """Likelihoods of a left-to-right model are exact: the gain is the mutual information."""
    recipe = labelled_recipe(
        write_table(tmp_path / "many.csv", {"train": 4000, "valid": 10, "test": 1000}),
        objective="autoregressive", backbone="mamba", d_model=16, batch_size=128, max_steps=300,
        learning_rate=1e-2, checkpoint_every=1000, reverse_complement=False, eval_windows=2000,
        precision="32-true",
    )  # fmt: skip
    test = pretrain(recipe, tmp_path / "run", quiet=True)["test"]
    x = torch.cat([source.sample(1000, seed=2) for source in SOURCES.values()])
    nats = torch.stack([source.nll(x) for source in SOURCES.values()]) / LENGTH
    own = torch.cat([nats[0, :1000], nats[1, 1000:]]).mean()
    both = -(torch.logsumexp(-nats * LENGTH, 0) - math.log(2)).mean() / LENGTH
    assert both - own > 0.14
    assert test["nats_per_base"] == pytest.approx(float(own), abs=0.005)
    assert test["label_gain"]["nats_per_base"] == pytest.approx(float(both - own), abs=0.03)
    assert test["unconditional"]["nats_per_base"] - test["nats_per_base"] == pytest.approx(
        test["label_gain"]["nats_per_base"]
    )


def test_a_tenth_of_the_rows_is_unconditional_in_any_batch(table):
    recipe = labelled_recipe(table)
    denoiser = build(recipe, MDLM(), ("one", "other"))
    module = Pretraining(denoiser, MDLM(), recipe, None)
    rows, label = torch.arange(20_000), torch.arange(20_000) % 2
    shown = module.shown_label(Batch(rows[:, None], rows, 0, None, label))
    unconditional = shown == 2
    assert torch.equal(shown[~unconditional], label[~unconditional])
    assert abs(int(unconditional.sum()) - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert torch.equal(
        module.shown_label(Batch(rows[7::3, None], rows[7::3], 9, None, label[7::3])), shown[7::3]
    )
    other = Pretraining(denoiser, MDLM(), replace(recipe, seed=1), None)
    assert not torch.equal(other.shown_label(Batch(rows[:, None], rows, 0, None, label)), shown)
    assert module.shown_label(Batch(rows[:, None], rows, 0)) is None


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_row_is_conditioned_on_its_own_class(name):
    """Also where an objective asks about some of the rows alone."""
    objective = make_objective(name)
    torch.manual_seed(0)
    lm = CaduceusLM(
        CaduceusConfig(d_model=8, n_layer=1, rcps=False, bidirectional=not objective.causal)
    )
    denoiser = LMDenoiser(
        lm,
        needs_sigma=objective.time_conditioned,
        labels=("a", "b"),
        outputs=objective.outputs,
        self_conditioned=objective.self_conditioned,
    ).eval()
    torch.nn.init.normal_(denoiser.conditioning.scale_shift.weight)
    if denoiser.self_cond is not None:
        torch.nn.init.normal_(denoiser.self_cond.weight)
    tokens = torch.randint(7, 11, (12, 20), generator=torch.Generator().manual_seed(0))
    label, index = torch.arange(12) % 3, torch.arange(12)
    whole = objective.bound(conditioned(denoiser, label), tokens, draws=2, index=index).nats
    draw = {"seed": 5, "step": 3}
    shares = []
    for number in range(3):
        rows = label == number
        one = conditioned(denoiser, torch.full((4,), number))
        alone = objective.bound(one, tokens[rows], draws=2, index=index[rows]).nats
        torch.testing.assert_close(alone, whole[rows], rtol=1e-4, atol=1e-4)
        shares.append(objective.loss(one, tokens[rows], index=index[rows], **draw).nats_per_base)
    loss = objective.loss(conditioned(denoiser, label), tokens, index=index, **draw).nats_per_base
    assert float(loss) == pytest.approx(float(sum(shares)) / 3, rel=1e-4)
    unconditional = objective.bound(denoiser, tokens, draws=2, index=index).nats
    torch.testing.assert_close(unconditional[label == 2], whole[label == 2], rtol=1e-4, atol=1e-4)
    assert (unconditional - whole)[label != 2].abs().min() > 1e-3


def test_selected_rows_keep_their_classes():
    source = MarkovSource(LENGTH)
    assert conditioned(source, None) is source and select_rows(source, slice(2)) is source
    known = conditioned(source, torch.tensor([0, 1, 1]))
    assert select_rows(known, torch.tensor([True, False, True])).label.tolist() == [0, 1]
    with pytest.raises(ValueError, match="2 rows need as many classes, and there are 3"):
        known(source.sample(2))


def test_a_run_reports_its_classes(run, table):
    folder, summary = run
    for split in ("valid", "test"):
        figures = summary[split]
        assert (
            figures["windows"]
            == figures["unconditional"]["windows"]
            == figures["label_gain"]["windows"]
            == 8
        )
    assert json.loads((folder / "summary.json").read_text()) == summary
    card = (folder / "model" / "README.md").read_text()
    assert (
        "the column split of chains.csv; classes one, other" in card
        and "| test, unconditional | " in card
    )
    about = json.loads((folder / "model" / "config.json").read_text())["dnadiff"]
    assert about["labels"] == ["one", "other"] and about["table"]["name"] == "chains.csv"
    assert (folder / "bounds.csv").read_text().splitlines()[1].startswith("valid,chains.csv,line ")
    assert Recipe.read(folder / "config.yaml") == labelled_recipe(table)


def test_a_labelled_run_that_was_killed_resumes_bit_for_bit(run, table, tmp_path):
    with power_cut(4):
        pretrain(labelled_recipe(table), tmp_path / "cut", quiet=True)
    resumed = pretrain(labelled_recipe(table), tmp_path / "cut", resume=True, quiet=True)
    assert resumed["test"] == run[1]["test"]
    assert dnadiff.load(tmp_path / "cut").digest == dnadiff.load(run[0]).digest


def test_classes_are_added_to_an_unconditional_model(run, table, tmp_path):
    unlabelled = tiny_recipe(
        write_fasta(tmp_path / "tiny.fa", CONTIGS), objective="sedd", max_steps=3, window=LENGTH
    )
    pretrain(unlabelled, tmp_path / "sedd", quiet=True)
    before = dnadiff.load(tmp_path / "sedd").denoiser
    torch.manual_seed(0)
    recipe = labelled_recipe(table, objective="sedd", init=str(tmp_path / "sedd"))
    now = build(recipe, SEDD(), ("one", "other")).eval()
    tokens, sigma = torch.randint(7, 11, (3, LENGTH)), torch.tensor([0.1, 1.0, 3.0])
    assert torch.equal(
        now(tokens, sigma=sigma, label=torch.tensor([0, 1, 2])), before(tokens, sigma=sigma)
    )
    pretrain(recipe, tmp_path / "labelled", quiet=True)
    assert dnadiff.load(tmp_path / "labelled").denoiser.labels == ("one", "other")

    same = build(labelled_recipe(table, init=str(run[0])), MDLM(), ("one", "other"))
    state = dnadiff.load(run[0]).denoiser.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in same.state_dict().items())
    others = build(labelled_recipe(table, init=str(run[0])), MDLM(), ("x", "y", "z"))
    assert others.conditioning.labels == 3 and not others.conditioning.scale_shift.weight.any()


def test_intervals_of_a_genome_are_trained_on_too(tmp_path):
    genome = write_fasta(tmp_path / "tiny.fa", CONTIGS)
    rows = [
        f"{'ab'[i % 2]}\t{chrom}\t{100 * i}\t{100 * i + 50}" for chrom in CONTIGS for i in range(8)
    ]
    (tmp_path / "peaks.tsv").write_text("\n".join(["label\tchrom\tstart\tend", *rows]) + "\n")
    recipe = tiny_recipe(genome, labels=str(tmp_path / "peaks.tsv"))
    summary = pretrain(recipe, tmp_path / "run", quiet=True)
    assert summary["test"]["windows"] == 8 and "unconditional" in summary["test"]
    rows = (tmp_path / "run" / "bounds.csv").read_text().splitlines()[1:]
    assert all(int(row.split(",")[4]) - int(row.split(",")[3]) == 64 for row in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genome": ["a.fa", "b.fa"]}, "labels goes with one genome, or with none"),
        ({"genome": ["a.fa"], "tiled": True}, "^tiled is for windows of a genome"),
        ({"min_scorable": 0.5}, "^min_scorable is for windows of a genome"),
        ({"soft_mask_weight": 0.5}, "^soft_mask_weight is for windows of a genome"),
        (
            {"genome": ["a.fa"], "genome_weight": [1.0]},
            "^genome_weight is for windows of a genome",
        ),
        (
            {"genome": ["a.fa"], "split": "legacy", "intervals": "a.bed"},
            "^split legacy is for windows of a genome",
        ),
        ({"blacklist": "a.bed"}, "^blacklist goes with one genome"),
        ({"labels": None}, "no data: give genome .* or labels"),
    ],
)
def test_settings_that_do_not_go_with_labels(changes, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**({"labels": "t.csv", "max_steps": 5} | changes))


def test_a_table_that_cannot_be_used_leaves_no_folder(tmp_path):
    (tmp_path / "t.csv").write_text("label,sequence\na,ACGT\n")
    with pytest.raises(InputError, match="only the class 'a'"):
        pretrain(labelled_recipe(str(tmp_path / "t.csv")), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
