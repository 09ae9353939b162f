import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from checker import violations
from closed_forms import MarkovSource
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import UDLM, Plaid
from dnadiff.errors import InputError, UsageError
from dnadiff.rng import Stream, uniform
from dnadiff.sampling import Constraints, free_template, parse_template, sample
from dnadiff.sampling.constraints import ConstrainedBatch

FIVE = {
    "avoid": ["BsaI", "BsmBI", "EcoRI", "GCCNNNNNGGC"],
    "require": ["TATAWAAG"],
    "gc": ["0.4:0.6", "0.3:0.7:50"],
    "max_homopolymer": 5,
    "unique_kmer": 12,
}


class Neighbours:
    """A cheap denoiser: any logits, that depend on the two tokens beside each place."""

    causal, needs_sigma, outputs = False, False, 4

    def __init__(self, seed=0, sharpness=1.5):
        rng = torch.Generator().manual_seed(seed)
        self.table = torch.randn(12, 12, 4, generator=rng, dtype=torch.float64) * sharpness

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        around = torch.nn.functional.pad(tokens, (1, 1), value=4)
        return self.table[around[:, :-2], around[:, 2:]]


def draw(template, rows=1, **options):
    """Sequences for a template text."""
    tokens, allowed = parse_template(template)
    allowed = None if allowed is None else allowed.repeat(rows, 1, 1)
    constraints = Constraints(
        **{k: options.pop(k) for k in list(options) if k in {*FIVE, "approximate"}}
    )
    drawn = sample(
        options.pop("denoiser", Neighbours()),
        tokens.repeat(rows, 1),
        allowed,
        constraints=constraints,
        **options,
    )
    return [DNA.decode(row) for row in drawn]


def spelled(template, sequence):
    """Whether a sequence is one of those that a template allows."""
    return (
        re.fullmatch("".join(f"[{DNA.ambiguity.get(c, c)}]" for c in template), sequence)
        is not None
    )


# ---- no constraint is ever violated ----


def test_a_thousand_sequences_under_five_constraints_at_once():
    drawn = sample(
        MarkovSource(1024), free_template(1000, 1024), steps=8, constraints=Constraints(**FIVE)
    )
    sequences = [DNA.decode(row) for row in drawn]
    assert sum(len(violations(sequence, **FIVE)) for sequence in sequences) == 0
    assert len(set(sequences)) == 1000
    # The constraints were needed: without them hardly a sequence keeps to all.
    free = sample(MarkovSource(1024), free_template(20, 1024), steps=8)
    assert sum(not violations(DNA.decode(row), **FIVE) for row in free) == 0


def test_sequences_of_caduceus():
    torch.manual_seed(0)
    denoiser = LMDenoiser(CaduceusLM(CaduceusConfig(8, 1)))
    drawn = sample(denoiser, free_template(16, 512), steps=16, constraints=Constraints(**FIVE))
    assert [violations(DNA.decode(row), **FIVE) for row in drawn] == [[]] * 16


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "first_hitting"},
        {"sampler": "analytic", "steps": 16},
        {"sampler": "remasking", "steps": 16, "remask": "rescale", "eta": 0.3},
        {"sampler": "remasking", "steps": 16, "remask": "confidence", "eta": 0.3},
        {"sampler": "uniform", "steps": 16, "objective": UDLM()},
        {"sampler": "plaid", "steps": 16, "objective": Plaid()},
        {"sampler": "ancestral", "steps": 16, "window": 100},
        {"sampler": "uniform", "steps": 16, "window": 100, "objective": UDLM()},
    ],
    ids=lambda options: " ".join(
        str(value) for key, value in options.items() if key != "objective"
    ),
)
def test_every_sampler_satisfies_five_constraints(options):
    template = ["N" * 60 + "GATTACARYN" + "N" * 160]
    sequences = draw(*template, rows=12, denoiser=Neighbours(), **FIVE, **options)
    assert [violations(sequence, **FIVE) for sequence in sequences] == [[]] * 12
    assert all(spelled(*template, sequence) for sequence in sequences) and len(set(sequences)) == 12
    free = draw(*template, rows=12, denoiser=Neighbours(), **options)
    assert sum(not violations(sequence, **FIVE) for sequence in free) == 0


