"""Turns XQuAD-R as published, eleven JSON files, into a data-set folder that evaluate.py reads.

One file a language, every question in all of them; the languages meet in the qrels:

    de.json, paragraph 12    sentences [0, 58) [59, 120)     corpus.jsonl   p12.de.s0  p12.de.s1
                             question 56be, answer at 71     queries.jsonl  56be.de
    all eleven files         relevant(56be.*) = the sentences that hold 56be's answer, one a file

Where to look next: readme.md here for licence and traps, then the loader in xlt.py.
Left out on purpose: a training split. XQuAD is SQuAD dev, so it is for testing only.
Differs from the LAReQA paper in nothing that a metric sees: the same candidates, the same gold.
"""

import argparse
import http.client
import json
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


# ---- what was published --------------------------------------------------------------------------

URL = "https://raw.githubusercontent.com/google-research-datasets/lareqa/master/xquad-r"
REMEDY = f"Download {URL}/LANG.json by hand, change nothing in it, pass its folder as --source."
# LAReQA's readme has the first two columns. A crossing is an answer that runs over the end of its
# sentence: counted by this project, it moves as soon as someone re-splits the text.
COUNTED = "candidates, questions, crossings"
PUBLISHED = {
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
PRINTED_ROW = "{:4}{:>12}{:>11}{:>11}"


# ---- getting the files, and refusing what is not XQuAD-R -----------------------------------------


def fetch(folder: Path) -> Path:
    """Download the eleven files into `folder` and return it.

    *Errors*: ValueError with a remedy.
    """
    for lang in PUBLISHED:
        url = f"{URL}/{lang}.json"
        print(f"fetching {url}", file=sys.stderr)  # stdout is for the result alone
        try:
            with urllib.request.urlopen(url, timeout=60) as reply:  # seconds of silence, not total
                content = reply.read()
            (folder / f"{lang}.json").write_bytes(content)
        except (OSError, http.client.HTTPException) as error:  # the second: cut off half-way
            raise ValueError(f"{url}: could not be fetched ({error!r}). {REMEDY}") from error
    return folder


def expect(where: Path | str, subject: str, expected, actual) -> None:
    """Refuse what is not as expected.

    *Errors*: ValueError that names the place and both, unless the two are equal.
    """
    if actual != expected:
        shown = str(actual)[:200]  # a broken file must not fill the screen
        raise ValueError(f"{where}: {subject}: expected {expected}, found {shown}. {REMEDY}")


def field(row, key: str, kind: type, where: Path | str):
    """row[key], of a row that should be an object.

    *Errors*: ValueError if the key is missing or its value is not of that kind.
    """
    value = None
    if isinstance(row, dict):
        value = row.get(key)
    # SUBTLE: not isinstance: JSON's true would pass for the offset 1
    if type(value) is not kind:
        shown = str(row)[:180]
        raise ValueError(f'{where}: "{key}" must be {kind.__name__} in {shown}. {REMEDY}')
    return value


def read_paragraphs(path: Path) -> list:
    """The paragraphs of all articles in file order.

    *Errors*: ValueError for a file that is not readable.
    """
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))  # bytes: no newline translation
        # Half an emoji ("\ud83d") is legal JSON and no legal UTF-8: refuse it while we know where
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets without end
        raise ValueError(f"{path}: is not a readable JSON file ({error}). {REMEDY}") from error
    # Articles are only headings here: the pool of candidates knows paragraphs and sentences
    paragraphs = []
    for article in field(data, "data", list, path):
        paragraphs += field(article, "paragraphs", list, path)
    return paragraphs


# ---- one paragraph: its sentences, and the sentence that answers a question ----------------------


@dataclass(frozen=True)
class Sentence:
    """Where a sentence stands in its paragraph, and what the passage says."""

    start: int  # in code points, as Python counts
    end: int  # the first one behind it
    text: str


@dataclass(frozen=True)
class Question:
    """A question of one language, and the sentence that answers it."""

    id: str  # the same in all languages
    text: str
    answer: str
    gold: int  # number of the sentence in which the answer starts
    crosses: bool  # the answer runs over the end of that sentence


