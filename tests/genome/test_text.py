"""Text is read from any container and encoding; a file that is not text is named for what it is."""

import gzip
import lzma
import os
import threading
import zipfile

import pytest
from fasta_files import write

from dnadiff.errors import InputError
from dnadiff.genome.text import lines, open_text

TEXT = b"chr1\t0\t10\nchr2\t5\t9\n"


@pytest.mark.parametrize("container", ["plain", "gzip", "bgzip"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_containers_marks_and_line_ends_make_no_difference(tmp_path, container, mark, end):
    path = write(tmp_path / "x.any", mark + TEXT.replace(b"\n", end), container)
    assert list(lines(path, "BED")) == ["chr1\t0\t10\n", "chr2\t5\t9\n"]


def test_marks_inside_files_that_were_joined(tmp_path):
    path = write(tmp_path / "x.bed", (b"\xef\xbb\xbf" + TEXT) * 2)
    assert "".join(lines(path, "BED")) == 2 * TEXT.decode()


def test_bytes_that_are_not_utf8_arrive_as_their_escapes(tmp_path):
    path = write(tmp_path / "x.txt", b"M\xfcller\nM\xc3\xbcller\n")
    assert list(lines(path, "text")) == ["M\\xfcller\n", "Müller\n"]


def test_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(gzip.compress(TEXT),))
    writer.start()
    with open_text(path) as text:
        assert text.read() == TEXT.decode()
    writer.join()


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.bed", TEXT)


FOREIGN = {
    "xz": (lzma.compress(TEXT), "compressed by xz; run: xz --decompress --keep .*x.any"),
    "zst": (b"\x28\xb5\x2f\xfd" + TEXT, "compressed by Zstandard; run: zstd --decompress .*x.any"),
    "bz2": (b"BZh91AY&SY", "compressed by bzip2; run: bunzip2"),
    "zip": (zipped, "a zip archive or an Excel workbook; unpack it"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        "a Git LFS pointer, not the file itself; run: git lfs pull",
    ),
    "utf-16": (TEXT.decode().encode("utf-16"), "UTF-16 text; run: iconv"),
    "utf-16, big": (b"\xfe\xff" + TEXT.decode().encode("utf-16-be"), "UTF-16 text; run: iconv"),
    "bcf": (
        gzip.compress(b"BCF\x02\x02\0\0", mtime=0),
        "BCF, the binary form of VCF; run: bcftools view",
    ),
    "html": (b"\n<!DOCTYPE html><html>", "a web page, not the file itself"),
    "numbers": (b"\x01\x00\x02\x00", "not a text file; a BED file is needed"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_text_is_named(tmp_path, kind):
    path = tmp_path / "x.any"
    content, message = FOREIGN[kind]
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(InputError, match=f"x.any: {message}") as caught:
        list(lines(path, "BED"))
    assert "\n" not in str(caught.value)
