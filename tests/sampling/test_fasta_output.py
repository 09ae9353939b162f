import re
import resource

import pytest

from dnadiff.errors import InputError
from dnadiff.sampling import resumable_fasta

SEQUENCES = ["ACGT" * 40, "A" * 60, "C" * 61, "G"]


def header(i, name="sample"):
    return f"{name}_{i} seed=0" if i < len(SEQUENCES) else None


def write(path, sequences=SEQUENCES, name="sample"):
    """Writes what is missing; how many records were there."""
    with resumable_fasta(str(path), lambda i: header(i, name)) as (done, put):
        for sequence in sequences[done:]:
            put(sequence)
    return done


def test_a_file_that_was_cut_anywhere_is_completed(tmp_path):
    write(tmp_path / "whole.fa")
    whole = (tmp_path / "whole.fa").read_bytes()
    starts = [match.start() for match in re.finditer(b">", whole)] + [len(whole)]
    for cut in range(len(whole) + 1):
        path = tmp_path / f"{cut}.fa"
        (tmp_path / f"{cut}.fa.part").write_bytes(whole[:cut])
        assert write(path) == sum(start <= cut for start in starts[1:])
        assert path.read_bytes() == whole
    assert not list(tmp_path.glob("*.part*"))


def test_an_interruption_leaves_the_records_that_are_whole(tmp_path, caplog):
    def interrupted(after):
        with resumable_fasta(str(tmp_path / "new.fa"), header) as (_, put):
            for sequence in SEQUENCES[:after]:
                put(sequence)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        interrupted(2)
    assert "new.fa.part: holds what was drawn so far; the same command goes on" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["new.fa.part"]
    assert write(tmp_path / "new.fa") == 2


@pytest.mark.parametrize(
    ("size", "whole"), [(300, 2), (390, 3)]
)  # within the third record, and within the last
def test_a_disk_that_fills_up_is_no_success(tmp_path, size, whole):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(
            InputError, match=r"new\.fa\.part: cannot be written \(File too large\); make room"
        ):
            write(tmp_path / "new.fa")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["new.fa.part"]
    assert write(tmp_path / "new.fa") == whole
    write(tmp_path / "straight.fa")
    assert (tmp_path / "new.fa").read_bytes() == (tmp_path / "straight.fa").read_bytes()


@pytest.mark.parametrize(
    "found", [">other_0 seed=0 length=4\nACGT\n", ">sample_0 seed=0 length=x\nA\n", "hello\n"]
)
def test_records_of_another_command_are_refused_and_kept(tmp_path, found):
    part = tmp_path / "new.fa.part"
    part.write_text(found)
    with pytest.raises(InputError, match=r"new\.fa\.part: record 1 is not of this command"):
        write(tmp_path / "new.fa")
    assert part.read_text() == found


def test_more_records_than_are_wanted_are_refused(tmp_path):
    write(tmp_path / "a.fa")
    (tmp_path / "a.fa").rename(tmp_path / "b.fa.part")
    with (
        pytest.raises(InputError, match="record 3 is not"),
        resumable_fasta(str(tmp_path / "b.fa"), lambda i: header(i) if i < 2 else None),
    ):
        pass


def test_one_process_at_a_time(tmp_path):
    with resumable_fasta(str(tmp_path / "new.fa"), header) as (_, put):
        put(SEQUENCES[0])
        with pytest.raises(InputError, match="another process is writing it"):
            write(tmp_path / "new.fa")
    assert (tmp_path / "new.fa").read_text().count(">") == 1
