import pytest
import torch

from dnadiff.rng import Stream, philox, uniform


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the published known answers of Philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_known_answers(counter, key, words):
    out = philox(tuple(torch.tensor(c) for c in counter), key)
    assert tuple(int(word) for word in out) == words


def test_numbers_do_not_depend_on_batch_or_length():
    index = torch.arange(10)
    many = uniform(5, Stream.MASK, index, 33, step=2)
    few = uniform(5, Stream.MASK, index[3:5], 7, step=2)
    assert torch.equal(many[3:5, :7], few)
    for first in (1, 2, 8, 25):
        assert torch.equal(
            uniform(5, Stream.MASK, index, 8, step=2, first=first), many[:, first : first + 8]
        )


@pytest.mark.parametrize(
    "other",
    [
        uniform(6, Stream.MASK, torch.arange(4), 8, step=2),
        uniform(5, Stream.LETTER, torch.arange(4), 8, step=2),
        uniform(5, Stream.MASK, torch.arange(4) + 2**33, 8, step=2),
        uniform(5, Stream.MASK, torch.arange(4), 8, step=3),
        uniform(5 + 2**33, Stream.MASK, torch.arange(4), 8, step=2),
    ],
)
def test_every_argument_matters(other):
    assert not (uniform(5, Stream.MASK, torch.arange(4), 8, step=2) == other).any()


def test_numbers_are_uniform_and_inside_the_open_interval():
    u = uniform(1, Stream.ORDER, torch.arange(1000), 1001)
    assert u.min() > 0 and u.max() < 1 and u.dtype == torch.float64
    counts = torch.histc(u.float(), 100, 0, 1)
    chi2 = ((counts - 10010) ** 2 / 10010).sum()
    assert chi2 < 160  # 99 degrees of freedom, p about 1e-4
    assert abs(torch.corrcoef(torch.stack([u[:, 0], u[:, 1]]))[0, 1]) < 0.15


def test_steps_may_differ_by_row():
    index, step = torch.tensor([4, 4]), torch.tensor([0, 1])
    both = uniform(2, Stream.COUNT, index, 3, step=step)
    assert torch.equal(both[1], uniform(2, Stream.COUNT, index[:1], 3, step=1)[0])


def test_rows_may_begin_at_different_positions():
    index, first = torch.arange(5), torch.tensor([0, 1, 7, 8, 33])
    whole = uniform(3, Stream.LETTER, index, 60, step=2)
    for size in (8, 9):
        part = uniform(3, Stream.LETTER, index, size, step=2, first=first)
        rows = [whole[row, start : start + size] for row, start in enumerate(first.tolist())]
        assert torch.equal(part, torch.stack(rows))
        assert torch.equal(
            uniform(3, Stream.LETTER, index, size, step=2, first=5), whole[:, 5 : 5 + size]
        )
