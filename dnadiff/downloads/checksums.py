"""Finds the checksum that a download must have, and its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dnadiff.downloads.catalogue import FIRST
from dnadiff.downloads.transfer import TIMEOUT

_MD5_DIGITS = 32


@dataclass(frozen=True)
class Checksum:
    """Holds the checksum that a file must have as downloaded.

    Attributes:
        value: "sha256:..." or "md5:...", or None if it is unknown.
        source: where the value comes from; for an unknown value, the name of the checksum list next
            to the file that may have it, or `FIRST`.
    """

    value: str | None
    source: str


def known_checksum(
    registered: str, given: str | None, receipt: Mapping[str, str] | None
) -> Checksum:
    """Returns the checksum of a file as far as it is known without a network.

    Args:
        registered: the entry of the catalogue: a checksum, or the `source` of an unknown one.
        given: the SHA-256 that the user gave, if any; it overrides all others.
        receipt: receipt of an earlier download, if any.
    """
    # The user may know of a new version of the file, which no shipped checksum can.
    if given:
        return Checksum(f"sha256:{given.lower()}", "the argument sha256")
    if ":" in registered:
        return Checksum(registered, "dnadiff's registry")
    if receipt:
        return Checksum(f"sha256:{receipt['sha256']}", f"the first download ({receipt['date']})")
    return Checksum(None, registered)


def published_checksum(address: str, checksum: Checksum) -> Checksum:
    """Returns the checksum; an unknown one is looked up in the list that the server publishes.

    Args:
        address: URL of the file.
        checksum: what is known of its checksum.

    Raises:
        requests.RequestException: if the server cannot be reached.
    """
    if checksum.value or checksum.source == FIRST:
        return checksum
    import requests

    folder, _, file = address.rpartition("/")
    list_address = f"{folder}/{checksum.source}"
    answer = requests.get(list_address, timeout=TIMEOUT)
    lines = answer.text.splitlines() if answer.ok else []
    for line in lines:
        value, _, name = line.strip().partition(" ")
        # md5sum marks binary files with a star, and some owners write ./ before the name.
        if name.lstrip(" *./") == file and len(value) == _MD5_DIGITS:
            return Checksum(f"md5:{value.lower()}", list_address)
    return Checksum(None, FIRST)
