"""Files that dnadiff fetches when it is asked to: a registry with checksums, mirrors, resumption, offline mode.

A file is at its place whole and checked, or not at all; pooch sees to that. How it was checked is kept in a receipt in
the cache folder, and a file for which nobody publishes a checksum has to be, ever after, what it was the first time.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from dnadiff.errors import InputError, UsageError
from dnadiff.files import atomic_path, cache_folder, read_json, resource, write_json
from dnadiff.resume import TIMEOUT, download, forget, part_of

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Told (description, done, all) as work goes on; all is 0 where it is not known."""

FIRST = "first"
"""Says of a file that no checksum is known before its first download."""

_CHUNK = 1 << 20
_NO_NETWORK = "cannot be reached"
_TRIES = 5  # of one mirror, as long as each brings something


@dataclass(frozen=True)
class Download:
    """An entry of data/downloads.yaml, which says what each field means.

    Attributes:
        name: what the user asks for.
        description: what it is.
        size: of the download, in words.
        mirrors: addresses of folders, the best first.
        files: name below a mirror -> how its content is checked.
    """

    name: str
    description: str
    size: str
    mirrors: tuple[str, ...]
    files: Mapping[str, str]

    def path(self, folder: Path, file: str) -> Path:
        """Where a file is put: FASTA is unpacked, because plain gzip cannot be indexed."""
        return folder / (file.removesuffix(".gz") if file.endswith(".fa.gz") else file)

    def result(self, folder: Path) -> Path:
        """What the user wanted: the only file, or the folder of several."""
        return self.path(folder, next(iter(self.files))) if len(self.files) == 1 else folder


@dataclass(frozen=True)
class _Checksum:
    """What a file must be as downloaded.

    Attributes:
        value: "sha256:..." or "md5:...", or None if nobody knows.
        source: who says so.
    """

    value: str | None
    source: str


def registry() -> dict[str, Download]:
    """What can be fetched, by name."""
    entries = yaml.safe_load(resource("data", "downloads.yaml").read_text(encoding="utf-8"))
    return {
        name: Download(name, **entry | {"mirrors": tuple(entry["mirrors"])})
        for name, entry in entries.items()
    }


def hint(path: Path) -> str:
    """How to get the genome that a missing file is called after; empty if it is not in the registry."""
    name = path.name.removesuffix(".gz").removesuffix(".fa")
    return (
        f"dnadiff data fetch {name} downloads it and prints its path" if name in registry() else ""
    )


def fetched(name: str) -> Path | None:
    """Where an entry lies that was fetched earlier, or None if it is not there any more."""
    entry, receipts = registry()[name], _receipts(name)
    if set(receipts) != set(entry.files):
        return None
    folder = Path(next(iter(receipts.values()))["folder"])
    return (
        entry.result(folder)
        if all(entry.path(folder, file).exists() for file in entry.files)
        else None
    )


