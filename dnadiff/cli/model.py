"""``dnadiff model ...``: lists trained models."""

from __future__ import annotations

from dnadiff.cli.flags import command


@command
def show(*, quiet: bool = False) -> None:
    """Lists the models that ship with dnadiff: size, digest, held-out bound, and path.

    Other models are loaded by name, as --checkpoint hf:OWNER/NAME.

    Args:
        quiet: names only.
    """
    from dnadiff.model import DEFAULT, load, shipped_model

    path = shipped_model()
    if quiet:
        print(DEFAULT)
        return
    model = load(path, device="cpu")
    line = f"{DEFAULT:<10}{model.params:>10,} parameters  digest {model.digest}"
    test = model.about.get("test")
    if test is not None:
        line += f"  test <= {test['nats_per_base']:.4f} +- {test['se']:.4f} nats per base"
    print(f"{line}  at {path}")
