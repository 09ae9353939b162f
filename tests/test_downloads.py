"""Downloads from a server that fails in many ways: whole and right, or not at all."""

import gzip
import hashlib
import json
import logging
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dnadiff import downloads
from dnadiff.benchmark.tasks import registry as tasks
from dnadiff.cli.main import main
from dnadiff.downloads import FIRST, Download, catalogue, fetch
from dnadiff.errors import InputError, UsageError

TEXT = b">a\n" + b"ACGTTGCA" * 50_000 + b"\n"
FASTA = gzip.compress(TEXT, 0, mtime=0)
BED = b"chr1\t0\t131072\ttrain\n" * 40_000


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Server:
    """Files by path, and what goes wrong with each."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.dies: defaultdict[str, list[int]] = defaultdict(
            list
        )  # after so many bytes of the body, once each
        self.headers: dict[str, str] = {}
        self.ranges = self.lengths = True
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                server.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        data = self.files.get(request.path)
        if data is None:
            return request.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        condition = request.headers.get("If-Range")
        if condition and condition != self.headers.get("ETag", self.headers.get("Last-Modified")):
            start = 0
        if start >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            return request.end_headers()
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.lengths:
            request.send_header("Content-Length", str(len(data) - start))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        stop = self.dies[request.path].pop(0) if self.dies[request.path] else len(data)
        request.wfile.write(data[start : start + stop])

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("DNADIFF_OFFLINE", raising=False)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def register(server, monkeypatch):
    """Makes a registry of one entry with these files, each put on every mirror."""

    def make(files, mirrors=("m",), on=("m",)):
        for mirror in on:
            server.files |= {f"/{mirror}/{name}": data for name, (data, _) in files.items()}
        checks = {name: check for name, (_, check) in files.items()}
        entry = Download(
            "x", "an entry", "1 MB", tuple(f"{server.url}/{mirror}/" for mirror in mirrors), checks
        )
        for module in (downloads, catalogue):
            monkeypatch.setattr(module, "registry", lambda: {"x": entry})

    return make


def files_under(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_genome_is_checked_unpacked_and_fetched_once(server, register, tmp_path, caplog):
    register({"x.fa.gz": (FASTA, sha256(FASTA))})
    told = []
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        path = fetch("x", progress=lambda *state: told.append(state))
    assert path == tmp_path / "cache" / "data" / "x" / "x.fa" == downloads.fetched("x")
    assert path.read_bytes() == TEXT and files_under(path.parent) == {"x.fa"}
    assert caplog.messages == [
        f"x.fa.gz: from {server.url}/m/x.fa.gz; SHA256 as dnadiff's registry has it"
    ]
    kilobytes = len(FASTA) // 1000
    assert told[-1] == ("unpack x.fa.gz, kB", kilobytes, kilobytes)
    assert ("x.fa.gz, kB", kilobytes, kilobytes) in told
    assert path.stat().st_mode & 0o044 == 0o044  # not the private mode of a temporary file
    assert fetch("x") == path and len(server.asked) == 1


def test_a_server_that_dies_half_way_is_taken_up_where_it_stopped(server, register):
    register({"x.bed": (BED, sha256(BED))})
    server.dies["/m/x.bed"] = [300_000, 200_000]
    assert fetch("x").read_bytes() == BED
    assert server.asked == [
        ("/m/x.bed", wanted) for wanted in (None, "bytes=300000-", "bytes=500000-")
    ]


def test_a_download_that_failed_goes_on_the_next_time(server, register, tmp_path):
    register({"x.bed": (BED, sha256(BED))})
    server.dies["/m/x.bed"] = [100_000, 0]
    with pytest.raises(
        InputError,
        match=r"x\.bed: broke off.*|the connection broke; the same command continues where",
    ):
        fetch("x", tmp_path / "out")
    assert files_under(tmp_path / "out") == {"x.bed.part", "x.bed.part.json"}
    server.asked.clear()
    assert fetch("x", tmp_path / "out").read_bytes() == BED
    assert server.asked == [("/m/x.bed", "bytes=100000-")]
    assert files_under(tmp_path / "out") == {"x.bed"}


def test_a_server_that_never_finishes_is_given_up(server, register):
    register({"x.bed": (BED, sha256(BED))})
    server.dies["/m/x.bed"] = [10] * 99
    with pytest.raises(InputError, match="continues where this one stopped"):
        fetch("x")
    assert len(server.asked) == 5


@pytest.mark.parametrize("check", [sha256(BED), FIRST])
@pytest.mark.parametrize(
    "headers", [{}, {"ETag": '"1"'}, {"ETag": 'W/"1"', "Last-Modified": "yesterday"}]
)
def test_no_two_versions_are_spliced(server, register, check, headers):
    """A part is continued if the whole will be compared, or the server confirms its version."""
    old = BED.replace(b"train", b"valid")
    register({"x.bed": (old, check)})
    server.headers = headers
    server.dies["/m/x.bed"] = [100_000, 0]
    with pytest.raises(InputError):
        fetch("x")
    server.files["/m/x.bed"] = BED
    server.headers = {name: value + "0" for name, value in headers.items()}
    server.asked.clear()
    if check == FIRST or headers:
        assert fetch("x").read_bytes() == BED
        assert len(server.asked) == 1
    else:
        with pytest.raises(InputError, match="does not match"):
            fetch("x")
        assert fetch("x").read_bytes() == BED


def test_without_a_checksum_an_unchanged_file_is_continued(server, register):
    register({"x.bed": (BED, FIRST)})
    server.headers = {"ETag": '"1"'}
    server.dies["/m/x.bed"] = [100_000]
    assert fetch("x").read_bytes() == BED
    assert server.asked[1] == ("/m/x.bed", "bytes=100000-")


def test_an_answer_that_ends_early_without_saying_how_long_it_is(server, register):
    register({"x.bed": (BED, FIRST)})
    server.headers = {"ETag": '"1"'}
    server.dies["/m/x.bed"] = [100_000, 0]
    with pytest.raises(InputError):
        fetch("x")
    server.lengths = False  # what remains is told by Content-Range alone
    server.dies["/m/x.bed"] = [50_000]
    assert fetch("x").read_bytes() == BED
    assert server.asked[-1] == ("/m/x.bed", "bytes=150000-")


def test_a_server_without_ranges_starts_anew(server, register):
    register({"x.bed": (BED, sha256(BED))})
    server.ranges = False
    server.dies["/m/x.bed"] = [100_000]
    assert fetch("x").read_bytes() == BED


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_that_is_whole_or_more(server, register, tmp_path, extra):
    register({"x.bed": (BED, sha256(BED))})
    (tmp_path / "x.bed.part").write_bytes(BED + extra)
    assert fetch("x", tmp_path).read_bytes() == BED
    assert len(server.asked) == (2 if extra else 1)


def test_compression_on_the_way_is_not_undone(server, register):
    register({"x.bed.gz": (FASTA, sha256(FASTA))})
    server.headers = {"Content-Encoding": "gzip"}
    assert fetch("x").read_bytes() == FASTA


def test_a_wrong_checksum_leaves_nothing(server, register, tmp_path):
    register({"x.fa.gz": (FASTA, sha256(TEXT))})
    with pytest.raises(
        InputError, match=r"x\.fa\.gz: SHA256 hash .* does not match .*give its sha256"
    ) as told:
        fetch("x", tmp_path / "out")
    assert "\n" not in str(told.value) and files_under(tmp_path / "out") == set()
    assert downloads.fetched("x") is None


@pytest.mark.parametrize("first", [None, b"something else"])
def test_the_next_mirror_serves(server, register, caplog, first):
    register({"x.bed": (BED, sha256(BED))}, mirrors=("gone", "m"))
    if first:
        server.files["/gone/x.bed"] = first
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        assert fetch("x").read_bytes() == BED
    assert f"from {server.url}/m/x.bed" in caplog.text


def test_a_mirror_goes_on_with_the_part_of_another(server, register):
    register({"x.bed": (BED, sha256(BED))}, mirrors=("m", "n"), on=("m", "n"))
    server.dies["/m/x.bed"] = [100_000, 0]
    assert fetch("x").read_bytes() == BED
    assert server.asked[-1] == ("/n/x.bed", "bytes=100000-")


def test_what_no_mirror_has(server, register):
    register({"x.bed": (BED, sha256(BED))}, mirrors=("a", "b"), on=())
    with pytest.raises(
        InputError,
        match=r"/a/x.bed: the server answers 404 Not Found; .*/b/x.bed: the server answers",
    ):
        fetch("x")


def test_without_a_network(server, register):
    register({"x.bed": (BED, sha256(BED))})
    server.close()
    with pytest.raises(
        InputError,
        match=r"x: is there a network\? 127.0.0.1:\d+ cannot be reached; or download http",
    ):
        fetch("x")


def test_offline_asks_nobody(server, register, monkeypatch, tmp_path):
    register({"x.fa.gz": (FASTA, sha256(FASTA))})
    with pytest.raises(
        InputError,
        match=r"network is switched off.*; download http://.*/m/x.fa.gz elsewhere and put",
    ):
        fetch("x", tmp_path, offline=True)
    monkeypatch.setenv("DNADIFF_OFFLINE", "1")
    with pytest.raises(InputError, match="network is switched off"):
        fetch("x", tmp_path)
    (tmp_path / "x.fa.gz").write_bytes(FASTA)  # brought on a stick
    assert fetch("x", tmp_path).read_bytes() == TEXT
    assert fetch("x", tmp_path) and server.asked == []


def test_what_was_brought_has_to_be_right(server, register, tmp_path):
    register({"x.fa.gz": (FASTA, sha256(FASTA))})
    (tmp_path / "x.fa.gz").write_bytes(gzip.compress(b">a\nA\n"))
    with pytest.raises(
        InputError, match="but its checksum is not that of dnadiff's registry; remove it"
    ):
        fetch("x", tmp_path)


def test_the_first_download_is_trusted_and_later_ones_must_agree(server, register, caplog):
    register({"x.bed": (BED, FIRST)})
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        path = fetch("x")
    assert (
        f"no checksum is known for it; later ones must have its {sha256(BED)}"
        in caplog.text.replace("SHA-256, ", "sha256:")
    )
    path.unlink()
    assert fetch("x").read_bytes() == BED
    path.unlink()
    other = BED.replace(b"train", b"valid")
    server.files["/m/x.bed"] = other
    with pytest.raises(InputError, match=r"does not match .*sha256"):
        fetch("x")
    assert not path.exists()
    assert fetch("x", sha256=sha256(other)[7:].upper()).read_bytes() == other


def test_the_owners_list_of_checksums(server, register, caplog):
    register({"x.fa.gz": (FASTA, "md5sum.txt")})
    md5 = hashlib.md5(FASTA).hexdigest()
    server.files["/m/md5sum.txt"] = f"{'0' * 32}  other.fa.gz\n{md5} *./x.fa.gz\n".encode()
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        path = fetch("x")
    assert caplog.messages == [
        f"x.fa.gz: from {server.url}/m/x.fa.gz; MD5 as {server.url}/m/md5sum.txt has it"
    ]
    path.unlink()
    server.files["/m/x.fa.gz"] = gzip.compress(b">a\nACGT\n")
    with pytest.raises(InputError, match="does not match"):  # what it was the first time
        fetch("x")


def test_a_file_that_is_not_what_the_owner_lists(server, register):
    register({"x.fa.gz": (FASTA, "md5sum.txt")})
    server.files["/m/md5sum.txt"] = f"{'0' * 32}  x.fa.gz\n".encode()
    with pytest.raises(InputError, match=r"MD5 hash .* does not match"):
        fetch("x")


@pytest.mark.parametrize("listed", [None, b"", b"\xff\xfe not a list", b"0123  x.fa.gz\n"])
def test_no_list_means_that_the_first_is_trusted(server, register, caplog, listed):
    register({"x.fa.gz": (FASTA, "md5sum.txt")})
    if listed is not None:
        server.files["/m/md5sum.txt"] = listed
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        assert fetch("x").read_bytes() == TEXT
    assert "no checksum is known for it" in caplog.text


def test_a_login_page_is_no_first_download(server, register, tmp_path):
    register({"x.bed": (b"\n<!DOCTYPE html><html>", FIRST)})
    with pytest.raises(InputError, match=r"/m/x.bed: what came is a web page, not the file"):
        fetch("x", tmp_path)
    assert not (tmp_path / "x.bed").exists()
    server.files["/m/x.bed"] = BED
    assert fetch("x", tmp_path).read_bytes() == BED


def test_what_was_left_by_a_call_that_was_ended_is_compared_with_the_owners_list(
    server, register, tmp_path, caplog
):
    register({"x.fa.gz": (FASTA, "md5sum.txt")})
    server.files["/m/md5sum.txt"] = f"{hashlib.md5(FASTA).hexdigest()}  x.fa.gz\n".encode()
    (tmp_path / "x.fa.gz").write_bytes(FASTA)
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        assert fetch("x", tmp_path).read_bytes() == TEXT
    assert "MD5 as http" in caplog.text and [path for path, _ in server.asked] == ["/m/md5sum.txt"]


def test_a_gzip_file_that_is_not_whole(server, register, tmp_path):
    register({"x.fa.gz": (FASTA[:-9], FIRST)})
    with pytest.raises(InputError, match=r"not a whole gzip file .*; it was removed"):
        fetch("x", tmp_path / "out")
    assert files_under(tmp_path / "out") == set()


def test_many_files(server, register):
    register({"a/one.csv.gz": (BED, sha256(BED)), "b/one.csv.gz": (FASTA, sha256(FASTA))})
    told = []
    folder = fetch("x", progress=lambda *state: told.append(state))
    assert (
        files_under(folder) == {"a/one.csv.gz", "b/one.csv.gz"} and downloads.fetched("x") == folder
    )
    assert told == [("x, files", 1, 2), ("x, files", 2, 2)]
    (folder / "a/one.csv.gz").unlink()
    assert downloads.fetched("x") is None
    fetch("x")
    assert [path for path, _ in server.asked] == [
        "/m/a/one.csv.gz",
        "/m/b/one.csv.gz",
        "/m/a/one.csv.gz",
    ]
    with pytest.raises(UsageError, match="x has 2 files, each with its own checksum"):
        fetch("x", sha256="0" * 64)


def test_a_checksum_that_is_none(server, register):
    register({"x.bed": (BED, FIRST)})
    with pytest.raises(UsageError, match="a SHA-256 has 64 hexadecimal digits"):
        fetch("x", sha256="c0ffee")
    assert server.asked == []


def test_nothing_of_the_users_is_overwritten(server, register, tmp_path):
    register({"x.fa.gz": (FASTA, sha256(FASTA))})
    (tmp_path / "x.fa").write_text(">mine\nACGT\n")
    with pytest.raises(InputError, match=r"x.fa: is there already, but was not fetched"):
        fetch("x", tmp_path)
    path = fetch("x")
    path.write_bytes(TEXT.replace(b"GT", b"AA"))
    with pytest.raises(InputError, match="has changed since it was fetched; remove it"):
        fetch("x")
    path.write_bytes(TEXT)
    with pytest.raises(InputError, match="not the given one; remove it"):
        fetch("x", sha256="0" * 64)
    assert fetch("x", sha256=sha256(FASTA)[7:]) == path


def test_a_folder_that_cannot_be_made(server, register, tmp_path, monkeypatch):
    register({"x.bed": (BED, FIRST)})
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"file/out.*: .*; give another folder .out., or set DNADIFF_CACHE"
    ):
        fetch("x", tmp_path / "file" / "out")
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="set DNADIFF_CACHE"):
        fetch("x", tmp_path / "out")


def test_two_at_once_make_one_download(server, register):
    register({"x.bed": (BED, sha256(BED))})
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch("x"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 4 and len(server.asked) == 1


def test_the_commands(server, register, capsys):
    register({"x.bed": (BED, sha256(BED))})
    assert main(["data", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "x",
        "1",
        "MB",
        "sha256",
        "an",
        "entry",
    ]
    assert main(["data", "fetch", "--quiet", "x"]) == 0
    path = capsys.readouterr().out.strip()
    assert path.endswith("/data/x/x.bed")
    assert main(["data", "list"]) == 0
    assert f"; at {path}" in capsys.readouterr().out
    assert main(["data", "fetch", "y"]) == 2
    assert "'y': nothing of that name can be fetched; choose among x" in capsys.readouterr().err
    assert main(["data", "fetch", "x", "y"]) == 2
    assert "'y' belongs to no flag" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hg38", "hg38.fa", "somewhere/hg38.fa.gz"])
def test_a_genome_that_is_missing_but_can_be_fetched(tmp_path, capsys, name):
    assert main(["data", "index", str(tmp_path / name)]) == 1
    assert f"{name}: no such file; dnadiff data fetch hg38 downloads it" in capsys.readouterr().err


# ---- the registry that ships


def test_every_entry_says_how_it_is_checked():
    checks = [check for entry in downloads.registry().values() for check in entry.files.values()]
    assert all(
        re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|md5sum\.txt|first", check)
        for check in checks
    )
    mirrors = [mirror for entry in downloads.registry().values() for mirror in entry.mirrors]
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in mirrors)


def test_the_files_of_the_genomic_benchmarks_are_those_of_the_tasks():
    wanted = {
        f"{t.name}/{split}/{c}.csv.gz"
        for t in tasks().values()
        for split in t.rows
        for c in t.classes
    }
    assert set(downloads.registry()["genomic_benchmarks"].files) == wanted


def test_the_checksums_are_those_of_the_published_files(shared_data):
    known = downloads.registry()
    folder = shared_data / "genomic_benchmarks" / "datasets"
    for file, checksum in known["genomic_benchmarks"].files.items():
        assert sha256((folder / file).read_bytes()) == checksum
    folds = (shared_data / "intervals" / "borzoi_human_folds.bed.gz").read_bytes()
    assert [*known["borzoi_intervals"].files.values()] == [sha256(folds)]


def test_a_receipt_says_where_from_and_how_it_was_checked(server, register, tmp_path):
    register({"x.fa.gz": (FASTA, sha256(FASTA))})
    fetch("x", tmp_path / "out")
    receipt = json.loads((tmp_path / "cache" / "fetched" / "x.json").read_text())["x.fa.gz"]
    assert receipt.pop("date")
    assert receipt == {
        "address": f"{server.url}/m/x.fa.gz",
        "checked": "dnadiff's registry",
        "sha256": sha256(FASTA)[7:],
        "content": sha256(TEXT)[7:],
        "folder": str(tmp_path / "out"),
    }
