"""The verbs: what each does in a line, two examples of each, and what people type instead."""

from __future__ import annotations

import difflib

from dnadiff.errors import UsageError

VERBS = {
    "pretrain": "train a diffusion language model on a genome",
    "generate": "draw new sequences from a model, as FASTA",
    "benchmark": "probe models and baselines on classification tasks",
    "report": "one HTML page of runs, samples and benchmark results",
    "export": "write a model in the published Caduceus format",
    "data list": "what can be fetched, how it is checked, and what is there",
    "data fetch": "download a genome, intervals or benchmark coordinates, with checksums",
    "data simulate": "write the demo genome, whose entropy is known exactly",
    "data index": "read and check a FASTA once, so that later reads are fast",
    "data audit": "what train, valid and test share: bases, and exact k-mers",
    "model list": "the models that ship with dnadiff",
    "doctor": "what this machine can run, and whether its kernels are right",
}

GROUPS = {"data": "genomes", "model": "trained models"}
"""First words of verbs of two words, and what those verbs are about."""

FUNCTIONS = {"data list": "show", "model list": "show"}
"""Functions of verbs whose own name Python needs for something else."""

EXAMPLES = {
    "pretrain": (
        "dnadiff pretrain --genome hg38.fa --max-time 2h",
        "dnadiff pretrain --config smoke --genome genome.fa --out runs/first",
    ),
    "generate": (
        "dnadiff generate --length 1024 -n 10 --out new.fa",
        "dnadiff generate --template NNNNTATAWAAGNNNN --avoid BsaI",
    ),
    "benchmark": (
        "dnadiff benchmark --task human_enhancers",
        "dnadiff benchmark --task all --checkpoint runs/a --checkpoint runs/b",
    ),
    "report": (
        "dnadiff report runs/first",
        "dnadiff report runs/first new.fa table/results.csv --out page.html",
    ),
    "export": (
        "dnadiff export --out exported",
        "dnadiff export --checkpoint runs/first --out exported",
    ),
    "data list": ("dnadiff data list", "dnadiff data list --quiet"),
    "data fetch": ("dnadiff data fetch hg38", "dnadiff data fetch hg38 --out genomes"),
    "data simulate": (
        "dnadiff data simulate",
        "dnadiff data simulate --out genome.fa --seed 1",
    ),
    "data index": ("dnadiff data index hg38.fa", "dnadiff data index a.fa b.fa.gz"),
    "data audit": (
        "dnadiff data audit hg38.fa",
        "dnadiff data audit hg38.fa --intervals splits.bed --out audit.csv",
    ),
    "model list": ("dnadiff model list", "dnadiff model list --quiet"),
    "doctor": ("dnadiff doctor", "dnadiff doctor --json"),
}

OTHER_WORDS = {
    "sample": "generate",
    "draw": "generate",
    "design": "generate",
    "train": "pretrain",
    "fit": "pretrain",
    "resume": "pretrain --resume RUN",
    "finetune": "pretrain --init RUN",
    "fine-tune": "pretrain --init RUN",
    "eval": "benchmark",
    "evaluate": "benchmark",
    "test": "benchmark",
    "predict": "benchmark",
    "classify": "benchmark",
    "probe": "benchmark",
    "score": "benchmark, or dnadiff.load(RUN).score(sequences) in Python",
    "embed": "benchmark, or dnadiff.load(RUN).embed(sequences) in Python",
    "plot": "report",
    "convert": "export",
    "save": "export",
    "check": "doctor",
    "info": "doctor",
    "download": "data fetch",
    "fetch": "data fetch",
    "list": "data list",
    "index": "data index",
    "audit": "data audit",
    "simulate": "data simulate",
}
"""Verbs of other programs, and the one that does the same here."""


def find_verb(words: list[str]) -> str:
    """Returns the verb that a command line begins with, or "" where it begins with a flag.

    So does `data --help`, which is about several verbs.

    Raises:
        UsageError: if it begins with another word, naming the verbs that may have been meant.
    """
    for size in (2, 1):
        verb = " ".join(words[:size])
        if verb in VERBS:
            return verb
    if not words or words[0].startswith("-"):
        return ""
    if words[0] in GROUPS and words[1:] in (["-h"], ["--help"]):
        return ""

    # Flags and files that follow the verb must not take part in the comparison.
    typed = words[:1] if len(words) == 1 or words[1].startswith("-") else words[:2]
    if words[0] in GROUPS:
        near = [verb for verb in VERBS if verb.startswith(f"{words[0]} ")]
    elif words[0] in OTHER_WORDS:
        near = [OTHER_WORDS[words[0]]]
    else:
        near = difflib.get_close_matches(words[0], VERBS, 3, 0.6)
        near = near or difflib.get_close_matches(" ".join(typed), VERBS, 3, 0.6)
    meant = f"did you mean {' or '.join(near)}?" if near else "see dnadiff --help"
    unknown = typed if words[0] in GROUPS else words[:1]
    raise UsageError(f"no verb {' '.join(unknown)!r}; {meant}")
