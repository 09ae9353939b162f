import time

import pytest

from dnadiff.errors import InputError
from dnadiff.yaml_file import MAX_BYTES, parse_yaml, read_yaml


def test_a_table_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: 1\nb: &x {c: [1, 2.5, yes]}\nd: *x\ne:\n  <<: *x\n  f: null\n")
    table = {"c": [1, 2.5, True]}
    assert read_yaml(path) == {"a": 1, "b": table, "d": table, "e": table | {"f": None}}
    assert parse_yaml('{"steps": 1000}', "text") == {"steps": 1000}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3: a is set in line 1 already"),
        ("a: {b: 1, b: 1}\n", r"line 1: b is set in line 1 already"),
        ("a: [{b: 1}, {c: 1, c: 2}]\n", r"line 1: c is set in line 1 already"),
        ("a: 1\n'a': 2\n", r"line 2: a is set in line 1 already"),
        (BOMB, "aliases expand to more than 100,000 values"),
        ("a: &a [*a]\n", "refers to itself"),
        ("a: &a {b: *a}\n", "refers to itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "too deeply nested"),
        ("#" * (MAX_BYTES + 1), "larger than 1,000,000 bytes"),
        ("", "not a YAML table"),
        ("- a\n", "not a YAML table"),
        ("a: 1\n---\nb: 2\n", "not a YAML file .*single document"),
        ("a: [1\n", "not a YAML file .*line 2"),
        ("? [a]\n: 1\n", "line 1: a key must be a word"),
        ("a: !!python/object/apply:os.getcwd []\n", "not a YAML file"),
        ("a: !!int x\n", "not a YAML file"),
        (b"a: \xff\xfe\n", "not a YAML file"),
        (b"a: \x00\n", "not a YAML file"),
    ],
)
def test_what_is_no_table_of_settings_is_refused_at_once(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    began = time.process_time()
    with pytest.raises(InputError, match=rf"a\.yaml.*{message}") as caught:
        read_yaml(path)
    assert time.process_time() - began < 5 and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
