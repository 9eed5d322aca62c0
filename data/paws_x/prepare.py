"""Turns PAWS-X as published, a folder a language, into the files of a pair classification.

    x-final/en/train.tsv       49,401 pairs       ->  pairs/train-en.tsv
    x-final/LANG/dev_2k.tsv     2,000 a language      pairs/dev-LANG.tsv   line i: the same pair
    x-final/LANG/test_2k.tsv    2,000 a language      pairs/test-LANG.tsv

    --from-dev                 for those who only have dev: train, dev and test out of its 2,000

Label 1 is a paraphrase, 0 is none; both share nearly all their words, often in another order.
Where to look next: readme.md here for licence and traps, ../pairs_files.py for the rules.
Left out on purpose: the machine-translated training files.
Differs from the published protocol in the pairs without a text in some language: see the readme.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from data.fetch import download, expect, take_from_tar
from data.pairs_files import (
    Pair,
    PairFile,
    Preparation,
    Row,
    change_texts,
    files_from_dev,
    files_of_splits,
    print_columns,
    publish_pairs,
    read_table,
    read_table_without_header,
    run_preparation,
    tidy,
    unquoted,
)

# ---- what was published --------------------------------------------------------------------------

URL = "https://storage.googleapis.com/paws/pawsx/x-final.tar.gz"
REMEDY = f"Download {URL} by hand, unpack it, change nothing in it, pass its x-final as --source."
REMEDY_DEV = (
    "Give dev-LANG.tsv of all seven languages as --source: dev_2k.tsv of x-final/LANG in "
    f"{URL}, without its header and its first column."
)
LANGUAGES = ("de", "en", "es", "fr", "ja", "ko", "zh")
LABELS = ("0", "1")
COLUMNS = ["id", "sentence1", "sentence2", "label"]
# What its translators wrote where they had no translation. The second stands in dev-zh.tsv, once
PLACEHOLDERS = {"NS", "WL"}
TRAIN_PAIRS = 49401
EVALUATION_PAIRS = 2000  # of dev and of test, in each language


# ---- one file ------------------------------------------------------------------------------------


def to_pair(row: Row, key: str) -> Pair:
    """A row of any of the files."""
    cells = row.cells
    return Pair(key, cells["sentence1"], cells["sentence2"], cells["label"], row.where)


def to_file(path: Path, pairs: list[Pair], count: int) -> PairFile:
    """The pairs without the quotes of CSV.

    *Errors*: SourceError for another number of pairs than published.
    """
    expect(path, "pairs", count, len(pairs))
    pairs, changed = change_texts(pairs, unquoted)
    return PairFile(str(path), pairs, changed)


def read_published(path: Path, count: int) -> PairFile:
    """A file of x-final, with header and ids."""
    rows = read_table(path, COLUMNS)
    return to_file(path, [to_pair(row, row.cells["id"]) for row in rows], count)


def read_dev(path: Path) -> PairFile:
    """dev-LANG.tsv, without header and ids: a pair is called by its line."""
    rows = read_table_without_header(path, COLUMNS[1:])
    pairs = [to_pair(row, str(number)) for number, row in enumerate(rows, start=1)]
    return to_file(path, pairs, EVALUATION_PAIRS)


# ---- the two ways --------------------------------------------------------------------------------


def published_names() -> list[str]:
    """The files that are read, inside x-final."""
    names = ["en/train.tsv"]
    for lang in LANGUAGES:
        names += [f"{lang}/dev_2k.tsv", f"{lang}/test_2k.tsv"]
    return names


def build(source: Path) -> dict[str, list[str]]:
    """The files of all splits, name -> lines; prints the counts.

    *Errors*: SourceError for what is not as published.
    """
    print_columns()
    train = read_published(source / "en/train.tsv", TRAIN_PAIRS)
    train = tidy("train", "en", train, PLACEHOLDERS, LABELS)
    evaluation = {"dev": {}, "test": {}}  # split -> language -> pairs
    for split, files in evaluation.items():
        for lang in LANGUAGES:
            file = read_published(source / lang / f"{split}_2k.tsv", EVALUATION_PAIRS)
            files[lang] = tidy(split, lang, file, PLACEHOLDERS, LABELS)
    return files_of_splits(train, evaluation, PLACEHOLDERS)


def build_from_dev(source: Path) -> dict[str, list[str]]:
    """As `build`, out of dev-LANG.tsv alone."""
    print_columns()
    files = {}
    for lang in LANGUAGES:
        file = read_dev(source / f"dev-{lang}.tsv")
        files[lang] = tidy("dev", lang, file, PLACEHOLDERS, LABELS)
    return files_from_dev(files, PLACEHOLDERS)


# ---- the program ---------------------------------------------------------------------------------


def prepare(source: Path | None, out: Path) -> None:
    """Fetch or read, check, convert, write."""
    with tempfile.TemporaryDirectory() as folder:  # the download goes, whatever happens
        if source is None:
            archive = download(URL, Path(folder) / "x-final.tar.gz")
            names = [f"x-final/{name}" for name in published_names()]
            source = take_from_tar(archive, names, Path(folder)) / "x-final"
        publish_pairs(out, build(source))
    print(f"wrote {out / 'pairs'}")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 done, 1 failed, 130 interrupted."""
    program = Preparation(
        name="PAWS-X",
        prepare=prepare,
        build_from_dev=build_from_dev,
        remedy=REMEDY,
        remedy_dev=REMEDY_DEV,
        source_help="the unpacked x-final, or fetch it",
        holds="that holds de, en ...",
    )
    return run_preparation(program, HERE, argv)


if __name__ == "__main__":
    sys.exit(main())
