"""``dnadiff generate``: samples sequences and writes them as FASTA."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dnadiff.cli.flags import command
from dnadiff.cli.runs import chosen_model
from dnadiff.errors import InputError, UsageError

if TYPE_CHECKING:
    from dnadiff.genome.fasta import Genome
    from dnadiff.model import Model
    from dnadiff.training.guide import LinearGuide


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
    """Samples sequences of A, C, G and T, and writes them as FASTA.

    The same seed gives the same sequences, whatever the batch size. Two models with the same seed
    use the same random numbers.

    Args:
        checkpoint: a run folder, a model folder or hf:OWNER/NAME; by default the newest run under
            ./runs.
        length: bases of each sequence, 1,024 by default. With a BED file as template, bases of the
            window around each interval, by default the window of training.
        num: number of sequences, for each template.
        template: a sequence of IUPAC codes, instead of --length: A, C, G and T are kept, N is free,
            other codes restrict the choice. Or a FASTA file of such templates. Or, with --genome, a
            BED file of intervals to redesign, given the bases on both sides of each.
        genome: FASTA file, plain or bgzipped, that the intervals of a BED template are in.
        sampler: auto chooses one for the model's objective, and samples sequences longer than the
            training windows one window at a time.
        steps: the most network calls for each window; 128 by default. More steps give a smaller
            error. first_hitting and autoregressive make one call for each base instead.
        remask: how the remasking sampler masks bases again; cap by default.
        eta: share of bases that remasking masks again in each step, 0 to 1; 1/steps by default.
        window: bases that the network sees at once; by default as in training, or the whole
            sequence for a named sampler.
        stride: bases that are sampled in each window; half of the window by default.
        temperature: 1 samples the model as it is, less than 1 prefers likely bases.
        top_p: nucleus sampling: keep the most likely bases whose total probability is at least
            this; 1 keeps all.
        avoid: a site that must occur on neither strand: IUPAC codes, the name of a restriction
            enzyme (BsaI), or a file of sites, FASTA or one on a line. Repeatable.
        require: a motif that every sequence must have on the forward strand, at a position that the
            template allows; given as for --avoid. Repeatable.
        gc: LOW:HIGH, bounds on the share of G and C, e.g. 0.4:0.6; LOW:HIGH:WINDOW for every window
            of that length. Repeatable.
        max_homopolymer: longest run of one base.
        unique_kmer: no k-mer of this length twice, on either strand.
        approximate: sample bases that a template restricts one after another, not from their joint
            distribution; always the case with --avoid, --gc, --max-homopolymer and --unique-kmer.
        label: class of the sequences, for a model that was trained with --labels; by default
            sampling is unconditional.
        guidance: weight of the class; 1, the default, samples the class as it was learned, larger
            values strengthen it, 0 ignores it.
        guide: CSV or TSV with columns label and sequence. A classifier is fitted to them and guides
            sampling towards --label, for a masked-diffusion model that was trained without labels.
        batch_size: sequences sampled together; by default 32,768 bases in all, or fewer if memory
            is scarce.
        seed: determines the sequences.
        out: a FASTA file that does not exist yet, or - for stdout. Finished sequences are kept in
            FILE.part until the file is complete; the same command continues it.
        quiet: no progress bar.
    """
    check_out(out)
    # Fitting a guide takes a while, so a missing label is reported before.
    if label is None and guide is not None:
        raise UsageError("--guide goes with --label: say which class")
    # These import torch, which --help does not wait for.
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
    # The genome before the model: an unusable file is reported before weights are loaded.
    around = _open_genome(genome, quiet)
    model = load(chosen_model(checkpoint))
    # An interval gets as much context as the network was trained with.
    if around is not None and length is None:
        length = model.about.get("window")
    templates = read_templates(template, length=length, genome=around)
    fitted = None if guide is None else _fit_guide(model, guide, label, quiet)
    # With - the sequences go to the terminal, where a progress bar would mix with them.
    with bar("generate", quiet=quiet or out == "-") as progress:
        model.write_fasta(
            out,
            num,
            template=templates,
            sampler=sampler,
            steps=steps,
            remask=remask,
            eta=eta,
            window=window,
            stride=stride,
            temperature=temperature,
            top_p=top_p,
            constraints=constraints,
            label=label,
            guidance=guidance,
            guide=fitted,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )


def check_out(out: str) -> None:
    """Checks --out before torch is imported, which takes seconds.

    Raises:
        InputError: if the file exists.
        UsageError: if its name ends with .gz.
    """
    if out.endswith(".gz"):
        raise UsageError(f"--out {out}: the file is written as plain text; leave .gz out")
    if out != "-" and Path(out).exists():
        raise InputError(f"{out}: exists already; remove it or choose another --out")


def _open_genome(genome: str | None, quiet: bool) -> Genome | None:
    """Opens the genome around the intervals of a BED file, with a progress bar."""
    from dnadiff.genome.fasta import Genome
    from dnadiff.progress import bar

    if genome is None:
        return None
    with bar(f"index {Path(genome).name}", quiet=quiet) as progress:
        return Genome.open(genome, progress=progress)


def _fit_guide(model: Model, guide: str, label: str | None, quiet: bool) -> LinearGuide:
    """Fits a classifier to a table, and prints how good it is to stderr."""
    from dnadiff.progress import bar
    from dnadiff.training.guide import fit_guide

    with bar("guide", quiet=quiet) as progress:
        fitted = fit_guide(model, guide, label, progress=progress)
    if not quiet:
        print(*fitted.skills, sep="\n", file=sys.stderr)
    return fitted
