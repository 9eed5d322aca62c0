"""Turns XNLI as published, a file a split, into the files of a pair classification.

    multinli.train.en.tsv     392,702 pairs       ->  pairs/train-en.tsv
    xnli.dev.tsv                2,490 a language      pairs/dev-LANG.tsv   line i: the same pair
    xnli.test.tsv               5,010 a language      pairs/test-LANG.tsv

    --from-dev                for those who only have dev: train, dev and test out of its 2,490

Sentence 1 is the premise, sentence 2 the hypothesis; a premise has three pairs, one of each label.
Where to look next: readme.md here for licence and traps, ../pairs_files.py for the rules.
Left out on purpose: the machine-translated training files.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from data.fetch import SourceError, download, expect, take_from_zip
from data.pairs_files import (
    Pair,
    PairFile,
    Preparation,
    files_from_dev,
    files_of_splits,
    print_columns,
    publish_pairs,
    read_table,
    read_table_without_header,
    run_preparation,
    tidy,
)

# ---- what was published --------------------------------------------------------------------------

URL = "https://dl.fbaipublicfiles.com/XNLI"
TRAIN = "multinli.train.en.tsv"
MEMBERS = {  # archive -> what is taken out of it
    "XNLI-1.0.zip": ["XNLI-1.0/xnli.dev.tsv", "XNLI-1.0/xnli.test.tsv"],
    "XNLI-MT-1.0.zip": [f"XNLI-MT-1.0/multinli/{TRAIN}"],
}
REMEDY = (
    f"Download {URL}/XNLI-1.0.zip and {URL}/XNLI-MT-1.0.zip by hand, unpack both into one folder, "
    "change nothing in it, pass it as --source."
)
REMEDY_DEV = (
    "Give dev-LANG.tsv of all eleven languages as --source: sentence1, sentence2 and gold_label of "
    f"xnli.dev.tsv in {URL}/XNLI-1.0.zip, without a header."
)
LANGUAGES = (
    "ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh",
)  # fmt: skip
DEV_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")  # of XQuAD-R
LABELS = ("entailment", "neutral", "contradiction")
EVALUATION_COLUMNS = ["language", "gold_label", "sentence1", "sentence2", "pairID"]
TRAIN_COLUMNS = ["premise", "hypo", "label"]
PLACEHOLDERS = set()  # no word stands for a missing text; empty ones are found without it
PAIRS = {"train": 392702, "dev": 2490, "test": 5010}  # in each language


# ---- one file ------------------------------------------------------------------------------------


def find(source: Path, name: str) -> Path:
    """The file of that name, in the folder or below.

    *Errors*: SourceError unless there is exactly one.
    """
    paths = sorted(source.rglob(name))
    if len(paths) != 1:
        shown = ", ".join(str(path) for path in paths) or "none"
        raise SourceError(f"{source}: expected one {name} in it or below, found {shown}")
    return paths[0]


def read_train(path: Path) -> PairFile:
    """MultiNLI's training pairs, which spell one label in another way."""
    pairs = []
    for row in read_table(path, TRAIN_COLUMNS):
        cells = row.cells
        # The file has no ids: a pair is called by its line
        pair = Pair(row.where, cells["premise"], cells["hypo"], cells["label"], row.where)
        if pair.label == "contradictory":
            pair = replace(pair, label="contradiction")
        pairs.append(pair)
    expect(path, "pairs", PAIRS["train"], len(pairs))
    return PairFile(str(path), pairs)


def read_evaluation(path: Path, count: int) -> dict[str, PairFile]:
    """Language -> pairs, of xnli.dev.tsv or xnli.test.tsv, which hold all languages.

    *Errors*: SourceError for other languages than published, or another number of pairs.
    """
    pairs = {lang: [] for lang in LANGUAGES}
    for row in read_table(path, EVALUATION_COLUMNS):
        lang, label, sentence1, sentence2, key = (row.cells[name] for name in EVALUATION_COLUMNS)
        if lang not in pairs:
            expected = ", ".join(LANGUAGES)
            raise SourceError(f"{row.where}: language {lang[:40]!r}, expected one of {expected}")
        pairs[lang].append(Pair(key, sentence1, sentence2, label, row.where))
    files = {}
    for lang in LANGUAGES:
        expect(path, f"pairs in {lang}", count, len(pairs[lang]))
        files[lang] = PairFile(f"{path} ({lang})", pairs[lang])
    return files


def read_dev(path: Path) -> PairFile:
    """dev-LANG.tsv, without header and ids: a pair is called by its line."""
    pairs = []
    rows = read_table_without_header(path, ["sentence1", "sentence2", "label"])
    for number, row in enumerate(rows, start=1):
        pairs.append(Pair(str(number), *row.cells.values(), row.where))
    expect(path, "pairs", PAIRS["dev"], len(pairs))
    return PairFile(str(path), pairs)


# ---- the two ways --------------------------------------------------------------------------------


def build(source: Path) -> dict[str, list[str]]:
    """The files of all splits, name -> lines; prints the counts.

    *Errors*: SourceError for what is not as published.
    """
    paths = {"train": find(source, TRAIN)}
    for split in ("dev", "test"):
        paths[split] = find(source, f"xnli.{split}.tsv")
    print_columns()
    train = tidy("train", "en", read_train(paths["train"]), PLACEHOLDERS, LABELS)
    evaluation = {"dev": {}, "test": {}}  # split -> language -> pairs
    for split, files in evaluation.items():
        for lang, file in read_evaluation(paths[split], PAIRS[split]).items():
            files[lang] = tidy(split, lang, file, PLACEHOLDERS, LABELS)
    return files_of_splits(train, evaluation, PLACEHOLDERS)


def build_from_dev(source: Path) -> dict[str, list[str]]:
    """As `build`, out of dev-LANG.tsv alone."""
    print_columns()
    files = {}
    for lang in DEV_LANGUAGES:
        file = read_dev(source / f"dev-{lang}.tsv")
        files[lang] = tidy("dev", lang, file, PLACEHOLDERS, LABELS)
    return files_from_dev(files, PLACEHOLDERS)


# ---- the program ---------------------------------------------------------------------------------


def fetch(folder: Path) -> Path:
    """Fetch both archives, take the three files out of them, return the folder."""
    for name, members in MEMBERS.items():
        archive = download(f"{URL}/{name}", folder / name)
        take_from_zip(archive, members, folder)
    return folder


def prepare(source: Path | None, out: Path) -> None:
    """Fetch or read, check, convert, write."""
    with tempfile.TemporaryDirectory() as folder:  # the download goes, whatever happens
        if source is None:
            source = fetch(Path(folder))
        publish_pairs(out, build(source))
    print(f"wrote {out / 'pairs'}")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 done, 1 failed, 130 interrupted."""
    program = Preparation(
        name="XNLI",
        prepare=prepare,
        build_from_dev=build_from_dev,
        remedy=REMEDY,
        remedy_dev=REMEDY_DEV,
        source_help="holds the unpacked files, or fetch them",
        holds="with xnli.dev.tsv",
    )
    return run_preparation(program, HERE, argv)


if __name__ == "__main__":
    sys.exit(main())