words = st.text("ACGT", min_size=3, max_size=5) | st.text(
    "ACGTRYSWKMBDHVN", min_size=4, max_size=6
).filter(lambda word: word.strip("N"))
specifications = st.fixed_dictionaries(
    {},
    optional={
        "avoid": st.lists(words, max_size=3),
        "require": st.lists(words, max_size=2),
        "gc": st.lists(
            st.sampled_from(["0.3:0.7", "0.5:0.5", "0.2:0.8:5", "0.4:0.6:10", "0:0.4"]), max_size=2
        ),
        "max_homopolymer": st.integers(1, 4),
        "unique_kmer": st.integers(2, 6),
    },
)
templates = st.text("N" * 12 + "ACGTRYSW", min_size=1, max_size=30)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    spec=specifications,
    template=templates,
    seed=st.integers(0, 99),
    sampler=st.sampled_from(["ancestral", "first_hitting"]),
)
@example(spec={"avoid": ["GCCNNNNNGGC"]}, template="GCCNNNNNGGN", seed=0, sampler="ancestral")
@example(
    spec={"unique_kmer": 2, "gc": ["0.5:0.5"]}, template="NNNNNNNNNN", seed=0, sampler="ancestral"
)
def test_samples_satisfy_all_constraints_or_an_error_names_the_one_they_cannot(
    spec, template, seed, sampler
):
    steps = 3 if sampler == "ancestral" else None
    try:
        sequences = draw(
            template, rows=3, seed=seed, sampler=sampler, steps=steps, approximate=True, **spec
        )
    except InputError as error:
        assert re.match("(avoid|require|gc|max_homopolymer|unique_kmer) ", str(error)), error
        return
    for sequence in sequences:
        assert spelled(template, sequence)
        assert violations(sequence, **spec) == []


