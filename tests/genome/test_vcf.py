"""Variants are those of the file, on the bases of the genome; others are named or counted."""

import gzip
import logging

import pandas as pd
import pytest
from fasta_files import write

from dnadiff.errors import InputError
from dnadiff.genome import Genome, Variant, Variants, read_bed

#         1234567890
CONTIGS = {"chr1": "ACGTNacgtA", "chr2": "GGGG", "MT": "TTTT"}
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture(scope="module")
def genome(genome_of):
    return genome_of(CONTIGS)


@pytest.fixture
def variants(tmp_path, genome):
    """The variants of a file with these records; their columns are separated by blanks here."""

    def make(*records, header=HEADER, container="plain", end="\n", **options):
        text = header + "".join("\t".join(record.split(" ")) + "\n" for record in records)
        path = write(tmp_path / "x.vcf", text.replace("\n", end), container)
        return Variants(path, genome, **options)

    return make


@pytest.mark.parametrize("container", ["plain", "gzip", "bgzip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_records_written_out(variants, container, end):
    found = variants(
        "chr1 1 rs1 A T 50 PASS AF=0.5",
        "chr1 6 . acg A,ACGT,T",
        "chr2 4 x G GCC . .",
        container=container,
        end=end,
    )
    assert list(found) == [
        Variant("chr1", 0, "A", "T", "rs1", "AF=0.5", 3),
        Variant("chr1", 5, "ACG", "A", ".", ".", 4),
        Variant("chr1", 5, "ACG", "ACGT", ".", ".", 4),
        Variant("chr1", 5, "ACG", "T", ".", ".", 4),
        Variant("chr2", 3, "G", "GCC", "x", ".", 5),
    ]
    assert found.count == 5 and not found.skipped and found.summary() == "5 alleles to score"
    assert len(list(found)) == 5 and found.count == 5  # a second reading starts anew
    first = next(iter(found))
    assert (first.end, str(first)) == (1, "chr1:1:A>T")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("chr1 1 . A .", "without an ALT allele"),
        ("chr1 1 . A *", "with a spanning deletion (*)"),
        ("chr1 1 . A <DEL>", "with a symbolic allele"),
        ("chr1 1 . A <INS:ME:ALU>", "with a symbolic allele"),
        ("chr1 1 . A <*>", "with a symbolic allele"),
        ("chr1 0 . N ]chr2:3]A", "with a breakend"),
        ("chr1 11 . N A[chr2:3[", "with a breakend"),
        ("chr1 1 . A .TC", "with a breakend"),
        ("chr1 1 . A TC.", "with a breakend"),
        ("chr1 1 . A N", "with an unknown base"),
        ("chr1 1 . A AR", "with an unknown base"),
        ("chr1 1 . N G", "with an unknown base"),
        ("chr1 1 . A X", "with an unknown base"),
        ("chr1 1 . X G", "with an unknown base"),
        ("chr1 1 . A -", "whose ALT is not an allele of VCF"),
        ("chr1 1 . A T;G", "whose ALT is not an allele of VCF"),
        ("chr1 1 . A <DEL", "whose ALT is not an allele of VCF"),
        ("chr1 1 . A ", "whose ALT is not an allele of VCF"),
        ("chr1 0 . N T", "at a telomere (POS is before the first base or after the last)"),
        ("chr1 0 . A T", "at a telomere (POS is before the first base or after the last)"),
        ("chr1 11 . N T", "at a telomere (POS is before the first base or after the last)"),
        ("chr1 1 . ANG T", "with an unknown base"),
        ("chr1 4 . TTA T", "where the genome has an unknown base"),
        ("chr1 1 . A a", "whose ALT is REF"),
        ("chr9 1 . A T", "on a contig that the genome lacks"),
        ("chr9 99999999999999999999 . A T", "on a contig that the genome lacks"),
    ],
)
def test_what_cannot_be_scored_is_counted(variants, record, reason):
    found = variants(record, "chr1 2 . C G")
    assert [variant.line for variant in found] == [4]
    assert found.skipped == {reason: 1}
    assert found.summary() == f"1 alleles to score; left out: 1 {reason} (e.g. line 3)"


def test_alleles_of_one_site_are_judged_one_by_one(variants):
    found = variants("chr1 1 . A T,*,<DEL>,G,A,,<CN0>")
    assert [variant.alt for variant in found] == ["T", "G"]
    assert found.skipped == {
        "with a symbolic allele": 2,
        "with a spanning deletion (*)": 1,
        "whose ALT is REF": 1,
        "whose ALT is not an allele of VCF": 1,
    }


BAD = {
    "chr1 2 . A T": "the genome (genome.fa) has C there; give the assembly that the file",
    "chr1 3 . GAC G": "has GTN there",
    "chr1 12 . A T": "it ends after the last base of chr1, which has 10",
    "chr1 10 . AC A": "it ends after the last base of chr1",
    "chr1 x . A T": "POS 'x' is not a whole number",
    "chr1 -1 . A T": "POS '-1' is not",
    "chr1 1.0 . A T": "POS '1.0' is not",
    "chr1 1_0 . A T": "POS '1_0' is not",
    "chr1  . A T": "POS '' is not",
    "chr1 1 .  T": "REF '' is not a sequence of bases",
    "chr1 1 . . T": "REF '.' is not",
    "chr1 1 . A,C T": "REF 'A,C' is not",
    "chr1 1 . A": "4 column(s); a record has 5 or more",
    "chr1": "1 column(s)",
}


