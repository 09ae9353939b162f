"""``dnadiff export``: writes a model for users of the published Caduceus code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dnadiff.cli.flags import command
from dnadiff.cli.runs import chosen_model
from dnadiff.errors import InputError, UsageError, printable

if TYPE_CHECKING:
    from dnadiff.backbones.caduceus import CaduceusLM

_CONDITIONING_NOTE = (
    "it was trained with conditioning on a noise level, a class or its own earlier prediction, "
    "for which there is no published format: without them it computes something else than the model"
)


@command
def export(*, checkpoint: str | None = None, out: str | None = None) -> None:
    """Writes config.json and model.safetensors as the published Caduceus code reads them.

    A README.md is added. Only Caduceus and Mamba have a published format; of other backbones,
    share the model folder. The network alone is written, without what only dnadiff knows: the
    objective, its own weights, and the conditioning on noise level, class or earlier prediction.

    Args:
        checkpoint: a run folder, a model folder or hf:OWNER/NAME; by default the newest finished
            run under ./runs.
        out: a folder, absent or empty.
    """
    if out is None:
        raise UsageError("no folder to write to: give --out FOLDER")
    from dnadiff.backbones.caduceus import CaduceusLM
    from dnadiff.files import empty_folder, write_text
    from dnadiff.model import load

    model = load(chosen_model(checkpoint), device="cpu")
    lm = model.denoiser.lm
    if not isinstance(lm, CaduceusLM):
        kind = lm.config.model_type.removeprefix("dnadiff-")
        raise InputError(
            f"there is no published format for a {kind}: share its model folder, which "
            f"dnadiff.load reads"
        )
    if model.denoiser.memory is not None:
        raise InputError(
            "this model adds an n-gram memory to its embedding, which the published format has no "
            "place for: share its model folder, which dnadiff.load reads"
        )
    folder = empty_folder(out)
    lm.save_pretrained(folder)

    count = sum(p.numel() for p in lm.parameters())
    what = f"{_variant(lm)}, {count:,} parameters"
    conditioned = model.denoiser.conditioning or model.denoiser.self_cond
    note = _CONDITIONING_NOTE if conditioned else ""
    write_text(
        folder / "README.md", _readme(f"{what}, of the model with digest `{model.digest}`", note)
    )
    print(printable(f"{Path(out)}: {what}{'; ' * bool(note)}{note}"))


def _variant(lm: CaduceusLM) -> str:
    """Returns the name of the architecture in the papers."""
    if lm.causal:
        return "Mamba, a Caduceus of one direction"
    return "Caduceus-PS" if lm.config.rcps else "Caduceus-Ph"


def _readme(what: str, note: str) -> str:
    """Returns the text of README.md."""
    return f"""\
# A language model of DNA in the published Caduceus format

{what}, written by dnadiff.{f" Note: {note}." if note else ""}

With the published Caduceus code:

    from caduceus.modeling_caduceus import CaduceusForMaskedLM
    lm = CaduceusForMaskedLM.from_pretrained("this folder")

With dnadiff:

    from dnadiff.backbones import load_pretrained
    lm = load_pretrained("this folder")
"""
