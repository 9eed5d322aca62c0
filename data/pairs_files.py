"""What PAWS-X and XNLI share: tables of sentence pairs in, one file a split and language out.

    published table   ->  Pair(key, sentence1, sentence2, label)  ->  pairs/dev-de.tsv
    of each language      partners by key, labels compared            line i = line i of dev-en.tsv

    sentence1 <TAB> sentence2 <TAB> label       no quoting: a cell is the text as it is

Line i is the same pair in every language. So whoever wants sentence 1 in one language and sentence
2 in another (the generalized setting) joins two files line by line, and no joined file is written.
Where to look next: fetch.py here for errors and files, data/paws_x and data/xnli for the users.
Left out on purpose: training pairs in other languages than English; the task is zero-shot.
Differs from the published sets in the pairs that lack a text in some language: they are left out in
all of them, for a placeholder is not a sentence and its label is not the pair's.
"""

import argparse
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data.fetch import SourceError, expect, publish, read_lines, run

HEADER = "sentence1\tsentence2\tlabel"
# What splits a line for some reader (str.splitlines, an editor) and is neither TAB nor "\n"
LINE_BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
PRINTED_ROW = "{:6}{:5}{:>8}{:>10}{:>8}{:>9}"


# ---- a table of texts between TABs ---------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    where: str  # FILE:LINE
    cells: dict[str, str]  # column -> text


def rows_of(path: Path, lines: list[str], columns: list[str], first_line: int) -> list[Row]:
    """Lines of a table as rows.

    *Errors*: SourceError for a line with fewer or more cells than columns.
    """
    rows = []
    for number, line in enumerate(lines, start=first_line):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise SourceError(
                f"{path}:{number}: {len(cells)} columns, expected {len(columns)} "
                f"({', '.join(columns)}); no text may hold a TAB or a line break: {line[:120]!r}"
            )
        rows.append(Row(f"{path}:{number}", dict(zip(columns, cells, strict=True))))
    return rows


def read_table(path: Path, wanted: list[str]) -> list[Row]:
    """A table whose first line names its columns; `wanted` must be among them.

    *Errors*: SourceError for a column that is not there, and as `rows_of`.
    """
    lines = read_lines(path)
    columns = lines[0].split("\t")
    missing = [name for name in wanted if name not in columns]
    expect(f"{path}:1", f"columns missing in the header {lines[0][:120]!r}", [], missing)
    return rows_of(path, lines[1:], columns, first_line=2)


def read_table_without_header(path: Path, columns: list[str]) -> list[Row]:
    """A table whose columns we have to know."""
    return rows_of(path, read_lines(path), columns, first_line=1)


# ---- pairs, and what is done to their texts ------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two sentences of one language, and what holds between them."""

    key: str  # the same in all languages
    sentence1: str
    sentence2: str
    label: str
    where: str  # FILE:LINE, for messages


def unquoted(text: str) -> str:
    """Undo the quotes of CSV, which wrap a text in quotes and double those inside.

    unquoted('"A ""b"" c"') == 'A "b" c'. A text with quotes at both ends and no doubled one between
    them, like '"a"', remains: CSV has no reason to wrap it, so they are its own.
    """
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    inside = text[1:-1]
    without_doubles = inside.replace('""', "")
    if without_doubles == inside or '"' in without_doubles:
        return text
    return inside.replace('""', '"')


def without_breaks(text: str) -> str:
    """A blank for each character that may end a line."""
    for character in LINE_BREAKS:
        text = text.replace(character, " ")
    return text


def change_texts(pairs: list[Pair], change: Callable[[str], str]) -> tuple[list[Pair], int]:
    """Change every sentence; also returns how many became another one."""
    changed_pairs, count = [], 0
    for pair in pairs:
        sentence1, sentence2 = change(pair.sentence1), change(pair.sentence2)
        count += sentence1 != pair.sentence1
        count += sentence2 != pair.sentence2
        changed_pairs.append(replace(pair, sentence1=sentence1, sentence2=sentence2))
    return changed_pairs, count


def lacks_text(pair: Pair, placeholders: set[str]) -> bool:
    """Is one of the sentences empty, or a word that stands for a missing one?"""
    for text in (pair.sentence1, pair.sentence2):
        if text.strip() == "" or text.strip().upper() in placeholders:
            return True
    return False


def check_labels(pairs: list[Pair], labels: tuple[str, ...]) -> None:
    """Refuse a label that is none.

    *Errors*: SourceError with file and line.
    """
    for pair in pairs:
        if pair.label not in labels:
            raise SourceError(
                f"{pair.where}: label {pair.label[:40]!r}, expected one of {', '.join(labels)}"
            )


# ---- one language --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairFile:
    """The pairs of one split in one language."""

    name: str  # for messages
    pairs: list[Pair]
    unquoted: int = 0  # texts that had the quotes of CSV


