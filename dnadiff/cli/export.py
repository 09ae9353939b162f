"""``dnadiff export``: a model for users of the published Caduceus code."""

from __future__ import annotations

from pathlib import Path

from dnadiff.cli.runs import newest_run
from dnadiff.errors import InputError, UsageError


def export(checkpoint: str | None = None, out: str | None = None) -> None:
    """Writes config.json and model.safetensors as the published Caduceus code reads them, and a README.md.

    For Caduceus and Mamba: other backbones have no published format, and their model folder is what others can load.
    The network goes out; what only dnadiff knows stays behind: its objective, that objective's own weights, and what
    tells the network a noise level, a class or an earlier answer.

    Args:
        checkpoint: a run folder, a model folder or hf:OWNER/NAME; by default the newest run under ./runs.
        out: a folder, absent or empty.
    """
    if out is None:
        raise UsageError("no folder to write to: give --out FOLDER")
    from dnadiff.backbones.caduceus import CaduceusLM
    from dnadiff.files import empty_folder, write_text
    from dnadiff.model import load

    model = load(newest_run() if checkpoint is None else checkpoint, device="cpu")
    lm = model.denoiser.lm
    if not isinstance(lm, CaduceusLM):
        raise InputError(
            f"there is no published format for a {lm.config.model_type.removeprefix('dnadiff-')}: give others its "
            f"model folder, which dnadiff.load reads"
        )
    folder = empty_folder(out)
    lm.save_pretrained(folder)
    variant = (
        "Mamba, a Caduceus of one direction"
        if lm.causal
        else f"Caduceus-{'PS' if lm.config.rcps else 'Ph'}"
    )
    what = f"{variant}, {sum(p.numel() for p in lm.parameters()):,} parameters"
    note = _UNTOLD if model.denoiser.conditioning or model.denoiser.self_cond else ""
    write_text(
        folder / "README.md", _readme(f"{what}, of the model with digest `{model.digest}`", note)
    )
    print(f"{Path(out)}: {what}{'; ' * bool(note)}{note}")


_UNTOLD = (
    "it was trained to be told a noise level, a class or its earlier answer, for which there is no published format: "
    "untold it computes something else than the model"
)


def _readme(what: str, note: str) -> str:
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


COMMANDS = {"export": export}
