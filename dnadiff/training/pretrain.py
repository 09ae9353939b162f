"""A whole run: data, training, final bounds, model folder."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM
from dnadiff.diffusion import (
    Bound,
    CorpusBound,
    MaskedLM,
    Objective,
    corpus_bound,
    make_objective,
    summarise,
)
from dnadiff.diffusion.corpus import ratio
from dnadiff.errors import InputError, UsageError
from dnadiff.files import empty_folder, write_json, write_text
from dnadiff.genome.audit import Shared, audit_labelled, audit_splits, table, to_csv
from dnadiff.genome.fasta import Genome
from dnadiff.genome.labelled import LabelledTable, LabelledWindows, read_labelled
from dnadiff.genome.sources import open_sources
from dnadiff.genome.splits import Splits, make_splits
from dnadiff.genome.windows import HeldOut, Windows, held_out
from dnadiff.memory import keep_freed_memory
from dnadiff.model import Model, load
from dnadiff.ops.backend import prefers_bf16
from dnadiff.progress import bar, bars
from dnadiff.training.batches import Batch, Steps
from dnadiff.training.budget import Budget
from dnadiff.training.callbacks import Bar, Clock, Ema, MetricsLog
from dnadiff.training.card import model_card
from dnadiff.training.module import Pretraining
from dnadiff.training.recipe import Recipe, seconds

_WATCHED = 64  # valid windows of the small bound at each checkpoint
_AUDITED = 256  # windows of each held-out split whose k-mers are looked for in the others

Log = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """What a run reads: random training windows, and fixed samples of held-out ones; with labels, those of a table."""

    sources: list[tuple[Genome, Splits]]
    train: Windows | LabelledWindows
    held_out: Mapping[str, HeldOut | LabelledWindows]
    table: LabelledTable | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return () if self.table is None else self.table.names


def pretrain(
    recipe: Recipe, out: str | Path, *, resume: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Trains a model and writes its run folder.

    Args:
        recipe: everything that determines the run.
        out: the run folder; empty or absent, or with `resume` one that was interrupted.
        resume: go on from the last checkpoint in `out`.
        quiet: no progress bar and no log.

    Returns:
        What summary.json holds: params, steps, bases_seen, bases_per_second, and the valid and test bounds.

    Raises:
        InputError: if the data, the folder or a checkpoint cannot be used; nothing has been written then.
    """
    keep_freed_memory()
    log: Log = (
        (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    )
    data = read_data(recipe, log, quiet)
    objective = make_objective(recipe.objective, recipe.objective_options)
    denoiser = build(recipe, objective, data.labels)
    log(_plan(recipe, denoiser))
    folder = Path(out)
    checkpoint = _checkpoint(folder) if resume else None
    if not resume:
        empty_folder(folder)
        write_text(folder / "config.yaml", recipe.to_yaml())
        _audit(data, folder, log, quiet)
    budget = Budget(recipe.max_steps, recipe.max_seconds)
    module = Pretraining(denoiser, objective, recipe, budget)
    trainer = _fit(module, data, folder, checkpoint, quiet)
    if not trainer.is_global_zero:
        return {}
    return _finish(
        module,
        data,
        folder,
        steps=trainer.global_step,
        world=trainer.world_size,
        log=log,
        quiet=quiet,
    )


def read_data(recipe: Recipe, log: Log, quiet: bool) -> Data:
    """Opens the genomes, splits them, and lays out the windows."""
    with bars(quiet=quiet) as report:
        sources = open_sources(
            recipe.genome,
            recipe.window,
            intervals=recipe.intervals,
            split=recipe.split,
            test_fold=recipe.test_fold,
            blacklist=recipe.blacklist,
            log=log,
            report=report,
        )
    if recipe.labels is not None:
        return _labelled(recipe, sources, log)
    size, seed = recipe.window, recipe.seed
    train = Windows(
        sources,
        split="train",
        length=size,
        seed=seed,
        reverse_complement=recipe.reverse_complement,
        tiled=recipe.tiled,
        jitter=recipe.jitter,
        shares=recipe.genome_weight or None,
        min_scorable=recipe.min_scorable,
        soft_mask_weight=recipe.soft_mask_weight,
    )
    if train.skipped:
        log(
            f"note: {train.skipped:,} training intervals have no room for a window of {size:,} bases: skipped"
        )
    floor = max(0.5, recipe.min_scorable)
    samples = {
        split: held_out(
            sources,
            split=split,
            length=size,
            limit=recipe.eval_windows,
            seed=seed,
            min_scorable=floor,
        )
        for split in ("valid", "test")
    }
    return Data(sources, train, samples)


def _labelled(recipe: Recipe, sources: list[tuple[Genome, Splits]], log: Log) -> Data:
    """The windows of a labelled table, all of them for training and a sample of the held-out ones."""
    assert recipe.labels is not None
    source = sources[0] if sources else None
    found = read_labelled(
        recipe.labels,
        recipe.window,
        recipe.seed,
        source,
        reverse_complement=recipe.reverse_complement,
    )
    for note in found.notes:
        log(f"note: {note}")
    log(str(found))
    samples = {
        split: found.windows[split].limited(recipe.eval_windows) for split in ("valid", "test")
    }
    return Data(sources, found.windows["train"], samples, found)


def splits_of(recipe: Recipe, genome: Genome) -> Splits:
    """What is train, valid and test of one of the run's genomes; see `make_splits` for errors."""
    return make_splits(
        genome,
        recipe.window,
        intervals=recipe.intervals,
        split=recipe.split,
        test_fold=recipe.test_fold,
        blacklist=recipe.blacklist,
    )


def audit(data: Data, windows: int, quiet: bool) -> list[Shared]:
    """What the splits share; the k-mers of at most so many held-out windows of each are looked for in the others."""
    with bar("audit", quiet=quiet) as progress:
        if data.table is not None:
            return audit_labelled(data.table.windows, limit=windows, progress=progress)
        samples = {
            split: some for split, some in data.held_out.items() if isinstance(some, HeldOut)
        }
        return audit_splits(data.sources, samples, windows=windows, progress=progress)


def _audit(data: Data, folder: Path, log: Log, quiet: bool) -> None:
    """Writes what the splits share into the run folder, and says it."""
    found = audit(data, _AUDITED, quiet)
    write_text(folder / "audit.csv", to_csv(found))
    log(table(found))


def _plan(recipe: Recipe, denoiser: LMDenoiser) -> str:
    """What will be trained, and for how long."""
    size = sum(p.numel() for p in denoiser.parameters())
    ends = [f"{recipe.max_steps:,} steps"] if recipe.max_steps else []
    ends += [f"{recipe.max_time} of training"] if recipe.max_time else []
    batch = recipe.batch_size * recipe.accumulate
    return (
        f"{recipe.objective} on {recipe.backbone}, {size:,} parameters, {batch} x {recipe.window:,} bases a step in "
        f"{_precision(recipe)}; "
        f"ends after {' or '.join(ends)}, then final bounds of {recipe.eval_max_time} at most"
    )


def build(recipe: Recipe, objective: Objective, labels: tuple[str, ...] = ()) -> LMDenoiser:
    """The network: new, with weights that the seed determines, or started from `recipe.init`.

    What `recipe.init` was not told and this objective tells starts at zero: at first the network computes what it did.
    What both are told goes on as it was; so do the weights of the objective, if it is the same one. Other classes than
    the model's own are new, and its own are then forgotten.

    Args:
        recipe: of the run.
        objective: what it minimises.
        labels: the classes that the network is told.

    Raises:
        UsageError: if it cannot carry the objective.
    """
    torch.manual_seed(recipe.seed)
    told = recipe.time_conditioning
    told = objective.time_conditioned if told is None else told
    if told and objective.causal:
        raise UsageError(
            f"{recipe.objective} has no noise level to tell: leave --time-conditioning out"
        )
    if recipe.init is None:
        denoiser = _denoiser(_new_network(recipe, causal=objective.causal), objective, told, labels)
    else:
        denoiser = _continued(load(recipe.init, device="cpu"), objective, told, labels)
    objective.check(denoiser)
    return denoiser.train()


def _continued(
    model: Model, objective: Objective, told: bool, labels: tuple[str, ...]
) -> LMDenoiser:
    """A trained network for this objective; the objective's own weights are taken over where they fit."""
    before = model.denoiser
    denoiser = _denoiser(before.lm, objective, told, labels)
    if before.needs_sigma == told and before.labels == labels:
        denoiser.conditioning = before.conditioning
    elif before.needs_sigma and told and not before.labels:
        assert denoiser.conditioning is not None and before.conditioning is not None
        denoiser.conditioning.add_labels_to(before.conditioning)
    if before.self_conditioned == denoiser.self_conditioned:
        denoiser.self_cond = before.self_cond
    if (type(model.objective), model.objective.options) == (type(objective), objective.options):
        objective.load_state_dict(model.objective.state_dict())
    return denoiser


def _denoiser(
    lm: LanguageModel, objective: Objective, told: bool, labels: tuple[str, ...]
) -> LMDenoiser:
    return LMDenoiser(
        lm,
        needs_sigma=told,
        labels=labels,
        outputs=objective.outputs,
        self_conditioned=objective.self_conditioned,
    )


def _new_network(recipe: Recipe, *, causal: bool) -> LanguageModel:
    """The backbone; `causal` where the objective wants that, for one that can be either."""
    d_model, n_layer = recipe.d_model, recipe.n_layer
    if recipe.backbone == "hyena":
        return HyenaLM(HyenaConfig(d_model=d_model, n_layer=n_layer, l_max=recipe.window))
    if recipe.backbone == "transformer":
        return TransformerLM(TransformerConfig(d_model=d_model, n_layer=n_layer, causal=causal))
    strands, directions = recipe.backbone == "caduceus-ps", recipe.backbone != "mamba"
    return CaduceusLM(CaduceusConfig(d_model, n_layer, rcps=strands, bidirectional=directions))


def _checkpoint(folder: Path) -> Path:
    if (folder / "summary.json").is_file():
        raise InputError(
            f"{folder}: this run is finished, there is nothing to resume; start from it with --init {folder}"
        )
    found = folder / "checkpoints" / "last.ckpt"
    if not found.is_file():
        raise InputError(
            f"{folder}: nothing to resume, there is no checkpoints/last.ckpt in it; start anew with --out"
        )
    return found


def _fit(
    module: Pretraining, data: Data, folder: Path, checkpoint: Path | None, quiet: bool
) -> lightning.Trainer:
    recipe, budget = module.recipe, module.budget
    gpu = torch.cuda.is_available()
    with _lightning_quiet():
        trainer = lightning.Trainer(
            accelerator="auto" if gpu else "cpu",
            devices=recipe.devices if gpu or recipe.devices != "auto" else 1,
            num_nodes=recipe.num_nodes,
            precision=_precision(recipe),
            max_steps=-1 if recipe.max_steps is None else recipe.max_steps,
            max_epochs=-1,
            reload_dataloaders_every_n_epochs=1,
            gradient_clip_val=recipe.clip,
            accumulate_grad_batches=recipe.accumulate,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            callbacks=[
                Ema(),
                Clock(budget),
                MetricsLog(folder / "metrics.csv", recipe, budget),
                Bar(recipe, budget, quiet=quiet),
                ModelCheckpoint(
                    folder / "checkpoints", filename="last", enable_version_counter=False
                ),
            ],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(
            module, datamodule=_Loaders(module, data), ckpt_path=checkpoint, weights_only=True
        )
    return trainer


def _precision(recipe: Recipe) -> Literal["32-true", "bf16-mixed"]:
    if recipe.precision != "auto":
        return recipe.precision
    return (
        "bf16-mixed" if prefers_bf16("cuda" if torch.cuda.is_available() else "cpu") else "32-true"
    )


class _Loaders(lightning.LightningDataModule):
    """An epoch is the stretch of steps up to the next checkpoint, so a resumed run begins with a fresh one."""

    def __init__(self, module: Pretraining, data: Data) -> None:
        super().__init__()
        self.recipe, self.data = module.recipe, data

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches of the next stretch of steps."""
        recipe, trainer = self.recipe, self.trainer
        assert trainer is not None
        count = recipe.checkpoint_every
        if recipe.max_steps is not None:
            count = min(count, recipe.max_steps - trainer.global_step)
        steps = Steps(
            self.data.train.draw,
            recipe.batch_size,
            trainer.global_step,
            count,
            accumulate=recipe.accumulate,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        return DataLoader(steps, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The first valid windows, in batches."""
        valid = self.data.held_out["valid"]
        chosen = torch.arange(min(_WATCHED, valid.windows)).split(self.recipe.batch_size)
        batches = [
            Batch(valid.tokens(rows), rows, 0, label=_classes(valid, rows)) for rows in chosen
        ]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def _classes(sample: HeldOut | LabelledWindows, rows: Tensor | slice) -> Tensor | None:
    """The classes (B,) of held-out windows that have some."""
    return sample.label[rows] if isinstance(sample, LabelledWindows) else None


def _finish(
    module: Pretraining, data: Data, folder: Path, *, steps: int, world: int, log: Log, quiet: bool
) -> dict[str, Any]:
    """Final bounds, model folder and summary."""
    recipe, budget = module.recipe, module.budget
    model = Model(module.denoiser, module.objective, _about(recipe, data, steps))
    bounds = {
        split: _bound(model, sample, recipe, split, quiet)
        for split, sample in data.held_out.items()
    }
    figures = {split: summarise(bound).to_dict() for split, bound in bounds.items()}
    for split, sample in data.held_out.items():
        _tell(log, split, summarise(bounds[split]), sample)
        if isinstance(model.objective, MaskedLM):
            pseudo = summarise(_bound(model, sample, recipe, split, quiet, model.objective.pseudo))
            _tell(log, f"{split} pseudo-likelihood", pseudo, sample)
            figures[split]["pseudo"] = pseudo.to_dict()
        if isinstance(sample, LabelledWindows):
            untold = _bound(model, sample, recipe, split, quiet, tell=False)
            worth, se, count = _worth(bounds[split], untold)
            _tell(log, f"{split}, no class told", summarise(untold), sample)
            log(
                f"{split}: the class is worth {worth:.4f} +- {se:.4f} nats per base, from {count:,} windows"
            )
            figures[split]["unconditional"] = summarise(untold).to_dict()
            figures[split]["label_gain"] = {
                "nats_per_base": worth,
                "se": se if count > 1 else None,
                "windows": count,
            }
    bases = steps * recipe.bases_per_step(world)
    result = {
        "params": model.params,
        "steps": steps,
        "bases_seen": bases,
        "bases_per_second": round(bases / max(budget.elapsed, 1e-9), 1),
        "seconds": round(budget.elapsed, 1),
        **figures,
    }
    write_text(folder / "bounds.csv", _table(data, bounds))
    model.save(folder / "model")
    write_text(
        folder / "model" / "README.md", model_card(model, recipe, data.sources, data.table, result)
    )
    write_json(folder / "summary.json", result)
    log(f"model written to {folder / 'model'}")
    return result


def _bound(
    model: Model,
    sample: HeldOut | LabelledWindows,
    recipe: Recipe,
    split: str,
    quiet: bool,
    bound: Callable[..., Bound] | None = None,
    *,
    tell: bool = True,
) -> Bound:
    """The bound of a held-out sample, cut short to its first windows if this machine needs longer than allowed.

    `tell`: the network is told the classes, where the windows have some.
    """
    limit = seconds(recipe.eval_max_time) / (2 if recipe.labels is None else 4)
    with bar(f"{split} bound", quiet=quiet) as progress:
        return corpus_bound(
            bound or model.objective.bound,
            model.denoiser,
            _timed(sample, recipe.batch_size, limit, tell=tell),
            draws=recipe.eval_draws,
            seed=recipe.seed,
            device=model.device,
            progress=lambda done: progress(done, sample.windows),
        )


def _timed(
    sample: HeldOut | LabelledWindows, batch_size: int, limit: float, *, tell: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    clock = Budget(None, limit)
    clock.start()
    for start in range(0, sample.windows, batch_size):
        if clock.progress(0) >= 1.0:
            return
        rows = slice(start, start + batch_size)
        yield sample.tokens(rows), _classes(sample, rows) if tell else None


def _worth(told: Bound, untold: Bound) -> tuple[float, float, int]:
    """By how many nats per base a class lowers the bound, the standard error, and from how many windows: of both."""
    count = min(len(told.nats), len(untold.nats))
    return *ratio(untold.nats[:count] - told.nats[:count], told.bases[:count]), count


def _tell(log: Log, split: str, bound: CorpusBound, sample: HeldOut | LabelledWindows) -> None:
    sign = {"upper": "<=", "exact": "=", "pseudo": "~"}[bound.bound]
    log(
        f"{split}: {sign} {bound.nats_per_base:.4f} +- {bound.se:.4f} nats per base (perplexity {bound.ppl:.3f}), from "
        f"{bound.windows:,} of {sample.total:,} windows, {bound.bases:,} bases"
    )


def _table(data: Data, bounds: dict[str, Bound]) -> str:
    """bounds.csv: each held-out window's place and bound, for paired comparison with another model."""
    rows = ["split,genome,chrom,start,end,bases,nats,se"]
    for split, bound in bounds.items():
        columns = zip(
            data.held_out[split].locations, *(column.tolist() for column in bound[:3]), strict=False
        )
        rows += [
            f"{split},{p[0]},{p[1]},{p[2]},{p[3]},{bases},{nats:.6f},{se:.6f}"
            for p, nats, se, bases in columns
        ]
    return "\n".join(rows) + "\n"


def _about(recipe: Recipe, data: Data, steps: int) -> dict[str, Any]:
    about = {
        "window": recipe.window,
        "steps": steps,
        "genomes": [{"name": g.name, "sha256": g.digest, "split": s.how} for g, s in data.sources],
    }
    if data.table is not None:
        about["table"] = {
            "name": data.table.name,
            "sha256": data.table.digest,
            "split": data.table.how,
        }
    return about


# Lightning's remarks on choices that are made here on purpose.
_ON_PURPOSE = (
    ".*does not have many workers.*",
    ".*The number of training batches.*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*GPU available but not used.*",
    ".*reload_dataloaders_every_n_epochs.*",
    ".*Total length of `\\w+` across ranks is zero.*",  # resumed behind the last step
)


@contextmanager
def _lightning_quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for remark in _ON_PURPOSE:
                warnings.filterwarnings("ignore", message=remark)
            yield
    finally:
        logger.setLevel(level)