EVERY = ["".join(letters) for letters in itertools.product("ACGT", repeat=6)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(spec=specifications, template=st.text("NNNNNNACGTRYSW", min_size=6, max_size=6))
def test_an_error_means_that_hardly_any_sequence_is_possible(spec, template):
    spec = {k: v for k, v in spec.items() if k != "require"}  # its place is drawn first
    left = sum(spelled(template, s) and not violations(s, **spec) for s in EVERY)
    possible = sum(spelled(template, s) for s in EVERY)
    try:
        assert (
            violations(draw(template, steps=2, approximate=True, **spec)[0], **spec) == [] and left
        )
    except InputError:
        assert left <= 0.02 * possible


def test_a_sampler_may_draw_and_remove_letters_by_itself():
    """Removes letters at random between the draws, as a remasking sampler does."""
    spec = {k: v for k, v in FIVE.items() if k != "require"}
    denoiser, template, index = Neighbours(), free_template(8, 300), torch.arange(8)
    draft = ConstrainedBatch(template, None, Constraints(**spec), seed=1, index=index)
    tokens = template.clone()
    for step in range(40):
        chance = uniform(1, Stream.MASK, index, 300, step=step)
        tokens[chance < 0.2] = DNA.mask_id
        now = (tokens == DNA.mask_id) & ((chance > 0.8) | (chance < 0.1) | (step == 39))
        draft.draw(
            tokens,
            now,
            uniform(1, Stream.LETTER, index, 300, step=step),
            lambda where: denoiser(tokens)[where],
        )
        assert not (tokens == DNA.mask_id)[now].any()
    assert [violations(DNA.decode(row), **spec) for row in tokens] == [[]] * 8


# ---- reproducibility ----


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting"])
def test_a_sample_depends_on_its_number_not_on_its_batch_or_the_threads(sampler):
    constraints = Constraints(
        **FIVE | {"gc": ["0.45:0.55:40"]}
    )  # tight, so that there are dead ends
    template = free_template(8, 100)

    def drawn(size):
        parts = [
            sample(
                Neighbours(),
                template[part],
                sampler=sampler,
                constraints=constraints,
                seed=4,
                index=part,
            )
            for part in torch.arange(8).split(size)
        ]
        return torch.cat(parts)

    together = drawn(8)
    assert torch.equal(together, drawn(1)) and torch.equal(together, drawn(7))
    torch.set_num_threads(1)
    try:
        assert torch.equal(together, drawn(8))
    finally:
        torch.set_num_threads(2)


def test_dead_ends_are_left_by_drawing_again():
    class Counting(Neighbours):
        rows = 0

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            self.rows += len(tokens)
            return super().__call__(tokens)

    denoiser, tight = Counting(), {"gc": ["0.45:0.55:40"], "max_homopolymer": 3}
    sequences = draw("N" * 150, rows=12, denoiser=denoiser, sampler="first_hitting", **tight)
    assert (
        denoiser.rows > 12 * 150
    )  # one call for each letter, and more for those that were drawn again
    assert [violations(sequence, **tight) for sequence in sequences] == [[]] * 12


def test_without_a_constraint_nothing_changes():
    template = free_template(3, 50)
    assert torch.equal(
        sample(Neighbours(), template, constraints=Constraints()), sample(Neighbours(), template)
    )
    loose = Constraints(gc=["0:1"], max_homopolymer=50)
    assert torch.equal(
        sample(Neighbours(), template, constraints=loose), sample(Neighbours(), template)
    )


# ---- constraints that cannot be satisfied ----


@pytest.mark.parametrize(
    ("template", "spec", "message"),
    [
        (
            "NNGGTCTCNN",
            {"avoid": ["BsaI"]},
            r"avoid BsaI \(GGTCTC\): the template's letters break it at position 8",
        ),
        ("NNGAGACCNN", {"avoid": ["BsaI"]}, r"avoid BsaI \(GGTCTC\): the template"),
        (
            "NNGGTCTSNN",
            {"avoid": ["GGTCTC", "GGTCTG"]},
            "avoid GGTCTC and avoid GGTCTG: no letter is left",
        ),
        (
            "NAAAAAAANN",
            {"max_homopolymer": 6},
            "max_homopolymer 6: the template's letters break it at position 8",
        ),
        (
            "N" * 50,
            {"avoid": ["A", "C"]},
            "avoid A and avoid C: no letter is left at position 1,",
        ),
        (
            "GCGCGCGCNN",
            {"gc": ["0.4:0.6"]},
            "gc 0.4:0.6: the template's letters break it at position 7",
        ),
        (
            "NNNNNNNNNGCGCGCGCGCGNNNNNNNNN",
            {"gc": ["0:1", "0.2:0.8:10"]},
            "gc 0.2:0.8:10: the template's letters",
        ),
        (
            "NACGTTAGNNACGTTAGN",
            {"unique_kmer": 7},
            "unique_kmer 7: the template's letters break it at position 17",
        ),
        (
            "NACGTTAGNNCTAACGTN",
            {"unique_kmer": 7},
            "unique_kmer 7: the template's letters break it",
        ),
        ("N" * 600, {"unique_kmer": 4}, "597 4-mers, but there are only 136 different"),
        ("N" * 100, {"gc": ["0.501:0.505"]}, "gc 0.501:0.505: no number of G and C in 100 bases"),
        (
            "N" * 50,
            {"require": ["AGGTCTCA"], "avoid": ["BsaI"]},
            r"require AGGTCTCA contains avoid BsaI \(GGTCTC\)",
        ),
        (
            "N" * 50,
            {"require": ["AAAWAAAA"], "avoid": ["WWWW"]},
            "require AAAWAAAA contains avoid WWWW",
        ),
        (
            "N" * 7,
            {"require": ["TATAWAAG"]},
            "require TATAWAAG: the template has no place for it",
        ),
        (
            "ACGTNNNNACGTACGT",
            {"require": ["TATAWAAG"]},
            "require TATAWAAG: the template has no place for it",
        ),
        (
            "N" * 10,
            {"require": ["GATTACA", "CATTAGA"]},
            "require CATTAGA: in 200 tries no place was found where they fit",
        ),
        (
            "N" * 9,
            {"require": ["GGGGG"], "gc": ["0:0.5"]},
            "require GGGGG: in 200 tries .* keeps gc 0:0.5",
        ),
        (
            "N" * 30,
            {"max_homopolymer": 1, "avoid": ["AC", "AG", "AT", "CA", "CG", "GA", "GC", "TA"]},
            "no letter fits at",
        ),
    ],
)
def test_a_constraint_that_cannot_be_satisfied_is_named(template, spec, message):
    with pytest.raises(InputError, match=message):
        draw(template, steps=4, **spec)


def test_the_error_names_the_template_rather_than_the_motif():
    with pytest.raises(InputError, match=r"^avoid BsaI \(GGTCTC\): the template"):
        draw("NNGGTCTCNNNNNNNN", avoid=["BsaI"], require=["TATA"])


def test_an_error_if_no_letter_that_fits_has_a_chance():
    class Stubborn(Neighbours):
        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            return torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf]).expand(*tokens.shape, 4)

    with pytest.raises(InputError, match="max_homopolymer 3: no letter fits"):
        draw("N" * 20, denoiser=Stubborn(), max_homopolymer=3)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"avoid": ["EcoR1"]}, InputError, "avoid EcoR1: .* did you mean EcoRI"),
        (
            {"avoid": ["XYZ"]},
            InputError,
            "avoid XYZ: neither IUPAC letters nor a known restriction enzyme",
        ),
        ({"avoid": ["NNN"]}, InputError, "avoid NNN: N alone matches every sequence"),
        ({"avoid": [""]}, InputError, "avoid"),
        ({"avoid": ["none.fa"]}, InputError, "none.fa: No such file"),
        ({"gc": ["0.6:0.4"]}, UsageError, "gc 0.6:0.4: write LOW:HIGH"),
        ({"gc": ["40:60"]}, UsageError, "gc 40:60"),
        ({"gc": ["0.4:0.6:0"]}, UsageError, "gc 0.4:0.6:0"),
        ({"max_homopolymer": 0}, UsageError, "max_homopolymer must be at least 1"),
        ({"unique_kmer": 32}, UsageError, "unique_kmer must be 1 to 31, not 32"),
    ],
)
def test_texts_that_cannot_be_read_are_named(spec, error, message):
    with pytest.raises(error, match=message):
        Constraints(**spec)


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ({"avoid": "GAATTC"}, {"avoid": ["GAATTC"]}),
        ({"avoid": "EcoRI"}, {"avoid": ["EcoRI"]}),
        ({"require": "TATAWAAG"}, {"require": ["TATAWAAG"]}),
        ({"gc": "0.4:0.6:50"}, {"gc": ["0.4:0.6:50"]}),
        ({"avoid": None, "gc": None}, {}),
        ({"avoid": (site for site in ("BsaI", "GAATTC"))}, {"avoid": ["BsaI", "GAATTC"]}),
        ({"max_homopolymer": np.int64(4)}, {"max_homopolymer": 4}),
    ],
)
def test_a_single_text_is_one_item_and_not_its_letters(one, several):
    one, several = Constraints(**one), Constraints(**several)
    assert (one.avoid, one.require, one.gc) == (several.avoid, several.require, several.gc)
    assert str(one) == str(several)


