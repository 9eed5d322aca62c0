"""Turns XQuAD-R as published, eleven JSON files, into a data-set folder that evaluate.py reads.

One file a language, every question in all of them; the languages meet in the qrels.
Where to look next: readme.md here for licence and traps, ../lareqa.py for how a file is read, then
the loader in xlt.py.
Left out on purpose: a training split. XQuAD is SQuAD dev, so it is for testing only.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from data.fetch import download_all, expect, json_lines, publish, run
from data.lareqa import COUNTED, PRINTED_ROW, all_rows, qrels_lines, read_languages

# ---- what was published --------------------------------------------------------------------------

URL = "https://raw.githubusercontent.com/google-research-datasets/lareqa/master/xquad-r"
REMEDY = f"Download {URL}/LANG.json by hand, change nothing in it, pass its folder as --source."
PUBLISHED = {  # candidates, questions, crossings
    "ar": (1222, 1190, 10),
    "de": (1276, 1190, 8),
    "el": (1234, 1190, 13),
    "en": (1180, 1190, 3),
    "es": (1215, 1190, 12),
    "hi": (1244, 1190, 11),
    "ru": (1219, 1190, 2),
    "th": (852, 1190, 9),
    "tr": (1167, 1190, 20),
    "vi": (1209, 1190, 13),
    "zh": (1196, 1190, 11),
}
# As above, and relevant pairs. Written out, not summed: then a typo above shows
TOTAL = (13014, 13090, 112, 143990)


# ---- eleven files to one folder ------------------------------------------------------------------


def build(source: Path) -> dict[str, list[str]]:
    """The data-set folder, file name -> lines; prints the counts.

    *Errors*: SourceError for a count that is not the published one, and for a question that is not
    asked in every language.
    """
    languages = read_languages(source, PUBLISHED)
    first = next(iter(languages.values()))
    for lang, language in languages.items():
        # The same number of ids and none that is new: so each question has one gold a language
        new_ids = sorted(language.gold.keys() - first.gold.keys())
        expect(source / f"{lang}.json", "questions that the first language has not", [], new_ids)
    passages, queries = all_rows(languages)
    qrels = qrels_lines(queries, languages)
    crossings = sum(language.crossings for language in languages.values())
    # Distinct pairs: should two of our own ids ever be the same, they are too few
    pairs = len(set(qrels)) - 1
    counts = (len(passages), len(queries), crossings)
    print(PRINTED_ROW.format("all", *counts), f"  {pairs} relevant pairs, 11 a question")
    expect(source, f"{COUNTED}, relevant pairs", TOTAL, (*counts, pairs))
    return {
        "corpus.jsonl": json_lines(passages),
        "queries.jsonl": json_lines(queries),
        "qrels/test.tsv": qrels,
    }


def prepare(source: Path | None, out: Path) -> None:
    """Fetch or read, check, convert, write."""
    with tempfile.TemporaryDirectory() as folder:  # the download goes, whatever happens
        if source is None:
            names = [f"{lang}.json" for lang in PUBLISHED]
            source = download_all(URL, names, Path(folder))
        publish(out, build(source))
    print(f"wrote {out}")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(description="XQuAD-R to a data-set folder", allow_abbrev=False)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--source", type=Path, metavar="DIR", help="folder with ar.json ... zh.json, or fetch them")
    add("--out", type=Path, metavar="DIR", default=HERE, help="folder for corpus, queries, qrels")
    args = parser.parse_args(argv)
    if args.source and not args.source.is_dir():
        parser.error(f"--source {args.source} is not a folder. Give the one that holds ar.json")
    return run(partial(prepare, args.source, args.out), REMEDY)


if __name__ == "__main__":
    sys.exit(main())
