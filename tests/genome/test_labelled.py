"""Labelled windows: what a table says, in splits that share no sequence, on both strands."""

import gzip
from collections import Counter

import pytest
import torch
from fasta_files import fasta_text
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome import Interval, Splits, audit_labelled, read_labelled
from dnadiff.genome.labelled import _hashed_split, _owned, _owner

_OTHER = str.maketrans("ACGT", "TGCA")


def letters(tokens):
    return DNA.decode(tokens[tokens != DNA.pad_id])


def random_texts(count, length, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [DNA.decode(row) for row in torch.randint(7, 11, (count, length), generator=rng)]


def table(path, rows, header="label,sequence"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def dealt(tmp_path_factory):
    texts = random_texts(600, 20)
    path = tmp_path_factory.mktemp("table") / "some.csv"
    return texts, read_labelled(
        table(path, [f"{'ab'[i % 2]},{t}" for i, t in enumerate(texts)]), 20, seed=3
    )


def test_both_strands_are_in_one_split():
    texts = random_texts(300, 15, seed=4)
    opposite = [text.translate(_OTHER)[::-1] for text in texts]
    splits = [_hashed_split(torch.from_numpy(DNA.encode(text))) for text in texts]
    assert splits == [_hashed_split(torch.from_numpy(DNA.encode(text))) for text in opposite]


def test_sequences_are_split_eight_to_one_to_one(dealt):
    texts, found = dealt
    assert found.names == ("a", "b")
    sizes = [found.windows[split].windows for split in ("train", "valid", "test")]
    assert sum(sizes) == 600 and abs(sizes[0] - 480) < 40 and min(sizes[1:]) > 35
    shown = [
        letters(row)
        for some in found.windows.values()
        for tokens in some.batches(7)
        for row in tokens
    ]
    assert sorted(shown) == sorted(texts)
    assert "split 8 : 1 : 1" in str(found) and any("similar" in note for note in found.notes)


def test_a_window_keeps_its_label_and_its_line(dealt):
    texts, found = dealt
    for some in found.windows.values():
        for row, label, place in zip(
            some.tokens(slice(None)), some.label.tolist(), some.locations, strict=True
        ):
            line = int(place.chrom.removeprefix("line "))
            assert (
                letters(row) == texts[line - 2]
                and label == (line - 2) % 2
                and place.genome == "some.csv"
            )


def test_windows_are_drawn_uniformly_on_both_strands_as_a_function_of_their_number(dealt):
    windows = dealt[1].windows["valid"]
    tokens, weight, label = windows.draw(torch.arange(20_000))
    assert weight is None
    known = {
        letters(row): number
        for row, number in zip(windows.tokens(slice(None)), windows.label.tolist(), strict=True)
    }
    counts, forward = Counter(), 0
    for text, number in zip(map(letters, tokens), label.tolist(), strict=True):
        plus = text in known
        own = text if plus else text.translate(_OTHER)[::-1]
        assert known[own] == number
        counts[own] += 1
        forward += plus
    expected = 20_000 / windows.windows
    assert all(abs(count - expected) < 6 * expected**0.5 for count in counts.values()) and len(
        counts
    ) == len(known)
    assert abs(forward - 10_000) < 6 * 5_000**0.5
    again = windows.draw(torch.tensor([17, 3]))
    assert torch.equal(again.tokens, tokens[[17, 3]]) and torch.equal(again.label, label[[17, 3]])


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(dealt):
    windows = dealt[1].windows["train"]
    some, more = windows.limited(10), windows.limited(25)
    assert some.windows == 10 and some.total == windows.windows
    assert torch.equal(some.tokens(slice(None)), more.tokens(slice(10)))
    assert some.locations == more.locations[:10] and torch.equal(some.label, more.label[:10])


def test_long_sequences_are_cut_to_their_middle_and_short_ones_padded(tmp_path):
    rows = ["a,train,CCACGTTT", "b,train,AC", "a,VALID,GATC", "b,test,gatn"]
    found = read_labelled(table(tmp_path / "t.csv", rows, "label,split,sequence"), 4, seed=0)
    train = found.windows["train"]
    assert [letters(row) for row in train.tokens(slice(None))] == ["ACGT", "AC"]
    assert train.tokens(slice(1, 2))[0].tolist() == [*DNA.encode("AC"), DNA.pad_id, DNA.pad_id]
    assert [place[2:4] for place in train.locations] == [(2, 6), (0, 2)]
    assert [note.partition(":")[0] for note in found.notes] == [
        "1 of 4 sequences are longer than the window of 4",
        "1 of 4 sequences are shorter than the window of 4",
    ]
    drawn = {tuple(row.tolist()) for row in train.draw(torch.arange(200)).tokens}
    opposite = [*DNA.encode("GT"), DNA.pad_id, DNA.pad_id]
    assert tuple(opposite) in drawn and len(drawn) == 3  # ACGT is its own opposite
    assert letters(found.windows["test"].tokens(slice(1))[0]) == "GATN"


@pytest.mark.parametrize(
    ("name", "mark"), [("t.tsv", "\t"), ("t.csv.gz", ","), ("t.tsv.gz", "\t"), ("t.csv", ",")]
)
def test_tables_of_every_kind(tmp_path, name, mark):
    rows = [
        ("Class", "id", "Sequence", "split"),
        ("on", "1", "ACGT", "train"),
        ("", "", "", ""),
        ("off", "2", "GGGG", "train"),
        ("on", "3", "AAAA", "val"),
        ("on", "4", "ACGA", "test"),
    ]
    text = "\n".join(mark.join(row) for row in rows)
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    found = read_labelled(path, 4, seed=0)
    assert found.names == ("off", "on") and found.windows["train"].label.tolist() == [1, 0]
    assert found.windows["valid"].locations[0].chrom == "line 5"


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("name,sequence", ["a,ACGT"], "no column named label or class; it has name, sequence"),
        (
            "label,chrom,start,end",
            ["a,x,1,2"],
            "no column named sequence; .* need a genome to be cut from",
        ),
        ("label,sequence", [], "nothing but a header"),
        ("label,sequence", ["a,ACGT", ",ACGT"], "line 3: its label is empty"),
        (
            "label,sequence",
            ["a,ACGT", "b\tc,ACGT"],
            r"line 3: its label 'b\\tc' has a character that cannot be printed",
        ),
        ("label,sequence", ["a,ACGT", "b"], "line 3: 1 cells, where the header names 2 columns"),
        ("label,sequence", ["a,ACGT", "b,"], "line 3: no sequence; write it there"),
        ("label,sequence", ["a,ACGT", "b,NNN"], "line 3: no A, C, G or T"),
        ("label,sequence", ["a,ACGT", "", "b,ACXT"], "line 4: 'X' at position 3"),
        ("label,sequence", ["a,ACGT,9"], "line 2: 3 cells, where the header names 2 columns"),
        ("label,sequence", ["a,ACGT", "a,ACGA"], "only the class 'a'"),
        ("label,split,sequence", ["a,trian,ACGT"], "line 2: 'trian' in the split column"),
        (
            "label,split,sequence",
            ["a,train,ACGT", "b,train,ACGT"],
            "nothing labelled is in the valid split",
        ),
        (
            "label,split,sequence",
            ["a,train,ACGT", "b,valid,ACGT", "a,test,ACGT"],
            "nothing of the class 'b' is in the train split",
        ),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, header, rows, message):
    with pytest.raises(InputError, match=f"t.csv.*{message}"):
        read_labelled(table(tmp_path / "t.csv", rows, header), 4, seed=0)


@pytest.mark.parametrize("text", ["NA", "nan", "None", "#N/A"])
def test_a_missing_sequence_is_not_read_as_bases(tmp_path, text):
    path = table(tmp_path / "t.csv", ["a,ACGT", "b,ACGA", f"a,{text}"])
    with pytest.raises(InputError, match=r"t.csv, line 4: no sequence"):
        read_labelled(path, 4, seed=0)


def test_files_that_cannot_be_read_as_tables(tmp_path):
    with pytest.raises(InputError, match=r"none.csv: No such file"):
        read_labelled(tmp_path / "none.csv", 4, seed=0)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match=r"empty.csv: empty; its first line must name the columns"):
        read_labelled(tmp_path / "empty.csv", 4, seed=0)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"label,sequence\na,ACGT\n")[:-9])
    with pytest.raises(InputError, match=r"cut.csv.gz: truncated or damaged"):
        read_labelled(tmp_path / "cut.csv.gz", 4, seed=0)


