import itertools

import pytest
import torch
from closed_forms import JointSource, MarkovSource
from scipy.stats import chisquare

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.sampling import (
    Constraints,
    SamplerConfig,
    Template,
    letters_drawn,
    parse_template,
    sample,
)

COUNT = 20_000


def conditional(source, template):
    """The exact law (4^L,) of the sequences that a template allows, by enumeration."""
    _, allowed = parse_template(template)
    fits = torch.stack([allowed[i, source.sequences[:, i]] for i in range(source.length)], 1).all(1)
    law = source.table.reshape(-1) * fits
    return law / law.sum()


def counts(source, template, **options):
    tokens, allowed = parse_template(template)
    drawn = sample(source, tokens.repeat(COUNT, 1), allowed.repeat(COUNT, 1, 1), **options)
    return torch.bincount(source.index(drawn), minlength=4**source.length).double()


def pvalue(seen, law):
    assert seen[law == 0].sum() == 0
    return chisquare(seen[law > 0].numpy(), (law[law > 0] * COUNT).numpy()).pvalue


@pytest.mark.parametrize("template", ["RNW", "NRY", "RYS", "CVK"])
@pytest.mark.parametrize(("sampler", "steps"), [("first_hitting", None), ("ancestral", 8)])
def test_restricted_letters_have_their_exact_conditional_distribution(template, sampler, steps):
    source = JointSource(length=3, seed=2)
    seen = counts(source, template, sampler=sampler, steps=steps, seed=7)
    assert pvalue(seen, conditional(source, template)) > 1e-3


def test_the_approximate_mode_does_not():
    source = JointSource(length=3, seed=2)
    law = conditional(source, "RYS")
    fast = counts(
        source, "RYS", sampler="first_hitting", seed=7, constraints=Constraints(approximate=True)
    )
    assert pvalue(fast, law) < 1e-9
    assert 0.1 < float((fast / COUNT - law).abs().sum() / 2) < 0.3


def test_rows_of_different_templates_and_of_any_batch():
    source = JointSource(length=3, seed=4)
    templates = [parse_template(text) for text in ("RNW", "NNN", "ACG", "RNW", "SSN", "HHH")]
    every = torch.ones(3, 4, dtype=torch.bool)
    tokens = torch.stack([tokens for tokens, _ in templates])
    allowed = torch.stack([every if letters is None else letters for _, letters in templates])
    together = sample(source, tokens, allowed, seed=3)
    for row in range(6):
        index = torch.tensor([row])
        assert torch.equal(
            sample(source, tokens[row : row + 1], allowed[row : row + 1], seed=3, index=index)[0],
            together[row],
        )
    assert DNA.decode(together[2]) == "ACG"


class Labelled(JointSource):
    """Of one class of two only the letters A and C, of the other G and T."""

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        mine = torch.tensor([[True, True, False, False], [False, False, True, True]])[label]
        return super().__call__(tokens).masked_fill(~mine[:, None], -torch.inf)


def test_each_class_has_its_own_distribution():
    tokens, allowed = parse_template("RYN")
    label = torch.arange(2).repeat(50)
    drawn = sample(Labelled(3), tokens.repeat(100, 1), allowed.repeat(100, 1, 1), label=label)
    assert {DNA.decode(row)[:2] for row in drawn[label == 0]} == {"AC"}
    assert {DNA.decode(row)[:2] for row in drawn[label == 1]} == {"GT"}


def test_calls_are_shared_by_rows_and_given_for_each_beginning():
    class Counting(JointSource):
        rows = 0

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            self.rows += len(tokens)
            return super().__call__(tokens)

    source = Counting(3)
    tokens, allowed = parse_template("RHY")
    sample(source, tokens.repeat(500, 1), allowed.repeat(500, 1, 1))
    # Few rows are repeated to at least 16 tokens, which must not be counted: 1 + 2 + 6 beginnings.
    assert source.rows == sum(max(rows, rows * -(-16 // (3 * rows))) for rows in (1, 2, 6))


def test_of_more_combinations_a_population_is_kept():
    length, count = 20, 4000
    source, allowed = MarkovSource(length, seed=2), torch.tensor([True, False, True, False])
    template, letters = parse_template("R" * length)
    drawn = sample(source, template.repeat(count, 1), letters.repeat(count, 1, 1)) - DNA.first_id
    assert allowed[drawn].all()
    seen = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
    # The exact law of each letter of a chain whose every letter is A or G.
    forward, backward = [source.start * allowed], [torch.ones(4, dtype=torch.float64)]
    for _ in range(length - 1):
        forward.append((forward[-1] @ source.step) * allowed)
        backward.append(source.step @ (backward[-1] * allowed))
    law = torch.stack([f * b for f, b in zip(forward, backward[::-1], strict=True)])
    law = law / law.sum(1, keepdim=True)
    assert (seen - law).abs().max() < 4 * (0.25 * (1 / 1024 + 1 / count)) ** 0.5
    one_by_one = sample(
        source,
        template.repeat(count, 1),
        letters.repeat(count, 1, 1),
        constraints=Constraints(approximate=True),
    )
    far = torch.nn.functional.one_hot(one_by_one - DNA.first_id, 4).double().mean(0)
    assert (far - law).abs().max() > 0.1
    again = sample(source, template[None], letters[None], index=torch.tensor([7]))
    assert torch.equal(again[0] - DNA.first_id, drawn[7])


def test_a_header_says_how_restricted_letters_are_drawn():
    tokens, allowed = parse_template("NNR")
    template, whole = Template(tokens, allowed), SamplerConfig("first_hitting")
    assert letters_drawn(template, whole, Constraints()) == "exact"
    assert letters_drawn(Template(tokens), whole, Constraints(require=["TATAA"])) is None
    assert letters_drawn(Template(tokens), whole, Constraints(require=["TATAWN"])) == "exact"
    assert letters_drawn(Template(tokens), whole, Constraints(require=["R" * 13])) == "resampled"
    windows = SamplerConfig("first_hitting", window=2, stride=1)
    assert letters_drawn(template, windows, Constraints()) == "approximate"


def test_letters_without_a_chance_are_refused():
    source = JointSource(3)
    source.table = source.table.clone()
    source.table[:, 0] = 0
    tokens, allowed = parse_template("NMN")
    allowed[1, 1] = False
    with pytest.raises(InputError, match=r"no positive probability .* restrict less$"):
        sample(source, tokens[None], allowed[None])
    allowed[1, 3] = True  # an unlikely letter
    source.table[:, 3] *= 0.01
    with pytest.raises(InputError, match=r"no positive probability .* raise top_p$"):
        sample(source, tokens[None], allowed[None], top_p=0.5)


def test_the_enumeration_of_this_file_is_right():
    source = JointSource(length=3, seed=2)
    law = conditional(source, "RNW").reshape(4, 4, 4)
    for letters in itertools.product(range(4), repeat=3):
        assert (law[letters] > 0) == (letters[0] in (0, 2) and letters[2] in (0, 3))
