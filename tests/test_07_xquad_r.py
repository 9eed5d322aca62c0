"""Rung 7: published data enters through the one format, and its counts are checked.

Builds: data/fetch.py, data/lareqa.py, data/xquad_r/prepare.py. Before: rung 0.
Run: pytest tests/test_07_xquad_r.py
(The last tests look at the real files, once data/xquad_r/prepare.py has fetched them.)
"""

import hashlib
import json
from collections import Counter

import pytest
from conftest import ROOT

from data.fetch import SourceError
from data.lareqa import read_language
from data.xquad_r import prepare
from xlt import load_data

# Two sentences that read alike, and a third with one of the characters that are no line end:
# "Yes." is [0, 4) and [5, 9), the rest [10, 25). Borders leave the blanks out.
CONTEXT = "Yes. Yes. It rains\u2028today."
SENTENCES = ["Yes.", "Yes.", "It rains\u2028today."]
BORDERS = [[0, 4], [5, 9], [10, 25]]


def question(name, start, text):
    """A question as SQuAD writes it, with one answer."""
    answers = [{"answer_start": start, "text": text}]
    return {"id": name, "question": f"{name}?", "answers": answers}


def write_paragraph(path, questions, **changes):
    """A file of one paragraph, as published but for the changes; its path."""
    paragraph = {
        "context": CONTEXT,
        "sentences": SENTENCES,
        "sentence_breaks": BORDERS,
        "qas": questions,
    }
    content = {"data": [{"title": "t", "paragraphs": [paragraph | changes]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# ---- one language --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "answer", "gold_sentence"),
    [
        (0, "Yes", "p0.en.s0"),
        (5, "Yes", "p0.en.s1"),
        (10, "It", "p0.en.s2"),
        (7, "s. It", "p0.en.s1"),
    ],
)
def test_the_gold_sentence_holds_the_answers_first_letter(tmp_path, start, answer, gold_sentence):
    """Claim: the sentence is found by the offset of the answer.

    Number: by eye; "s. It" runs over the end of sentence 1 and belongs to it.
    Catches: a sentence looked up by its text (twins), or by the answer's end.
    """
    path = write_paragraph(tmp_path / "x.json", [question("a", start, answer)])
    assert read_language(path, "en").gold == {"a": gold_sentence}


def test_answers_that_cross_a_border_are_counted(tmp_path):
    """Claim: they are kept, and their number is told.

    Number: "s. It" crosses; "Yes." ends exactly at its sentence's end and does not.
    Catches: `>=` for `>`; crossing answers dropped.
    """
    questions = [question("a", 5, "Yes."), question("b", 7, "s. It")]
    path = write_paragraph(tmp_path / "x.json", questions)
    language = read_language(path, "en")
    assert len(language.queries) == 2
    assert language.gold == {"a": "p0.en.s1", "b": "p0.en.s1"}
    assert language.crossings == 1


def test_all_sentences_become_passages(tmp_path):
    """Claim: each with its place as its id, and its paragraph; twins and U+2028 stay.

    Number: three sentences.
    Catches: sentences told apart by their text; a group, though sentence 3 of one language need
    not translate sentence 3 of another.
    """
    path = write_paragraph(tmp_path / "x.json", [])
    rest = {"lang": "de", "context": CONTEXT}
    assert read_language(path, "de").passages == [
        {"_id": "p0.de.s0", "text": "Yes.", **rest},
        {"_id": "p0.de.s1", "text": "Yes.", **rest},
        {"_id": "p0.de.s2", "text": "It rains\u2028today.", **rest},
    ]


def test_a_question_becomes_a_query_with_group_and_answer(tmp_path):
    """Claim: the published id is the group of all translations; the answer is protected later.

    Number: by eye.
    Catches: an id without its language, which is the same eleven times.
    """
    path = write_paragraph(tmp_path / "x.json", [question("a", 10, "It")])
    [query] = read_language(path, "de").queries
    assert query == {"_id": "a.de", "lang": "de", "text": "a?", "group": "a", "answer": "It"}


# ---- what is refused -----------------------------------------------------------------------------


def test_an_answer_that_is_not_at_its_offset_is_refused(tmp_path):
    """Claim: the question, the words that are there and those that should be.

    Number: one too far.
    Catches: a normalised copy of the file, in which all offsets after an accent are wrong.
    """
    path = write_paragraph(tmp_path / "x.json", [question("a", 6, "Yes")])
    with pytest.raises(SourceError, match="question a: .*expected 'Yes', found 'es.'"):
        read_language(path, "en")


def test_an_answer_between_two_sentences_is_refused(tmp_path):
    """Claim: an answer begins in one sentence.

    Number: the blank at 4.
    Catches: the next sentence, or none, as its gold.
    """
    path = write_paragraph(tmp_path / "x.json", [question("a", 4, " Yes")])
    with pytest.raises(SourceError, match="that hold 4: expected 1, found 0"):
        read_language(path, "en")


def test_a_question_that_stands_twice_is_refused(tmp_path):
    """Claim: an id is one question.

    Catches: the second one's gold sentence put over the first one's.
    """
    path = write_paragraph(tmp_path / "x.json", [question("a", 0, "Yes"), question("a", 10, "It")])
    with pytest.raises(SourceError, match="question a met before"):
        read_language(path, "en")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": ["Yes."]}, "one a border: expected 3, found 1"),
        ({"sentence_breaks": [[0, 4], [5, 9], [10, 26]]}, "inside 25"),
        ({"sentence_breaks": [[4, 0], [5, 9], [10, 25]]}, "inside 25"),
        ({"context": None}, '"context" must be str'),
        ({"qas": {}}, '"qas" must be list'),
    ],
)
def test_a_broken_paragraph_is_refused(tmp_path, changes, message):
    """Claim: file, paragraph and what was expected.

    Number: one thing broken at a time.
    Catches: zip(), which drops sentences silently; a KeyError.
    """
    path = write_paragraph(tmp_path / "x.json", [], **changes)
    with pytest.raises(SourceError, match=message) as error:
        read_language(path, "en")
    assert str(error.value).startswith(f"{path}: paragraph 0")