def test_a_site_given_as_a_bare_string_is_avoided():
    (sequence,) = draw("N" * 5, avoid="GAATTC", denoiser=Quiet())
    assert sequence == "CCCCC"  # letter by letter it would forbid G, A, T and C


def test_a_path_is_a_file_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("GATTACA").write_text("BsaI\n")
    for path in (Path("GATTACA"), [Path("GATTACA")]):
        assert [site.letters for site in Constraints(avoid=path).avoid] == ["GGTCTC"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"gc": (0.4, 0.6)},
            r'^gc must be a list of texts such as "0.4:0.6" .*, not \(0.4, 0.6\)$',
        ),
        ({"gc": 0.5}, "^gc must be a list of texts"),
        ({"avoid": [b"GAATTC"]}, '^avoid must be a list of texts such as "GAATTC" or "EcoRI"'),
        ({"require": 8}, "^require must be a list"),
        ({"max_homopolymer": "4"}, "^max_homopolymer must be a whole number, not '4'"),
        ({"max_homopolymer": True}, "^max_homopolymer must be a whole number, not True"),
        ({"unique_kmer": 8.0}, "^unique_kmer must be a whole number, not 8.0"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(spec, message):
    with pytest.raises(UsageError, match=message):
        Constraints(**spec)


def test_several_sites_in_one_text_are_asked_for_as_a_list():
    with pytest.raises(InputError, match=r"avoid GAATTC,GGATCC: .*; give several sites as a list"):
        Constraints(avoid="GAATTC,GGATCC")


# ---- each constraint by itself ----


def test_an_enzyme_is_known_in_any_case():
    sites = Constraints(
        avoid=["bsai", "ECORI", "drdv", "ggtctc"]
    ).avoid  # DrdV could be IUPAC letters, and is read as the enzyme
    assert [site.letters for site in sites] == ["GGTCTC", "GAATTC", "CATGNAC", "GGTCTC"]
    assert sites[0].name == "avoid BsaI (GGTCTC)" and sites[3].name == "avoid GGTCTC"


def test_sites_are_read_from_files(tmp_path):
    listed, fasta = tmp_path / "sites.txt", tmp_path / "sites.fa"
    listed.write_text("# cloning\nBsaI\n\nTTAATTAA  # PacI\n")
    fasta.write_text(">first\nGATTACA\n>second one\nacgtac\ngt\n")
    sites = Constraints(avoid=[str(listed), str(fasta)]).avoid
    assert [site.letters for site in sites] == ["GGTCTC", "TTAATTAA", "GATTACA", "ACGTACGT"]
    assert (
        sites[0].name.endswith("avoid BsaI (GGTCTC)") and sites[3].name == "avoid second (ACGTACGT)"
    )
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match=r"none\.txt: no site"):
        Constraints(avoid=[str(tmp_path / "none.txt")])
    fasta.write_text(">first\nGATTACA!\n")
    with pytest.raises(InputError, match=r"first \(GATTACA!\): not IUPAC"):
        Constraints(avoid=[str(fasta)])


