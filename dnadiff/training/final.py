"""Completes a run: final bounds on held-out windows, the model folder and summary.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from dnadiff.diffusion import Bound, CorpusBound, MaskedLM, corpus_bound, summarise
from dnadiff.diffusion.corpus import block_numbers, ratio
from dnadiff.errors import InputError
from dnadiff.files import write_json, write_text
from dnadiff.genome.labelled import LabelledWindows
from dnadiff.genome.windows import HeldOut
from dnadiff.model import Model
from dnadiff.progress import bar
from dnadiff.training.budget import Budget
from dnadiff.training.card import model_card
from dnadiff.training.data import Data, Log, classes_of
from dnadiff.training.module import Pretraining
from dnadiff.training.recipe import Recipe, seconds

_SIGNS = {"upper": "<=", "exact": "=", "pseudo": "~"}


def finish(
    module: Pretraining, data: Data, folder: Path, *, steps: int, world: int, log: Log, quiet: bool
) -> dict[str, Any]:
    """Evaluates the trained model and writes the files of a finished run folder.

    Args:
        module: with the final weights.
        data: of the run.
        folder: of the run.
        steps: optimiser steps of the run.
        world: number of devices.
        log: called with each line of the results.
        quiet: no progress bar.

    Returns:
        What summary.json holds.
    """
    recipe, budget = module.recipe, module.budget
    model = Model(module.denoiser, module.objective, _about(recipe, data, steps))
    bounds = {
        split: _bound(model, sample, recipe, split, quiet)
        for split, sample in data.held_out.items()
    }
    _check_finite(bounds, recipe, module.skipped)
    figures = {
        split: _figures(model, data, split, bounds[split], recipe, log, quiet) for split in bounds
    }
    _warn_if_not_learned(figures["test"], len(model.alphabet), log)

    bases = steps * recipe.bases_per_step(world)
    result = {
        "params": model.params,
        "steps": steps,
        "skipped_steps": module.skipped,
        "bases_seen": bases,
        "bases_per_second": round(bases / max(budget.elapsed, 1e-9), 1),
        "seconds": round(budget.elapsed, 1),
        **figures,
    }
    card = model_card(model, recipe, data.sources, data.table, result)
    write_text(folder / "bounds.csv", _table(data, bounds))
    model.save(folder / "model")
    write_text(folder / "model" / "README.md", card)
    # The summary comes last, because a folder with a summary counts as finished.
    write_json(folder / "summary.json", result)
    log(f"model written to {folder / 'model'}")
    return result


def _check_finite(bounds: dict[str, Bound], recipe: Recipe, skipped: int) -> None:
    """Refuses a model whose bounds are not finite, before anything is written.

    Raises:
        InputError: naming the split.
    """
    for split, bound in bounds.items():
        if not bool(bound.nats.isfinite().all()):
            raise InputError(
                f"the bound on {split} is not finite, and {skipped:,} steps were skipped because "
                "their gradient was not: this run has diverged. Start again with a lower "
                f"learning_rate (it was {recipe.learning_rate:g})"
            )


def _figures(
    model: Model, data: Data, split: str, bound: Bound, recipe: Recipe, log: Log, quiet: bool
) -> dict[str, Any]:
    """Returns the section of summary.json on a split, and logs it."""
    sample = data.held_out[split]
    places = _places(data, split)
    summary = summarise(bound, places)
    _say(log, split, summary, sample)
    figures = summary.to_dict()

    # Masked language models are usually judged by their pseudo-likelihood, so it is given too.
    if isinstance(model.objective, MaskedLM):
        scores = _bound(model, sample, recipe, split, quiet, model.objective.pseudo)
        pseudo = summarise(scores, places)
        _say(log, f"{split} pseudo-likelihood", pseudo, sample)
        figures["pseudo"] = pseudo.to_dict()

    if isinstance(sample, LabelledWindows):
        unconditional = _bound(model, sample, recipe, split, quiet, with_labels=False)
        without = summarise(unconditional, places)
        _say(log, f"{split}, unconditional", without, sample)
        figures["unconditional"] = without.to_dict()
        figures["label_gain"] = _label_gain(bound, unconditional, places)
        gain = figures["label_gain"]
        error = math.nan if gain["se"] is None else gain["se"]
        log(
            f"{split}: the class lowers the bound by {gain['nats_per_base']:.4f} +- {error:.4f} "
            f"nats per base, from {gain['windows']:,} windows"
        )
    return figures


def _bound(
    model: Model,
    sample: HeldOut | LabelledWindows,
    recipe: Recipe,
    split: str,
    quiet: bool,
    bound: Callable[..., Bound] | None = None,
    *,
    with_labels: bool = True,
) -> Bound:
    """Returns the bound of each window of a sample, or of the first windows if time runs out.

    Args:
        model: the trained model.
        sample: the windows.
        recipe: of the run.
        split: for the progress bar.
        quiet: no progress bar.
        bound: by default the objective's own.
        with_labels: condition on the classes, where the windows have some.
    """
    # With labels each split is evaluated twice, with and without them.
    parts = 2 if recipe.labels is None else 4
    limit = seconds(recipe.eval_max_time) / parts
    with bar(f"{split} bound", quiet=quiet) as progress:
        return corpus_bound(
            bound or model.objective.bound,
            model.denoiser,
            _timed(sample, recipe.batch_size, limit, with_labels=with_labels),
            draws=recipe.eval_draws,
            seed=recipe.seed,
            device=model.device,
            progress=lambda done: progress(done, sample.windows),
        )


def _timed(
    sample: HeldOut | LabelledWindows, batch_size: int, limit: float, *, with_labels: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields tokens and classes in batches until all are done or `limit` seconds are over."""
    clock = Budget(None, limit)
    clock.start()
    for start in range(0, sample.windows, batch_size):
        if clock.progress(0) >= 1.0:
            return
        rows = slice(start, start + batch_size)
        yield sample.tokens(rows), classes_of(sample, rows) if with_labels else None


