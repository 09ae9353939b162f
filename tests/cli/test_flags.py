"""Flags and YAML files of flags: which values arrive, and what is refused."""

import dataclasses
import itertools
import os
import re
import subprocess
import sys

import pytest
import yaml

from dnadiff.cli.hints import OTHER_FLAGS
from dnadiff.cli.main import VERBS, build_app, main
from dnadiff.training.recipe import Recipe


def settings(capsys, *words):
    """The flags that a command line sets, as --print-config writes them."""
    code = main([*map(str, words), "--print-config"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return yaml.safe_load(out)


def refused(capsys, *words):
    """The one line with which a command line is refused as wrong usage."""
    code = main([*map(str, words)])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err


@pytest.fixture
def recipe(tmp_path):
    """Writes a YAML file and returns its path."""

    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("field", dataclasses.fields(Recipe), ids=lambda field: field.name)
def test_every_field_of_a_recipe_is_a_flag_with_its_description(field):
    (argument,) = (
        argument
        for argument in build_app()["pretrain"].assemble_argument_collection()
        if argument.field_info.name == field.name
    )
    assert argument.name == f"--{field.name.replace('_', '-')}"
    words = " ".join((Recipe.__doc__ or "").split())
    assert " ".join(argument.parameter.help.split()) in words


def test_help_is_grouped(capsys):
    assert main(["pretrain", "--help"]) == 0
    headings = re.findall(r"^(\w+):$", capsys.readouterr().out, re.M)
    assert headings == [
        *("Data", "Model", "Optimisation", "Evaluation", "Hardware", "Output", "General"),
        "Examples",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_can_be_parsed(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    examples = re.findall(r"^  dnadiff (.*)$", capsys.readouterr().out, re.M)
    for example in examples:
        build_app().parse_args(example.split())
    assert len(examples) == 2


def test_help_of_no_verb_imports_torch():
    code = (
        "import sys; from dnadiff.cli.main import VERBS, main\n"
        "assert not any(main([*verb.split(), '--help']) for verb in VERBS)\n"
        "heavy = {'torch', 'lightning', 'pandas', 'numpy', 'numba', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


PARTS = (["--window", "77"], ["--config", "smoke"], ["--print-config"], ["--genome", "a.fa"])


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_the_order_of_flags_and_config_is_irrelevant(order, capsys):
    assert main(["pretrain", *(word for i in order for word in PARTS[i])]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["window"], found["d_model"], found["genome"]) == (77, 16, ["a.fa"])


def test_print_config_needs_no_complete_command(capsys):
    assert settings(capsys, "pretrain", "--config", "smoke")["genome"] == []


def test_a_repeated_flag_appends_and_replaces_that_of_the_file(capsys, recipe):
    path = recipe("avoid: [AAAA, CCCC]\n")
    assert settings(capsys, "generate", "--config", path)["avoid"] == ["AAAA", "CCCC"]
    words = ["generate", "--avoid", "GAATTC", "--config", path, "--avoid=GGATCC"]
    assert settings(capsys, *words)["avoid"] == ["GAATTC", "GGATCC"]


def test_a_flag_with_a_plus_is_unknown(capsys):
    message = refused(capsys, "generate", "--avoid", "GAATTC", "--avoid+", "GGATCC")
    assert "no flag --avoid+; did you mean --avoid?" in message


ODD_TEXTS = ["null", "None", "true", "no", "007", "1", "1e5", "0x1F", "~", "12:30:00", "", "[", "{"]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_text_stays_as_it_was_typed(text, capsys):
    found = settings(capsys, "generate", "--label", text, f"--out={text}", "--avoid", text)
    assert (found["label"], found["out"], found["avoid"]) == (text, text, [text])


@pytest.mark.parametrize("text", ["1", "007", "true", "no", "1.50", "1e5", "2026-01-01", "1_000"])
def test_text_in_a_file_stays_as_it_is_written(text, capsys, recipe):
    path = recipe(f"label: {text}\navoid: [{text}]\n")
    found = settings(capsys, "generate", "--config", path)
    assert (found["label"], found["avoid"]) == (text, [text])


def test_null_in_a_file_is_no_value_and_in_quotes_is_text(capsys, recipe):
    found = settings(capsys, "generate", "--config", recipe("label: null\nguide: 'null'\nsteps:\n"))
    assert (found["label"], found["guide"], found["steps"]) == (None, "null", None)
    message = refused(capsys, "generate", "--config", recipe("seed: 1\nnum: null\n"))
    assert "recipe.yaml, line 2: num cannot be null; its default is 1" in message


ODD_PATHS = [
    "data 🧬/g.fa",
    os.fsdecode(b"caf\xe9.fa"),
    '["a.fa"]',
    '{"a": 1}',
    "a,b.fa",
    "a\nb.fa",
    "a\x1b[31m.fa",
]


@pytest.mark.parametrize("path", ODD_PATHS, ids=ascii)
def test_list_flags_take_any_path(path, capsys, recipe):
    found = settings(capsys, "pretrain", "--config", "smoke", "--genome", path, "--genome", "b")
    assert found["genome"] == [path, "b"]
    assert main(["pretrain", "--config", "smoke", "--genome", path]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "\x1b" not in err
    assert err.encode("utf-8")  # so that a terminal can show it


def test_numbers_are_read_strictly(capsys, recipe):
    found = settings(capsys, "pretrain", "--lr", "4e-3", "--seed=-3", "--devices", "2")
    assert (found["learning_rate"], found["seed"], found["devices"]) == (0.004, -3, 2)
    assert settings(capsys, "pretrain", "--devices", "auto")["devices"] == "auto"
    # YAML 1.1 takes 4e-3 for text, but the flag is a number.
    assert settings(capsys, "pretrain", "--config", recipe("clip: 4e-3"))["clip"] == 0.004
    for text in ("1.5", "1e3", "0x10", "ten", "", "1 000", "٣"):
        assert "a whole number is needed" in refused(capsys, "generate", f"--num={text}")
    message = refused(capsys, "generate", "--config", recipe("# why\nnum: 2.5\n"))
    assert "recipe.yaml, line 2: num: a whole number is needed, not '2.5'" in message


def test_switches(capsys, recipe):
    def quiet(*words):
        return main(["data", "list", *map(str, words)]) == 0 and "MB" not in capsys.readouterr().out

    assert not quiet() and not quiet("--quiet=false") and not quiet("--no-quiet")
    assert quiet("--quiet") and quiet("--quiet=true")
    for text in ("true", "yes", "on", "On"):
        assert quiet("--config", recipe(f"quiet: {text}"))
    assert not quiet("--config", recipe("quiet: true"), "--no-quiet")
    assert settings(capsys, "pretrain", "--no-time-conditioning")["time_conditioning"] is False


def test_tables(capsys, recipe):
    for text in ('{"steps": 1000, "carry_over": false}', "{steps: 1000, carry_over: false}"):
        found = settings(capsys, "pretrain", "--objective-options", text)
        assert found["objective_options"] == {"steps": 1000, "carry_over": False}
    path = recipe("objective_options:\n  gamma: [-5.0, 9]\n  steps: 7\n")
    found = settings(capsys, "pretrain", "--config", path)
    assert found["objective_options"] == {"gamma": [-5.0, 9], "steps": 7}
    found = settings(capsys, "pretrain", "--config", recipe("objective_options: {a: .inf, b: '1'}"))
    assert found["objective_options"] == {"a": float("inf"), "b": "1"}
    message = refused(capsys, "pretrain", "--config", recipe("objective_options: 5"))
    assert "must be a table" in message


def test_an_empty_list_in_a_file_is_not_the_default(capsys, recipe):
    words = ["benchmark", "--task", "x", "--config"]
    assert settings(capsys, *words, recipe("baselines: []"))["baselines"] == []
    assert settings(capsys, *words, recipe("folds: 4"))["baselines"] is None


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("generate", ["--checkpoint", "A", "--init", "B"]),
        ("generate", ["--init=B", "--checkpoint=A"]),
        ("benchmark", ["--task", "x", "--checkpoint", "A", "--init", "B"]),
        ("generate", ["-n", "1", "--num", "2"]),
    ],
)
def test_one_flag_under_two_names_is_refused(verb, flags, capsys):
    assert "two names of one flag" in refused(capsys, verb, *flags)


def test_second_names(capsys):
    assert settings(capsys, "generate", "-n", "3", "-o", "x", "--init", "m")["num"] == 3
    assert settings(capsys, "generate", "-n3", "--init", "m")["checkpoint"] == "m"
    found = settings(capsys, "pretrain", "--init", "m", "--lr", "2")
    assert (found["init"], found["learning_rate"]) == ("m", 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window: 5\nd_model: 3\nwindow: 6\n", "line 3: window is set in line 1 already"),
        ("objective_options: {steps: 1, steps: 2}\n", "line 1: steps is set in line 1 already"),
        ("windw: 5\n", "line 1: no setting 'windw'; did you mean window?"),
        ("max_steps: 1\nmax-steps: 2\n", "line 2: no setting 'max-steps'; did you mean max_steps?"),
        ("print_config: true\n", "line 1: no setting 'print_config'"),
        ("window: [1, 2]\n", "line 1: window must be one value"),
        ("genome: [[a], b]\n", "line 1: genome must be a plain list"),
        ("genome: {a: b}\n", "line 1: genome must be one value"),
        ("backbone: resnet\n", "line 1: backbone: one of caduceus-ps, caduceus-ph"),
        ("tiled: perhaps\n", "line 1: tiled: true or false is needed, not 'perhaps'"),
        ("warmup: much\n", "line 1: warmup: a number is needed"),
    ],
)
def test_a_file_with_a_wrong_setting_is_named_with_its_line(text, message, capsys, recipe):
    assert f"recipe.yaml, {message}" in refused(capsys, "pretrain", "--config", recipe(text))


HINTS = {
    ("pretrain", "--fasta"): "--genome",
    ("pretrain", "--test-chrom"): "--intervals",
    ("pretrain", "--epochs"): "--max-steps",
    ("pretrain", "--gpus"): "--devices",
    ("pretrain", "--model"): "--init",
    ("pretrain", "--output"): "--out",
    ("pretrain", "--bs"): "--batch-size",
    ("pretrain", "--batchsize"): "--batch-size",
    ("pretrain", "--checkpoint"): "--init",
    ("pretrain", "--wd"): "--weight-decay",
    ("pretrain", "--seq_len"): "--window",
    ("generate", "--seq_len"): "--length",
    ("generate", "--model"): "--checkpoint",
    ("generate", "--num-samples"): "--num",
    ("generate", "--temprature"): "--temperature",
    ("generate", "--class"): "--label",
    ("benchmark", "--model"): "--checkpoint",
    ("benchmark", "--dataset"): "--task",
    ("report", "--output"): "--out",
}


@pytest.mark.parametrize(("verb", "typed"), HINTS)
def test_flags_of_other_programs_are_known(verb, typed, capsys):
    wanted = f"no flag {typed}; did you mean {HINTS[verb, typed]}?"
    assert wanted in refused(capsys, verb, typed, "1")


def test_hints_name_parameters_that_exist_and_no_flag_is_hinted_away():
    app = build_app()
    flags = {}
    for verb in VERBS:
        parser = app
        for word in verb.split():
            parser = parser[word]
        for argument in parser.assemble_argument_collection():
            flags.setdefault(argument.field_info.name, set()).add(verb)
    assert set(OTHER_FLAGS) <= set(flags)


def test_a_flag_that_nothing_resembles_gets_no_hint(capsys):
    assert "no flag --xyzzy (see dnadiff generate --help)" in refused(capsys, "generate", "--xyzzy")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_and_flags(shell):
    script = build_app().generate_completion(shell=shell)
    assert "pretrain" in script and "learning-rate" in script and "simulate" in script


def test_completion_is_installed_for_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert main(["--install-completion", "--shell", "fish"]) == 0
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert "pretrain" in written.read_text()
