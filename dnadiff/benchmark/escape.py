"""Names that users chose, made safe for a terminal, a Markdown page and a spreadsheet."""

from __future__ import annotations

import re

# What Excel, LibreOffice and Google Sheets take for a formula (OWASP, CSV injection).
_FORMULA = re.compile(r"[=+\-@\t\r]")
_QUOTED_FORMULA = re.compile(r"'+[=+\-@\t\r]")
# Not _: names are full of it, and Markdown shows it as it is within a word.
_MARKDOWN = re.compile(r"([\\`*|<>\[\]])")


def printable(text: object) -> str:
    """Replaces characters that cannot be printed, such as ESC or a line end, by escapes."""
    text = str(text)
    if text.isprintable():
        return text
    # ascii() quotes what it escapes, hence the slice.
    parts = [part if part.isprintable() else ascii(part)[1:-1] for part in text]
    return "".join(parts)


def markdown(text: object) -> str:
    """Returns a text as Markdown that shows it as it is, within one line or cell."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def csv_cell(text: str) -> str:
    """Puts an apostrophe before what a spreadsheet would run as a formula.

    A text that begins with apostrophes and then a formula gets one more, so that `from_csv_cell`
    restores each text.
    """
    return f"'{text}" if _FORMULA.match(text.lstrip("'")) else text


def from_csv_cell(text: str) -> str:
    """Undoes `csv_cell`."""
    return text[1:] if _QUOTED_FORMULA.match(text) else text