@pytest.mark.parametrize("record", BAD)
def test_a_bad_record_is_named(variants, record):
    found = variants("chr1 1 . A T", record)
    with pytest.raises(InputError) as caught:
        list(found)
    assert str(caught.value).startswith(f"{found.path}, line 4 ({record}): ") and BAD[
        record
    ] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_record_is_named_shortly(variants):
    with pytest.raises(InputError) as caught:
        list(variants(f"chr1 1 . {'G' * 5000} T"))
    assert len(str(caught.value)) < 400


def test_mismatches_are_skipped_where_asked(variants):
    found = variants("chr1 2 . A T", "chr1 2 . C T", "chr1 6 . ACGA A", skip_mismatches=True)
    assert [variant.line for variant in found] == [4]
    assert found.skipped == {"whose REF is not what the genome has": 2}


@pytest.mark.parametrize(
    "name, chrom", [("1", "chr1"), ("chrM", "MT"), ("M", "MT"), ("chrMT", "MT")]
)
def test_chromosomes_by_their_other_name(variants, caplog, name, chrom):
    bases = CONTIGS[chrom]
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        found = list(variants(f"{name} 2 . {bases[1]} A", "2 1 . G T"))
    assert [variant.chrom for variant in found] == [chrom, "chr2"]
    assert [line.split(": ", 1)[1] for line in caplog.messages] == [
        f"its {name} is read as {chrom} of genome.fa"
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "##contig=<ID=chr1,length=11>",
            "line 1: chr1 has 11 bases there and 10 in genome.fa; give the genome of",
        ),
        ("##contig=<assembly=x,length=11,ID=1>", "line 1: chr1 has 11 bases there"),
        ("##contig=<ID=chr1,length=10>", None),
        ("##contig=<ID=chr1>", None),
        ("##contig=<ID=chr9,length=7>", None),
    ],
)
def test_a_header_of_another_assembly(variants, line, message):
    found = variants("chr1 1 . A T", header=f"{line}\n{HEADER}")
    if message is None:
        assert len(list(found)) == 1
    else:
        with pytest.raises(InputError, match=message):
            list(found)


def test_text_that_is_not_read_may_be_in_any_encoding(tmp_path, genome):
    text = b"\xef\xbb\xbf##source=M\xfcller\n" + HEADER.encode()
    path = write(tmp_path / "x.vcf", text + b"chr1\t1\trs\xfc\tA\tT\t.\t.\tCLNDN=Sj\xf6gren\n")
    (variant,) = Variants(path, genome)
    assert (variant.name, variant.info) == ("rs\\xfc", "CLNDN=Sj\\xf6gren")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "no variants in it"),
        (HEADER.encode(), "no variants in it"),
        (
            f"{HEADER}chr9\t1\t.\tA\tT\n".encode(),
            "0 alleles to score; left out: 1 on a contig that the genome lacks .e.g. line 3",
        ),
        (b"chr1\t1\t.\tA\tT\n", "line 1: no #CHROM line above it; a VCF file is needed"),
        (b"#chrom\tstart\tend\n", "line 1: '#chrom.*' is not the header"),
        (b"BCF\2\2\xff\xfe", "BCF, the binary form of VCF; run: bcftools view"),
        (b"\0\1\2\xff\xfe", "not a text file; a VCF file is needed"),
        (
            gzip.compress(HEADER.encode() + b"chr1\t1\t.\tA\tT\n" * 999, mtime=0)[:-12],
            "truncated or damaged",
        ),
        (b"\x1f\x8b not gzip at all", "truncated or damaged"),
    ],
)
def test_bad_files(tmp_path, genome, content, message):
    path = tmp_path / "x.vcf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(Variants(path, genome))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "read, text", [(Variants, HEADER + "chr1\t1\t.\tA\tT\n"), (read_bed, "chr1\t0\t3\n")]
)
def test_bgzip_that_was_cut_between_two_blocks(tmp_path, genome, read, text):
    path = write(tmp_path / "x.gz", text, "bgzip")
    assert len([*read(path, genome)]) == 1
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match=r"truncated .the bgzip end marker is missing"):
        list(read(path, genome))


@pytest.mark.parametrize(
    "name", ["clinvar.chr1.vcf", "gnomad.exomes.chr1.vcf", "1000G.chr20.vcf.gz"]
)
def test_real_variants_agree_with_the_genome(shared_data, name):
    genome = Genome.open(shared_data / "genomes" / "hg38.fa.gz")
    found = Variants(shared_data / "variants" / name, genome)
    alleles = [(variant.start + 1, variant.ref, variant.alt) for variant in found]
    table = pd.read_csv(
        found.path, sep="\t", comment="#", header=None, dtype=str, keep_default_na=False
    )
    split = table.assign(alt=table[4].str.split(",")).explode("alt")
    plain = split[~split["alt"].str.startswith("<")]
    assert alleles == [*zip(plain[1].astype(int), plain[3], plain["alt"], strict=True)]
    assert (
        found.skipped.total() == len(split) - len(plain) == (24 if name.startswith("1000G") else 0)
    )
