"""Finds out which checksum a download must have, and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dnadiff.downloads.catalogue import FIRST
from dnadiff.downloads.transfer import TIMEOUT

_MD5_DIGITS = 32


@dataclass(frozen=True)
class Checksum:
    """Says what a file must be as downloaded.

    Attributes:
        value: "sha256:..." or "md5:...", or None if nobody knows.
        source: who says so; for an unknown value the name of the list that may know it, or `FIRST`.
    """

    value: str | None
    source: str


def known_checksum(
    registered: str, given: str | None, receipt: Mapping[str, str] | None
) -> Checksum:
    """Returns the checksum of a file as far as it is known without a network.

    Args:
        registered: what the catalogue says of the file.
        given: the SHA-256 that the user gave, if any; it overrides all others.
        receipt: of an earlier download, if any.
    """
    if given:
        return Checksum(f"sha256:{given.lower()}", "the argument sha256")
    if ":" in registered:
        return Checksum(registered, "dnadiff's registry")
    if receipt:
        return Checksum(f"sha256:{receipt['sha256']}", f"the first download ({receipt['date']})")
    return Checksum(None, registered)


def published_checksum(address: str, checksum: Checksum) -> Checksum:
    """Returns the checksum; an unknown one is looked up in the owner's list beside the file.

    Args:
        address: of the file.
        checksum: what is known of it.

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
