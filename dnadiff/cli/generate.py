"""``dnadiff generate``: sequences as FASTA."""

from __future__ import annotations

import hashlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dnadiff.cli.fasta_out import Headers, check_out, fasta_out
from dnadiff.cli.flags import command
from dnadiff.cli.runs import chosen_model
from dnadiff.errors import UsageError

if TYPE_CHECKING:
    from dnadiff.genome.fasta import Genome
    from dnadiff.model import Model
    from dnadiff.sampling import Constraints, SamplerConfig, Template


@command
def generate(
    *,
    checkpoint: str | None = None,
    length: int | None = None,
    num: int = 1,
    template: str | None = None,
    genome: str | None = None,
    sampler: Literal[
        "auto",
        "ancestral",
        "first_hitting",
        "analytic",
        "remasking",
        "uniform",
        "plaid",
        "autoregressive",
        "semi_autoregressive",
    ] = "auto",
    steps: int | None = None,
    remask: Literal["cap", "rescale", "confidence", "loop"] | None = None,
    eta: float | None = None,
    window: int | None = None,
    stride: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    avoid: list[str] | None = None,
    require: list[str] | None = None,
    gc: list[str] | None = None,
    max_homopolymer: int | None = None,
    unique_kmer: int | None = None,
    approximate: bool = False,
    label: str | None = None,
    guidance: float | None = None,
    guide: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: str = "-",
    quiet: bool = False,
) -> None:
    """Draws sequences of A, C, G and T. The same seed gives the same sequences, whatever the batch size.

    Args:
        checkpoint: a run folder, a model folder or hf:OWNER/NAME; by default the newest run under ./runs.
        length: bases of each sequence, 1,024 by default; or of the window around each interval of a BED file, by
            default what the model was trained on.
        num: how many sequences, of each template.
        template: IUPAC letters: A, C, G and T stay, N is free, other codes restrict; instead of --length. Or a FASTA
            file of such templates. Or, with --genome, a BED file of what to redesign: drawn anew, given the bases on
            both sides of it.
        genome: FASTA file, plain or bgzipped, around the intervals of a BED file.
        sampler: auto fits the model's objective, and slides a window over what is longer than it was trained on.
        steps: network calls at most, for each window; 128 by default. More steps, less error. first_hitting and
            autoregressive take one call for each base instead.
        remask: how the remasking sampler hides letters again; cap by default.
        eta: how many of them in each step, 0 to 1; 1/steps by default.
        window: bases that the network is shown at once; by default what it was trained on, or all for a named sampler.
        stride: by how many bases the window moves; half of it by default.
        temperature: 1 samples the model as it is, less than 1 prefers likely letters.
        top_p: 1 samples the model as it is, less leaves out the least likely letters, whose share of the probability is
            together at most 1 minus this.
        avoid: a site that must occur on neither strand: IUPAC letters, the name of a restriction enzyme (BsaI), or a
            file of them, FASTA or one on a line. Repeatable.
        require: a motif that every sequence has, on the strand as written, where the template leaves room; in the words
            of --avoid. Repeatable.
        gc: LOW:HIGH, bounds on the share of G and C, e.g. 0.4:0.6; LOW:HIGH:WINDOW for every window of so many bases.
            Repeatable.
        max_homopolymer: longest run of one letter.
        unique_kmer: no k-mer of this length twice, on either strand.
        approximate: draw the letters that a template restricts one after another, not from their joint distribution;
            always so under --avoid, --gc, --max-homopolymer and --unique-kmer.
        label: the class to draw sequences of, for a model that was trained with --labels.
        guidance: weight of the class; 1, the default, draws it as it was learned, more exaggerates it, 0 ignores it.
        guide: CSV or TSV with columns label and sequence; a classifier is fitted to them and leads to --label, for a
            model that was trained with masks and without labels.
        batch_size: sequences drawn together; by default as many as show the network 32,768 bases at once, or fewer
            where memory is scarce.
        seed: determines the sequences.
        out: a FASTA file that does not exist yet, or - for stdout. What is drawn is kept in FILE.part until all is
            there; the same command goes on from it.
        quiet: no progress bar.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {batch_size}")
    if num < 1:
        raise UsageError(f"--num must be at least 1, not {num}")
    check_out(out)
    if label is None and guide is not None:
        raise UsageError("--guide goes with --label: say which class")
    from dnadiff.model import load
    from dnadiff.progress import bar
    from dnadiff.sampling import Constraints, read_templates

    constraints = Constraints(
        avoid=avoid or [],
        require=require or [],
        gc=gc or [],
        max_homopolymer=max_homopolymer,
        unique_kmer=unique_kmer,
        approximate=approximate,
    )
    around = _opened(genome, quiet)
    model = load(chosen_model(checkpoint))
    length = model.about.get("window") if around is not None and length is None else length
    templates = read_templates(template, length=length, genome=around)
    settings: dict[str, Any] = {
        "steps": steps,
        "remask": remask,
        "eta": eta,
        "window": window,
        "stride": stride,
    }
    settings |= _class(model, label, guidance, guide, quiet)
    choices = [model.choose(len(one.tokens), sampler, **settings) for one in templates]
    if sampler == "auto":
        print(f"{choices[0]} (choose with --sampler)", file=sys.stderr)
    nucleus = f" top_p={top_p:g}" if top_p < 1 else ""
    run = f"temperature={temperature:g}{nucleus} seed={seed}{_said(label, guidance, guide)} {constraints}".strip()
    made = [_made(*each, run, constraints) for each in zip(templates, choices, strict=True)]
    total = num * len(templates)
    headers = _headers([one.name for one in templates], made, num, model.digest)
    with (
        fasta_out(out, headers) as (done, write),
        bar("generate", quiet=quiet or out == "-") as progress,
    ):
        sequences = model.stream(
            num,
            template=templates,
            sampler=sampler,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            batch_size=batch_size,
            constraints=constraints,
            start=done,
            **settings,
        )
        progress(done, total)
        for count, sequence in enumerate(sequences, done + 1):
            write(sequence)
            progress(count, total)


def _headers(names: list[str], made: list[str], num: int, digest: str) -> Headers:
    """The headers of `num` records of each template, from their names and how they were made."""

    def header(record: int) -> str | None:
        which, i = divmod(record, num)
        return (
            f"{names[which]}_{i} model={digest} {made[which]} index={i}"
            if which < len(names)
            else None
        )

    return header


def _made(template: Template, choice: SamplerConfig, run: str, constraints: Constraints) -> str:
    """What the headers of a template's records say of how they were made, and where they lie."""
    from dnadiff.sampling import letters_drawn

    drawn = letters_drawn(template, choice, constraints)
    restricted = "" if drawn is None else f" letters={drawn}"
    window = "" if template.window is None else f" within={template.window}"
    return f"{choice} {run}{restricted}{window} design={_design(template, constraints)}"


