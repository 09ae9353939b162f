import pytest
from closed_forms import CausalMarkovSource, FromLogits, MarkovSource, with_mask_output

from dnadiff.diffusion import D3PM, MDLM, SEDD, UDLM, Autoregressive, MaskedLM, Plaid
from dnadiff.errors import UsageError
from dnadiff.sampling import SamplerConfig, make_config, resolve_sampler

SOURCE = MarkovSource(length=5)


def resolve(denoiser, length, sampler="auto", *, objective=None, trained=None, **settings):
    config = make_config(sampler, **settings)
    return resolve_sampler(config, denoiser, length, objective=objective, trained_window=trained)


def window(config):
    return config.window, config.stride


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [
        (None, "ancestral"),
        (MDLM(), "ancestral"),
        (SEDD(), "ancestral"),
        (MaskedLM(), "ancestral"),
        (D3PM(zero_masking=True), "ancestral"),
        (UDLM(), "uniform"),
        (SEDD(noise="uniform"), "uniform"),
        (D3PM(noise="uniform"), "uniform"),
        (Plaid(), "plaid"),
    ],
)
def test_auto_fits_the_objective(objective, sampler):
    assert str(resolve(SOURCE, 5, objective=objective)) == f"sampler={sampler} steps=128"


@pytest.mark.parametrize("objective", [None, Autoregressive(), MDLM()])
def test_auto_goes_from_left_to_right_where_the_network_does(objective):
    """Also through masks, whose order does not matter to a network that sees only the left."""
    assert (
        str(resolve(CausalMarkovSource(5), 5, objective=objective, trained=3))
        == "sampler=autoregressive"
    )
    assert resolve(CausalMarkovSource(5), 5, "ancestral", objective=MDLM()).sampler == "ancestral"


def test_auto_lets_a_network_that_answers_mask_say_how_fast():
    assert resolve(FromLogits(SOURCE, with_mask_output(0.1), outputs=5), 5).sampler == "analytic"


def test_auto_slides_a_window_where_the_sequence_is_longer():
    assert (
        str(resolve(SOURCE, 65, trained=64, steps=9))
        == "sampler=ancestral steps=9 window=64 stride=32"
    )
    assert str(resolve(SOURCE, 64, trained=64)) == "sampler=ancestral steps=128"
    assert window(resolve(SOURCE, 65, "semi_autoregressive", trained=64)) == (64, 32)
    assert window(resolve(SOURCE, 65, "semi_autoregressive", trained=64, window=20)) == (20, 10)
    assert window(resolve(SOURCE, 65, "remasking", window=64, stride=5)) == (64, 5)
    assert window(resolve(SOURCE, 65, "remasking", trained=64)) == (None, None)


def test_what_is_left_out_gets_its_default():
    assert (
        str(resolve(SOURCE, 5, "remasking", steps=50))
        == "sampler=remasking steps=50 remask=cap eta=0.02"
    )
    assert str(resolve(SOURCE, 5, "first_hitting")) == "sampler=first_hitting"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dance"}, "unknown sampler 'dance'; there are ancestral"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1"),
        ({"sampler": "first_hitting", "steps": 8}, "leave steps out"),
        ({"eta": 0.1}, "ancestral has no such setting: leave eta out"),
        ({"remask": "cap"}, "leave remask out"),
        (
            {"sampler": "remasking", "remask": "often"},
            "remask cannot be 'often'; there are cap, rescale",
        ),
        ({"sampler": "remasking", "eta": 1.5}, "eta must be from 0 to 1"),
        ({"sampler": "semi_autoregressive"}, "needs a window"),
        ({"stride": 3}, "stride needs a window"),
        ({"window": 1}, "window must be at least 2 letters, not 1"),
        ({"window": 4, "stride": 4}, "stride must be from 1 to 3"),
        ({"window": 4, "stride": 0}, "stride must be at least 1"),
        (
            {"sampler": "uniform", "objective": MDLM()},
            "uniform is for uniform noise, and .* with absorbing noise",
        ),
        (
            {"sampler": "ancestral", "objective": UDLM()},
            "ancestral is for absorbing noise, and .* with uniform noise",
        ),
        (
            {"sampler": "autoregressive", "objective": UDLM()},
            "with uniform noise: leave sampler out",
        ),
        ({"sampler": "uniform", "objective": Plaid()}, "with gaussian noise"),
        (
            {"sampler": "first_hitting", "objective": Autoregressive()},
            "first_hitting shows it masks: leave sampler out",
        ),
        ({"sampler": "autoregressive", "window": 4}, "leave window out"),
    ],
)
def test_settings_that_are_not_valid_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        resolve(SOURCE, 5, **options)


def test_a_configuration_is_given_whole_or_in_parts():
    config = SamplerConfig("remasking", steps=4, eta=0.5)
    assert make_config("remasking", steps=4, eta=0.5) == config == make_config(config)
    with pytest.raises(UsageError, match="steps is given twice"):
        make_config(config, steps=8)


def test_resolving_twice_changes_nothing():
    for settings in ({}, {"sampler": "remasking", "window": 4, "temperature": 0.5}):
        once = resolve(SOURCE, 9, **settings)
        assert resolve_sampler(once, SOURCE, 9) == once
