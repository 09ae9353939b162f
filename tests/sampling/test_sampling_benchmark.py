"""The script that measures the samplers, on an untrained model."""

import json
from pathlib import Path

import numpy as np
import pytest
from small import tiny_recipe, write_fasta

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import Autoregressive
from dnadiff.model import Model
from dnadiff.training.pretrain import pretrain

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampling")
    genome = write_fasta(folder / "tiny.fa", {"one": 30_000, "two": 9_000, "three": 9_000})
    pretrain(tiny_recipe(genome, max_steps=2), folder / "run")
    return folder / "run"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import sampling

    return sampling


def test_a_table_with_a_row_for_each_sampler_and_number_of_calls(run, script, tmp_path, capsys):
    flags = ["--checkpoint", str(run), "--quick", "--json", str(tmp_path / "rows.json")]
    result = script.main([*flags, "--png", str(tmp_path / "rows.png")])
    out = capsys.readouterr().out
    (of_run,) = result["runs"].values()
    rows = of_run["rows"]
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert {name.split()[0] for name in rows} == {
        "ancestral", "first_hitting", "analytic", "remasking", "semi_autoregressive"
    }  # fmt: skip
    assert rows["ancestral 16"]["calls"] == pytest.approx(
        16, abs=0.5
    )  # of 128 letters hardly a step is without one
    assert rows["first_hitting"]["calls"] == 128 and rows["analytic 4"]["calls"] == 4
    assert rows["semi_autoregressive 4"]["sampler"].endswith("window=64 stride=32")
    assert all(
        row["divergence"] > 0 and row["seconds per 1,024 bases"] > 0 for row in rows.values()
    )
    assert "order-6 Markov" in out and "remask=loop" in out
    # The bases of this genome are random, so an untrained model does as well as a Markov chain.
    real = of_run["real"]["divergence"]
    assert rows["ancestral 16"]["divergence"] == pytest.approx(real, rel=0.3)
    assert of_run["markov"]["divergence"] == pytest.approx(real, rel=0.3)


def test_a_network_that_runs_letter_by_letter_is_called_for_each(script):
    class Yardstick:
        def divergence(self, sequences):
            return float(len(sequences)), 0.0

    lm = CaduceusLM(CaduceusConfig(d_model=8, n_layer=1, rcps=False, bidirectional=False))
    model, options = (
        Model(LMDenoiser(lm), Autoregressive()),
        script.parse(["--checkpoint", "none", "--quick"]),
    )
    options.num, options.length = 16, 20  # fewer rows would be repeated
    row = script.measure(model, script.Row({"sampler": "autoregressive"}, 20), Yardstick(), options)
    assert row["calls"] == 20 and row["divergence"] == 16
    assert "step" not in vars(model.denoiser)


def test_it_goes_on_from_what_is_there(run, script, tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.json"
    flags = ["--checkpoint", str(run), "--quick", "--json", str(path)]
    script.main([*flags, "--minutes", "0"])
    assert capsys.readouterr().out.count("left out") == 15 and not path.exists()
    (only,) = script.main([*flags[:-2], "--samplers", "analytic"])["runs"].values()
    assert [*only["rows"]] == ["analytic 4", "analytic 16"]
    first = script.main(flags)
    assert json.loads(path.read_text()) == first
    monkeypatch.setattr(script, "measure", None)  # nothing is left to measure
    assert script.main(flags)["runs"] == first["runs"]
    path.write_text(path.read_text().replace('"sequences": 8', '"sequences": 9'))
    with pytest.raises(SystemExit, match="choose another --json"):
        script.main(flags)


def test_the_divergence_of_two_laws(script):
    one, other = np.array([3.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0])
    p, q = np.array([0.75, 0.25, 0.0]), np.array([0.25, 0.25, 0.5])
    middle = (p + q) / 2
    entropies = [-(law[law > 0] * np.log(law[law > 0])).sum() for law in (middle, p, q)]
    assert script.jensen_shannon(one, other) == pytest.approx(
        entropies[0] - (entropies[1] + entropies[2]) / 2
    )
    assert script.jensen_shannon(one, 7 * one) == pytest.approx(0, abs=1e-15)
    assert script.jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(np.log(2))


def test_both_strands_have_the_same_kmers(script):
    counts = script.kmers(["ACGTTGAC", "GTCAACGT", "ACGTTN"])
    assert np.array_equal(counts[0], counts[1]) and counts[0].sum() == 3 and counts[2].sum() == 0
