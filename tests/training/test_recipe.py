from pathlib import Path

import pytest

from dnadiff.errors import InputError, UsageError
from dnadiff.files import resource
from dnadiff.training.recipe import Recipe, read_settings, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("00:10:00", 600),
        ("1:00:01", 3601),
        ("2:00:00:30", 172830),
        ("00:00:05", 5),
        ("60", 60),
        (60, 60),
        (0.5, 0.5),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1H30M", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("1d2h3m4s", 93784),
    ],
)
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["10:00", "00:00:00", "0", "0m", "1x", "-1:00:00", "-5", "", "1.2.3", "m", "1h30", True]
)
def test_what_is_not_a_time_is_refused(text):
    with pytest.raises(UsageError, match="is not a time"):
        seconds(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genome": []}, "give genome"),
        ({"genome": "x.fa"}, r"genome must be a list: write genome=\['x.fa'\]"),
        ({"genome": Path("x.fa")}, r"genome must be a list: write genome=\['x.fa'\]"),
        ({"genome_weight": 2.0}, r"write genome_weight=\[2.0\]"),
        ({"max_steps": None}, "give max_steps or max_time"),
        ({"max_time": "soon"}, "max_time: 'soon' is not a time"),
        ({"checkpoint_time": "often"}, "checkpoint_time: 'often' is not a time"),
        ({"backbone": "transfomer"}, "backbone 'transfomer' is unknown; choose from caduceus-ps, "),
        ({"objective": "best"}, "objective 'best' is unknown; choose from mdlm, "),
        ({"window": 0}, "window must be at least 1"),
        ({"window": 64.0}, "window must be a whole number, not 64.0"),
        ({"window": True}, "window must be a whole number, not True"),
        ({"tiled": "yes"}, "tiled must be true or false, not 'yes'"),
        ({"batch_size": -2}, "batch_size must be at least 1, not -2"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"devices": 0}, "devices must be at least 1, not 0"),
        ({"devices": "many"}, "devices must be a whole number, not 'many'"),
        ({"num_nodes": 0}, "num_nodes must be at least 1"),
        ({"warmup": 1.0}, "warmup"),
        ({"cooldown": 1.5}, "cooldown"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": "4e-3"}, "learning_rate must be a number such as .*, not '4e-3'"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number"),
        ({"final_learning_rate": -1e-4}, "final_learning_rate must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"clip": -1.0}, "clip must be above 0, not -1.0"),
        ({"seed": -1}, "seed must be in"),
        ({"genome": ["a", "b"], "intervals": "x.bed"}, "intervals goes with one genome"),
        ({"genome": ["a", "b"], "blacklist": "x.bed"}, "blacklist goes with one genome"),
        ({"test_fold": "3"}, "test_fold goes with intervals"),
        ({"split": "legacy"}, "split legacy goes with intervals"),
        ({"genome_weight": [1.0, 2.0]}, "genome_weight needs one number above 0 for each genome"),
        ({"genome_weight": [0.0]}, "genome_weight"),
        ({"genome_weight": [float("nan")]}, "genome_weight"),
        ({"genome_weight": [1.0], "tiled": True}, "genome_weight is for random windows"),
        ({"jitter": 5}, "jitter 5: .* tiled"),
        ({"jitter": -5, "tiled": True}, "jitter -5"),
        ({"min_scorable": 1.1}, "min_scorable"),
        ({"soft_mask_weight": -0.1}, "soft_mask_weight"),
        ({"soft_mask_weight": float("nan")}, "soft_mask_weight"),
        ({"objective_options": ["steps"]}, "objective_options must be a table"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        Recipe(**({"genome": ["x.fa"], "max_steps": 5} | changes))
    assert "--" not in str(caught.value)


def test_paths_may_be_path_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    recipe = Recipe(
        genome=[Path("x.fa")], intervals=Path("x.bed"), init="model", max_steps=1
    ).with_absolute_paths()
    assert recipe.genome == [str(tmp_path / "x.fa")]
    assert recipe.intervals == str(tmp_path / "x.bed") and recipe.init == str(tmp_path / "model")
    other = Recipe(genome=["/x.fa"], init="hf:a/b", max_steps=1).with_absolute_paths()
    assert other.init == "hf:a/b"


@pytest.mark.parametrize("name", ["demo", "laptop", "smoke", "caduceus-ps-118"])
def test_shipped_recipes_are_complete(name):
    settings = read_settings(resource("configs", f"{name}.yaml"))
    recipe = Recipe(**settings, genome=["x.fa"])
    assert recipe.max_steps or recipe.max_seconds


def test_the_papers_recipe_has_the_papers_batch():
    recipe = Recipe(**read_settings(resource("configs", "caduceus-ps-118.yaml")), genome=["x.fa"])
    assert recipe.bases_per_step(world=1) == 2**20 and recipe.max_steps == 50_000


def test_yaml_round_trip(tmp_path):
    recipe = Recipe(genome=["x.fa"], max_time="00:10:00", window=77)
    (tmp_path / "config.yaml").write_text(recipe.to_yaml())
    assert Recipe.read(tmp_path / "config.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not a YAML file"),
        ("- 1", "not a YAML table"),
        ("speed: 3", "unknown setting 'speed'"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Recipe.read(path)
    with pytest.raises(InputError, match="No such file"):
        Recipe.read(tmp_path / "none.yaml")