def fetch(
    name: str,
    out: Path | None = None,
    *,
    sha256: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Downloads an entry of the registry; one that is there already is checked instead.

    Args:
        name: of the entry.
        out: folder to put it in, instead of data/NAME in the cache folder.
        sha256: the checksum, in hexadecimal, that the only file of the entry must have as downloaded, whatever the
            registry and earlier downloads say.
        offline: use no network; the environment variable DNADIFF_OFFLINE does the same.
        progress: told (description, done, all), in kB, or in files where they are many.

    Returns:
        the file, or the folder of an entry that has several.

    Raises:
        UsageError: for a name that is not in the registry, or one checksum for several files.
        InputError: one line, if the file cannot be had, is not what it should be, or something else is in its place.
    """
    entry = registry().get(name)
    if entry is None:
        raise UsageError(
            f"{name!r}: nothing of that name can be fetched; choose among {', '.join(registry())}"
        )
    if sha256 and len(entry.files) > 1:
        raise UsageError(
            f"--sha256: {name} has {len(entry.files)} files, each with its own checksum"
        )
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"--sha256 {sha256}: a SHA-256 has 64 hexadecimal digits")
    folder = (Path(out) if out else cache_folder() / "data" / name).resolve()
    offline = offline or os.environ.get("DNADIFF_OFFLINE", "") not in ("", "0")
    try:
        with _alone(name):
            for i, file in enumerate(entry.files):
                report = (progress or _silent) if len(entry.files) == 1 else _silent
                _Fetch(entry, file, folder, sha256, offline, report).run()
                if progress and len(entry.files) > 1:
                    progress(f"{name}, files", i + 1, len(entry.files))
    except OSError as error:
        place = error.filename or folder
        raise InputError(
            f"{place}: {error.strerror}; choose another --out, or set DNADIFF_CACHE"
        ) from error
    return entry.result(folder)


@dataclass(frozen=True)
class _Fetch:
    """One file of an entry on its way."""

    entry: Download
    file: str
    folder: Path
    given: str | None
    offline: bool
    progress: Progress

    def run(self) -> None:
        """Puts the file at its place, or checks that it is there.

        Raises:
            InputError: as `fetch` says.
            OSError: if a folder cannot be written.
        """
        target, archive = self.entry.path(self.folder, self.file), self.folder / self.file
        receipt = _receipts(self.entry.name).get(self.file)
        if target.exists():
            self._check_present(target, receipt)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        checksum, address = self._known(receipt), str(archive)
        if archive.exists():
            checksum = self._check_brought(archive, checksum)
        else:
            checksum, address = self._download(archive, checksum)
        if checksum.value is None and _is_web_page(archive):
            archive.unlink()
            raise InputError(
                f"{address}: what came is a web page, not the file; does this network ask for a login?"
            )
        digest = _digest(archive, "sha256")
        content = digest if archive == target else self._unpack(archive, target, digest)
        self._write_receipt(address, checksum, digest, content)
        if archive != target:
            archive.unlink()

    def _known(self, receipt: Mapping[str, str] | None) -> _Checksum:
        """The checksum as far as it can be told without a network."""
        registered = self.entry.files[self.file]
        if self.given:
            return _Checksum(f"sha256:{self.given.lower()}", "--sha256")
        if ":" in registered:
            return _Checksum(registered, "dnadiff's registry")
        if receipt:
            return _Checksum(
                f"sha256:{receipt['sha256']}", f"the first download ({receipt['date']})"
            )
        return _Checksum(None, registered)

    def _check_present(self, target: Path, receipt: Mapping[str, str] | None) -> None:
        """Raises InputError if what is at the file's place is not known to be what belongs there."""
        unpacked = target != self.folder / self.file
        known = (
            f"sha256:{receipt['content']}"
            if receipt
            else None
            if unpacked
            else self._known(None).value
        )
        if known is None:
            raise InputError(
                f"{target}: is there already, but was not fetched; use it as it is, or give another --out"
            )
        if receipt and self.given and receipt["sha256"] != self.given.lower():
            raise InputError(
                f"{target}: its download had the SHA-256 {receipt['sha256']}, not the given one; remove it"
            )
        if not self._matches(target, known):
            raise InputError(
                f"{target}: has changed since it was fetched; remove it to fetch it again"
            )

    def _check_brought(self, archive: Path, checksum: _Checksum) -> _Checksum:
        """The checksum of a download that lies there already, brought by the user or left by a call that was ended.

        Raises:
            InputError: if it has another.
        """
        import requests

        if not self.offline:
            with contextlib.suppress(requests.RequestException):
                checksum = _published(self.entry.mirrors[0] + self.file, checksum)
        if checksum.value and not self._matches(archive, checksum.value):
            raise InputError(
                f"{archive}: is there already, but its checksum is not that of {checksum.source}; remove it"
            )
        return checksum

    def _matches(self, path: Path, checksum: str) -> bool:
        algorithm, _, value = checksum.partition(":")
        return _digest(path, algorithm, self.progress) == value

    def _download(self, archive: Path, checksum: _Checksum) -> tuple[_Checksum, str]:
        """Downloads the file from the first mirror that gives it whole and right.

        Returns:
            what it was compared with, and its address.
        """
        elsewhere = f"download {self.entry.mirrors[0]}{self.file} elsewhere and put it into {archive.parent}"
        if self.offline:
            raise InputError(
                f"{self.entry.name}: {self.file} is not here, and the network is switched off (--offline, "
                f"DNADIFF_OFFLINE); {elsewhere}"
            )
        import requests

        reasons = []
        for address in (mirror + self.file for mirror in self.entry.mirrors):
            try:
                known = _published(address, checksum)
                self._download_from(address, archive, known.value)
                return known, address
            except (requests.RequestException, ValueError) as error:
                reasons.append(f"{address}: {_reason(error)}")
        if all(_NO_NETWORK in reason for reason in reasons):
            hosts = " and ".join(reason.split("/")[2] for reason in reasons)
            raise InputError(
                f"{self.entry.name}: is there a network? {hosts} {_NO_NETWORK}; or {elsewhere}"
            )
        kept = (
            "; the same command goes on where this one stopped" if part_of(archive).exists() else ""
        )
        raise InputError(f"{self.entry.name} could not be fetched: {'; '.join(reasons)}{kept}")

    def _download_from(self, address: str, archive: Path, checksum: str | None) -> None:
        """Downloads the file from one address; a connection that broke is taken up again.

        Raises:
            requests.RequestException: if the server cannot be reached, does not have it, or breaks off again and again.
            ValueError: if it has another checksum.
        """
        import pooch
        import requests

        part = part_of(archive)

        def downloader(url: str, output: str, _: Any) -> None:
            download(url, part, pinned=checksum is not None, progress=self._in_kilobytes)
            part.replace(output)

        pooch.get_logger().setLevel(
            logging.ERROR
        )  # what it would say is said in _write_receipt, in one line
        for left in reversed(range(_TRIES)):
            had = _size(part)
            try:
                pooch.retrieve(
                    address, checksum, archive.name, archive.parent, downloader=downloader
                )
                return
            except requests.ConnectionError:
                if not left or _size(part) <= had:
                    raise
            except ValueError:
                forget(part)
                raise

    def _in_kilobytes(self, done: int, total: int) -> None:
        self.progress(f"{self.file}, kB", done // 1000, total // 1000)

    def _unpack(self, archive: Path, target: Path, digest: str) -> str:
        """Unpacks a gzip file; gives the SHA-256 of its content."""
        hasher, total = hashlib.sha256(), archive.stat().st_size // 1000
        try:
            with (
                atomic_path(target) as temporary,
                temporary.open("wb") as out,
                archive.open("rb") as raw,
            ):
                with gzip.open(raw) as text:
                    while piece := text.read(_CHUNK):
                        hasher.update(piece)
                        out.write(piece)
                        self.progress(f"unpack {archive.name}, kB", raw.tell() // 1000, total)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            archive.unlink()
            raise InputError(
                f"{archive}: no whole gzip file ({error}), SHA-256 {digest}; it was removed"
            ) from error
        return hasher.hexdigest()

    def _write_receipt(self, address: str, checksum: _Checksum, digest: str, content: str) -> None:
        date = f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"
        about = {
            "address": address,
            "date": date,
            "checked": checksum.source,
            "sha256": digest,
            "content": content,
        }
        receipts = _receipts(self.entry.name)
        write_json(
            _receipt_file(self.entry.name),
            receipts | {self.file: about | {"folder": str(self.folder)}},
        )
        if checksum.value is None:
            logger.info(
                "%s: from %s; no checksum is known for it; later ones must have its SHA-256, %s",
                self.file, address, digest,
            )  # fmt: skip
        else:
            algorithm = checksum.value.partition(":")[0].upper()
            logger.info(
                "%s: from %s; %s as %s has it", self.file, address, algorithm, checksum.source
            )


def _published(address: str, checksum: _Checksum) -> _Checksum:
    """The checksum, looked up beside the file if the registry says that it is published there.

    Raises:
        requests.RequestException: if the server cannot be reached.
    """
    if checksum.value or checksum.source == FIRST:
        return checksum
    import requests

    folder, _, file = address.rpartition("/")
    answer = requests.get(f"{folder}/{checksum.source}", timeout=TIMEOUT)
    for line in answer.text.splitlines() if answer.ok else ():
        value, _, name = line.strip().partition(" ")
        if name.lstrip(" *./") == file and len(value) == 32:
            return _Checksum(f"md5:{value.lower()}", f"{folder}/{checksum.source}")
    return _Checksum(None, FIRST)


def _reason(error: Exception) -> str:
    """What an error of a download means, in words."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}".rstrip()
    if not isinstance(error, requests.RequestException):
        return f"{str(error).split('. Deleted')[0]} (if the owner has replaced it, give --sha256)"
    if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return "its certificate is refused, or a proxy is in the way"
    told = str(error)
    if "broke off" in told:
        return told
    broken = any(
        word in told
        for word in ("IncompleteRead", "Connection broken", "Read timed out", "RemoteDisconnected")
    )
    return "the connection broke" if broken else _NO_NETWORK


def _is_web_page(path: Path) -> bool:
    """Whether a file is what a login page of a network gives in place of everything."""
    with path.open("rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Inside, no other process fetches the same."""
    from filelock import FileLock, Timeout

    path = _receipt_file(name).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process is fetching it; waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _receipt_file(name: str) -> Path:
    return cache_folder() / "fetched" / f"{name}.json"


def _receipts(name: str) -> dict[str, dict[str, str]]:
    """File -> what is known of its download; nothing if there was none."""
    path = _receipt_file(name)
    return read_json(path) if path.exists() else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, algorithm: str, progress: Progress | None = None) -> str:
    """Checksum of a file, in hexadecimal."""
    hasher, total, done = hashlib.new(algorithm), path.stat().st_size // 1000, 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            hasher.update(piece)
            done += len(piece)
            if progress:
                progress(f"check {path.name}, kB", done // 1000, total)
    return hasher.hexdigest()


def _silent(description: str, done: int, total: int) -> None:
    """Tells nobody."""
