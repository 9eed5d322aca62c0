"""LAReQA's JSON, in which XQuAD-R and MLQA-R are published, to rows of the one data format.

    {"data": [{"title", "paragraphs": [{"context", "sentence_breaks", "sentences", "qas"}]}]}

    de.json, paragraph 12    sentences [0, 58) [59, 120)     corpus.jsonl   p12.de.s0  p12.de.s1
                             question 56be, answer at 71     queries.jsonl  56be.de
    all files                relevant(56be.*) = the sentences that hold 56be's answer, one a file

Where to look next: fetch.py here for errors and files, data/xquad_r and data/mlqa_r for its users.
Differs from the LAReQA paper in nothing that a metric sees: the same candidates, the same gold.
"""

from dataclasses import dataclass
from pathlib import Path

from data.fetch import expect, field, read_json

# LAReQA's readme has the first two. A crossing is an answer that runs over the end of its
# sentence: counted by this project, it moves as soon as someone re-splits the text.
COUNTED = "candidates, questions, crossings"
PRINTED_ROW = "{:4}{:>12}{:>11}{:>11}"


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

    *Errors*: SourceError for a border too few, backwards or outside the context.
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
    *Errors*: SourceError for a place in no sentence or in two.
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

    *Errors*: SourceError for several answers, and for one that does not stand at its offset.
    """
    question_id = field(qa, "id", str, where)
    text = field(qa, "question", str, where)
    where = f"{where}, question {question_id}"  # an id is what one greps for
    answers = field(qa, "answers", list, where)
    expect(where, "answers", 1, len(answers))  # SQuAD dev has several, these sets have one
    answer = field(answers[0], "text", str, where)
    start = field(answers[0], "answer_start", int, where)
    end = start + len(answer)
    # The guard against a normalised copy: an NFC pass over ar or hi shifts all that follows
    expect(where, f"context[{start}:{end}]", repr(answer), repr(context[start:end]))
    gold = find_sentence(start, sentences, where)
    return Question(question_id, text, answer, gold, end > sentences[gold].end)


# ---- one language --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paragraph:
    """A paragraph with the title of its article, and its place in the file, from 0."""

    number: int
    title: str
    content: dict


def read_paragraphs(path: Path) -> list[Paragraph]:
    """The paragraphs of all articles in file order.

    *Errors*: SourceError for a file that is not as described above.
    """
    paragraphs = []
    for article in field(read_json(path), "data", list, path):
        title = field(article, "title", str, path)
        for content in field(article, "paragraphs", list, path):
            paragraphs.append(Paragraph(len(paragraphs), title, content))
    return paragraphs


@dataclass
class Language:
    """What one published file becomes."""

    passages: list[dict]  # rows of corpus.jsonl
    queries: list[dict]  # rows of queries.jsonl
    gold: dict[str, str]  # question -> id of the passage that answers it
    article: dict[str, str]  # question -> title of its article
    paragraph: dict[str, int]  # question, and passage id -> number of its paragraph
    crossings: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """Those of COUNTED."""
        return len(self.passages), len(self.queries), self.crossings


def read_language(path: Path, lang: str) -> Language:
    """Read one language's file.

    *Errors*: SourceError that names file, paragraph and question, for what is not as published.
    """
    language = Language([], [], {}, {}, {}, 0)
    for paragraph in read_paragraphs(path):
        where = f"{path}: paragraph {paragraph.number}"  # from 0, as in the ids
        sentences = read_sentences(paragraph.content, where)
        context = paragraph.content["context"]
        # No "group": s3 in German need not translate s3 in Thai, only questions are parallel. That
        # two of them share a gold sentence is in the qrels
        ids = [f"p{paragraph.number}.{lang}.s{i}" for i in range(len(sentences))]
        # Sentences that read alike stay: identity is place, not text
        for passage_id, sentence in zip(ids, sentences, strict=True):
            row = {"_id": passage_id, "lang": lang, "text": sentence.text, "context": context}
            language.passages.append(row)
            language.paragraph[passage_id] = paragraph.number
        for qa in field(paragraph.content, "qas", list, where):
            question = read_question(qa, context, sentences, where)
            is_old = question.id in language.gold
            expect(where, f"question {question.id} met before", False, is_old)
            language.gold[question.id] = ids[question.gold]
            language.article[question.id] = paragraph.title
            language.paragraph[question.id] = paragraph.number
            language.crossings += question.crosses  # kept as they are, only counted
            row = {
                "_id": f"{question.id}.{lang}",
                "lang": lang,
                "group": question.id,
                "text": question.text,
                "answer": question.answer,
            }
            language.queries.append(row)
    return language


# ---- all languages -------------------------------------------------------------------------------


def read_languages(source: Path, published: dict[str, tuple]) -> dict[str, Language]:
    """Read LANG.json for all languages and print their counts.

    *Errors*: SourceError for counts that are not the published ones.
    """
    print(PRINTED_ROW.format("lang", *COUNTED.split(", ")))
    languages = {}
    for lang, counts in published.items():
        path = source / f"{lang}.json"
        languages[lang] = read_language(path, lang)
        # Before the check: most wanted if it is wrong
        print(PRINTED_ROW.format(lang, *languages[lang].counts))
        expect(path, COUNTED, counts, languages[lang].counts)
    return languages


def all_rows(languages: dict[str, Language]) -> tuple[list[dict], list[dict]]:
    """The passages and the queries of all languages, one language after the other."""
    passages, queries = [], []
    for language in languages.values():
        passages += language.passages
        queries += language.queries
    return passages, queries


def qrels_lines(queries: list[dict], languages: dict[str, Language]) -> list[str]:
    """A file of qrels/: each query with the gold sentence of each language that asks it."""
    lines = ["query-id\tcorpus-id\tscore"]
    for query in queries:
        for language in languages.values():
            if query["group"] in language.gold:
                lines.append(f"{query['_id']}\t{language.gold[query['group']]}\t1")
    return lines
