import pytest
from closed_forms import CausalMarkovSource, FromLogits, MarkovSource, with_mask_output

from dnadiff.diffusion import D3PM, MDLM, SEDD, UDLM, Autoregressive, MaskedLM, Plaid
from dnadiff.errors import UsageError
from dnadiff.sampling import choose

SOURCE = MarkovSource(length=5)


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
    assert str(choose(SOURCE, 5, objective=objective)) == f"sampler={sampler} steps=128"


@pytest.mark.parametrize("objective", [None, Autoregressive(), MDLM()])
def test_auto_goes_from_left_to_right_where_the_network_does(objective):
    """Also through masks: their order does not matter to a network that sees none of those to come."""
    assert (
        str(choose(CausalMarkovSource(5), 5, objective=objective, trained=3))
        == "sampler=autoregressive"
    )
    assert choose(CausalMarkovSource(5), 5, "ancestral", objective=MDLM()).sampler == "ancestral"


def test_auto_lets_a_network_that_answers_mask_say_how_fast():
    assert choose(FromLogits(SOURCE, with_mask_output(0.1), outputs=5), 5).sampler == "analytic"


def test_auto_slides_a_window_where_the_sequence_is_longer():
    assert (
        str(choose(SOURCE, 65, trained=64, steps=9))
        == "sampler=ancestral steps=9 window=64 stride=32"
    )
    assert str(choose(SOURCE, 64, trained=64)) == "sampler=ancestral steps=128"
    assert choose(SOURCE, 65, "semi_autoregressive", trained=64)[2:] == (64, 32)
    assert choose(SOURCE, 65, "semi_autoregressive", trained=64, window=20)[2:] == (20, 10)
    assert choose(SOURCE, 65, "remasking", window=64, stride=5)[2:] == (64, 5)
    assert choose(SOURCE, 65, "remasking", trained=64)[2:] == (None, None)


def test_what_is_left_out_is_settled():
    assert (
        str(choose(SOURCE, 5, "remasking", steps=50))
        == "sampler=remasking steps=50 remask=cap eta=0.02"
    )
    assert str(choose(SOURCE, 5, "first_hitting")) == "sampler=first_hitting"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dance"}, "unknown sampler 'dance'; there are ancestral"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"sampler": "first_hitting", "steps": 8}, "leave --steps out"),
        ({"eta": 0.1}, "ancestral has no such setting: leave --eta out"),
        ({"remask": "cap"}, "leave --remask out"),
        (
            {"sampler": "remasking", "remask": "often"},
            "remask cannot be 'often'; there are cap, rescale",
        ),
        ({"sampler": "remasking", "eta": 1.5}, "eta must be from 0 to 1"),
        ({"sampler": "semi_autoregressive"}, "needs --window"),
        ({"stride": 3}, "--stride goes with --window"),
        ({"window": 1}, "at least 2"),
        ({"window": 4, "stride": 4}, "stride must be from 1 to 3"),
        ({"window": 4, "stride": 0}, "stride must be from 1 to 3"),
        (
            {"sampler": "uniform", "objective": MDLM()},
            "uniform is for uniform noise, and .* with absorbing noise",
        ),
        (
            {"sampler": "ancestral", "objective": UDLM()},
            "ancestral is for absorbing noise, and .* with uniform noise",
        ),
        ({"sampler": "autoregressive", "objective": UDLM()}, "with uniform noise: leave it out"),
        ({"sampler": "uniform", "objective": Plaid()}, "with gaussian noise"),
        (
            {"sampler": "first_hitting", "objective": Autoregressive()},
            "first_hitting shows it masks: leave it out",
        ),
        ({"sampler": "autoregressive", "window": 4}, "leave --window out"),
    ],
)
def test_what_cannot_be_is_named(options, message):
    with pytest.raises(UsageError, match=message):
        choose(SOURCE, 5, **options)