def test_every_position_of_a_motif_has_the_same_probability():
    sequences = draw("NNNNNCNNNNNN", rows=3000, require=["TGW"], steps=2, denoiser=Quiet())
    starts = torch.tensor([re.search("TG[AT]", sequence).start() for sequence in sequences])
    counts = torch.bincount(starts, minlength=10)
    assert counts[3:6].sum() == 0  # it does not fit where C is
    possible = counts[[0, 1, 2, 6, 7, 8, 9]]
    assert chisquare(possible.numpy()).pvalue > 1e-3


class Quiet(Neighbours):
    """C only, where it may choose: a motif is seen where it was placed, and nowhere else."""

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        return torch.tensor([-99.0, 0.0, -99.0, -99.0]).expand(*tokens.shape, 4)


def test_a_motif_in_the_template_stays_and_several_motifs_may_overlap():
    (sequence,) = draw("NNTATATAAGNN", require=["TATAWAAG"], denoiser=Quiet())
    assert sequence == "CCTATATAAGCC"
    for sequence in draw("N" * 14, rows=50, require=["GATTACA", "ACATTAG"], denoiser=Quiet()):
        assert violations(sequence, require=["GATTACA", "ACATTAG"]) == []


def test_fixed_unknown_bases_get_the_benefit_of_the_doubt():
    tokens = torch.from_numpy(DNA.encode("GGTCTN"))[
        None
    ]  # as in the flanks of an interval of a genome
    constraints = Constraints(avoid=["BsaI"], gc=["0:0.5"], max_homopolymer=2, unique_kmer=3)
    assert torch.equal(sample(Neighbours(), tokens, constraints=constraints), tokens)
    tokens = torch.from_numpy(DNA.encode("GCCNNNNNGGC"))[None]
    with pytest.raises(InputError, match="GCCNNNNNGGC"):  # whatever they are, it is a site
        sample(Neighbours(), tokens, constraints=Constraints(avoid=["GCCNNNNNGGC"]))
    with pytest.raises(InputError, match="no place"):
        sample(Neighbours(), tokens, constraints=Constraints(require=["GCCA"]))


def test_an_alphabet_without_complement_has_one_strand():
    letters = Alphabet(letters="ACGU", complement=None, ambiguity={"N": "ACGU"})
    constraints = Constraints(avoid=["ACA"], unique_kmer=3, alphabet=letters)
    drawn = sample(Neighbours(), free_template(30, 40), constraints=constraints, alphabet=letters)
    sequences = [letters.decode(row) for row in drawn]
    assert not any("ACA" in sequence for sequence in sequences) and any(
        "UGU" in sequence for sequence in sequences
    )
    kmers = [[sequence[i : i + 3] for i in range(38)] for sequence in sequences]
    assert all(len(set(row)) == 38 for row in kmers)
    assert any(kmer[::-1] in row for row in kmers for kmer in row if kmer != kmer[::-1])