def test_a_file_that_is_not_json_is_refused(tmp_path):
    """Claim: the file.

    Number: a page that says "not found" instead of the file.
    Catches: a JSONDecodeError without a name.
    """
    (tmp_path / "x.json").write_text("404: Not Found")
    with pytest.raises(SourceError, match="x.json: is not a readable JSON file"):
        read_language(tmp_path / "x.json", "en")


# ---- all languages -------------------------------------------------------------------------------


@pytest.fixture
def two_languages(tmp_path, monkeypatch):
    """A published data set of two languages and one question, whose answer moved in German."""
    monkeypatch.setattr(prepare, "PUBLISHED", {"de": (3, 1, 0), "en": (3, 1, 1)})
    monkeypatch.setattr(prepare, "TOTAL", (6, 2, 1, 4))
    source = tmp_path / "published"
    source.mkdir()
    write_paragraph(source / "de.json", [question("a", 10, "It")])
    write_paragraph(source / "en.json", [question("a", 7, "s. It")])
    return source


def test_the_languages_meet_in_the_qrels(two_languages, tmp_path):
    """Claim: each query has the gold sentence of every language; the loader reads the folder.

    Number: passages 0 to 2 are German, 3 to 5 English; gold are German s2 and English s1.
    Catches: the gold sentence of the query's own language alone, or its place in all of them.
    """
    out = tmp_path / "out"
    assert prepare.main(["--source", str(two_languages), "--out", str(out)]) == 0
    data = load_data(out)
    assert [query.id for query in data.queries] == ["a.de", "a.en"]
    assert data.qrels == {"test": {0: {2: 1.0, 4: 1.0}, 1: {2: 1.0, 4: 1.0}}}


