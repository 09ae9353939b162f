"""Downloads on demand: a catalogue with checksums, mirrors, resumption, and offline use.

A file appears at its final path only when it is complete and checked. A receipt in the cache folder
records how it was checked. If no checksum is published for a file, later downloads must have the
SHA-256 of the first one.

Modules: `catalogue` lists what can be fetched, `checksums` finds the checksum of a file,
`receipts` records what was fetched, `transfer` makes one HTTP download, `fetching` combines them.
"""

from dnadiff.downloads.catalogue import FIRST, Download, hint, registry
from dnadiff.downloads.fetching import Progress, fetch, fetched

__all__ = ["FIRST", "Download", "Progress", "fetch", "fetched", "hint", "registry"]
