import pytest

from dnadiff.errors import InputError, UsageError
from dnadiff.files import resource
from dnadiff.training.recipe import Recipe, read_settings, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [("00:10:00", 600), ("1:00:01", 3601), ("2:00:00:30", 172830), ("00:00:05", 5)],
)
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["10", "10:00", "00:00:00", "1h", "-1:00:00", ""])
def test_what_is_not_a_time_is_refused(text):
    with pytest.raises(UsageError, match="time"):
        seconds(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genome": []}, "give --genome"),
        ({"max_steps": None}, "give --max-steps or --max-time"),
        ({"backbone": "transfomer"}, "--backbone 'transfomer' is none of caduceus-ps, "),
        ({"objective": "best"}, "--objective 'best' is none of mdlm, "),
        ({"window": 0}, "--window must be at least 1"),
        ({"batch_size": -2}, "--batch-size must be at least 1, not -2"),
        ({"max_steps": 0}, "--max-steps must be at least 1"),
        ({"warmup": 1.0}, "--warmup"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"genome": ["a", "b"], "intervals": "x.bed"}, "--intervals goes with one --genome"),
        ({"genome": ["a", "b"], "blacklist": "x.bed"}, "--blacklist goes with one --genome"),
        ({"test_fold": "3"}, "--test-fold goes with --intervals"),
        ({"split": "legacy"}, "--split legacy goes with --intervals"),
        ({"genome_weight": [1.0, 2.0]}, "--genome-weight: one number above 0 for each --genome"),
        ({"genome_weight": [0.0]}, "--genome-weight"),
        ({"genome_weight": [float("nan")]}, "--genome-weight"),
        ({"genome_weight": [1.0], "tiled": True}, "--genome-weight is for random windows"),
        ({"jitter": 5}, "--jitter 5: .* --tiled"),
        ({"jitter": -5, "tiled": True}, "--jitter -5"),
        ({"min_scorable": 1.1}, "--min-scorable"),
        ({"soft_mask_weight": -0.1}, "--soft-mask-weight"),
        ({"soft_mask_weight": float("nan")}, "--soft-mask-weight"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**({"genome": ["x.fa"], "max_steps": 5} | changes))


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
    [("a: [", "not a YAML file"), ("- 1", "not a recipe"), ("speed: 3", "unknown setting 'speed'")],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Recipe.read(path)
    with pytest.raises(InputError, match="No such file"):
        Recipe.read(tmp_path / "none.yaml")
