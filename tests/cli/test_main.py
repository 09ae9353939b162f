import re
import subprocess
import sys
import time

import pytest

from dnadiff.cli.main import VERBS, main


def run(capsys, *words):
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_help_lists_every_verb(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(verb in " ".join(out.split()) for verb in VERBS)
    code, out, _ = run(capsys)
    assert code == 2 and "usage" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_dashes_and_descriptions(capsys, verb):
    code, out, _ = run(capsys, *verb.split(), "--help")
    assert code == 0 and "--config" in out
    flags = re.findall(r"^  (?:-\w, )?(--[\w-]+)(.*)", out, re.M)
    assert len(flags) > 2 and all("_" not in flag for flag, _ in flags)
    assert all(description.strip() for _, description in flags)
    assert out.count(f"  dnadiff {verb}") == 2, "two examples"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "did you mean pretrain"),
        (["data"], "did you mean data list or data fetch or data simulate or data index"),
        (["xyzzy"], "see dnadiff --help"),
        (["generate", "--lenght", "10"], "no flag --lenght; did you mean --length? (see dnadiff"),
        (["generate", "--length", "ten"], "--length: a whole number is needed, not 'ten'"),
        (["generate", "--length", "1.5"], "--length: a whole number is needed, not '1.5'"),
        (["generate", "--eta", "much"], "--eta: a number is needed, not 'much'"),
        (["generate", "--length"], "--length needs a value"),
        (["generate", "--length", "5", "--length", "6"], "--length is given twice"),
        (["generate", "--approximate", "true"], "write a switch as --FLAG, --no-FLAG or --FLAG=tr"),
        (["generate", "new.fa"], "'new.fa' belongs to no flag"),
        (["generate", "--quiet=maybe"], "--quiet: true or false is needed, not 'maybe'"),
        (["benchmark"], "--task is needed"),
        (["pretrain", "--devices", "two"], "--devices: a whole number or auto is needed"),
        (
            ["generate", "--sampler", "magic"],
            "--sampler: one of auto, ancestral, first_hitting, analytic",
        ),
        (["pretrain", "--config", "smoke"], "give --genome"),
        (
            ["pretrain", "--config", "smoke", "--genome", "x", "--max-steps", "0"],
            "--max-steps must be at least 1",
        ),
        (["report"], "nothing to report"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(capsys, words, message):
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--config", "smoke", "--genome", "nowhere.fa"], "nowhere.fa"),
        (["pretrain", "--config", "nowhere.yaml", "--genome", "x.fa"], "nowhere.yaml"),
        (
            ["pretrain", "--config", "nosuch", "--genome", "x.fa"],
            "nosuch.yaml: no such file among the shipped configs",
        ),
        (["pretrain", "--resume", "nowhere"], "nowhere"),
        (["generate", "--checkpoint", "nowhere"], "nowhere: not a model"),
        (
            ["benchmark", "--task", "human_enhancers", "--checkpoint", "nowhere"],
            "nowhere: not a model",
        ),
        (["report", "nowhere"], "nowhere: not a run folder"),
        (["data", "index", "--genome", "nowhere.fa"], "nowhere.fa"),
    ],
)
def test_what_is_not_there_is_one_line_and_not_done(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code in (1, 2)
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_run_generate_says_how_to_make_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "generate")
    assert code == 1 and out == ""
    assert (
        err
        == "dnadiff: no model under ./runs: make one with dnadiff pretrain --genome FILE, or give --checkpoint\n"
    )


def test_debug_shows_the_traceback(capsys, tmp_path):
    code, _, err = run(capsys, "generate", "--debug", "--checkpoint", str(tmp_path))
    assert code == 1 and "Traceback" in err and err.splitlines()[-1].startswith("dnadiff: ")


def test_print_config_writes_yaml_that_config_reads(capsys, tmp_path):
    code, out, _ = run(
        capsys,
        "pretrain",
        "--config",
        "smoke",
        "--genome",
        "x.fa",
        "--window",
        "99",
        "--print_config",
    )
    assert code == 0 and "window: 99" in out and "d_model: 16" in out
    path = tmp_path / "again.yaml"
    path.write_text(out)
    code, again, _ = run(capsys, "pretrain", "--config", str(path), "--print_config")
    assert again == out


def test_a_flag_may_be_given_twice_and_with_an_equals_sign(capsys):
    words = ["--genome", "a.fa", "--genome=b c.fa", "--max-time=00:00:09"]
    _, out, _ = run(capsys, "pretrain", "--config", "smoke", *words, "--print_config")
    assert "- a.fa" in out and "- b c.fa" in out and "max_time: 00:00:09" in out


def test_a_folder_does_not_hide_a_shipped_recipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").mkdir()
    code, out, _ = run(
        capsys, "pretrain", "--config", "smoke", "--genome", "x.fa", "--print_config"
    )
    assert code == 0 and "d_model: 16" in out


def test_help_answers_within_a_second():
    best = min(_timed("--help") for _ in range(3))
    assert best < 1.0


def _timed(*words):
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "dnadiff", *words], check=True, capture_output=True)
    return time.monotonic() - began


def test_the_console_scripts_are_installed():
    from importlib.metadata import entry_points

    scripts = {
        script.name: script.value
        for script in entry_points(group="console_scripts")
        if "dnadiff" in script.name
    }
    assert scripts == {"dnadiff": "dnadiff.cli.main:main", "dnadiff-lm": "dnadiff.cli.main:main"}
