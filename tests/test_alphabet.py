import pytest
import torch

from dnadiff.alphabet import DNA, Alphabet


@pytest.mark.parametrize("text", ["", "A", "ACGTN", "NNNN", "GATTACA"])
def test_round_trip(text):
    assert DNA.decode(DNA.encode(text)) == text


def test_case_is_ignored_and_ambiguity_codes_are_unknown():
    assert DNA.encode("acgtnRYKMSWBDHV").tolist() == [7, 8, 9, 10] + [11] * 11


@pytest.mark.parametrize(
    ("text", "place"), [("ACXG", 3), ("U", 1), ("AC\xffT", 3), ("A C", 2), ("AC€", 3)]
)
def test_other_characters_are_named_with_their_place(text, place):
    with pytest.raises(ValueError, match=f"at position {place}"):
        DNA.encode(text)


def test_masks_are_not_letters():
    with pytest.raises(ValueError, match="token 3 at position 2"):
        DNA.decode(torch.tensor([7, 3]))


def test_reverse_complement():
    tokens = torch.tensor(DNA.encode("AACGN"))
    assert DNA.decode(DNA.reverse_complement(tokens)) == "NCGTT"
    assert torch.equal(DNA.reverse_complement(DNA.reverse_complement(tokens)), tokens)


def test_complements_by_place_and_by_token():
    assert DNA.complement_index.tolist() == [3, 2, 1, 0]
    assert DNA.complement_ids == [0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11]
    odd = Alphabet("ACGT", complement="CATG")
    assert odd.complement_index.tolist() == [1, 0, 3, 2]


def test_scorable_positions_are_the_letters():
    assert DNA.scorable(torch.arange(12)).tolist() == [i in DNA.ids for i in range(12)]


def test_another_alphabet_is_one_object():
    protein = Alphabet(
        "ACDEFGHIKLMNPQRSTVWY", complement=None, ambiguity={"X": ""}, unknown="X", vocab_size=28
    )
    assert protein.decode(protein.encode("MKX")) == "MKX"
    with pytest.raises(ValueError, match="no complement"):
        protein.reverse_complement(torch.tensor([7]))
