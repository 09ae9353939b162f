"""Explains a command line that cannot be read: what is wrong, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, get_args, get_origin

from cyclopts import (
    Argument,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
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
    "window": "length context context-length ctx seq-len seqlen seq-length sequence-length"
    " max-length",
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
        text = _unknown_flag(error.token.keyword or error.token.value, error.argument_collection)
    elif isinstance(error, MissingArgumentError):
        text = _missing(error)
    elif isinstance(error, RepeatArgumentError):
        text = _repeated(error)
    elif isinstance(error, UnusedCliTokensError):
        text = _unused((error.unused_tokens or [""])[0])
    elif isinstance(error, UnknownCommandError):
        text = f"{(error.unused_tokens or [''])[0]} stands before a verb: flags follow it"
    elif isinstance(error, CoercionError) and error.argument is not None:
        text = _wrong_value(error, error.argument)
    elif isinstance(error, ValidationError) and error.argument is not None:
        text = f"{error.argument.name}: {error.exception_message}"
    else:
        text = str(error)
    return f"{text} (see {' '.join(('dnadiff', verb)).strip()} --help)"


def _unknown_flag(typed: str, flags: ArgumentCollection) -> str:
    """Explains a flag that does not exist."""
    known = {argument.field_info.name: argument.name for argument in flags}
    # "--max_steps+" and "-MaxSteps" are compared without their decoration.
    word = typed.strip("-+").lower().replace("_", "-")
    for name, others in OTHER_FLAGS.items():
        if name in known and word in others.split():
            note = f" ({_NOTES[name]})" if name in _NOTES else ""
            return f"no flag {typed}; did you mean {known[name]}?{note}"

    # Below 0.7, three letters resemble half of all flags.
    names = [name for argument in flags for name in argument.names]
    near = difflib.get_close_matches(f"--{word}", names, 1, 0.7)
    return f"no flag {typed}{f'; did you mean {near[0]}?' if near else ''}"


def _missing(error: MissingArgumentError) -> str:
    """Explains a flag that is needed, or one that was given without its value."""
    assert error.argument is not None
    if error.keyword is None and not error.argument.tokens:
        # What is missing may be there under a name that does not exist.
        unknown = [word for word in error.unused_tokens or [] if word.startswith("--")]
        if unknown and error.app is not None:
            flags = error.app.assemble_argument_collection()
            return _unknown_flag(unknown[0].split("=")[0], flags)
        name = error.argument.name
        needed = name if error.argument.index is None else name.strip("-").upper()
        return f"{needed} is needed"
    flag = error.keyword or error.argument.name
    return f"{flag} needs a value; one that begins with a dash is written {flag}=-VALUE"


def _repeated(error: RepeatArgumentError) -> str:
    """Explains a flag with one value that was given twice."""
    typed = error.token.keyword
    # The error names only the second flag; an alias such as --init may be what came first.
    flags = [] if error.app is None else error.app.assemble_argument_collection()
    names = next((argument.names for argument in flags if typed in argument.names), ())
    given = {word.split("=")[0] for word in error.root_input_tokens or []}
    both = [name for name in names if name in given]
    if len(both) > 1:
        return f"{' and '.join(both)} are two names of one flag: give one of them"
    return f"{typed} is given twice; it takes one value"


def _unused(word: str) -> str:
    """Explains a word that belongs to no flag."""
    if word in ("true", "false"):
        return f"{word!r} stands alone: write a switch as --FLAG, --no-FLAG or --FLAG={word}"
    return f"{word!r} belongs to no flag"


def _wrong_value(error: CoercionError, argument: Argument) -> str:
    """Explains a value that has not the type of its flag, naming the file if it comes from one."""
    # A value from a file has the file and line as its source.
    token = error.token or argument.tokens[0]
    name = token.keyword or argument.name
    where = name if token.source in ("", "cli") else f"{token.source}: {name}"
    # Our own converters say what they want; cyclopts' messages name Python types.
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
