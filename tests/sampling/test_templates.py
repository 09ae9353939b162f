import pytest

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.sampling import free_template, parse_template


def test_letters_are_fixed_n_is_free_and_codes_restrict():
    tokens, allowed = parse_template("acgtNRn")
    assert tokens.tolist() == [7, 8, 9, 10, DNA.mask_id, DNA.mask_id, DNA.mask_id]
    assert allowed[5].tolist() == [True, False, True, False]
    assert allowed[4].all() and allowed[6].all()
    assert allowed[1].tolist() == [False, True, False, False]


def test_without_a_code_nothing_is_restricted():
    assert parse_template("NNAC")[1] is None
    assert (free_template(2, 3) == DNA.mask_id).all()


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("ACXG", "position 3: 'X'"), ("AC-G", "position 3")])
def test_anything_else_is_named(text, message):
    with pytest.raises(InputError, match=message):
        parse_template(text)