def is_sentence(border, text, size) -> bool:
    """Is this a [start, end) inside a context of that size, and a text?"""
    if type(border) is not list or len(border) != 2 or type(text) is not str:
        return False
    start, end = border
    if type(start) is not int or type(end) is not int:
        return False
    return 0 <= start < end <= size


def read_sentences(paragraph: dict, where: str) -> list[Sentence]:
    """The sentences of a paragraph, as published.

    *Errors*: ValueError for a border too few, backwards or outside the context.
    """
    size = len(field(paragraph, "context", str, where))  # as published: never stripped
    borders = field(paragraph, "sentence_breaks", list, where)
    # SUBTLE: texts are taken, never cut from the context: one Turkish context has a garbled slash,
    # three characters where its sentence has one, and two of its cuts would be two too early
    texts = field(paragraph, "sentences", list, where)
    expect(where, "sentences, one a border", len(borders), len(texts))
    sentences = []
    for border, text in zip(borders, texts, strict=True):
        # Gaps between sentences are fine, they hold the blanks. Backwards or outside is not
        if not is_sentence(border, text, size):
            expect(where, "a sentence", f"[start, end) inside {size}, text", (border, text))
        sentences.append(Sentence(*border, text))
    return sentences


def find_sentence(start: int, sentences: list[Sentence], where: str) -> int:
    """The number of the sentence that holds this place of the context: the gold one.

    The start of an answer decides, also if it crosses a border: one gold sentence, always.
    *Errors*: ValueError for a place in no sentence or in two.
    *Source*: LAReQA, section 3.1.
    """
    holders = []
    for number, sentence in enumerate(sentences):
        if sentence.start <= start < sentence.end:
            holders.append(number)
    borders = [[sentence.start, sentence.end] for sentence in sentences]
    expect(where, f"sentences of {borders} that hold {start}", 1, len(holders))
    return holders[0]


def read_question(qa: dict, context: str, sentences: list[Sentence], where: str) -> Question:
    """One question with its gold sentence.

    *Errors*: ValueError for several answers, and for one that does not stand at its offset.
    """
    question_id = field(qa, "id", str, where)
    text = field(qa, "question", str, where)
    where = f"{where}, question {question_id}"  # an id is what one greps for
    answers = field(qa, "answers", list, where)
    expect(where, "answers", 1, len(answers))  # SQuAD dev has several, XQuAD one
    answer = field(answers[0], "text", str, where)
    start = field(answers[0], "answer_start", int, where)
    end = start + len(answer)
    # The guard against a normalised copy: an NFC pass over ar or hi shifts all that follows
    expect(where, f"context[{start}:{end}]", repr(answer), repr(context[start:end]))
    gold = find_sentence(start, sentences, where)
    return Question(question_id, text, answer, gold, end > sentences[gold].end)


# ---- one language, then all eleven ---------------------------------------------------------------


class Language(NamedTuple):
    """What one published file becomes."""

    passages: list[dict]  # rows of corpus.jsonl
    queries: list[dict]  # rows of queries.jsonl
    gold: dict[str, str]  # question -> id of the passage that answers it
    crossings: int


def convert(path: Path, lang: str) -> Language:
    """Read one language's file.

    *Errors*: ValueError that names file, paragraph and question, for whatever is not as published.
    """
    passages = []
    queries = []
    gold = {}
    crossings = 0
    for number, paragraph in enumerate(read_paragraphs(path)):
        where = f"{path}: paragraph {number}"  # from 0, as in the ids
        sentences = read_sentences(paragraph, where)
        context = paragraph["context"]
        # No "group": s3 in German need not translate s3 in Thai. Parallel are p{number} and the
        # questions; that two of them share a gold sentence is in the qrels
        ids = [f"p{number}.{lang}.s{i}" for i in range(len(sentences))]
        # Sentences that read alike stay: identity is place, not text
        for passage_id, sentence in zip(ids, sentences, strict=True):
            row = {"_id": passage_id, "lang": lang, "text": sentence.text, "context": context}
            passages.append(row)
        for qa in field(paragraph, "qas", list, where):
            question = read_question(qa, context, sentences, where)
            expect(where, f"question {question.id} met before", False, question.id in gold)
            gold[question.id] = ids[question.gold]
            crossings += question.crosses  # kept as they are, only counted
            row = {
                "_id": f"{question.id}.{lang}",
                "lang": lang,
                "group": question.id,
                "text": question.text,
                "answer": question.answer,
            }
            queries.append(row)
    return Language(passages, queries, gold, crossings)