@pytest.fixture(scope="module")
def source(genome_of):
    text = random_texts(1, 300, seed=1)[0]
    genome = genome_of({"one": text, "two": text[:100] + "N" * 40 + text[100:160], "tiny": "ACG"})
    splits = {
        "train": [Interval("one", 0, 200)],
        "valid": [Interval("one", 200, 300)],
        "test": [Interval("two", 0, 200)],
    }
    return genome, Splits(splits, "by hand")


def intervals(path, rows, header="label,chrom,start,end"):
    return table(path, [*rows, "b,one,210,240", "a,two,0,20"], header)


def test_the_window_of_an_interval_lies_around_its_middle_in_one_split(tmp_path, source):
    rows = ["a,one,100,120", "b,one,0,2", "a,one,190,196", "b,two,110,130", "a,tiny,0,3"]
    found = read_labelled(intervals(tmp_path / "t.csv", rows), 20, 0, source)
    train = found.windows["train"]
    assert [place[1:] for place in train.locations] == [("one", 100, 120, "+"), ("one", 0, 20, "+")]
    assert torch.equal(train.tokens(slice(1))[0], source[0].tokens("one", 100, 120))
    assert train.label.tolist() == [0, 1]
    assert found.notes == (
        "3 of 7 labelled intervals are left out: their windows lie in no split, or are mostly N",
    )
    assert "by hand" in found.how


