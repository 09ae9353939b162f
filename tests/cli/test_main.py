import os
import re
import resource
import signal
import subprocess
import sys
from signal import SIGTERM

import pytest
from small import write_fasta

import dnadiff
from dnadiff.cli.main import VERBS, main
from dnadiff.errors import Terminated


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
        (["pretrain", "--config", "smoke"], "give genome"),
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


def test_without_a_run_generate_uses_the_shipped_model_and_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "generate", "--length", "20", "--steps", "4")
    assert code == 0 and set(out.splitlines()[1]) <= set("ACGT") and len(out.splitlines()[1]) == 20
    assert "model: default (shipped with dnadiff, as there is no run under ./runs" in err


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
    assert min(_seconds("--help") for _ in range(3)) < 1.0
    assert min(_seconds("pretrain", "--help") for _ in range(3)) < 1.0


def _seconds(*words):
    """Processor time of a command, which does not depend on what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "dnadiff", *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_console_scripts_are_installed():
    from importlib.metadata import entry_points

    scripts = {
        script.name: script.value
        for script in entry_points(group="console_scripts")
        if "dnadiff" in script.name
    }
    assert scripts == {"dnadiff": "dnadiff.cli.main:main", "dnadiff-lm": "dnadiff.cli.main:main"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sample", "generate?"),
        ("train", "pretrain?"),
        ("eval", "benchmark?"),
        ("predict", "benchmark?"),
        ("finetune", "pretrain --init RUN?"),
        ("download", "data fetch?"),
        ("generat", "generate?"),
        ("export-model", "export?"),
    ],
)
def test_verbs_of_other_programs_are_known(capsys, typed, meant):
    for more in ([], ["hg38.fa"], ["--x"]):
        code, out, err = run(capsys, typed, *more)
        assert (code, out, err) == (2, "", f"dnadiff: no verb {typed!r}; did you mean {meant}\n")


def test_a_flag_before_the_verb_is_refused(capsys):
    code, out, err = run(capsys, "--quiet", "generate")
    assert (code, out) == (2, "") and "--quiet stands before a verb" in err


def test_help_as_a_verb_and_the_version(capsys):
    assert run(capsys, "help", "export") == run(capsys, "export", "-h")
    assert run(capsys, "data", "--help")[0] == 0
    assert run(capsys, "--version")[:2] == (0, f"dnadiff {dnadiff.__version__}\n")


def test_signals_have_their_own_exit_codes(capsys, monkeypatch):
    def raises(error):
        def _run(words):
            raise error

        monkeypatch.setattr("dnadiff.cli.main._run", _run)
        return run(capsys)

    before = signal.getsignal(signal.SIGTERM)
    assert raises(KeyboardInterrupt) == (130, "", "dnadiff: interrupted\n")
    assert raises(Terminated) == (143, "", "dnadiff: terminated\n")
    assert raises(SystemExit(0))[0] == raises(SystemExit())[0] == 0
    assert raises(SystemExit(3))[0] == 3
    # Lightning ends the process with 1 on Ctrl-C.
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    assert raises(stop)[0] == 130
    monkeypatch.setattr("dnadiff.cli.main._run", lambda words: os.kill(os.getpid(), SIGTERM))
    assert run(capsys)[0] == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_has_gone_is_no_error():
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "dnadiff", "data", "list"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x07\x9b2J", "\u202egnp.exe", "\udcff", "a\r"])
def test_no_control_character_reaches_the_terminal(capsys, text):
    for words in (
        ["generate", "--checkpoint", text],
        ["generate", f"--{text}"],
        ["generate", "--num", text],
        [text],
        ["pretrain", "--config", f"{text}.yaml"],
        ["data", "index", text],
    ):
        code, _, err = run(capsys, *words)
        assert code in (1, 2) and err.endswith("\n")
        assert err[:-1].isprintable(), err


def test_debug_is_one_word_of_the_command_line(capsys):
    for words in (["generate", "--num", "x", "--debug"], ["generate", "--debug=true", "--num=x"]):
        assert "Traceback" in run(capsys, *words)[2]
    assert "Traceback" not in run(capsys, "generate", "--checkpoint", "x", "--label=--debug")[2]


def test_a_path_that_stdout_cannot_encode_is_escaped(tmp_path):
    path = write_fasta(tmp_path / "g\udcff.fa", {"a": 500})
    words = [sys.executable, "-m", "dnadiff", "data", "index", "--quiet", str(path)]
    done = subprocess.run(words, capture_output=True, check=True)
    assert rb"g\udcff.fa: 1 contigs, 500 bases" in done.stdout
