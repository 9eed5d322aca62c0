"""Rung 7, continued: a data set to train on, split so that nothing leaks.

Builds: data/mlqa_r/prepare.py. Before: test_07_xquad_r. Run: pytest tests/test_07_mlqa_r.py
(The last tests look at the real files, once both prepare.py have fetched them.)
"""

import json
import zlib

import pytest
from conftest import ROOT

from data.fetch import SourceError
from data.lareqa import read_languages
from data.mlqa_r import prepare
from xlt import load_data

# crc32("b") % 8 is 1 and crc32("f") % 8 is 0, see the first test
TRAIN_TITLE, DEV_TITLE = "b", "f"


def article(title, question, text, answer):
    """An article of one paragraph of two sentences; the second one answers its only question."""
    context = f"{text} {answer}"
    answers = [{"answer_start": len(text) + 1, "text": answer}]
    paragraph = {
        "context": context,
        "sentences": [text, answer],
        "sentence_breaks": [[0, len(text)], [len(text) + 1, len(context)]],
        "qas": [{"id": question, "question": f"{question}?", "answers": answers}],
    }
    return {"title": title, "paragraphs": [paragraph]}


def write_language(folder, lang, articles):
    """A file as published."""
    text = json.dumps({"data": articles}, ensure_ascii=False)
    (folder / f"{lang}.json").write_text(text, encoding="utf-8")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """English with three articles, German with two of their questions under titles of its own."""
    source = tmp_path / "published"
    source.mkdir()
    english = [
        article(TRAIN_TITLE, "q1", "One.", "It rains."),
        article(DEV_TITLE, "q2", "Two.", "It snows."),
        article(TRAIN_TITLE, "q3", "Three.", "It pours."),
    ]
    german = [
        article("x", "q2", "Zwei.", "Es schneit."),
        article("y", "q1", "Eins.", "Es regnet."),
    ]
    write_language(source, "en", english)
    write_language(source, "de", german)
    monkeypatch.setattr(prepare, "PUBLISHED", {"de": (4, 2, 0), "en": (6, 3, 0)})
    monkeypatch.setattr(prepare, "TOTAL", (10, 5, 0))
    monkeypatch.setattr(prepare, "SHARED", {1: 1, 2: 2})
    monkeypatch.setattr(prepare, "SHARED_WITH_XQUAD", {"en": (2,)})
    return source


def prepared(source, out, *flags):
    """The folder that prepare.py makes."""
    assert prepare.main(["--source", str(source), "--out", str(out), *flags]) == 0
    return load_data(out)


def judged(data, split):
    """Ids of the queries of a split, and of the passages that answer them."""
    pairs = {}
    for query, relevant in data.qrels[split].items():
        pairs[data.queries[query].id] = [data.passages[passage].id for passage in relevant]
    return pairs


def test_one_article_in_eight_is_for_choosing(tmp_path):
    """Number: CRC-32 of the titles "b" and "f", from Python's zlib. Catches: hash(), which is
    another one in every process; the share of train and dev exchanged."""
    assert zlib.crc32(b"b") % 8 != 0
    assert zlib.crc32(b"f") % 8 == 0
    assert prepare.split_of(TRAIN_TITLE) == "train"
    assert prepare.split_of(DEV_TITLE) == "dev"
    titles = [str(number) for number in range(4000)]
    share = sum(prepare.split_of(title) == "dev" for title in titles) / len(titles)
    assert 0.11 < share < 0.14, "1/8, give or take three standard deviations of .005"


def test_the_english_article_decides_the_split(published, tmp_path):
    """Claim: a question is in one split in all its languages, with an answer in each.

    Number: q2's article is "f"; q3 is in a paragraph that shares text with XQuAD.
    Catches: German titles asked, q3 trained on, an answer in the query's language alone.
    """
    data = prepared(published, tmp_path / "out")
    both = ["p1.de.s1", "p0.en.s1"]
    assert judged(data, "train") == {"q1.de": both, "q1.en": both}
    dev = ["p0.de.s1", "p1.en.s1"]
    assert judged(data, "dev") == {"q2.de": dev, "q2.en": dev}


def test_test_holds_all_questions(published, tmp_path):
    """Claim: for those who train elsewhere. Number: five queries. Catches: q3 lost, as in train."""
    data = prepared(published, tmp_path / "out")
    assert list(judged(data, "test")) == ["q2.de", "q1.de", "q1.en", "q2.en", "q3.en"]
    assert judged(data, "test")["q3.en"] == ["p2.en.s1"]


