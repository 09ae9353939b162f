"""Coverage-guided fuzzing of what test_fuzz.py checks.

    pip install atheris
    python tests/genome/atheris_fuzz.py KIND

KIND is fasta, bgzip, bed or vcf; further words go to libFuzzer, e.g. -max_total_time=60. The corpus
starts from small files of the kind and is kept in a temporary folder.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
FOLDER = Path(tempfile.mkdtemp(prefix="dnadiff-fuzz-"))
os.environ["DNADIFF_CACHE"] = str(FOLDER / "cache")

with atheris.instrument_imports(include=["dnadiff.genome"]):
    import test_fuzz as checks
    from fasta_files import fasta_text, write

FASTA = fasta_text(checks.RECORDS).encode()
BED = b"#chrom\tstart\tend\tname\tsplit\nchr1\t0\t100\tx\ttrain\n\nchr2 3 40\n"
VCF = (checks.VCF_HEADER + "chr1\t1\t.\tA\tT,*,<DEL>\t.\tPASS\tAF=0.1\n2\t2\trs1\tGC\tG\n").encode()
NAMES = {
    "fasta": ("x.fa", FASTA),
    "bgzip": ("x.fa.gz", FASTA),
    "bed": ("x.bed", BED),
    "vcf": ("x.vcf", VCF),
}


def check(kind: str, path: Path) -> None:
    """Reads the file at `path`; any exception is a fault."""
    if kind == "fasta":
        checks.check_genome(path, path.read_bytes())
    elif kind == "bgzip":
        checks.check_bgzip(path)
    elif kind == "bed":
        checks.check_bed(path, GENOMES["bed"])
    else:
        checks.check_vcf(path, GENOMES["vcf"])


def forget_stores() -> None:
    """Removes the stores of earlier inputs, so that the cache does not grow."""
    for path in (FOLDER / "cache" / "genomes").rglob("*.*"):
        if path.is_file() and not any(store.digest[:32] in path.name for store in GENOMES.values()):
            path.unlink()


GENOMES = {"bed": checks.sized_genome(FOLDER), "vcf": checks.reference_genome(FOLDER)}

if __name__ == "__main__":
    kind = sys.argv.pop(1)
    name, seed = NAMES[kind]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    write(corpus / "seed", seed, "bgzip" if kind == "bgzip" else "plain")

    def one(data: bytes) -> None:
        """One attempt."""
        (FOLDER / name).write_bytes(data)
        check(kind, FOLDER / name)
        forget_stores()

    atheris.Setup([*sys.argv, str(corpus)], one)
    atheris.Fuzz()