def _design(template: Template, constraints: Constraints) -> str:
    """Eight digits for the letters asked for: those of a file may have changed, though its name has not."""
    asked = repr((constraints.avoid, constraints.require, constraints.approximate)).encode()
    allowed = b"" if template.allowed is None else template.allowed.numpy().tobytes()
    return _digest(asked + template.tokens.numpy().tobytes() + allowed)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


def _opened(genome: str | None, quiet: bool) -> Genome | None:
    from dnadiff.genome.fasta import Genome
    from dnadiff.progress import bar

    if genome is None:
        return None
    with bar(f"index {Path(genome).name}", quiet=quiet) as progress:
        return Genome.open(genome, progress=progress)


def _class(
    model: Model, label: str | None, guidance: float | None, guide: str | None, quiet: bool
) -> dict[str, Any]:
    """What leads to the class: of a table, the classifier that is fitted to it; stderr is told how good that is."""
    wanted: dict[str, Any] = {"label": label, "guidance": guidance}
    if guide is None:
        return wanted
    from dnadiff.progress import bar
    from dnadiff.training.guide import fit_guide

    with bar("guide", quiet=quiet) as progress:
        fitted = fit_guide(model, guide, label, progress=progress)
    if not quiet:
        print(*fitted.skills, sep="\n", file=sys.stderr)
    return wanted | {"guide": fitted}


def _said(label: str | None, guidance: float | None, guide: str | None) -> str:
    """What the header of a record says of the class."""
    words = {
        "label": label,
        "guidance": None if label is None else f"{1.0 if guidance is None else guidance:g}",
    }
    words["guide"] = (
        None if guide is None else f"{Path(guide).name}:{_digest(Path(guide).read_bytes())}"
    )
    return "".join(
        f" {name}={shlex.quote(word)}" for name, word in words.items() if word is not None
    )
