"""Explains a command line that cannot be read: what is wrong, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, get_args, get_origin

from cyclopts import (
    Argument,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)

OTHER_FLAGS = {
    "genome": "fasta fa ref reference genome-fasta input-fasta sequence-file",
    "intervals": "bed regions test-chrom test-chroms valid-chrom val-chrom chrom chroms chromosomes"
    " test-chromosomes holdout",
    "max_steps": "epochs epoch num-epochs n-epochs max-epochs num-steps n-steps train-steps"
    " iterations max-iters",
    "max_time": "time time-limit walltime timeout hours",
    "devices": "gpus gpu num-gpus n-gpus ngpus device cuda",
    "num_nodes": "nodes nnodes",
    "batch_size": "bs batch batchsize mini-batch per-device-batch-size",
    "accumulate": "grad-accum gradient-accumulation-steps accumulate-grad-batches",
    "learning_rate": "rate max-lr",
    "final_learning_rate": "min-lr final-lr eta-min",
    "weight_decay": "wd",
    "clip": "grad-clip gradient-clip max-grad-norm gradient-clip-val",
    "warmup": "warmup-steps warmup-ratio num-warmup-steps",
    "precision": "fp16 bf16 amp half dtype fp32",
    "checkpoint": "model ckpt weights model-path checkpoint-path run pretrained",
    "init": "model ckpt checkpoint weights pretrained from-pretrained load",
    "backbone": "arch architecture network model-type",
    "objective": "loss diffusion method",
    "d_model": "dim hidden hidden-size hidden-dim width embed-dim",
    "n_layer": "layers num-layers n-layers depth",
    "out": "output output-dir output-file outdir out-dir output-folder save save-dir logdir dir",
    "length": "len seq-len seqlen seq-length sequence-length bp size",
    "window": "context context-length ctx seq-len seqlen seq-length sequence-length max-length",
    "num": "n num-samples n-samples num-sequences count number samples",
    "steps": "num-steps n-steps sampling-steps nfe diffusion-steps",
    "temperature": "temp t",
    "top_p": "nucleus p",
    "label": "class class-label condition",
    "labels": "label classes csv table",
    "guidance": "cfg guidance-scale cfg-scale",
    "template": "prompt prefix scaffold motif-template",
    "avoid": "exclude forbid sites restriction-sites enzyme enzymes",
    "require": "include motif motifs must-have",
    "gc": "gc-content gc-range",
    "max_homopolymer": "homopolymer max-run",
    "task": "tasks benchmark dataset",
    "resume": "continue resume-from restart",
    "blacklist": "exclude exclude-regions mask",
    "quiet": "silent q no-progress",
    "debug": "verbose v traceback",
    "eval_windows": "eval-samples num-eval eval-batches",
    "checkpoint_every": "save-every save-steps eval-every checkpoint-interval",
    "log_every": "log-interval logging-steps",
    "seed": "random-seed rng random-state",
    "config": "c cfg-file recipe yaml config-file",
    "paths": "input inputs run runs",
}
"""What other programs call a parameter, without dashes in front."""

_NOTES = {
    "max_steps": "training is counted in steps, not epochs",
    "intervals": "whole chromosomes are held out by default, and a BED with a split column"
    " says which",
    "warmup": "a share of the run, 0.1 by default",
}
"""Why a parameter differs from what was typed."""


def explain(error: CycloptsError, verb: str) -> str:
    """Returns one line that says what is wrong with a command line, and what to type."""
    if isinstance(error, UnknownOptionError):
        text = _unknown_flag(error)
    elif isinstance(error, MissingArgumentError):
        text = _missing(error)
    elif isinstance(error, RepeatArgumentError):
        text = f"{error.token.keyword} is given twice, under this name or another; once is enough"
    elif isinstance(error, UnusedCliTokensError):
        text = _unused((error.unused_tokens or [""])[0])
    elif isinstance(error, CoercionError) and error.argument is not None:
        text = _wrong_value(error, error.argument)
    else:
        text = str(error)
    return f"{text} (see {' '.join(('dnadiff', verb)).strip()} --help)"


def _unknown_flag(error: UnknownOptionError) -> str:
    """Explains a flag that does not exist."""
    typed = error.token.keyword or error.token.value
    known = {argument.field_info.name: argument.name for argument in error.argument_collection}
    word = typed.lstrip("-").lower().replace("_", "-")
    for name, others in OTHER_FLAGS.items():
        if name in known and word in others.split():
            note = f" ({_NOTES[name]})" if name in _NOTES else ""
            return f"no flag {typed}; did you mean {known[name]}?{note}"

    flags = [flag for argument in error.argument_collection for flag in argument.names]
    near = difflib.get_close_matches(typed.removesuffix("+"), flags, 1, 0.6)
    return f"no flag {typed}{f'; did you mean {near[0]}?' if near else ''}"


def _missing(error: MissingArgumentError) -> str:
    """Explains a flag that is needed, or one that was given without its value."""
    assert error.argument is not None
    if error.keyword is None and not error.argument.tokens:
        return f"{error.argument.name} is needed"
    flag = error.keyword or error.argument.name
    return f"{flag} needs a value; one that begins with a dash is written {flag}=-VALUE"


def _unused(word: str) -> str:
    """Explains a word that belongs to no flag."""
    if word in ("true", "false"):
        return f"{word!r} stands alone: write a switch as --FLAG, --no-FLAG or --FLAG={word}"
    return f"{word!r} belongs to no flag"


def _wrong_value(error: CoercionError, argument: Argument) -> str:
    """Explains a value that has not the type of its flag, naming the file if it comes from one."""
    token = error.token or argument.tokens[0]
    name = token.keyword or argument.name
    where = name if token.source in ("", "cli") else f"{token.source}: {name}"
    if error.msg is not None and get_origin(error.target_type) is not Literal:
        wanted = str(error.msg)
    else:
        wanted = _wanted(argument)
    return f"{where}: {wanted} is needed, not {token.value!r}"


def _wanted(argument: Argument) -> str:
    """Names the values that a flag takes."""
    choices: Iterable[str] | None = argument.get_choices(force=True)
    if choices:
        return f"one of {', '.join(choices)}"
    members = get_args(argument.hint) or (argument.hint,)
    if float in members:
        return "a number"
    return "true or false" if bool in members else "another value"
