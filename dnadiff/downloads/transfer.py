"""Makes one HTTP download that continues where an earlier one stopped (RFC 9110, ranges)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnadiff.errors import InputError
from dnadiff.files import read_json, write_json

TIMEOUT = (10, 60)
"""Seconds to connect, and to wait for the next bytes."""

_CHUNK = 1 << 20


def part_of(target: Path) -> Path:
    """Returns the path of an incomplete download of `target`."""
    return target.with_name(f"{target.name}.part")


def download(url: str, part: Path, *, pinned: bool, progress: Callable[[int, int], None]) -> None:
    """Downloads `url` to `part`, and continues an incomplete download that is there.

    If the checksum of the whole file is not known, the download is continued only if the server
    still has the same version of the file (If-Range). Otherwise two versions could be joined.

    Args:
        url: http or https.
        part: the file to write. While it is incomplete, its URL and version are in a file next to
            it.
        pinned: whether the checksum of the whole file is known and will be compared.
        progress: called with (bytes done, bytes in all); the latter is 0 if the server does not
            say.

    Raises:
        requests.HTTPError: if the server answers that it does not have the file.
        requests.ConnectionError: if it cannot be reached, or breaks off; the part stays.
    """
    import requests
    import urllib3

    done, conditions = _continuation(part, url, pinned=pinned)
    try:
        # With compression in transit, ranges would count other bytes than those of the file.
        headers = {"Accept-Encoding": "identity", **conditions}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            total = _total(answer)
            if answer.status_code != requests.codes.requested_range_not_satisfiable or not done:
                _append(answer, url, part, progress)
            elif done != total:  # the part is longer than the file
                forget(part)
                return download(url, part, pinned=pinned, progress=progress)
    except (urllib3.exceptions.HTTPError, requests.Timeout) as error:
        raise requests.ConnectionError(error) from error

    # A length that only Content-Range states is not checked by urllib3.
    if total and part.stat().st_size != total:
        raise requests.ConnectionError(
            f"broke off after {part.stat().st_size:,} of {total:,} bytes"
        )
    _note(part).unlink(missing_ok=True)


def forget(part: Path) -> None:
    """Removes an incomplete download and the file about it."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _append(answer: Any, url: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """Appends the body of a response to the part, or starts the part again."""
    answer.raise_for_status()
    content_range = answer.headers.get("Content-Range", "bytes 0-")
    # A server that ignores the range answers with the whole file, from byte 0.
    start = content_range.removeprefix("bytes ").partition("-")[0]
    write_json(_note(part), {"url": url, "validator": _validator(answer)})
    with part.open("ab" if start != "0" else "wb") as file:
        if start != str(file.tell()):
            raise ValueError(f"the server sends bytes from {start}, not from {file.tell()}")
        for piece in answer.raw.stream(_CHUNK, decode_content=False):
            file.write(piece)
            progress(file.tell(), _total(answer))


def _continuation(part: Path, url: str, *, pinned: bool) -> tuple[int, dict[str, str]]:
    """Returns how many bytes of a part can be kept, and the headers that request the rest."""
    try:
        note = read_json(_note(part))
    except InputError:
        note = {}
    done = part.stat().st_size if part.exists() else 0
    # An ETag of one server means nothing to another.
    validator = note.get("validator") if note.get("url") == url else None
    if not done or not (pinned or validator):
        return 0, {}

    headers = {"Range": f"bytes={done}-"}
    if validator:
        headers["If-Range"] = validator
    return done, headers


def _total(answer: Any) -> int:
    """Returns the bytes of the whole file, or 0 if the server does not say."""
    of_range = answer.headers.get("Content-Range", "").rpartition("/")[2]
    stated = of_range or answer.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() else 0


def _validator(answer: Any) -> str | None:
    """Returns what identifies this version of the file: a strong ETag, or its date."""
    # A weak ETag may stay the same for other bytes (RFC 9110, section 8.8.1).
    tag = answer.headers.get("ETag", "W/")
    return answer.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _note(part: Path) -> Path:
    """Returns the path of the file with the URL and version of a part."""
    return part.with_name(f"{part.name}.json")