def read_languages(source: Path) -> list[Language]:
    """Convert all languages and print their counts.

    *Errors*: ValueError for a count that is not the published one, and for a question that is not
    asked in every language.
    """
    print(PRINTED_ROW.format("lang", *COUNTED.split(", ")))
    languages = []
    for lang, published in PUBLISHED.items():
        path = source / f"{lang}.json"
        language = convert(path, lang)
        languages.append(language)
        counts = (len(language.passages), len(language.queries), language.crossings)
        print(PRINTED_ROW.format(lang, *counts))  # before the check: most wanted if it is wrong
        expect(path, COUNTED, published, counts)
        # The same number of ids and none that is new: so each question has one gold a language
        new_ids = sorted(language.gold.keys() - languages[0].gold.keys())
        expect(path, "questions that ar.json has not", [], new_ids)
    return languages


def build(source: Path) -> dict[str, list[str]]:
    """The data-set folder, file name -> lines; prints the counts.

    *Errors*: ValueError if one is not right.
    """
    languages = read_languages(source)
    corpus = []
    queries = []
    crossings = 0
    for language in languages:
        corpus += language.passages
        queries += language.queries
        crossings += language.crossings
    qrels = []
    for query in queries:
        for language in languages:  # in the order of PUBLISHED, which the qrels then keep
            qrels.append(f"{query['_id']}\t{language.gold[query['group']]}\t1")
    # Distinct pairs: should two of our own ids ever be the same, they are too few
    pairs = len(set(qrels))
    counts = (len(corpus), len(queries), crossings)
    print(PRINTED_ROW.format("all", *counts), f"  {pairs} relevant pairs, 11 a question")
    expect(source, f"{COUNTED}, relevant pairs", TOTAL, (*counts, pairs))
    return {  # unescaped: a reader sees Thai
        "corpus.jsonl": [json.dumps(row, ensure_ascii=False) for row in corpus],
        "queries.jsonl": [json.dumps(row, ensure_ascii=False) for row in queries],
        "qrels/test.tsv": ["query-id\tcorpus-id\tscore", *qrels],
    }


def publish(out: Path, files: dict[str, list[str]]) -> None:
    """Write all files aside, then rename them: a full disk leaves no half file."""
    asides = {name: out / f"{name}.part" for name in files}  # same disk, or a rename is a copy
    try:
        for name, aside in asides.items():
            aside.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{line}\n" for line in files[name])
            aside.write_text(text, encoding="utf-8", newline="\n")  # no \r\n
        for name, aside in asides.items():
            aside.replace(out / name)  # corpus first: without qrels nothing evaluates
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)  # gone already if all went well


def main(argv: list[str] | None = None) -> int:
    """Fetch or read, check, convert, write. Returns 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(description="XQuAD-R to a data-set folder", allow_abbrev=False)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--source", type=Path, metavar="DIR", help="folder with ar.json ... zh.json, or fetch them")
    add("--out", type=Path, metavar="DIR", default=HERE, help="folder for corpus, queries, qrels")
    args = parser.parse_args(argv)
    if args.source and not args.source.is_dir():
        parser.error(f"--source {args.source} is not a folder. Give the one that holds ar.json")
    try:
        with tempfile.TemporaryDirectory() as folder:  # the download goes, whatever happens
            source = args.source
            if source is None:
                source = fetch(Path(folder))
            publish(args.out, build(source))
    except (OSError, ValueError) as error:  # anything else is our bug and keeps its traceback
        print(f"prepare.py: {error}", file=sys.stderr)  # a sentence, no traceback
        return 1
    except KeyboardInterrupt:
        return 130  # what shells expect after Ctrl-C
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
