"""Turns XQuAD-R as published, eleven JSON files, into a data-set folder that evaluate.py reads.

One file a language, every question in all of them; the languages meet in the qrels:

    de.json, paragraph 12    sentences [0, 58) [59, 120)     corpus.jsonl   p12.de.s0  p12.de.s1
                             question 56be, answer at 71     queries.jsonl  56be.de
    all eleven files         relevant(56be.*) = the sentences that hold 56be's answer, one a file

Next: readme.md here for licence and traps, then the loader in xlt.py.
Left out on purpose: a training split. XQuAD is SQuAD dev, so it is for testing only.
Differs from the LAReQA paper in nothing that a metric sees: the same candidates, the same gold.
"""

import argparse
import http.client
import json
import sys
import tempfile
import urllib.request
from pathlib import Path

# ---- what was published ------------------------------------------------------------------------

URL = "https://raw.githubusercontent.com/google-research-datasets/lareqa/master/xquad-r"
REMEDY = f"Download {URL}/LANG.json by hand, change nothing in it, pass its folder as --source."
# LAReQA's readme has the first two columns. A crossing is an answer that runs over the end of its
# sentence: counted by this project, it moves as soon as someone re-splits the text.
PUBLISHED = {
    "ar": (1222, 1190, 10), "de": (1276, 1190, 8), "el": (1234, 1190, 13), "en": (1180, 1190, 3),
    "es": (1215, 1190, 12), "hi": (1244, 1190, 11), "ru": (1219, 1190, 2), "th": (852, 1190, 9),
    "tr": (1167, 1190, 20), "vi": (1209, 1190, 13), "zh": (1196, 1190, 11),
}  # fmt: skip
TOTAL = (13014, 13090, 112, 143990)  # written out, not summed: then a typo above shows
COUNTED = "candidates, questions, crossings"
ROW = "{:4}{:>12}{:>11}{:>11}"  # one line of the printed table

# ---- getting the files, and refusing what is not XQuAD-R ---------------------------------------


def fetch(folder: Path) -> Path:
    """Downloads the eleven files into `folder` and returns it. Errors: ValueError with a remedy."""
    for url in (f"{URL}/{lang}.json" for lang in PUBLISHED):
        print(f"fetching {url}", file=sys.stderr)  # stdout is for the result alone
        try:
            with urllib.request.urlopen(url, timeout=60) as reply:  # seconds of silence, not total
                (folder / url.rpartition("/")[2]).write_bytes(reply.read())
        except (OSError, http.client.HTTPException) as error:  # the second: cut off half-way
            raise ValueError(f"{url}: could not be fetched ({error!r}). {REMEDY}") from error
    return folder


def expect(where: object, what: str, expected: object, found: object) -> None:
    """Errors: ValueError that names file, expected and found, unless the two are equal."""
    if found != expected:  # `found` is cut: a broken file must not fill the screen
        raise ValueError(f"{where}: {what}: expected {expected}, found {found!s:.200}. {REMEDY}")


def field(row: object, key: str, kind: type, where: object) -> object:
    """Returns row[key]. Errors: ValueError if it is missing or not of that kind."""
    value = row.get(key) if isinstance(row, dict) else None
    if type(value) is not kind:  # not isinstance: JSON's true would pass for the offset 1
        raise ValueError(f'{where}: "{key}" must be {kind.__name__} in {row!s:.180}. {REMEDY}')
    return value


def read_paragraphs(path: Path) -> list[dict]:
    """Returns the paragraphs of all articles in file order. Errors: ValueError if unreadable."""
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))  # bytes: no newline translation
        # Half an emoji ("\ud83d") is legal JSON and no legal UTF-8: refuse it while we know where.
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets without end
        raise ValueError(f"{path}: is not a readable JSON file ({error}). {REMEDY}") from error
    # Articles are only headings here: the pool of candidates knows paragraphs and sentences.
    articles = field(data, "data", list, path)
    return [part for article in articles for part in field(article, "paragraphs", list, path)]


# ---- one paragraph: its sentences, and the sentence that answers a question --------------------


def read_sentences(paragraph: dict, where: str) -> tuple[list[list[int]], list[str]]:
    """Returns borders [start, end), in code points of the context, and texts of the sentences."""
    size = len(field(paragraph, "context", str, where))  # as published: never stripped
    borders = field(paragraph, "sentence_breaks", list, where)
    # SUBTLE: texts are taken, never cut from the context: one Turkish context has a garbled slash,
    # three characters where its sentence has one, and two of its cuts would be two too early.
    texts = field(paragraph, "sentences", list, where)
    expect(where, "sentences, one a border", len(borders), len(texts))
    for border, text in zip(borders, texts):
        # Gaps between sentences are fine, they hold the blanks. Backwards or outside is not.
        sound = type(border) is list and [type(x) for x in (*border, text)] == [int, int, str]
        if not (sound and 0 <= border[0] < border[1] <= size):
            expect(where, "a sentence", f"[start, end) inside {size}, text", (border, text))
    return borders, texts


