"""Turns MLQA-R, MLQA dev with LAReQA's sentence breaks, into a folder to train and to choose on.

    7 files, a question in 2 to 4 of them     ->  qrels/train.tsv   7 of 8 English articles
    English has every question, so its                dev.tsv       the others
    articles decide who is in which split             test.tsv      all, if trained elsewhere

Where to look next: readme.md here for licence and traps, ../lareqa.py for how a file is read.
Left out on purpose: from train and dev, the questions of paragraphs that share text with XQuAD,
which is what such a training is tested on.
"""

import argparse
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from data.fetch import download_all, expect, json_lines, publish, run
from data.lareqa import COUNTED, PRINTED_ROW, Language, all_rows, qrels_lines, read_languages

# ---- what was published --------------------------------------------------------------------------

# The folder was removed in the commit after this one
COMMIT = "354d67d1cd066854cdfbf5ad0e6105528976141d"
URL = f"https://raw.githubusercontent.com/google-research-datasets/lareqa/{COMMIT}/mlqa-r"
REMEDY = f"Download {URL}/LANG.json by hand, change nothing in it, pass its folder as --source."
PUBLISHED = {  # candidates, questions, crossings
    "ar": (2545, 517, 3),
    "de": (2362, 512, 8),
    "en": (6264, 1148, 2),
    "es": (1787, 500, 5),
    "hi": (2426, 507, 3),
    "vi": (2828, 511, 1),
    "zh": (2322, 504, 3),
}
TOTAL = (20534, 4199, 25)  # written out, not summed: then a typo above shows
# Languages of a question -> how many questions; English is always one of them
SHARED = {2: 65, 3: 263, 4: 820}
# Paragraphs, from 0, that share eight words in a row with XQuAD's paragraphs in their language: in
# English four counties and prime numbers. In Vietnamese one on Harvard shares many stretches of
# eight syllables; nobody can tell whether a translator or Wikipedia wrote them first
SHARED_WITH_XQUAD = {"en": (381, 544, 563, 730, 908), "vi": (331,)}


# ---- which question is for what ------------------------------------------------------------------


def split_of(title: str) -> str:
    """The split of an English article: one in eight is for choosing settings."""
    if zlib.crc32(title.encode("utf-8")) % 8 == 0:
        return "dev"
    return "train"


def shares_xquad(question: str, languages: dict[str, Language]) -> bool:
    """Does the question belong to a paragraph of SHARED_WITH_XQUAD?"""
    for lang, numbers in SHARED_WITH_XQUAD.items():
        if languages[lang].paragraph.get(question) in numbers:
            return True
    return False


def splits_of_questions(languages: dict[str, Language]) -> dict[str, str]:
    """Question -> train or dev, without those that share text with XQuAD.

    *Errors*: SourceError for a paragraph, in any language, with questions of both.
    """
    splits = {}
    for question, title in languages["en"].article.items():
        if not shares_xquad(question, languages):
            splits[question] = split_of(title)
    for lang, language in languages.items():
        split_of_paragraph = {}
        for question in language.gold:
            if question in splits:
                number = language.paragraph[question]
                first = split_of_paragraph.setdefault(number, splits[question])
                where = f"{lang}.json: paragraph {number}"
                expect(where, f"split of {question}", first, splits[question])
    return splits


# ---- seven files to one folder -------------------------------------------------------------------


def check_questions(source: Path, languages: dict[str, Language]) -> None:
    """Compare in how many languages the questions are asked with what was published."""
    counts = {}
    for question in languages["en"].gold:
        asked = sum(question in language.gold for language in languages.values())
        counts[asked] = counts.get(asked, 0) + 1
    expect(source, "questions by number of languages", SHARED, dict(sorted(counts.items())))
    for lang, language in languages.items():
        foreign = sorted(language.gold.keys() - languages["en"].gold.keys())
        expect(source / f"{lang}.json", "questions that en.json has not", [], foreign)


def passages_near(questions: set[str], languages: dict[str, Language]) -> list[dict]:
    """The passages of all paragraphs that these questions are about."""
    passages = []
    for language in languages.values():
        numbers = {language.paragraph[name] for name in questions if name in language.gold}
        for passage in language.passages:
            if language.paragraph[passage["_id"]] in numbers:
                passages.append(passage)
    return passages


def build(source: Path, dev_only: bool = False) -> dict[str, list[str]]:
    """The data-set folder, file name -> lines; prints the counts.

    *Errors*: SourceError for what is not as published.
    """
    languages = read_languages(source, PUBLISHED)
    check_questions(source, languages)
    passages, queries = all_rows(languages)
    crossings = sum(language.crossings for language in languages.values())
    counts = (len(passages), len(queries), crossings)
    print(PRINTED_ROW.format("all", *counts))
    expect(source, COUNTED, TOTAL, counts)
    splits = splits_of_questions(languages)
    members = {"train": [], "dev": []}
    for query in queries:
        if query["group"] in splits:
            members[splits[query["group"]]].append(query)
    left_out = len(queries) - len(members["train"]) - len(members["dev"])
    print(f"train {len(members['train'])} queries, dev {len(members['dev'])}, ", end="")
    print(f"{left_out} share text with XQuAD and are in neither")
    if dev_only:
        dev_questions = {query["group"] for query in members["dev"]}
        return {
            "corpus.jsonl": json_lines(passages_near(dev_questions, languages)),
            "queries.jsonl": json_lines(members["dev"]),
            "qrels/dev.tsv": qrels_lines(members["dev"], languages),
        }
    return {
        "corpus.jsonl": json_lines(passages),
        "queries.jsonl": json_lines(queries),
        "qrels/train.tsv": qrels_lines(members["train"], languages),
        "qrels/dev.tsv": qrels_lines(members["dev"], languages),
        "qrels/test.tsv": qrels_lines(queries, languages),
    }


def prepare(source: Path | None, out: Path, dev_only: bool) -> None:
    """Fetch or read, check, convert, write."""
    with tempfile.TemporaryDirectory() as folder:  # the download goes, whatever happens
        if source is None:
            names = [f"{lang}.json" for lang in PUBLISHED]
            source = download_all(URL, names, Path(folder))
        publish(out, build(source, dev_only))
    print(f"wrote {out}")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(description="MLQA-R to a data-set folder", allow_abbrev=False)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--source", type=Path, metavar="DIR", help="folder with ar.json ... zh.json, or fetch them")
    add("--out", type=Path, metavar="DIR", default=HERE, help="folder for corpus, queries, qrels")
    add(
        "--dev-only",
        action="store_true",
        help="dev's paragraphs and questions alone, an eighth of the text: to choose settings fast",
    )
    args = parser.parse_args(argv)
    if args.source and not args.source.is_dir():
        parser.error(f"--source {args.source} is not a folder. Give the one that holds ar.json")
    return run(partial(prepare, args.source, args.out, args.dev_only), REMEDY)


if __name__ == "__main__":
    sys.exit(main())
