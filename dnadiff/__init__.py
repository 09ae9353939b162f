"""dnadiff: diffusion language models of DNA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnadiff.model import Model, load

__version__ = "0.2.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Imports torch and the model on first use, so that ``dnadiff --help`` answers at once."""
    if name in ("Model", "load"):
        import dnadiff.model

        return getattr(dnadiff.model, name)
    raise AttributeError(f"module 'dnadiff' has no attribute {name!r}")
