"""Everything that determines a training run: what `dnadiff pretrain` takes, and what config.yaml records."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from dnadiff.errors import InputError, UsageError


@dataclass
class Recipe:
    """A training run.

    Attributes:
        genome: FASTA files (plain or bgzipped); several are drawn from in proportion to their size.
        labels: CSV or TSV with columns label and sequence, or with one --genome label, chrom, start and end; perhaps
            split. The model learns its sequences given their class.
        genome_weight: of each genome, once for each: so many of the windows are of it, instead.
        intervals: BED with a split column (train, valid, test, or folds) and perhaps a column of weights; by default
            whole chromosomes are held out.
        test_fold: where --intervals has folds, the test fold; the next one is valid.
        split: legacy extends --intervals to 2^20 bases as the published loaders do, which LEAKS; to compare only.
        blacklist: BED of bases that no window may touch.
        objective: what is minimised.
        objective_options: of the objective, as its class in `dnadiff.diffusion` takes them: {"steps": 1000}.
        backbone: caduceus-ps treats both strands alike, caduceus-ph is a plain bidirectional stack, mamba and hyena
            read from left to right, transformer does so for the objective autoregressive and else looks both ways.
        time_conditioning: whether the network is told the noise level; by default as the objective was published.
        d_model: channels of the backbone. The paper has 118 x 4 for caduceus (470,702 parameters), 128 x 4 for mamba
            (468,608) and 128 x 2 for hyena (436,096); a transformer of 118 x 4 has 471,884.
        n_layer: blocks of the backbone.
        init: start from this run, model folder, published Caduceus or hf:OWNER/NAME; it gives the backbone's shape.
        window: bases of each training window.
        tiled: cut the training intervals into windows and take each once, in random order, then all of them again in
            another; by default windows begin anywhere.
        jitter: with --tiled, move each window by up to so many bases to either side.
        min_scorable: least share of A, C, G, T in a window; held-out windows have half in any case.
        soft_mask_weight: what bases in lower case (repeats) count in the training loss; bounds count all bases alike.
        batch_size: windows of each step on each device.
        accumulate: batches whose gradients are added up before each step.
        max_steps: end after this many steps.
        max_time: end after this time, [DD:]HH:MM:SS of training; whichever of the two comes first.
        learning_rate: at the end of the warm-up.
        final_learning_rate: at the end of the run.
        warmup: share of the run with a rising learning rate; the rest follows a cosine.
        cooldown: hold the learning rate after the warm-up, and lower it to the final one in this last share of the run
            only; the end of such a run may be moved while it trains.
        weight_decay: of matrices; biases, norms, embeddings, A_log, D and Hyena's implicit filters have none.
        clip: largest norm of the gradient.
        reverse_complement: show either strand of a training window, by a fair coin.
        eval_windows: held-out windows of each of the final bounds; a fixed seeded sample.
        eval_draws: network calls for each of them.
        eval_max_time: the final bounds use fewer windows where this machine needs longer, [DD:]HH:MM:SS for both.
        checkpoint_every: steps between checkpoints, each with a small bound on valid windows.
        log_every: steps between rows of metrics.csv.
        seed: determines weights, windows, masks and evaluation.
        precision: auto is bf16-mixed on GPUs and on CPUs with AMX, 32-true elsewhere.
        devices: how many on each node, or "auto".
        num_nodes: machines that train together.
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
    log_every: int = 10
    seed: int = 0
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    devices: int | Literal["auto"] = "auto"
    num_nodes: int = 1

    def __post_init__(self) -> None:
        if not self.genome and self.labels is None:
            raise UsageError(
                "no genome: give --genome FILE (FASTA, plain or bgzipped), or --labels TABLE"
            )
        self._check_data()
        for name, hint in get_type_hints(Recipe).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                choices = ", ".join(map(str, get_args(hint)))
                raise UsageError(
                    f"--{name.replace('_', '-')} {getattr(self, name)!r} is none of {choices}"
                )
        for name in (
            "d_model", "n_layer", "window", "batch_size", "accumulate", "eval_windows", "eval_draws",
            "checkpoint_every", "log_every", "num_nodes",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}"
                )
        if self.max_steps is None and self.max_time is None:
            raise UsageError("no end: give --max-steps or --max-time")
        if self.max_steps is not None and self.max_steps < 1:
            raise UsageError(f"--max-steps must be at least 1, not {self.max_steps}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"--warmup must be in [0, 1), not {self.warmup}")
        if self.cooldown is not None and not 0 < self.cooldown <= 1 - self.warmup:
            raise UsageError(
                f"--cooldown must be above 0 and at most 1 - warmup, not {self.cooldown}"
            )
        if self.learning_rate <= 0:
            raise UsageError(f"--learning-rate must be above 0, not {self.learning_rate}")
        seconds(self.eval_max_time)
        _ = self.max_seconds

    def _check_data(self) -> None:
        for name in ("intervals", "blacklist"):
            if getattr(self, name) is not None and len(self.genome) != 1:
                raise UsageError(f"--{name} goes with one --genome")
        for name, given in (
            ("test-fold", self.test_fold is not None),
            ("split legacy", self.split == "legacy"),
        ):
            if given and self.intervals is None:
                raise UsageError(f"--{name} goes with --intervals")
        shares = self.genome_weight
        if shares and (
            len(shares) != len(self.genome) or not 0 < min(shares) <= max(shares) < math.inf
        ):
            raise UsageError(
                f"--genome-weight: one number above 0 for each --genome is needed, not {shares}"
            )
        if shares and self.tiled:
            raise UsageError(
                "--genome-weight is for random windows: --tiled takes every window once"
            )
        if self.jitter < 0 or (self.jitter and not self.tiled):
            raise UsageError(
                f"--jitter {self.jitter}: a number of bases by which windows of --tiled may be moved"
            )
        if not 0 <= self.min_scorable <= 1:
            raise UsageError(f"--min-scorable must be in [0, 1], not {self.min_scorable}")
        if not 0 <= self.soft_mask_weight <= 1:
            raise UsageError(f"--soft-mask-weight must be in [0, 1], not {self.soft_mask_weight}")

        if self.labels is not None:
            self._check_labels()

    def _check_labels(self) -> None:
        if len(self.genome) > 1:
            raise UsageError("--labels goes with one --genome, or with none")
        own = {
            "split legacy": self.split == "legacy",
            "tiled": self.tiled,
            "min-scorable": self.min_scorable > 0,
            "soft-mask-weight": self.soft_mask_weight != 1,
            "genome-weight": bool(self.genome_weight),
        }
        for name in (name for name, given in own.items() if given):
            raise UsageError(
                f"--{name} is for windows of a genome, and --labels has its own: leave it out"
            )

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        return None if self.max_time is None else seconds(self.max_time)

    def bases_per_step(self, world: int) -> int:
        """Bases that one optimiser step reads on `world` devices, N included."""
        return self.batch_size * self.accumulate * world * self.window

    def to_yaml(self) -> str:
        """As config.yaml."""
        return yaml.safe_dump(asdict(self), sort_keys=False)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Reads a config.yaml.

        Raises:
            InputError: naming the file, if it is missing, is not YAML, or has a field that no recipe has.
        """
        return cls(**read_settings(path))


def read_settings(path: str | Path) -> dict[str, Any]:
    """The fields that a YAML file sets; see `Recipe.read` for errors."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a recipe (a YAML table of settings)")
    unknown = set(raw) - set(Recipe.__dataclass_fields__)
    if unknown:
        raise InputError(f"{path}: unknown setting {sorted(unknown)[0]!r}")
    return raw


def seconds(text: str) -> float:
    """Seconds of a time written [DD:]HH:MM:SS.

    Raises:
        UsageError: if it is not written so, or is zero.
    """
    if not re.fullmatch(r"(\d+:)?\d+:\d{1,2}:\d{1,2}", str(text)):
        raise UsageError(f"{text!r} is not a time: write HH:MM:SS, for example 00:10:00")
    total = 0
    for part, unit in zip(reversed(text.split(":")), (1, 60, 3600, 86400), strict=False):
        total += int(part) * unit
    if total == 0:
        raise UsageError(f"{text!r} is no time at all")
    return float(total)