def read_question(qa: dict, context: str, borders: list, where: str) -> tuple[dict, int, bool]:
    """Returns a query's row, its gold sentence (LAReQA, 3.1), whether the answer runs over it."""
    row = {"group": field(qa, "id", str, where), "text": field(qa, "question", str, where)}
    where = f"{where}, question {row['group']}"  # an id is what one greps for
    answers = field(qa, "answers", list, where)
    expect(where, "answers", 1, len(answers))  # SQuAD dev has several, XQuAD one
    row["answer"] = field(answers[0], "text", str, where)
    start = field(answers[0], "answer_start", int, where)
    end = start + len(row["answer"])  # in code points, as Python counts
    # The guard against a normalised copy: an NFC pass over ar or hi shifts all that follows.
    expect(where, f"context[{start}:{end}]", repr(row["answer"]), repr(context[start:end]))
    # The start decides, also for an answer that crosses a border: one gold sentence, always.
    gold = [k for k, (first, last) in enumerate(borders) if first <= start < last]
    expect(where, f"sentences of {borders} that hold {start}", 1, len(gold))
    return row, gold[0], end > borders[gold[0]][1]


# ---- one language, then all eleven -------------------------------------------------------------


def convert(path: Path, lang: str) -> tuple[list[dict], list[dict], dict[str, str], int]:
    """Returns one language's passages, queries, {question: gold passage} and crossings."""
    passages, queries, gold, crossings = [], [], {}, 0
    for number, paragraph in enumerate(read_paragraphs(path)):
        where = f"{path}: paragraph {number}"  # from 0, as in the ids
        borders, texts = read_sentences(paragraph, where)
        stem, context = f"p{number}.{lang}.s", paragraph["context"]
        # No "group": s3 in German need not translate s3 in Thai. Parallel are p{number} and the
        # questions; that two of them share a gold sentence is in the qrels.
        for k, text in enumerate(texts):  # twins stay: identity is place, not text
            passages.append({"_id": f"{stem}{k}", "lang": lang, "text": text, "context": context})
        for qa in field(paragraph, "qas", list, where):
            row, k, crosses = read_question(qa, context, borders, where)
            expect(where, f"question {row['group']} met before", False, row["group"] in gold)
            gold[row["group"]] = f"{stem}{k}"
            queries.append({"_id": f"{row['group']}.{lang}", "lang": lang, **row})
            crossings += crosses  # kept as they are, only counted
    return passages, queries, gold, crossings


def build(source: Path) -> dict[str, list[str]]:
    """Returns {file name: lines} and prints the counts. Errors: ValueError if one is not right."""
    corpus, queries, golds, crossings = [], [], [], 0
    print(ROW.format("lang", *COUNTED.split(", ")))
    for lang, published in PUBLISHED.items():
        path = source / f"{lang}.json"
        passages, rows, gold, crossed = convert(path, lang)
        found = len(passages), len(rows), crossed
        print(ROW.format(lang, *found))  # before the check: the row is wanted most if it is wrong
        expect(path, COUNTED, published, found)
        golds.append(gold)  # in the order of PUBLISHED, which the qrels then keep
        # The same number of ids and none that is new: so each question has one gold a language.
        expect(path, "questions that ar.json has not", [], sorted(gold.keys() - golds[0].keys()))
        corpus, queries, crossings = corpus + passages, queries + rows, crossings + crossed
    qrels = [f"{row['_id']}\t{gold[row['group']]}\t1" for row in queries for gold in golds]
    # Distinct pairs: should two of our own ids ever be the same, they are too few.
    found = len(corpus), len(queries), crossings, len(set(qrels))
    print(ROW.format("all", *found), f"  {found[3]} relevant pairs, 11 a question")
    expect(source, f"{COUNTED}, relevant pairs", TOTAL, found)
    rows = {"corpus.jsonl": corpus, "queries.jsonl": queries}  # unescaped: a reader sees Thai
    files = {name: [json.dumps(row, ensure_ascii=False) for row in rows[name]] for name in rows}
    return files | {"qrels/test.tsv": ["query-id\tcorpus-id\tscore", *qrels]}


def publish(out: Path, files: dict[str, list[str]]) -> None:
    """Writes all files aside, then renames them: a full disk leaves no half file."""
    asides = {name: out / f"{name}.part" for name in files}  # same disk, or a rename is a copy
    try:
        for name, aside in asides.items():
            aside.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text("\n".join([*files[name], ""]), "utf-8", newline="\n")  # no \r\n
        for name, aside in asides.items():
            aside.replace(out / name)  # corpus first: without qrels nothing evaluates
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)  # gone already if all went well


def main(argv: list[str] | None = None) -> int:
    """Fetches or reads, checks, converts, writes. Returns 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(description="XQuAD-R to a data-set folder", allow_abbrev=False)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add, here = parser.add_argument, Path(__file__).resolve().parent
    add("--source", type=Path, metavar="DIR", help="folder with ar.json ... zh.json, or fetch them")
    add("--out", type=Path, metavar="DIR", default=here, help="folder for corpus, queries, qrels")
    args = parser.parse_args(argv)
    if args.source and not args.source.is_dir():
        parser.error(f"--source {args.source} is not a folder. Give the one that holds ar.json")
    try:
        with tempfile.TemporaryDirectory() as folder:  # the download goes, whatever happens
            publish(args.out, build(args.source or fetch(Path(folder))))
    except (OSError, ValueError) as error:  # anything else is our bug and keeps its traceback
        print(f"prepare.py: {error}", file=sys.stderr)  # a sentence, no traceback
        return 1
    except KeyboardInterrupt:
        return 130  # what shells expect after Ctrl-C
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