def test_dev_alone_is_the_paragraphs_of_its_questions(published, tmp_path):
    """Number: q2 has one paragraph of two sentences in each language.

    Catches: passages of train among the candidates; a split that is not there.
    """
    data = prepared(published, tmp_path / "out", "--dev-only")
    assert [passage.id for passage in data.passages] == [
        "p0.de.s0", "p0.de.s1", "p1.en.s0", "p1.en.s1",
    ]  # fmt: skip
    assert list(data.qrels) == ["dev"]
    assert list(judged(data, "dev")) == ["q2.de", "q2.en"]


def test_a_paragraph_with_questions_of_both_splits_is_refused(published):
    """Claim: no paragraph is in train and in dev. Number: German has q1 and q2 in one paragraph.

    Catches: a text that was trained on among those on which settings are chosen.
    """
    joint = article("x", "q2", "Zwei.", "Es schneit.")
    other = article("y", "q1", "Zwei.", "Es schneit.")
    joint["paragraphs"][0]["qas"] += other["paragraphs"][0]["qas"]
    write_language(published, "de", [joint, article("y", "q4", "Vier.", "Es hagelt.")])
    prepare.PUBLISHED["de"] = (4, 3, 0)
    languages = read_languages(published, prepare.PUBLISHED)
    with pytest.raises(SourceError, match="de.json: paragraph 0: split of q1"):
        prepare.splits_of_questions(languages)


def test_a_question_that_english_lacks_is_refused(published, tmp_path, capsys):
    """Claim: English has every question. Catches: two files of different versions."""
    german = [
        article("x", "q2", "Zwei.", "Es schneit."),
        article("y", "q9", "Eins.", "Es regnet."),
    ]
    write_language(published, "de", german)
    prepare.SHARED.update({1: 2, 2: 1})
    assert prepare.main(["--source", str(published), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "de.json: questions that en.json has not: expected [], found ['q9']" in message
    assert "Download https://" in message


def test_the_published_counts_of_mlqa_r_add_up():
    """Number: LAReQA's figures for candidates, MLQA's for questions; 820 questions are asked in
    four languages, 263 in three, 65 in two. Catches: a typing error in one of 24 numbers."""
    counts = list(prepare.PUBLISHED.values())
    assert len(counts) == 7
    columns = [sum(column) for column in zip(*counts, strict=True)]
    assert tuple(columns) == prepare.TOTAL == (20534, 4199, 25)
    assert sum(prepare.SHARED.values()) == 1148
    assert sum(langs * number for langs, number in prepare.SHARED.items()) == 4199


# ---- the real files, if they are here ------------------------------------------------------------


MLQA, XQUAD = ROOT / "data/mlqa_r", ROOT / "data/xquad_r"
needs_real_files = pytest.mark.skipif(
    not ((MLQA / "corpus.jsonl").exists() and (XQUAD / "corpus.jsonl").exists()),
    reason="run data/mlqa_r/prepare.py and data/xquad_r/prepare.py to have them",
)


def eight_grams(text, lang):
    """Every eight words in a row, without case and punctuation; words are parted by blanks.

    In Vietnamese blanks part syllables, mostly two a word: sixteen of them.
    """
    size = 16 if lang == "vi" else 8
    words = []
    for word in text.casefold().split():
        letters = "".join(letter for letter in word if letter.isalnum())
        if letters:
            words.append(letters)
    return {tuple(words[i : i + size]) for i in range(len(words) + 1 - size)}


@needs_real_files
def test_nothing_that_is_trained_on_stands_in_xquad():
    """Claim: no paragraph of train or dev shares eight words in a row with XQuAD's in its language.

    (In Chinese, which has no blanks, eight stretches between commas.)
    Catches: a test set that was partly trained on.
    """
    mlqa, xquad = load_data(MLQA), load_data(XQUAD)
    known = {}  # language -> eight-grams
    for context, lang in {(passage.context, passage.lang) for passage in xquad.passages}:
        known.setdefault(lang, set()).update(eight_grams(context, lang))
    passages = set()
    for split in ("train", "dev"):
        for relevant in mlqa.qrels[split].values():
            passages.update(relevant)
    shared = []
    for passage in sorted(passages):
        text = mlqa.passages[passage]
        if eight_grams(text.context, text.lang) & known[text.lang]:
            shared.append(text.id)
    assert shared == []


@needs_real_files
def test_no_paragraph_of_mlqa_is_in_two_splits():
    """Catches: a split by question, which trains on the paragraphs that it chooses on."""
    data = load_data(MLQA)
    contexts = {}
    for split in ("train", "dev"):
        contexts[split] = set()
        for relevant in data.qrels[split].values():
            contexts[split].update(data.passages[passage].context for passage in relevant)
    assert len(contexts["train"]) > 5 * len(contexts["dev"]) > 0
    assert not contexts["train"] & contexts["dev"]