def test_texts_arrive_unchanged(two_languages, tmp_path):
    """Claim: what was published is what is encoded.

    Number: U+2028, which stands unescaped in the file.
    Catches: a row that is cut at U+2028, by us or by the loader.
    """
    out = tmp_path / "out"
    prepare.main(["--source", str(two_languages), "--out", str(out)])
    assert load_data(out).passages[2].text == "It rains\u2028today."
    assert "\u2028" in (out / "corpus.jsonl").read_text(encoding="utf-8")


def test_counts_that_are_not_the_published_ones_are_refused(two_languages, tmp_path, capsys):
    """Claim: exit 1, file and both counts named, nothing written.

    Number: a second question in English, (3, 2, 1) for (3, 1, 1).
    Catches: half a download, or another version of the files.
    """
    questions = [question("a", 7, "s. It"), question("b", 0, "Yes")]
    write_paragraph(two_languages / "en.json", questions)
    out = tmp_path / "out"
    assert prepare.main(["--source", str(two_languages), "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "en.json" in message
    assert "expected (3, 1, 1), found (3, 2, 1)" in message
    assert "Download https://" in message
    assert not out.exists()


def test_a_question_of_one_language_only_is_refused(two_languages, tmp_path, capsys):
    """Claim: every question is asked in every language.

    Number: as many questions as published, one under another id.
    Catches: two files of different versions.
    """
    write_paragraph(two_languages / "en.json", [question("b", 7, "s. It")])
    out = tmp_path / "out"
    assert prepare.main(["--source", str(two_languages), "--out", str(out)]) == 1
    assert "expected [], found ['b']" in capsys.readouterr().err


def test_a_source_that_is_no_folder_is_refused(tmp_path, capsys):
    """Claim: exit 2, as for any flag that is wrong.

    Catches: eleven files fetched, since the folder was mistyped.
    """
    with pytest.raises(SystemExit, match="2"):
        prepare.main(["--source", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_the_published_counts_add_up():
    """Claim: the counts that prepare.py compares with are the paper's.

    Number: 13,014 candidates and 11 * 1,190 = 13,090 questions in LAReQA's readme, 112 crossings,
    11 * 13,090 = 143,990 relevant pairs.
    Catches: a typing error in one of 33 numbers.
    """
    counts = list(prepare.PUBLISHED.values())
    assert len(counts) == 11
    assert sum(candidates for candidates, _, _ in counts) == 13014
    assert {questions for _, questions, _ in counts} == {1190}
    assert sum(crossings for _, _, crossings in counts) == 112
    assert prepare.TOTAL == (13014, 13090, 112, 143990)


# ---- the real files, if they are here ------------------------------------------------------------


REAL = ROOT / "data/xquad_r"
needs_real_files = pytest.mark.skipif(
    not (REAL / "corpus.jsonl").exists(), reason="run data/xquad_r/prepare.py to have them"
)


@needs_real_files
@pytest.mark.parametrize(
    ("name", "begin_of_hash"),
    [
        ("corpus.jsonl", "2d721001cbeff7da"),
        ("queries.jsonl", "6a8f547446d997e4"),
        ("qrels/test.tsv", "3548468e7fa05fac"),
    ],
)
def test_the_converted_files_are_those_of_the_readme(name, begin_of_hash):
    """Claim: the same input gives the same bytes on every machine.

    Number: SHA-256 in data/xquad_r/readme.md.
    Catches: a conversion that was changed without saying so.
    """
    digest = hashlib.sha256((REAL / name).read_bytes()).hexdigest()
    assert digest.startswith(begin_of_hash)


@needs_real_files
def test_every_published_question_has_eleven_answers():
    """Claim: one gold sentence in each language.

    Number: 13,014 passages, 13,090 queries, 11 each.
    Catches: a language that was left out.
    """
    data = load_data(REAL)
    assert len(data.passages) == 13014
    counts = Counter(len(relevant) for relevant in data.qrels["test"].values())
    assert counts == {11: 13090}