def _places(data: Data, split: str) -> list[Any] | None:
    """Returns where the windows of a split lie in a genome; None for sequences of a table."""
    return data.held_out[split].locations if data.sources else None


def _label_gain(
    conditional: Bound, unconditional: Bound, places: list[Any] | None
) -> dict[str, Any]:
    """Returns by how many nats per base the classes lower the bound, with paired errors."""
    # The time limit may have ended either evaluation early; the first windows are in both. The
    # error is that of paired differences, in which most of the variation between windows cancels.
    count = min(len(conditional.nats), len(unconditional.nats))
    saved = unconditional.nats[:count] - conditional.nats[:count]
    bases = conditional.bases[:count]
    gain, se = ratio(saved, bases)
    found = {"nats_per_base": gain, "se": None if math.isnan(se) else se, "windows": count}
    if places is None:
        return found
    blocks = block_numbers(places[:count])
    se_blocks = ratio(saved, bases, blocks)[1]
    found["se_blocks"] = None if math.isnan(se_blocks) else se_blocks
    found["blocks"] = len(blocks.unique())
    return found


def _say(log: Log, split: str, bound: CorpusBound, sample: HeldOut | LabelledWindows) -> None:
    """Logs a bound with its errors and the number of windows."""
    # The error over blocks is known only where windows have positions in a genome.
    error = f"+- {bound.se:.4f}"
    if bound.se_blocks is not None:
        error += f" (over windows; {bound.se_blocks:.4f} over {bound.blocks:,} blocks of 1 Mb)"
    log(
        f"{split}: {_SIGNS[bound.bound]} {bound.nats_per_base:.4f} {error} nats per base "
        f"(perplexity {bound.ppl:.3f}), from {bound.windows:,} of {sample.total:,} windows, "
        f"{bound.bases:,} bases"
    )


def _warn_if_not_learned(test: dict[str, Any], letters: int, log: Log) -> None:
    """Logs a warning if the model is worse than drawing every base with equal probability."""
    # Two standard errors, so that a model as good as uniform bases rarely causes a warning.
    if test["nats_per_base"] > math.log(letters) + 2 * (test["se"] or 0.0):
        log(
            f"WARNING: the test bound {test['nats_per_base']:.4f} is worse than that of uniform "
            f"bases, {math.log(letters):.4f}: this model has learned nothing; train longer or "
            "lower learning_rate"
        )


def _table(data: Data, bounds: dict[str, Bound]) -> str:
    """Returns bounds.csv: the place and bound of each held-out window, for paired comparisons."""
    rows = ["split,genome,chrom,start,end,bases,nats,se"]
    for split, bound in bounds.items():
        columns = (column.tolist() for column in bound[:3])
        # There are more places than bounds if the time limit cut the evaluation short.
        for place, nats, se, bases in zip(data.held_out[split].locations, *columns, strict=False):
            where = f"{place.genome},{place.chrom},{place.start},{place.end}"
            rows.append(f"{split},{where},{bases},{nats:.6f},{se:.6f}")
    return "\n".join(rows) + "\n"


def _about(recipe: Recipe, data: Data, steps: int) -> dict[str, Any]:
    """Returns the section of config.json about the training."""
    # By name and digest only: paths on this machine are of no use to others.
    about: dict[str, Any] = {
        "window": recipe.window,
        "steps": steps,
        "genomes": [
            {"name": genome.name, "sha256": genome.digest, "split": splits.how}
            for genome, splits in data.sources
        ],
    }
    if data.table is not None:
        table = data.table
        about["table"] = {"name": table.name, "sha256": table.digest, "split": table.how}
    return about