def tidy(
    split: str, lang: str, file: PairFile, placeholders: set[str], labels: tuple[str, ...]
) -> PairFile:
    """Check the labels, replace line breaks; prints what was found.

    *Errors*: SourceError as `check_labels`.
    """
    check_labels(file.pairs, labels)
    pairs, breaks = change_texts(file.pairs, without_breaks)
    lacking = sum(lacks_text(pair, placeholders) for pair in pairs)
    print(PRINTED_ROW.format(split, lang, len(pairs), file.unquoted, breaks, lacking))
    return replace(file, pairs=pairs)


def print_columns() -> None:
    """The line above those of `tidy`, before the first file is read."""
    print(PRINTED_ROW.format("split", "lang", "pairs", "unquoted", "breaks", "no text"))


def pairs_by_key(file: PairFile) -> dict[str, Pair]:
    """Key -> pair.

    *Errors*: SourceError for a key that two pairs have.
    """
    by_key = {}
    for pair in file.pairs:
        if pair.key in by_key:
            first = by_key[pair.key].where
            raise SourceError(f"{pair.where}: pair {pair.key!r} is already in {first}")
        by_key[pair.key] = pair
    return by_key


# ---- all languages: line i is the same pair ------------------------------------------------------


def check_partners(file: PairFile, other: PairFile) -> None:
    """Every pair of `file` must be in `other`.

    *Errors*: SourceError that names both files and the first pair without a partner.
    """
    others = pairs_by_key(other)
    for pair in file.pairs:
        if pair.key not in others:
            raise SourceError(
                f"{pair.where}: pair {pair.key!r} is not in {other.name} "
                f"({len(file.pairs)} pairs here, {len(other.pairs)} there)"
            )


def in_english_order(files: dict[str, PairFile]) -> dict[str, list[Pair]]:
    """Language -> pairs, in the order of the English file.

    *Errors*: SourceError for a pair that is not in all languages, or twice in one.
    """
    english = files["en"]
    ordered = {}
    for lang, file in files.items():
        check_partners(english, file)
        check_partners(file, english)
        by_key = pairs_by_key(file)
        ordered[lang] = [by_key[pair.key] for pair in english.pairs]
    return ordered


def complete_pairs(
    languages: dict[str, list[Pair]], placeholders: set[str]
) -> dict[str, list[Pair]]:
    """Without the pairs that lack a text in some language: the same lines leave every file."""
    lacking = set()
    for pairs in languages.values():
        for pair in pairs:
            if lacks_text(pair, placeholders):
                lacking.add(pair.key)
    complete = {}
    for lang, pairs in languages.items():
        complete[lang] = [pair for pair in pairs if pair.key not in lacking]
    return complete


def compare_labels(languages: dict[str, list[Pair]]) -> None:
    """Line i must have one label in all languages.

    Of complete pairs only: PAWS-X gives those without a text the label 0.
    *Errors*: SourceError that names both files and lines.
    """
    for pairs in languages.values():
        for pair, english in zip(pairs, languages["en"], strict=True):
            if pair.label != english.label:
                raise SourceError(
                    f"{pair.where}: label {pair.label}, but {english.label} in {english.where}, "
                    "which is the same pair in English"
                )


def parallel_pairs(files: dict[str, PairFile], placeholders: set[str]) -> dict[str, list[Pair]]:
    """Language -> complete pairs; pair i is the same one, with the same label, in every language.

    *Errors*: SourceError for languages that do not agree.
    """
    languages = complete_pairs(in_english_order(files), placeholders)
    compare_labels(languages)
    return languages


# ---- train, dev and test as published ------------------------------------------------------------


def split_files(split: str, languages: dict[str, list[Pair]]) -> dict[str, list[str]]:
    """The files of a split, name -> lines; prints how many pairs it has and the labels' shares.

    *Errors*: SourceError for a split without pairs.
    """
    english = languages["en"]
    if not english:
        raise SourceError(f"{split}: no pair is left; it needs at least one with all its texts")
    shares = []
    for label in sorted({pair.label for pair in english}):
        share = sum(pair.label == label for pair in english) / len(english)
        shares.append(f"{label} {share:.1%}")
    print(f"{split}: {len(english)} pairs in {' '.join(languages)}; {', '.join(shares)}")
    files = {}
    for lang, pairs in languages.items():
        lines = [HEADER]
        for pair in pairs:
            lines.append(f"{pair.sentence1}\t{pair.sentence2}\t{pair.label}")
        files[f"pairs/{split}-{lang}.tsv"] = lines
    return files


def files_of_splits(
    train: PairFile, evaluation: dict[str, dict[str, PairFile]], placeholders: set[str]
) -> dict[str, list[str]]:
    """All files, name -> lines: train in English alone, dev and test in every language.

    evaluation: split -> language -> its pairs. All of them are tidy.
    *Errors*: SourceError for languages that do not agree.
    """
    complete = [pair for pair in train.pairs if not lacks_text(pair, placeholders)]
    languages = {"train": {"en": complete}}
    for split, files in evaluation.items():
        languages[split] = parallel_pairs(files, placeholders)
    written = {}  # only now, when all splits agree: it prints
    for split, pairs in languages.items():
        written |= split_files(split, pairs)
    return written


# ---- train, dev and test out of one file ---------------------------------------------------------


