"""Defines `Recipe`: everything that determines a training run, as config.yaml records it."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from dnadiff.errors import InputError, UsageError
from dnadiff.yaml_file import read_yaml

_COUNTS = (
    "d_model", "n_layer", "window", "batch_size", "accumulate", "max_steps", "eval_windows",
    "eval_draws", "checkpoint_every", "log_every", "devices", "num_nodes",
)  # fmt: skip


@dataclass
class Recipe:
    """A training run.

    Attributes:
        genome: FASTA files (plain or bgzipped); several are drawn from in proportion to their size.
        labels: table (CSV, TSV or Parquet) with the columns label and sequence, or, together with
            one genome, label, chrom, start and end; the columns split and strand are optional. The
            model learns sequences given their class.
        genome_weight: a weight for each genome, in proportion to which windows are drawn from it,
            instead of its size.
        intervals: BED with a split column (train, valid, test, or folds) and an optional column of
            weights; by default whole chromosomes are held out.
        test_fold: the test fold, where the intervals have folds; the next one is valid.
        split: legacy extends the intervals to 2^20 bases as the published loaders do, which LEAKS
            test bases into training; only for comparison with published figures.
        blacklist: BED of bases that no window may touch.
        objective: what is minimised.
        objective_options: arguments of the objective, as its class in `dnadiff.diffusion` takes
            them: {"steps": 1000}.
        backbone: caduceus-ps treats both strands alike, caduceus-ph is a plain bidirectional stack,
            mamba and hyena read from left to right, transformer is causal for the objective
            autoregressive and bidirectional for all others.
        time_conditioning: whether the network is conditioned on the noise level; by default as the
            objective was published.
        d_model: channels of the backbone. The paper has 118 x 4 for caduceus (470,702 parameters),
            128 x 4 for mamba (468,608) and 128 x 2 for hyena (436,096); a transformer of 118 x 4
            has 471,884.
        n_layer: blocks of the backbone.
        memory: add the rows of hashed n-gram tables to the embedding (2.6 million more
            parameters); such a network is not the published one and cannot be exported.
        init: start from this run, model folder, published Caduceus or hf:OWNER/NAME; it gives the
            backbone's shape.
        window: bases of each training window.
        tiled: cut the training intervals into windows and take each once, in random order, then all
            of them again in another order; by default windows begin anywhere.
        jitter: with tiled, move each window by at most this number of bases to either side.
        min_scorable: smallest share of A, C, G, T in a window; for held-out windows at least half.
        soft_mask_weight: weight of bases in lower case (repeats) in the training loss; bounds are
            not weighted.
        batch_size: windows of each step on each device.
        accumulate: batches whose gradients are added up before each step.
        max_steps: end after this number of steps.
        max_time: end after this time of training, as 90s, 10m, 1h30m or HH:MM:SS; whichever of the
            two comes first.
        learning_rate: at the end of the warm-up.
        final_learning_rate: at the end of the run.
        warmup: share of the run with a rising learning rate; the rest follows a cosine.
        cooldown: hold the learning rate after the warm-up, and lower it to the final one in this
            last share of the run only; the end of such a run may be moved while it trains.
        weight_decay: of matrices; biases, norms, embeddings, A_log, D and Hyena's implicit filters
            have none.
        clip: largest norm of the gradient.
        reverse_complement: show either strand of a training window with equal probability.
        eval_windows: held-out windows of each of the final bounds; a fixed seeded sample.
        eval_draws: network calls for each of them.
        eval_max_time: time limit of the final bounds of both splits together; if it is reached,
            they use fewer windows.
        checkpoint_every: steps between checkpoints, each with a small bound on valid windows.
        checkpoint_time: also write a checkpoint whenever this time has passed since the last one.
        log_every: steps between rows of metrics.csv.
        seed: determines weights, windows, masks and evaluation.
        precision: auto chooses bf16-mixed or 32-true, by a short measurement on a CPU.
        devices: number of devices on each node, or "auto".
        num_nodes: machines that train together.

    Raises:
        UsageError: naming the parameter that is out of range or contradicts another.
    """

    genome: list[str] = field(default_factory=list)
    labels: str | None = None
    genome_weight: list[float] = field(default_factory=list)
    intervals: str | None = None
    test_fold: str | None = None
    split: Literal["auto", "legacy"] = "auto"
    blacklist: str | None = None
    objective: Literal["mdlm", "sedd", "d3pm", "udlm", "plaid", "autoregressive", "masked_lm"] = (
        "mdlm"
    )
    objective_options: dict[str, Any] = field(default_factory=dict)
    backbone: Literal["caduceus-ps", "caduceus-ph", "mamba", "hyena", "transformer"] = "caduceus-ps"
    time_conditioning: bool | None = None
    d_model: int = 118
    n_layer: int = 4
    memory: bool = False
    init: str | None = None
    window: int = 1024
    tiled: bool = False
    jitter: int = 0
    min_scorable: float = 0.0
    soft_mask_weight: float = 1.0
    batch_size: int = 16
    accumulate: int = 1
    max_steps: int | None = None
    max_time: str | None = None
    learning_rate: float = 4e-3
    final_learning_rate: float = 1e-4
    warmup: float = 0.1
    cooldown: float | None = None
    weight_decay: float = 0.1
    clip: float = 1.0
    reverse_complement: bool = True
    eval_windows: int = 1024
    eval_draws: int = 2
    eval_max_time: str = "00:05:00"
    checkpoint_every: int = 200
    checkpoint_time: str | None = None
    log_every: int = 10
    seed: int = 0
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    devices: int | Literal["auto"] = "auto"
    num_nodes: int = 1

    def __post_init__(self) -> None:
        self._read_paths()
        self._check_types()
        self._check_data()
        self._check_numbers()
        self._check_end()

    def _read_paths(self) -> None:
        """Turns paths into strings, which YAML can hold, and refuses a list that is not a list."""
        for name in ("genome", "genome_weight"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                # A string is iterable too, and each of its letters would pass for a file.
                raise UsageError(f"{name} must be a list: write {name}=[{_written(value)}]")
        self.genome = [os.fspath(path) for path in self.genome]
        self.genome_weight = list(self.genome_weight)
        for name in ("labels", "intervals", "blacklist", "init"):
            if isinstance(getattr(self, name), os.PathLike):
                setattr(self, name, os.fspath(getattr(self, name)))

    def _check_types(self) -> None:
        """Refuses values of a wrong type, and names that are not among the choices."""
        for name, hint in get_type_hints(Recipe).items():
            value = getattr(self, name)
            # int | None has the options int and None; a plain type is its only option.
            options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            if value is None and NoneType in options:
                continue
            choices = [get_args(option) for option in options if get_origin(option) is Literal]
            if choices and value in choices[0]:
                continue
            if choices and int not in options:
                names = ", ".join(map(str, choices[0]))
                raise UsageError(f"{name} {value!r} is unknown; choose from {names}")
            # bool is a subclass of int, and True would pass for 1.
            if int in options and (not isinstance(value, int) or isinstance(value, bool)):
                raise UsageError(f"{name} must be a whole number, not {value!r}")
            if float in options and not _is_number(value):
                raise UsageError(f"{name} must be a number such as 0.001 or 1.0e-3, not {value!r}")
            if bool in options and not isinstance(value, bool):
                raise UsageError(f"{name} must be true or false, not {value!r}")
        if not isinstance(self.objective_options, dict):
            raise UsageError(f"objective_options must be a table, not {self.objective_options!r}")

    def _check_numbers(self) -> None:
        """Refuses numbers that are out of range."""
        # devices may also be "auto", and max_steps None.
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        for name in ("learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("final_learning_rate", "weight_decay"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("min_scorable", "soft_mask_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed must be in [0, 2^63), not {self.seed}")

    def _check_end(self) -> None:
        """Refuses a run without an end, and a learning rate that does not fit into it."""
        if self.max_steps is None and self.max_time is None:
            raise UsageError("this run has no end: give max_steps or max_time")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup must be in [0, 1), not {self.warmup}")
        if self.cooldown is not None and not 0 < self.cooldown <= 1 - self.warmup:
            raise UsageError(
                f"cooldown must be above 0 and at most 1 - warmup, not {self.cooldown}"
            )
        for name in ("max_time", "eval_max_time", "checkpoint_time"):
            if getattr(self, name) is not None:
                _named_seconds(name, getattr(self, name))

    def _check_data(self) -> None:
        """Refuses combinations of genomes, intervals and tables that have no meaning."""
        if not self.genome and self.labels is None:
            raise UsageError("no data: give genome (FASTA, plain or bgzipped) or labels (a table)")
        for name in ("intervals", "blacklist"):
            if getattr(self, name) is not None and len(self.genome) != 1:
                raise UsageError(f"{name} goes with one genome")
        if self.test_fold is not None and self.intervals is None:
            raise UsageError("test_fold goes with intervals")
        if self.split == "legacy" and self.intervals is None:
            raise UsageError("split legacy goes with intervals")

        # Weights replace the sizes of the genomes, so each genome needs one.
        weights = self.genome_weight
        numbers = all(_is_number(weight) and weight > 0 for weight in weights)
        if weights and (len(weights) != len(self.genome) or not numbers):
            raise UsageError(
                f"genome_weight needs one number above 0 for each genome, not {weights}"
            )
        if weights and self.tiled:
            raise UsageError("genome_weight is for random windows: tiled takes every window once")
        if self.jitter < 0 or (self.jitter and not self.tiled):
            raise UsageError(
                f"jitter {self.jitter}: a number of bases by which windows of tiled may be moved"
            )
        if self.labels is not None:
            self._check_labels()

    def _check_labels(self) -> None:
        """Refuses what is for windows of a genome, where the windows are those of a table."""
        if len(self.genome) > 1:
            raise UsageError("labels goes with one genome, or with none")
        # Windows of a table are its rows, so nothing that chooses windows in a genome applies.
        given = {
            "split legacy": self.split == "legacy",
            "tiled": self.tiled,
            "min_scorable": self.min_scorable > 0,
            "soft_mask_weight": self.soft_mask_weight != 1,
            "genome_weight": bool(self.genome_weight),
        }
        for name, is_given in given.items():
            if is_given:
                raise UsageError(
                    f"{name} is for windows of a genome, and labels has its own: leave it out"
                )

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        return None if self.max_time is None else seconds(self.max_time)

    def bases_per_step(self, world: int) -> int:
        """Returns the bases that one optimiser step reads on `world` devices, N included."""
        return self.batch_size * self.accumulate * world * self.window

    def with_absolute_paths(self) -> Recipe:
        """Returns the same recipe with absolute paths, which holds in any working directory."""
        paths: dict[str, Any] = {"genome": [_absolute(path) for path in self.genome]}
        for name in ("labels", "intervals", "blacklist"):
            if getattr(self, name) is not None:
                paths[name] = _absolute(getattr(self, name))
        # Other names of models, such as hf:OWNER/NAME, are no paths.
        if self.init is not None and Path(self.init).exists():
            paths["init"] = _absolute(self.init)
        return replace(self, **paths)

    def to_yaml(self) -> str:
        """Returns the text of config.yaml."""
        return yaml.safe_dump(asdict(self), sort_keys=False)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Reads a config.yaml.

        Raises:
            InputError: naming the file, if it is missing, is not YAML, or has an unknown field.
        """
        return cls(**read_settings(path))


