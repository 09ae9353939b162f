import csv
import json
from dataclasses import replace

import pytest
import torch
from small import CONTIGS, power_cut, tiny_recipe, write_fasta

import dnadiff
from dnadiff.alphabet import DNA
from dnadiff.diffusion import MDLM, OBJECTIVES, SEDD, Autoregressive, Plaid
from dnadiff.errors import InputError, UsageError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.windows import Drawn
from dnadiff.rng import Stream, uniform
from dnadiff.training.batches import Steps
from dnadiff.training.callbacks import ema
from dnadiff.training.checkpoints import read_checkpoint
from dnadiff.training.fit import precision_of
from dnadiff.training.module import Pretraining, decay_groups
from dnadiff.training.pretrain import build, pretrain
from dnadiff.training.recipe import Recipe


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return write_fasta(tmp_path_factory.mktemp("genome") / "tiny.fa", CONTIGS)


@pytest.fixture(scope="module")
def run(genome, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, pretrain(tiny_recipe(genome), folder, quiet=True)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_run_folder_holds_what_is_promised(run, genome):
    folder, summary = run
    files = {"config.yaml", "metrics.csv", "summary.json", "bounds.csv", "audit.csv"}
    assert {p.name for p in folder.iterdir()} == files | {"model", "checkpoints"}
    assert {p.name for p in (folder / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["steps"] == 6 and summary["bases_seen"] == 6 * 4 * 64
    keys = {"nats_per_base", "se", "se_blocks", "ppl", "bound", "windows", "blocks", "bases"}
    assert set(summary["test"]) == keys
    assert summary["skipped_steps"] == 0
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "last.ckpt",
        "previous.ckpt",
        "best.ckpt",
    }
    assert summary["test"]["bound"] == "upper" and summary["test"]["windows"] == 8
    assert 1.3 < summary["test"]["nats_per_base"] < 1.5 and summary["test"]["se"] > 0
    assert Recipe.read(folder / "config.yaml") == tiny_recipe(genome)
    assert "Held-out bounds" in (folder / "model" / "README.md").read_text()


def test_the_audit_says_what_the_splits_share(run):
    rows = table(run[0] / "audit.csv")
    assert [(row["split"], row["other"]) for row in rows] == [
        ("valid", "train"),
        ("test", "train"),
        ("test", "valid"),
    ]
    assert all(
        row["shared_bases"] == row["shared_kmers"] == "0" and int(row["windows"]) == 8
        for row in rows
    )


def test_soft_masked_bases_weigh_less_in_the_loss_alone(tmp_path, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    letters = DNA.decode(torch.randint(7, 11, (9000,), generator=rng))
    genome = write_fasta(tmp_path / "masked.fa", {"a": letters.lower()[:4500] + letters[4500:]})
    weights = []

    class Weighted(MDLM):
        def loss(self, *args, weight=None, total=None, **options):
            weights.append(weight)
            return super().loss(*args, **options)

    monkeypatch.setitem(OBJECTIVES, "mdlm", Weighted)
    bounds = []
    for weight in (0.25, 1.0):
        recipe = tiny_recipe(
            genome, soft_mask_weight=weight, reverse_complement=False, learning_rate=1e-9
        )
        bounds.append(pretrain(recipe, tmp_path / str(weight), quiet=True)["test"])
    assert bounds[0] == bounds[1]
    assert weights[6:] == [None] * 6
    assert {w.shape for w in weights[:6]} == {(4, 64)}
    assert torch.cat(weights[:6]).unique().tolist() == [0.25, 1.0]


def test_every_way_to_choose_windows_trains(tmp_path):
    genome = write_fasta(
        tmp_path / "tiny.fa", {"one": "N" * 500, "two": 6000, "three": 900, "four": 800}
    )
    other = write_fasta(tmp_path / "other.fa", {"x": 6000, "y": 700, "z": 700}, seed=1)
    (tmp_path / "split.bed").write_text(
        "chrom\tstart\tend\tfold\tweight\ntwo\t0\t4000\tf0\t2\ntwo\t4000\t6000\tf1\t1\n"
        "three\t0\t900\tf2\t1\nfour\t0\t800\tf3\t1\n"
    )
    (tmp_path / "black.bed").write_text("two\t100\t200\nchrX\t0\t5\n")
    choices = [
        {
            "intervals": str(tmp_path / "split.bed"),
            "test_fold": "f2",
            "blacklist": str(tmp_path / "black.bed"),
        },
        {"tiled": True, "jitter": 8, "min_scorable": 0.9},
        {"genome": [str(genome), str(other)], "genome_weight": [3.0, 1.0]},
    ]
    for number, choice in enumerate(choices):
        summary = pretrain(
            replace(tiny_recipe(genome), **choice), tmp_path / str(number), quiet=True
        )
        assert summary["steps"] == 6
    about = (tmp_path / "0" / "model" / "README.md").read_text()
    assert "intervals of split.bed, test f2, valid f3; without 100 bases of black.bed" in about


def test_metrics_have_training_and_validation_rows(run):
    rows = table(run[0] / "metrics.csv")
    assert [int(r["step"]) for r in rows if r["train_nats_per_base"]] == [2, 4, 6]
    assert [int(r["step"]) for r in rows if r["valid_nats_per_base"]] == [3, 6]
    assert all(int(r["bases_seen"]) == int(r["step"]) * 256 for r in rows)


def test_bounds_are_those_of_the_windows_that_they_name(run, genome):
    folder, summary = run
    rows = [r for r in table(folder / "bounds.csv") if r["split"] == "test"]
    nats = sum(float(r["nats"]) for r in rows) / sum(int(r["bases"]) for r in rows)
    assert nats == pytest.approx(summary["test"]["nats_per_base"], rel=1e-6)
    model = dnadiff.load(folder)
    reference = Genome.open(genome)
    tokens = torch.stack(
        [reference.tokens(r["chrom"], int(r["start"]), int(r["end"])) for r in rows]
    )
    again = model.objective.bound(model.denoiser, tokens, draws=2, seed=0)
    assert again.nats.tolist() == pytest.approx([float(r["nats"]) for r in rows], rel=1e-5)


def test_the_same_recipe_gives_the_same_model(run, genome, tmp_path):
    again = pretrain(tiny_recipe(genome), tmp_path / "again", quiet=True)
    assert again["test"] == run[1]["test"]
    assert dnadiff.load(tmp_path / "again").digest == dnadiff.load(run[0]).digest


def test_a_killed_run_resumes_bit_for_bit(run, genome, tmp_path):
    with power_cut(4):
        pretrain(tiny_recipe(genome), tmp_path / "cut", quiet=True)
    assert not (tmp_path / "cut" / "model").exists()
    resumed = pretrain(tiny_recipe(genome), tmp_path / "cut", resume=True, quiet=True)
    assert resumed["test"] == run[1]["test"]
    assert dnadiff.load(tmp_path / "cut").digest == dnadiff.load(run[0]).digest
    columns = ("step", "train_nats_per_base", "valid_nats_per_base")
    logs = [
        [[row[c] for c in columns] for row in table(folder / "metrics.csv")]
        for folder in (run[0], tmp_path / "cut")
    ]
    assert logs[0] == logs[1]


def test_a_run_killed_after_its_last_step_ends_with_the_same_average(
    run, genome, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("dnadiff.training.pretrain.finish", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrain(tiny_recipe(genome), tmp_path / "cut", quiet=True)
    resumed = pretrain(tiny_recipe(genome), tmp_path / "cut", resume=True, quiet=True)
    assert resumed["test"] == run[1]["test"]
    assert dnadiff.load(tmp_path / "cut").digest == dnadiff.load(run[0]).digest


def test_what_is_saved_of_an_objective_gives_its_figures_again(genome, tmp_path):
    recipe = tiny_recipe(genome, objective="plaid", learning_rate=0.05)
    summary = pretrain(recipe, tmp_path / "plaid", quiet=True)
    model = dnadiff.load(tmp_path / "plaid")
    assert not torch.equal(model.objective.letters.weight, Plaid().letters.weight)
    rows = [r for r in table(tmp_path / "plaid" / "bounds.csv") if r["split"] == "test"]
    tokens = torch.stack(
        [Genome.open(genome).tokens(r["chrom"], int(r["start"]), int(r["end"])) for r in rows]
    )
    again = model.objective.bound(model.denoiser, tokens, draws=2, seed=0)
    assert again.nats.tolist() == pytest.approx([float(r["nats"]) for r in rows], rel=1e-4)
    assert summary["params"] == model.params

    objective = Plaid()
    goes_on = build(replace(recipe, init=str(tmp_path / "plaid")), objective)
    assert torch.equal(objective.letters.weight, model.objective.letters.weight)
    assert torch.equal(goes_on.self_cond.weight, model.denoiser.self_cond.weight)
    told = build(replace(recipe, init=str(tmp_path / "plaid"), objective="sedd"), SEDD())
    state = model.denoiser.conditioning.state_dict()
    assert all(
        torch.equal(value, state[name]) for name, value in told.conditioning.state_dict().items()
    )
    plain = build(replace(recipe, init=str(tmp_path / "plaid"), objective="mdlm"), MDLM())
    assert plain.conditioning is None and plain.self_cond is None


def test_a_left_to_right_model_has_no_noise_level(genome):
    recipe = tiny_recipe(
        genome, objective="autoregressive", backbone="mamba", time_conditioning=True
    )
    with pytest.raises(UsageError, match="no noise level to condition on"):
        build(recipe, Autoregressive())


def test_bfloat16_is_another_arithmetic_for_the_same_run(genome, tmp_path):
    bounds = {}
    for precision in ("32-true", "bf16-mixed"):
        summary = pretrain(
            tiny_recipe(genome, precision=precision), tmp_path / precision, quiet=True
        )
        bounds[precision] = summary["test"]["nats_per_base"]
    assert bounds["32-true"] != bounds["bf16-mixed"]
    assert bounds["32-true"] == pytest.approx(bounds["bf16-mixed"], abs=2e-3)


@pytest.mark.parametrize(("pays", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_is_that_of_the_machine(monkeypatch, genome, pays, expected):
    monkeypatch.setattr("dnadiff.training.fit.prefers_bf16", lambda device, d_model: pays)
    assert precision_of(tiny_recipe(genome)) == expected
    assert precision_of(tiny_recipe(genome, precision="32-true")) == "32-true"


def test_time_ends_a_run_too(genome, tmp_path):
    recipe = tiny_recipe(genome, max_steps=None, max_time="00:00:01", checkpoint_every=1000)
    summary = pretrain(recipe, tmp_path / "timed", quiet=True)
    assert summary["steps"] > 0 and 1.0 <= summary["seconds"] < 20
    assert (tmp_path / "timed" / "checkpoints" / "last.ckpt").exists()


def test_a_run_starts_from_another_model(run, genome, tmp_path):
    denoiser = build(tiny_recipe(genome, init=str(run[0]), d_model=99), MDLM())
    assert denoiser.lm.config.d_model == 8
    saved = dnadiff.load(run[0]).denoiser.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in denoiser.state_dict().items())


def test_a_folder_that_is_not_empty_is_left_alone(run, genome):
    before = (run[0] / "summary.json").read_text()
    with pytest.raises(InputError, match="not empty"):
        pretrain(tiny_recipe(genome), run[0], quiet=True)
    assert (run[0] / "summary.json").read_text() == before


def test_there_must_be_something_to_resume(genome, tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        pretrain(tiny_recipe(genome), tmp_path / "none", resume=True, quiet=True)


def test_a_finished_run_is_left_alone(run, genome):
    before = dnadiff.load(run[0]).digest
    with pytest.raises(InputError, match="finished"):
        pretrain(tiny_recipe(genome), run[0], resume=True, quiet=True)
    assert dnadiff.load(run[0]).digest == before


def test_bad_data_leaves_no_folder_behind(tmp_path):
    short = write_fasta(tmp_path / "short.fa", {"a": 50, "b": 40})
    with pytest.raises(InputError, match="window"):
        pretrain(tiny_recipe(short), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("steps", "message"),
    [(20, "in 10 steps in a row, up to step 11"), (3, "bound on valid is not")],
)
def test_a_diverging_run_says_what_to_do(genome, tmp_path, steps, message):
    wild = tiny_recipe(genome, learning_rate=1e30, warmup=0.0, clip=1e30, max_steps=steps)
    with pytest.raises(InputError, match=f"{message}.*lower learning_rate"):
        pretrain(wild, tmp_path / "nan", quiet=True)
    assert not (tmp_path / "nan" / "model").exists()


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(genome, tmp_path, monkeypatch):
    step = Pretraining.training_step

    def sometimes(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        return loss * torch.nan if batch.step in (1, 2, 4) else loss

    monkeypatch.setattr(Pretraining, "training_step", sometimes)
    summary = pretrain(tiny_recipe(genome), tmp_path / "run", quiet=True)
    assert summary["skipped_steps"] == 3 and summary["steps"] == 6
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        content = read_checkpoint(path)
        for state in (content["state_dict"], content["current_model_state"]):
            assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("n", [0, 1, 10, 10**7])
def test_the_average_remembers_longer_as_it_grows(n):
    decay = min(0.9999, (1 + n) / (10 + n))
    average = ema(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor(n))
    assert average.item() == pytest.approx(decay, abs=1e-6)


def test_only_matrices_decay():
    denoiser = build(tiny_recipe("x.fa"), MDLM())
    decayed, free = decay_groups(denoiser)
    names = {id(p): name for name, p in denoiser.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in decayed} == {
        "in_proj",
        "out_proj",
        "x_proj",
        "dt_proj",
        "conv1d",
    }
    assert len(decayed) + len(free) == len(names)
    assert any(names[id(p)].endswith("A_log") for p in free)
    assert any("word_embeddings" in names[id(p)] for p in free)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 3), (2, 2)])
def test_devices_and_micro_batches_share_the_windows_of_a_step(world, accumulate):
    parts = [
        Steps(lambda i: Drawn(i[:, None]), 4, 3, 2, accumulate=accumulate, rank=rank, world=world)
        for rank in range(world)
    ]
    batches = [part[accumulate + micro] for part in parts for micro in range(accumulate)]
    size = 4 * world * accumulate
    rows = torch.cat([batch.rows for batch in batches]).sort().values
    assert rows.tolist() == list(range(4 * size, 5 * size))
    assert {batch.step for batch in batches} == {4}
    assert len(parts[0]) == 2 * accumulate


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "world"), [(4, 3, 1), (2, 3, 2), (6, 2, 1), (3, 1, 4)]
)
def test_a_step_is_the_same_however_it_is_cut(genome, batch_size, accumulate, world):
    """The mean gradient of micro-batches and devices is that of one batch with the same masks."""
    recipe = tiny_recipe(genome, soft_mask_weight=0.5)
    denoiser = build(recipe, MDLM())
    # With N, so that micro-batches have unequal numbers of bases.
    alphabet = torch.tensor([7, 8, 9, 10, 11])

    def draw(index):
        noise = uniform(0, Stream.SOURCE, index, 64)
        weight = torch.where(noise < 0.3, 0.5, 1.0)
        return Drawn(alphabet[(noise * (4 + (index[:, None] % 7 == 0))).long()], weight)

    def gradient(batch_size, accumulate, world):
        denoiser.zero_grad()
        for rank in range(world):
            steps = Steps(draw, batch_size, 2, 1, accumulate=accumulate, rank=rank, world=world)
            for batch in (steps[i] for i in range(accumulate)):
                loss = MDLM().loss(
                    denoiser,
                    batch.tokens,
                    step=batch.step,
                    index=batch.rows,
                    weight=batch.weight,
                    total=batch.total,
                )
                (loss.value / (accumulate * world)).backward()
        return torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])

    whole = gradient(12, 1, 1)
    assert torch.linalg.norm(
        gradient(batch_size, accumulate, world) - whole
    ) < 1e-5 * torch.linalg.norm(whole)


def test_lightning_warns_of_nothing_else(genome, tmp_path, recwarn):
    pretrain(tiny_recipe(genome, max_steps=2), tmp_path / "calm", quiet=True)
    assert [str(w.message) for w in recwarn] == []


def test_the_logged_loss_does_not_depend_on_how_a_step_is_cut(tmp_path):
    """Micro-batches have unequal numbers of bases where there is N; the log adds them up."""
    letters = DNA.decode(torch.randint(7, 11, (40,), generator=torch.Generator().manual_seed(5)))
    contig = "".join(letters[:20] + "N" * (7 * i % 50) + letters for i in range(120))
    genome = write_fasta(tmp_path / "gaps.fa", {"one": contig, "two": contig[::-1][:3000]})
    logged = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        recipe = tiny_recipe(
            genome, batch_size=batch_size, accumulate=accumulate, max_steps=1, log_every=1
        )
        pretrain(recipe, tmp_path / str(accumulate), quiet=True)
        rows = table(tmp_path / str(accumulate) / "metrics.csv")
        logged += [float(row["train_nats_per_base"]) for row in rows if row["train_nats_per_base"]]
    assert logged[0] == pytest.approx(logged[1], abs=2e-5)