def bag_of_words(sentence: str) -> str:
    """The words of an English sentence in alphabetical order, without case and punctuation.

    bag_of_words("Cats , dogs and birds .") == bag_of_words("Birds and dogs , cats .")
    """
    words = []
    for word in sentence.casefold().split():
        letters = "".join(letter for letter in word if letter.isalnum())
        if letters:
            words.append(letters)
    return " ".join(sorted(words))


def group_names(pairs: list[Pair]) -> list[str]:
    """For each English pair the first sentence of its group, in the order of the file.

    Two pairs are in one group if a sentence of one has the same words as a sentence of the other,
    or if a third pair links them. PAWS scrambles words: by identical sentences alone, a sentence
    would be trained on and its scrambled twin tested on.
    """
    leader = {}  # bag -> another bag of its group, and so on up to one that leads itself

    def lead(bag):
        while leader.setdefault(bag, bag) != bag:
            bag = leader[bag]
        return bag

    for pair in pairs:
        one, other = lead(bag_of_words(pair.sentence1)), lead(bag_of_words(pair.sentence2))
        leader[other] = one
    names, first_sentence = [], {}
    for pair in pairs:
        bag = lead(bag_of_words(pair.sentence1))
        names.append(first_sentence.setdefault(bag, pair.sentence1))
    return names


def split_of(name: str) -> str:
    """The split of a group: half for training, a tenth for dev, four tenths for test."""
    tenth = zlib.crc32(name.encode("utf-8")) % 10
    if tenth < 5:
        return "train"
    if tenth == 5:
        return "dev"
    return "test"


def split_by_sentence(english: list[Pair]) -> dict[str, set[str]]:
    """Split -> keys of its pairs; no English sentence is in two splits."""
    keys = {"train": set(), "dev": set(), "test": set()}
    for pair, name in zip(english, group_names(english), strict=True):
        keys[split_of(name)].add(pair.key)
    return keys


def files_from_dev(files: dict[str, PairFile], placeholders: set[str]) -> dict[str, list[str]]:
    """Train (English alone), dev and test out of one file a language; prints the counts.

    A pair of train stays if its English texts are there, whatever the other languages lack.
    *Errors*: SourceError for languages that do not agree.
    """
    languages = parallel_pairs(files, placeholders)
    english = files["en"].pairs
    keys = split_by_sentence(english)
    train = []
    for pair in english:
        if pair.key in keys["train"] and not lacks_text(pair, placeholders):
            train.append(pair)
    written = split_files("train", {"en": train})
    for split in ("dev", "test"):
        chosen = {}
        for lang, pairs in languages.items():
            chosen[lang] = [pair for pair in pairs if pair.key in keys[split]]
        written |= split_files(split, chosen)
    return written


# ---- the program ---------------------------------------------------------------------------------


def publish_pairs(out: Path, files: dict[str, list[str]]) -> None:
    """Write the files of `split_files`.

    *Errors*: ValueError for a folder with a file that is not among them: from a run with other
    flags, whose splits are not these.
    """
    for path in sorted((out / "pairs").glob("*.tsv")):
        if f"pairs/{path.name}" not in files:
            raise ValueError(
                f"{path}: is of another run, with other splits. Remove {path.parent}, "
                "or give another --out"
            )
    publish(out, files)


def prepare_from_dev(build: Callable[[Path], dict], source: Path, out: Path) -> None:
    """Read, check, split, write."""
    publish_pairs(out, build(source))
    print(f"wrote {out / 'pairs'}: out of dev alone, not the published protocol")


@dataclass(frozen=True)
class Preparation:
    """What one data set's prepare.py does with its flags."""

    name: str  # of the data set
    prepare: Callable[[Path | None, Path], None]  # --source or None, --out
    build_from_dev: Callable[[Path], dict[str, list[str]]]
    remedy: str  # where the files can be had
    remedy_dev: str  # the same, of --from-dev
    source_help: str
    holds: str  # what stands in a --source


def run_preparation(program: Preparation, here: Path, argv: list[str] | None) -> int:
    """The flags of a prepare.py, then its work; files go to `here` without --out.

    Returns 0 done, 1 failed, 130 interrupted.
    """
    parser = argparse.ArgumentParser(
        description=f"{program.name} to files of pairs", allow_abbrev=False
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--source", type=Path, metavar="DIR", help=program.source_help)
    add("--out", type=Path, metavar="DIR", default=here, help="folder for pairs/")
    add(
        "--from-dev",
        action="store_true",
        help="make small splits out of dev-LANG.tsv in --source: not the published protocol",
    )
    args = parser.parse_args(argv)
    if args.source and not args.source.is_dir():
        parser.error(f"--source {args.source} is not a folder. Give the one {program.holds}")
    if not args.from_dev:
        return run(partial(program.prepare, args.source, args.out), program.remedy)
    if args.source is None:
        parser.error("--from-dev needs --source, the folder that holds dev-en.tsv ...")
    work = partial(prepare_from_dev, program.build_from_dev, args.source, args.out)
    return run(work, program.remedy_dev)
