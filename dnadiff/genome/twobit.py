"""UCSC's .2bit files, read by twobitreader (the extra ``twobit``), in the form that `records` reads FASTA in."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from dnadiff.errors import InputError

MAGIC = (0x1A412743).to_bytes(4, "little"), (0x1A412743).to_bytes(4, "big")
"""How a .2bit file begins, on a machine of either byte order."""


class TwoBit:
    """A .2bit file as a reader of sequence: lower case is the soft mask, N a block of unknown bases.

    Attributes:
        lengths: name -> number of bases, in file order.

    Raises:
        InputError: if twobitreader is not installed.
        ValueError, OSError, EOFError, MemoryError: if the file is no such file, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            import twobitreader
        except ImportError as error:
            fasta = path.with_suffix(".fa").name
            raise InputError(
                f"{path}: .2bit needs twobitreader: pip install 'dnadiff[twobit]', or run: twoBitToFa {path} {fasta}"
            ) from error
        try:
            self._file = twobitreader.TwoBitFile(str(path))
        except twobitreader.TwoBitFileError as error:
            raise ValueError(error) from error
        self.lengths: dict[str, int] = self._file.sequence_sizes()

    def __enter__(self) -> TwoBit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def fetch(self, name: str, start: int, end: int) -> str:
        """The bases `start` to `end` of a record, counted from 1 and inclusive, as pyfaidx counts."""
        return self._file[name][start - 1 : end]
