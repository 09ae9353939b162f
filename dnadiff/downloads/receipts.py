"""Records in the cache folder what was fetched and how it was checked, and locks entries."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from dnadiff.files import cache_folder, read_json, write_json

logger = logging.getLogger(__name__)

Receipt = dict[str, str]
"""Facts about one file: address, date, checked, sha256, content, folder.

`sha256` is the digest of the file as downloaded, `content` that of the unpacked file; `checked` is
the source of the checksum that the file was compared with.
"""


def read_receipts(name: str) -> dict[str, Receipt]:
    """Returns the receipt of each file of an entry; empty if it was never fetched."""
    path = _receipt_file(name)
    return read_json(path) if path.exists() else {}


def write_receipt(
    name: str, file: str, *, address: str, checked: str, sha256: str, content: str, folder: Path
) -> None:
    """Records that a file of an entry was fetched now; see `Receipt`."""
    # The receipts of an entry's other files are kept: each is fetched on its own.
    receipt = {
        "address": address,
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
        "checked": checked,
        "sha256": sha256,
        "content": content,
        "folder": str(folder),
    }
    write_json(_receipt_file(name), read_receipts(name) | {file: receipt})


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Keeps other processes from fetching the same entry during the block."""
    from filelock import FileLock, Timeout

    path = _receipt_file(name).with_suffix(".lock")
    # The lock needs its folder before there is any receipt.
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        # First without waiting, so that a wait can be announced.
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process is fetching it; waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _receipt_file(name: str) -> Path:
    """Returns where the receipts of an entry are kept."""
    return cache_folder() / "fetched" / f"{name}.json"
