"""Downloads on demand: a catalogue with checksums, mirrors, resumption, and offline use.

A file is at its place whole and checked, or not at all. A receipt in the cache folder records how
it was checked. A file for which nobody publishes a checksum must later be what it was the first
time.

Modules: `catalogue` lists what can be fetched, `checksums` says what a file must be, `receipts`
remembers what was fetched, `transfer` makes one HTTP download, `fetching` puts them together.
"""

from dnadiff.downloads.catalogue import FIRST, Download, hint, registry
from dnadiff.downloads.fetching import Progress, fetch, fetched

__all__ = ["FIRST", "Download", "Progress", "fetch", "fetched", "hint", "registry"]