def test_an_interval_of_the_minus_strand_is_reverse_complemented(tmp_path, source):
    rows = ["a,one,100,120,-", "b,one,20,40,+", "b,one,210,240,-", "a,two,0,20,"]
    path = table(tmp_path / "t.csv", rows, "label,chrom,start,end,strand")
    found = read_labelled(path, 20, 0, source)
    train = found.windows["train"]
    assert [place[1:] for place in train.locations] == [
        ("one", 100, 120, "-"),
        ("one", 20, 40, "+"),
    ]
    forward = letters(source[0].tokens("one", 100, 120))
    assert letters(train.tokens(slice(1))[0]) == forward.translate(_OTHER)[::-1]
    assert found.windows["valid"].locations[0].strand == "-"
    assert found.windows["test"].locations[0].strand == "+"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,three,0,10", "line 2: .* has no chromosome 'three'"),
        ("a,one,10,5", r"line 2: .* start 10 and end 5 \(0-based\) is reversed"),
        ("a,one,x,5", "line 2: 'x' is not an integer"),
        ("a,one,290,310", "line 2: .*out of range: one has 300"),
    ],
)
def test_intervals_that_cannot_be_used(tmp_path, source, row, message):
    with pytest.raises(InputError, match=message):
        read_labelled(intervals(tmp_path / "t.csv", [row]), 20, 0, source)


def test_a_split_column_must_agree_with_the_genome(tmp_path, source):
    path = table(tmp_path / "t.csv", ["a,valid,one,100,120"], "label,split,chrom,start,end")
    with pytest.raises(
        InputError, match=r"line 2: its window one:101-120 lies in the train split .*, not in valid"
    ):
        read_labelled(path, 20, 0, source)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("xy"), st.integers(0, 60)), min_size=2, max_size=14, unique=True
    ),
    st.lists(st.sampled_from(["train", "valid", "test", None]), min_size=14, max_size=14),
    st.sampled_from("xyz"),
    st.integers(0, 60),
    st.integers(1, 12),
)
def test_the_owner_of_a_window_equals_that_by_exhaustive_search(cuts, owners, chrom, start, size):
    cuts = sorted(cuts)
    made = {split: [] for split in ("train", "valid", "test")}
    for (one, low), (other, high), owner in zip(cuts, cuts[1:], owners, strict=False):
        if one == other and owner:
            made[owner].append(Interval(one, low, high))
    splits, window = Splits(made, ""), Interval(chrom, start, start + size)
    bases = {
        (i.chrom, base): split
        for split in splits
        for i in splits[split]
        for base in range(i.start, i.end)
    }
    owners = {bases.get((chrom, base)) for base in range(start, start + size)}
    assert _owner(_owned(splits), window) == (owners.pop() if len(owners) == 1 else None)


def test_the_audit_finds_copies_and_pieces_of_them(tmp_path):
    first, second, third, other = random_texts(4, 60, seed=2)
    rows = [
        f"a,train,{first}", f"b,train,{second}",
        f"a,valid,{first.translate(_OTHER)[::-1]}", f"b,valid,{third}",
        f"b,test,{second[:40] + other[40:]}", f"a,test,{third}N",
    ]  # fmt: skip
    found = read_labelled(table(tmp_path / "t.csv", rows, "label,split,sequence"), 60, seed=0)
    rows = audit_labelled(found.windows, limit=10, k=31)
    assert [(r.split, r.other, r.bases, r.shared_bases) for r in rows] == [
        ("valid", "train", 120, 60), ("test", "train", 120, 0), ("test", "valid", 120, 60),
    ]  # fmt: skip
    assert [(r.kmers, r.shared_kmers, r.copies) for r in rows] == [
        (60, 30, 1),
        (60, 10, 0),
        (60, 30, 1),
    ]


def test_genomes_are_not_read_as_tables(tmp_path):
    (tmp_path / "g.fa").write_text(fasta_text({"a": "ACGT"}))
    with pytest.raises(InputError, match=r"g.fa: no column named label"):
        read_labelled(tmp_path / "g.fa", 4, seed=0)
