"""Progress: bars on a terminal, lines elsewhere, nothing with quiet."""

import io
import re

import pytest

from dnadiff import progress
from dnadiff.progress import Display, bar, bars, clock


@pytest.fixture
def times(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_a_line_now_and_then(times, capsys):
    with bar("generate") as move:
        for done in range(0, 101):
            move(done, 1000)
            times[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "generate: 30/1,000, 1/s, 16:10 left",
        "generate: 60/1,000, 1/s, 15:40 left",
        "generate: 90/1,000, 1/s, 15:10 left",
    ]


def test_what_was_done_before_says_nothing_of_the_speed(times, capsys):
    with bar("generate") as move:
        move(900, 1000)
        times[0] += 30
        move(960, 1000)
    assert capsys.readouterr().err == "generate: 960/1,000, 2/s, 0:20 left\n"


def test_each_step_has_its_own_rate_and_an_unknown_end_has_no_time_left(times, capsys):
    with bars() as move:
        move("one", 0, 10)
        times[0] += 40
        move("two", 0, 0)
        times[0] += 30
        move("two", 300, 0)
    assert capsys.readouterr().err == "two: 300, 10/s\n"


def test_slow_items_have_a_time_each(times, capsys):
    with bar("kernels") as move:
        move(0, 0)
        times[0] += 50
        move(20, 0)
    assert capsys.readouterr().err == "kernels: 20, 2.5 s each\n"


def test_a_caller_may_know_better(times, capsys):
    display = Display()
    display.move("pretrain", 0, 500)
    times[0] += 31
    display.move("pretrain", 5, unit=" bases", note="1.3 nats/base", share=0.5, rate=2e6, left=90)
    assert capsys.readouterr().err == "pretrain: 5, 2,000,000 bases/s, 1.3 nats/base, 1:30 left\n"


def test_quiet_is_silent(times, capsys):
    with bar("generate", quiet=True) as move:
        for done in range(0, 100):
            move(done, 1000)
            times[0] += 60
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_one_bar_at_a_time_and_none_at_the_end(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    display = Display()
    display.move("first\x1b[2J", 1, 10)
    display.move("second", 1, 10)
    assert [task.description for task in display._bar.tasks] == ["second"]
    display.stop()
    assert "\x1b[2J" not in stderr.getvalue()
    display.stop()  # stopping twice is harmless


def test_an_error_inside_takes_the_bar_away(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(KeyError), bar("x") as move:
        move(1, 2)
        raise KeyError
    with bar("y") as move:  # a bar that were still there would refuse another
        move(1, 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.9, "0:09"), (754, "12:34"), (18000, "5:00:00"), (183600, "2 d 3 h")],
)
def test_durations(seconds, text):
    assert clock(seconds) == text and re.fullmatch(r"[\d:dh ]+", text)
