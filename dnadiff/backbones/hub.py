"""Models by name: ``hf:OWNER/NAME[@REVISION]``, through huggingface_hub (the extra ``hub``).

The internet is used only where the user wrote ``hf:``, and only to download config.json and the
weights, never code. Files stay in huggingface_hub's own cache; with HF_HUB_OFFLINE=1 only the cache
is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from dnadiff.backbones.weights import WEIGHTS
from dnadiff.errors import InputError


def local_folder(path: str | Path) -> Path:
    """Returns `path`, or the local folder of a model hf:OWNER/NAME[@REVISION], after download.

    Raises:
        InputError: if that model cannot be downloaded, saying why.
    """
    text = Path(path).as_posix()
    if not text.startswith("hf:"):
        return Path(path)
    name = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if name is None:
        raise InputError(f"{text}: write hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    config = _fetch(text, name[1], name[2], ["config.json"])
    # The cache names the folder by commit: the weights must come from the same commit.
    weights = _fetch(text, name[1], config.parent.name, WEIGHTS)
    _check(weights)
    return config.parent


def _fetch(text: str, repository: str, revision: str | None, names: Sequence[str]) -> Path:
    """Downloads the first of the files `names` that the repository has."""
    # An optional dependency: everything else works without it.
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(
            f"{text}: such names need huggingface_hub: pip install 'dnadiff[hub]'"
        ) from error
    reason = ""
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except hub.LocalEntryNotFoundError:
            reason = "not in the cache, and the network is switched off or cannot be reached"
        except hub.EntryNotFoundError:
            reason = "there is no such file"
        except hub.RevisionNotFoundError as error:
            raise InputError(f"{text}: there is no revision {revision}") from error
        except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
            raise InputError(f"{text}: there is no such model, or it is not public") from error
        except (hub.HfHubHTTPError, OSError) as error:
            raise InputError(f"{text}: {name}: {str(error).split(chr(10))[0]}") from error
    raise InputError(f"{text}: {' or '.join(names)}: {reason}")


def _check(weights: Path) -> None:
    """Compares a large file with its SHA-256, by which the cache names it."""
    name = weights.resolve().name
    # The cache names small files by their git hash instead, which is not compared.
    if re.fullmatch(r"[0-9a-f]{64}", name) is None:
        return
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != name:
        raise InputError(
            f"{weights}: damaged: its SHA-256 is not the published one; delete {weights.resolve()}"
        )
