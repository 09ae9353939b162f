"""Fetches an entry of the catalogue: downloads, checks and unpacks its files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnadiff.digest import digest_of_file, sha256_of_file
from dnadiff.downloads import catalogue
from dnadiff.downloads.catalogue import Download
from dnadiff.downloads.checksums import Checksum, known_checksum, published_checksum
from dnadiff.downloads.receipts import locked, read_receipts, write_receipt
from dnadiff.downloads.transfer import download, forget, part_of
from dnadiff.errors import InputError, UsageError
from dnadiff.files import atomic_path, cache_folder
from dnadiff.signatures import is_web_page

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (description, done, all) as work goes on; `all` is 0 where it is not known."""

_CHUNK = 1 << 20
_SNIFFED = 512  # bytes by which a web page is known
_NO_NETWORK = "cannot be reached"
_TRIES = 5  # of one mirror, as long as each brings something
# Words of urllib3 and requests about a connection that was made and then lost.
_BROKEN = ("IncompleteRead", "Connection broken", "Read timed out", "RemoteDisconnected")


def fetched(name: str) -> Path | None:
    """Returns where an entry lies that was fetched earlier; None if it is not there any more."""
    entry, receipts = catalogue.registry()[name], read_receipts(name)
    if set(receipts) != set(entry.files):
        return None
    folder = Path(next(iter(receipts.values()))["folder"])
    whole = all(entry.path(folder, file).exists() for file in entry.files)
    return entry.result(folder) if whole else None


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
        sha256: the checksum, in hexadecimal, that the only file of the entry must have as
            downloaded. It overrides those of the registry and of earlier downloads.
        offline: use no network; the environment variable DNADIFF_OFFLINE does the same.
        progress: called with (description, done, all), in kB, or in files if there are several.

    Returns:
        The file, or the folder of an entry that has several.

    Raises:
        UsageError: for a name that is not in the registry, or one checksum for several files.
        InputError: one line, if the file cannot be downloaded, has another checksum than it should,
            or another file is in its place.
    """
    entry = _entry(name)
    _check_given(entry, sha256)
    # Absolute, because the receipt is read from other working directories.
    folder = (Path(out) if out else cache_folder() / "data" / name).resolve()
    offline = offline or os.environ.get("DNADIFF_OFFLINE", "") not in ("", "0")
    report = _ignore_progress if progress is None else progress
    # The bytes of one file are a progress, those of each of a hundred small files are noise.
    single = len(entry.files) == 1
    try:
        with locked(name):
            for number, file in enumerate(entry.files, 1):
                inner = report if single else _ignore_progress
                _Fetch(entry, file, folder, sha256, offline, inner).run()
                if not single:
                    report(f"{name}, files", number, len(entry.files))
    except OSError as error:
        place = error.filename or folder
        raise InputError(
            f"{place}: {error.strerror}; give another folder (out), or set DNADIFF_CACHE"
        ) from error
    return entry.result(folder)


def _entry(name: str) -> Download:
    """Returns the entry of a name, or raises a UsageError that lists all names."""
    known = catalogue.registry()
    if name not in known:
        raise UsageError(
            f"{name!r}: nothing of that name can be fetched; choose among {', '.join(known)}"
        )
    return known[name]


def _check_given(entry: Download, sha256: str | None) -> None:
    """Refuses a given checksum that is none, or that would have to fit several files."""
    if not sha256:
        return
    if len(entry.files) > 1:
        raise UsageError(
            f"sha256: {entry.name} has {len(entry.files)} files, each with its own checksum"
        )
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"sha256 {sha256}: a SHA-256 has 64 hexadecimal digits")


def _ignore_progress(description: str, done: int, total: int) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class _Fetch:
    """Fetches one file of an entry.

    Attributes:
        entry: the entry.
        file: name of the file below a mirror.
        folder: where to put it.
        given: the SHA-256 that the user gave, or None.
        offline: whether to use no network.
        progress: called as work goes on.
    """

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
        # What is at its place already is never overwritten, only checked.
        receipt = read_receipts(self.entry.name).get(self.file)
        if target.exists():
            self._check_present(target, receipt)
            return

        target.parent.mkdir(parents=True, exist_ok=True)
        checksum, address = self._known(receipt), str(archive)
        if archive.exists():
            checksum = self._check_brought(archive, checksum)
        else:
            checksum, address = self._download(archive, checksum)
        # Without a checksum nothing has refused a login page yet.
        if checksum.value is None and _begins_like_web_page(archive):
            archive.unlink()
            raise InputError(
                f"{address}: what came is a web page, not the file; "
                "does this network ask for a login?"
            )

        # Of the file as downloaded, whatever it was compared with: later downloads must agree.
        digest = sha256_of_file(archive)
        content = digest if archive == target else self._unpack(archive, target, digest)
        self._record(address, checksum, digest, content)
        if archive != target:
            archive.unlink()

    def _known(self, receipt: Mapping[str, str] | None) -> Checksum:
        """Returns the checksum as far as it is known without a network."""
        return known_checksum(self.entry.files[self.file], self.given, receipt)

    def _check_present(self, target: Path, receipt: Mapping[str, str] | None) -> None:
        """Raises InputError if the file at its place is not known to be the right one."""
        unpacked = target != self.folder / self.file
        known = None
        if receipt:
            # The receipt knows the unpacked content, the registry only the packed file.
            known = f"sha256:{receipt['content']}"
        elif not unpacked:
            known = self._known(None).value
        if known is None:
            raise InputError(
                f"{target}: is there already, but was not fetched; "
                "use it as it is, or give another folder (out)"
            )
        if receipt and self.given and receipt["sha256"] != self.given.lower():
            raise InputError(
                f"{target}: its download had the SHA-256 {receipt['sha256']}, "
                "not the given one; remove it"
            )
        if not self._matches(target, known):
            raise InputError(
                f"{target}: has changed since it was fetched; remove it to fetch it again"
            )

    def _check_brought(self, archive: Path, checksum: Checksum) -> Checksum:
        """Returns the checksum of a download that is there already.

        The user may have brought it, or an earlier call may have been killed after it.

        Raises:
            InputError: if it has another checksum than it should.
        """
        import requests

        if not self.offline:
            with contextlib.suppress(requests.RequestException):
                checksum = published_checksum(self.entry.mirrors[0] + self.file, checksum)
        if checksum.value and not self._matches(archive, checksum.value):
            raise InputError(
                f"{archive}: is there already, but its checksum is not that of "
                f"{checksum.source}; remove it"
            )
        return checksum

    def _matches(self, path: Path, checksum: str) -> bool:
        """Tells whether a file has a checksum such as "md5:..."."""
        algorithm, _, value = checksum.partition(":")
        description = f"check {path.name}, kB"
        found = digest_of_file(
            path,
            algorithm,
            lambda done, total: self.progress(description, done // 1000, total // 1000),
        )
        return found == value

    def _download(self, archive: Path, checksum: Checksum) -> tuple[Checksum, str]:
        """Downloads the file from the first mirror that gives it whole and right.

        Returns:
            What it was compared with, and its address.
        """
        elsewhere = (
            f"download {self.entry.mirrors[0]}{self.file} elsewhere and put it into "
            f"{archive.parent}"
        )
        if self.offline:
            raise InputError(
                f"{self.entry.name}: {self.file} is not here, and the network is switched off "
                f"(offline, DNADIFF_OFFLINE); {elsewhere}"
            )
        import requests

        reasons = []
        for mirror in self.entry.mirrors:
            address = mirror + self.file
            try:
                known = published_checksum(address, checksum)
                self._download_from(address, archive, known.value)
                return known, address
            except (requests.RequestException, ValueError) as error:
                reasons.append(f"{address}: {_reason(error)}")

        # One cause for all mirrors is most likely on this side of the network.
        if all(_NO_NETWORK in reason for reason in reasons):
            hosts = " and ".join(reason.split("/")[2] for reason in reasons)
            raise InputError(
                f"{self.entry.name}: is there a network? {hosts} {_NO_NETWORK}; or {elsewhere}"
            )
        kept = ""
        if part_of(archive).exists():
            kept = "; the same command continues where this one stopped"
        raise InputError(f"{self.entry.name} could not be fetched: {'; '.join(reasons)}{kept}")

    def _download_from(self, address: str, archive: Path, checksum: str | None) -> None:
        """Downloads the file from one address; a connection that broke is made again.

        Raises:
            requests.RequestException: if the server cannot be reached, does not have the file, or
                breaks off again and again.
            ValueError: if the file has another checksum.
        """
        import pooch
        import requests

        part = part_of(archive)

        def downloader(url: str, output: str, _: Any) -> None:
            download(url, part, pinned=checksum is not None, progress=self._in_kilobytes)
            part.replace(output)

        # pooch would log several lines; `_record` logs one that says the same.
        pooch.get_logger().setLevel(logging.ERROR)
        for left in reversed(range(_TRIES)):
            # Tried again only as long as each attempt brings something, so that this ends.
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
                # A part with a wrong checksum would be continued, and be wrong, for ever.
                forget(part)
                raise

    def _in_kilobytes(self, done: int, total: int) -> None:
        """Reports the progress of a download."""
        self.progress(f"{self.file}, kB", done // 1000, total // 1000)

    def _unpack(self, archive: Path, target: Path, digest: str) -> str:
        """Unpacks a gzip file; returns the SHA-256 of its content."""
        hasher, total = hashlib.sha256(), archive.stat().st_size // 1000
        try:
            with (
                atomic_path(target) as temporary,
                temporary.open("wb") as out,
                archive.open("rb") as raw,
                gzip.open(raw) as text,
            ):
                while piece := text.read(_CHUNK):
                    hasher.update(piece)
                    out.write(piece)
                    self.progress(f"unpack {archive.name}, kB", raw.tell() // 1000, total)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            archive.unlink()
            raise InputError(
                f"{archive}: not a whole gzip file ({error}), SHA-256 {digest}; it was removed"
            ) from error
        return hasher.hexdigest()

    def _record(self, address: str, checksum: Checksum, digest: str, content: str) -> None:
        """Writes the receipt, and logs where the file came from and how it was checked."""
        write_receipt(
            self.entry.name,
            self.file,
            address=address,
            checked=checksum.source,
            sha256=digest,
            content=content,
            folder=self.folder,
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


def _reason(error: Exception) -> str:
    """Returns what an error of a download means, in words."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}".rstrip()
    if not isinstance(error, requests.RequestException):
        mismatch = str(error).split(". Deleted")[0]
        return f"{mismatch} (if the owner has replaced it, give its sha256)"
    if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return "its certificate is refused, or a proxy is in the way"
    text = str(error)
    if "broke off" in text:
        return text
    return "the connection broke" if any(word in text for word in _BROKEN) else _NO_NETWORK


def _begins_like_web_page(path: Path) -> bool:
    """Tells whether a file is a web page, as a network's login page in place of a download."""
    with path.open("rb") as file:
        return is_web_page(file.read(_SNIFFED))


def _size(path: Path) -> int:
    """Returns the size of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0