def read_settings(path: str | Path) -> dict[str, Any]:
    """Returns the fields that a YAML file sets; see `Recipe.read` for errors."""
    raw = read_yaml(path)
    unknown = set(raw) - set(Recipe.__dataclass_fields__)
    if unknown:
        raise InputError(f"{path}: unknown setting {min(map(str, unknown))!r}")
    return raw


def seconds(text: str | float) -> float:
    """Returns the seconds of a time.

    Args:
        text: 60, 90s, 10m, 1.5h, 2d, 1h30m, HH:MM:SS or DD:HH:MM:SS; a number without a unit is
            seconds.

    Raises:
        UsageError: if it is not written so, or is zero.
    """
    # YAML itself reads an unquoted 00:10:00 as the number 600.
    written = "" if isinstance(text, bool) else str(text).strip().lower()
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):(\d{1,2}):(\d{1,2})", written)
    if re.fullmatch(r"[\d.]+", written):
        written += "s"
    units = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", written)
    found = clock or units
    try:
        parts = [float(part or 0) for part in found.groups()] if found and written else []
    except ValueError:  # 1.2.3
        parts = []
    if not parts:
        raise UsageError(f"{text!r} is not a time: write 90s, 10m, 1h30m or HH:MM:SS")

    total = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
    if total == 0:
        raise UsageError(f"{text!r} is not a time above zero")
    return total


def _named_seconds(name: str, value: Any) -> float:
    """Returns the seconds of the field `name`, which an error then names."""
    try:
        return seconds(value)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _is_number(value: Any) -> bool:
    """Returns whether a value is a finite number; YAML reads 1e-3, without a dot, as text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _written(value: Any) -> str:
    """Returns a value as it would be typed in Python; a path as the string that it is."""
    return repr(os.fspath(value)) if isinstance(value, os.PathLike) else repr(value)


def _absolute(path: str) -> str:
    """Returns a path from the root; links in it are kept as they are."""
    return os.path.abspath(path)  # noqa: PTH100 (Path.absolute keeps ..)
