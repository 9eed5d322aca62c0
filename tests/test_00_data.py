"""Rung 0: a folder of texts becomes a data set, and bad input becomes one clear error.

Builds: xlt.load_data, and the few helpers that every program needs: named random streams, JSON
files that are never half written. Before: nothing. Run: pytest tests/test_00_data.py
"""

import argparse
import hashlib
import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import CORPUS, QRELS, QUERIES, write_folder

from xlt import (
    Help,
    Text,
    all_langs,
    base_language,
    choose,
    derive_seed,
    generator,
    load_data,
    versions,
    write_json,
)

# ---- a good folder -------------------------------------------------------------------------------


def test_texts_keep_the_order_of_their_file(folder):
    """Claim: position i of a list is row i of the file.

    Number: the order of conftest.CORPUS, which is not the alphabet's (a.de would stand first).
    Catches: texts sorted by id.
    """
    data = load_data(folder)
    assert [passage.id for passage in data.passages] == ["a.en", "a.de", "b.en", "b.de"]
    assert [query.id for query in data.queries] == ["q1.en", "q1.de", "q2.en", "q2.de"]


def test_a_passage_with_all_optional_fields_is_read_whole(tmp_path):
    """Claim: each key of the format arrives in its own field, the title put before the text.

    Number: by eye; no two fields hold the same.
    Catches: a title that is dropped, a group that is the id, a context that is dropped.
    """
    row = {
        "_id": "p12.de",
        "lang": "de",
        "title": "Paris",
        "text": "Paris ist groß.",
        "group": "p12",
        "context": "Es war einmal. Paris ist groß.",
        "answer": "groß",
    }
    write_folder(tmp_path, [row], [QUERIES[0]], ["q1.en\tp12.de\t1"])
    passage = load_data(tmp_path).passages[0]
    assert passage.id == "p12.de"
    assert passage.lang == "de"
    assert passage.text == "Paris Paris ist groß."
    assert passage.group == "p12"
    assert passage.context == "Es war einmal. Paris ist groß."
    assert passage.answer == "groß"


def test_a_query_with_all_optional_fields_is_read_whole(tmp_path):
    """Claim: queries are read as passages are, with their answer.

    Number: by eye.
    Catches: an answer that is not read, so that attacks replace the answer's words.
    """
    row = {
        "_id": "q7.de",
        "lang": "de",
        "text": "Was ist groß?",
        "group": "q7",
        "answer": "Paris",
    }
    write_folder(tmp_path, CORPUS, [row], ["q7.de\ta.de\t1"])
    expected = Text(id="q7.de", lang="de", text="Was ist groß?", group="q7", answer="Paris")
    assert load_data(tmp_path).queries == [expected]


def test_qrels_speak_of_positions(folder):
    """Claim: query position -> {passage position: relevance}.

    Number: q2.de is row 3 of the queries; its answers b.en and b.de are rows 2 and 3.
    Catches: passages looked up among the queries.
    """
    data = load_data(folder)
    assert sorted(data.qrels) == ["test", "train"]
    assert data.qrels["test"][3] == {2: 1.0, 3: 1.0}


def test_a_relevance_keeps_its_value(tmp_path):
    """Claim: a graded judgement stays graded.

    Number: 2 in the file, 2.0 in memory.
    Catches: relevance read as yes or no.
    """
    write_folder(tmp_path, qrels=["q1.en\ta.en\t2", "q1.en\ta.de\t1"])
    assert load_data(tmp_path).qrels["test"] == {0: {0: 2.0, 1: 1.0}}


def test_languages_are_those_of_queries_and_of_passages(tmp_path):
    """Claim: all_langs is the union of both files, sorted.

    Number: French has a query only, German and English have passages only.
    Catches: the languages of one file taken for those of the data set.
    """
    query = {"_id": "q1.fr", "lang": "fr", "text": "Quelle est la capitale ?"}
    write_folder(tmp_path, CORPUS, [query], ["q1.fr\ta.en\t1"])
    assert all_langs(load_data(tmp_path)) == ["de", "en", "fr"]


# ---- a folder of BEIR's --------------------------------------------------------------------------


def test_a_plain_beir_row_gets_language_group_and_title(tmp_path):
    """Claim: without "lang" it is "und", without "group" it is the id, the title stands first.

    Number: by eye.
    Catches: keys required that BEIR lacks; an unknown key ("metadata") refused.
    """
    corpus = [{"_id": "d1", "title": "Cats", "text": "They purr.", "metadata": {"url": 1}}]
    write_folder(tmp_path, corpus, [{"_id": "q", "text": "Who purrs?"}], ["q\td1\t1"])
    assert load_data(tmp_path).passages == [Text("d1", "und", "Cats They purr.", "d1")]


def test_an_empty_group_is_the_id_as_well(tmp_path):
    """Claim: "group": "" means "none given".

    Number: two passages without a group are two groups, "a" and "b".
    Catches: all such passages in one group, each a false negative of the others.
    """
    corpus = [{"_id": name, "text": "hello", "group": ""} for name in "ab"]
    write_folder(tmp_path, corpus, QUERIES, ["q1.en\ta\t1"])
    assert [passage.group for passage in load_data(tmp_path).passages] == ["a", "b"]


def test_a_query_and_a_passage_with_one_id_are_two_things(tmp_path):
    """Claim: each file has its own table of ids.

    Number: "x" is row 1 of the corpus and row 0 of the queries.
    Catches: one table for both, and BEIR's way of dropping a passage with its query's id.
    """
    corpus = [{"_id": "y", "text": "Dogs bark."}, {"_id": "x", "text": "Cats purr."}]
    write_folder(tmp_path, corpus, [{"_id": "x", "text": "Who purrs?"}], ["x\tx\t1"])
    assert load_data(tmp_path).qrels["test"] == {0: {1: 1.0}}


# ---- texts are left alone ------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_only_a_newline_ends_a_row(tmp_path, separator):
    """Claim: characters that look like line ends to Python stay inside a text.

    Number: U+2028 and U+0085 stand in XQuAD; json.dumps writes them unescaped.
    Catches: splitlines(), which cuts the row in two.
    """
    text = f"one{separator}two"
    write_folder(tmp_path, [CORPUS[0] | {"text": text}, *CORPUS[1:]])
    assert load_data(tmp_path).passages[0].text == text


def test_a_text_is_neither_stripped_nor_normalised(tmp_path):
    """Claim: what is in the file is what is encoded.

    Number: an e with its accent as a second character, and a blank at either end.
    Catches: NFC, which makes the text a character shorter, and strip().
    """
    text = " cafe\u0301 "
    write_folder(tmp_path, [CORPUS[0] | {"text": text}, *CORPUS[1:]])
    assert load_data(tmp_path).passages[0].text == text


def test_rows_judged_irrelevant_are_counted_not_lost(tmp_path):
    """Claim: score 0 says "not relevant" and is counted.

    Number: b.en is row 2 of the corpus; one such row.
    Catches: qrels read as a set of pairs, which makes b.en an answer.
    """
    write_folder(tmp_path, qrels=[*QRELS, "q1.en\tb.en\t0"], splits=["test"])
    data = load_data(tmp_path)
    assert data.qrels["test"][0] == {0: 1.0, 1: 1.0}
    assert data.dropped == {"test": 1}


# ---- bad rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"_id": "x", "text": ', "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ({"text": "hello"}, '"_id" is missing. Every line needs "_id" and "text"'),
        ({"_id": "x"}, '"text" is missing. Every line needs "_id" and "text"'),
        ("[" * 100_000, "no JSON object"),
        ({"_id": 7, "text": "hello"}, '"_id" is 7, not a string. Write one, in quotes'),
        ({"_id": "x", "text": "hello", "group": 7}, '"group" is 7, not a string'),
        ({"_id": "x", "text": "hello", "lang": "German"}, "unknown language 'German'. Write"),
        ({"_id": "x", "text": "hello", "lang": "d"}, "unknown language 'd'. Write"),
        ({"_id": "x", "text": "hello", "language": "de"}, '"language" is no key of a text. Call'),
        ({"_id": "a.en", "text": "Other."}, "duplicate id 'a.en', see line 1. Rename it"),
        ('{"_id": "x", "text": "one", "text": "two"}', '"text" stands twice'),
        ('{"_id": "x", "text": "hello \\ud83d"}', "holds '\\ud83d', half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_remedy(tmp_path, row, message):
    """Claim: the error names file, line, value and what to do.

    Number: line 5, after four good rows.
    Catches: a KeyError or JSONDecodeError without a place; a check that is left out.
    """
    write_folder(tmp_path, [*CORPUS, row])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_data(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/corpus.jsonl:5: ")


def test_a_refusal_shows_the_row(tmp_path):
    """Claim: the row itself stands at the end of the message.

    Number: one row, as it is in the file.
    Catches: an error for which one has to open the file.
    """
    write_folder(tmp_path, ['{"text": "hello"}'])
    with pytest.raises(ValueError, match=re.escape('Row: {"text": "hello"}')):
        load_data(tmp_path)


def test_a_refusal_is_short_whatever_the_row_holds(tmp_path):
    """Number: 200 NULs, as a crash leaves them; each is shown in four characters, 30 of them fit.

    Catches: a message that is cut first and grows then.
    """
    write_folder(tmp_path, ["\0" * 200])
    with pytest.raises(ValueError, match=r"Row: (\\x00){30}$"):
        load_data(tmp_path)


def test_blank_lines_are_passed_over_but_counted(tmp_path):
    """Claim: a blank line is no row, yet a line for whoever looks the error up.

    Number: two blank lines, four good rows, so the bad one is line 7.
    Catches: numbering the rows, which gives 5.
    """
    write_folder(tmp_path, ["", "  ", *CORPUS, {"_id": "x"}])
    with pytest.raises(ValueError, match='corpus.jsonl:7: "text" is missing'):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1.en\ta.en\tyes", "is no number. Write 1"),
        ("q1.en\ta.en\tnan", "is no number. Write 1"),
        ("q1.en\ta.en\tinf", "is no number. Write 1"),
        ("q1.en\ta.en\t1e400", "the score '1e400' is too large"),
        ("q1.en\ta.en\t1_0", "is no number. Write 1"),
        ("q1.en a.en 1", "is not query-id, corpus-id, score with tabs"),
        ("q1.en\ta.en\t2", "stands twice, with two scores. Delete a row"),
    ],
)
def test_a_bad_qrels_row_is_refused_with_file_and_line(tmp_path, row, message):
    """Claim: scores are finite numbers, a pair has one.

    Number: line 10, after a header and eight good rows.
    Catches: float(), which takes nan, 1e400 and 1_0; the second judgement put over the first.
    """
    write_folder(tmp_path, qrels=[*QRELS, row], splits=["test"])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_data(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/qrels/test.tsv:10: ")


def test_a_long_row_of_digits_is_refused_at_once(folder):
    """Number: 20,000 digits and a letter take 1 ms; they took ten seconds.

    Catches: a regular expression that tries every way to cut the digits in two.
    """
    with open(folder / "qrels/test.tsv", "a", encoding="utf-8") as out:
        out.write("q1.en\ta.en\t" + "1" * 20_000 + "x\n")
    start = time.time()
    with pytest.raises(ValueError, match="test.tsv:10: "):
        load_data(folder)
    assert time.time() - start < 2


def test_a_pair_that_is_judged_twice_is_refused_also_after_a_zero(tmp_path):
    """Claim: a pair is judged once, whatever the scores.

    Number: 0 in line 10, 1 in line 11.
    Catches: looking among the relevant passages, where the pair of score 0 is not.
    """
    rows = [*QRELS, "q1.en\tb.en\t0", "q1.en\tb.en\t1"]
    write_folder(tmp_path, qrels=rows, splits=["test"])
    with pytest.raises(ValueError, match="test.tsv:11: 'q1.en', 'b.en' stands twice"):
        load_data(tmp_path)


# ---- rows that a data set can do without ---------------------------------------------------------

EMPTY = {"_id": "x", "text": " \n"}
SUPERFLUOUS = [
    ("corpus", EMPTY, "texts without words", '"text" is empty. Give it words or delete the line'),
    ("corpus", {"_id": "x", "text": "\u0301\u200b\ufeff"}, "texts without words", "is empty"),
    ("corpus", CORPUS[0], "texts that stand twice", "duplicate id 'a.en', see line 1. Delete it"),
    ("qrels", "q9\ta.en\t1", "qrels rows of a query that is not there", "unknown id 'q9'. Add"),
    ("qrels", "q1.en\tz\t1", "qrels rows of a passage that is not there", "unknown id 'z'. Add"),
    ("qrels", QRELS[0], "qrels rows that stand twice", "stands twice. Delete a row"),
]


def write_superfluous(folder, file, row):
    """The world of four sentences with one row more, and what it is without that row."""
    if file == "corpus":
        return write_folder(folder, [*CORPUS, row], splits=["test"])
    return write_folder(folder, qrels=[*QRELS, row], splits=["test"])


@pytest.mark.parametrize(("file", "row", "kind", "message"), SUPERFLUOUS)
def test_what_says_nothing_new_is_left_out_and_counted(tmp_path, file, row, kind, message):
    """Claim: the rest of the folder is as if the row were not there; the first one is shown.

    Number: one row.
    Catches: a folder of a million rows refused for one of them; rows that vanish without a word.
    """
    data = load_data(write_superfluous(tmp_path, file, row))
    assert len(data.passages) == 4
    assert data.qrels["test"][0] == {0: 1.0, 1: 1.0}
    assert data.left_out.counts == {kind: 1}
    (line,) = data.left_out.lines()
    assert line.startswith(f"left out: 1 {kind}. {tmp_path}/")
    assert message in line


@pytest.mark.parametrize(("file", "row", "kind", "message"), SUPERFLUOUS)
def test_strict_refuses_what_says_nothing_new(tmp_path, file, row, kind, message):
    """Claim: file, line, value and remedy, as for a bad row. Catches: a flag that does nothing."""
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_data(write_superfluous(tmp_path, file, row), strict=True)
    place = {"corpus": "corpus.jsonl:5", "qrels": "qrels/test.tsv:10"}[file]
    assert str(error.value).startswith(f"{tmp_path}/{place}: ")


def test_a_relevant_passage_that_is_not_there_is_remembered(tmp_path):
    """Claim: it is missing with its relevance. Number: z has 2, y 0, which is not relevant.

    Catches: an answer that nobody can find left out of what there is to find.
    """
    data = load_data(write_folder(tmp_path, qrels=[*QRELS, "q1.en\tz\t2", "q1.en\ty\t0"]))
    assert data.missing["test"] == {0: {"z": 2.0}}


def test_a_split_without_any_of_its_queries_is_left_out(tmp_path):
    """Claim: a folder sampled for its test split loads. Catches: train.tsv that stops it."""
    write_folder(tmp_path, splits=["test"])
    (tmp_path / "qrels/train.tsv").write_text("q9\ta.en\t1\n")
    data = load_data(tmp_path)
    assert list(data.qrels) == ["test"]
    assert data.left_out.counts == {"qrels rows of a query that is not there": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q9\ta.en\t1", "none of their queries is in queries.jsonl"),
        ("q1.en\tz\t1", "none of its relevant passages is in corpus.jsonl"),
    ],
)
def test_qrels_of_another_data_set_are_refused(tmp_path, row, message):
    """Claim: where nothing fits, nothing is superfluous. Catches: mAP 0 of a folder mixed up."""
    with pytest.raises(ValueError, match=message):
        load_data(write_folder(tmp_path, qrels=[row]))


def test_a_null_is_no_value(tmp_path):
    """Claim: every optional key may be null. Catches: "title": null refused, as BEIR has it."""
    optional = dict.fromkeys(("title", "lang", "group", "context", "answer"))
    corpus = [{"_id": "d1", "text": "They purr.", **optional}]
    write_folder(tmp_path, corpus, [{"_id": "q", "text": "Who purrs?"}], ["q\td1\t1"])
    assert load_data(tmp_path).passages == [Text("d1", "und", "They purr.", "d1")]


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_byte_order_mark_is_taken_off(folder, name):
    """Claim: the file reads as without it. Number: EF BB BF, before a first row: a header with it
    would still be one. Catches: the mark as a part of the first query's id.
    """
    before, file = load_data(folder), folder / name
    content = file.read_bytes()
    if name.endswith(".tsv"):
        content = content.split(b"\n", 1)[1]
    file.write_bytes(b"\xef\xbb\xbf" + content)
    after = load_data(folder)
    assert (after.passages, after.queries) == (before.passages, before.queries)
    assert after.qrels == before.qrels


def test_a_first_row_that_begins_like_a_header_is_a_row(tmp_path):
    """Claim: a header is the whole line. Number: a query whose id is query-id.

    Catches: its judgement passed over.
    """
    write_folder(tmp_path, queries=[QUERIES[0] | {"_id": "query-id"}], splits=[])
    (tmp_path / "qrels/test.tsv").write_text("query-id\ta.en\t1\n")
    assert load_data(tmp_path).qrels["test"] == {0: {0: 1.0}}


def test_a_header_is_one_even_if_a_query_is_called_so(tmp_path):
    """Number: the same query below the usual header. Catches: "the score 'score' is no number"."""
    write_folder(tmp_path, queries=[QUERIES[0] | {"_id": "query-id"}], splits=[])
    text = "query-id\tcorpus-id\tscore\nquery-id\ta.en\t1\n"
    (tmp_path / "qrels/test.tsv").write_text(text)
    assert load_data(tmp_path).qrels["test"] == {0: {0: 1.0}}


@pytest.mark.parametrize(
    "head",
    ["query-id\tcorpus-id\tscore", "query_id\tdoc_id\trelevance", '"Query"\t"Doc"\t"Score" ', ""],
)
def test_a_header_may_have_other_names_or_be_missing(folder, head):
    """Claim: the rows are the same. Number: heads of public folders.

    Catches: a folder refused for the names of its columns; the first row lost where there is none.
    """
    path = folder / "qrels/test.tsv"
    expected = load_data(folder).qrels["test"]
    rows = [line for line in path.read_text().split("\n") if line][1:]
    path.write_text("\n".join([head, *rows]))
    assert load_data(folder).qrels["test"] == expected


def test_a_first_row_with_a_word_for_a_score_is_no_header(tmp_path):
    """Claim: its query is there, so it is a judgement. Catches: a bad row passed over as a head."""
    write_folder(tmp_path, splits=[])
    (tmp_path / "qrels/test.tsv").write_text("q1.en\ta.en\tyes\n")
    with pytest.raises(ValueError, match="test.tsv:1: the score 'yes' is no number"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("row", "text"),
    [({"title": "Cats"}, "Cats "), ({"title": "Cats", "text": None}, "Cats ")],
)
def test_a_title_is_text_enough(tmp_path, row, text):
    """Catches: a folder refused because one passage has a title alone."""
    corpus = [{"_id": "d1", **row}]
    write_folder(tmp_path, corpus, [{"_id": "q", "text": "Who purrs?"}], ["q\td1\t1"])
    assert load_data(tmp_path).passages[0].text == text


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_pointer_of_git_lfs_is_no_data(folder, name):
    """Claim: the file and the command that fetches it. Catches: "no JSON object"."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
    (folder / name).write_text(pointer)
    with pytest.raises(ValueError, match=f"{name}: a pointer of git-lfs.*git lfs pull"):
        load_data(folder)


def test_qrels_of_a_header_alone_are_refused(tmp_path):
    """Claim: the remedy is one. Catches: "Add --langs", later."""
    with pytest.raises(ValueError, match="test.tsv: no rows. Write .*, or delete the file"):
        load_data(write_folder(tmp_path, qrels=[], splits=["test"]))


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_line_ends_of_old_macs_are_refused(folder, name):
    """Claim: CR alone ends no line. Catches: qrels that are one header, and load empty."""
    content = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_bytes(content.replace("\n", "\r").encode())
    with pytest.raises(ValueError, match=re.escape(f'{name}:1: lines end in "\\r"')):
        load_data(folder)


# ---- languages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("zh zho chi cmn yue zh-cn zh-Hans zh_TW", "zh"),
        ("th tha", "th"),
        ("de deu ger de-AT DE", "de"),
        ("en eng EN eng_Latn", "en"),
        ("pt_BR por", "pt"),
        ("es-419", "es"),
        ("az azj", "az"),
        ("ceb", "ceb"),
        ("und", "und"),
    ],
)
def test_a_language_has_one_code(codes, expected):
    """Claim: letters of both cases, three letters, regions and scripts make no other language.

    Number: ISO 639. Catches: rules for "zh" and "de" that "zho" and "deu" do not meet.
    """
    assert {base_language(code) for code in codes.split()} == {expected}


@pytest.mark.parametrize("code", ["German", "d", "", "de-", "d3", "de at"])
def test_what_is_no_code_of_a_language_is_refused(code):
    """Claim: one sentence. Catches: a name taken for a language of its own."""
    with pytest.raises(ValueError, match=f"unknown language '{code}'. Write an ISO 639 code"):
        base_language(code)


def test_the_languages_of_a_folder_are_base_languages(tmp_path):
    """Claim: eng_Latn and EN are one language. Catches: a pool for each way of writing."""
    corpus = [CORPUS[0] | {"lang": "eng_Latn"}, CORPUS[1] | {"lang": "deu"}]
    queries = [QUERIES[0] | {"lang": "EN"}, QUERIES[1] | {"lang": "de-AT"}]
    write_folder(tmp_path, corpus, queries, QRELS[:4])
    assert all_langs(load_data(tmp_path)) == ["de", "en"]


# ---- missing files -------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path):
    """Claim: the sentence says what --data takes.

    Catches: "queries.jsonl: no such file" for a folder that was mistyped.
    """
    with pytest.raises(ValueError, match="nowhere: no such folder. --data takes"):
        load_data(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_is_named(folder, name):
    """Claim: the file and the remedy.

    Catches: a bare FileNotFoundError.
    """
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file. Put it there, or run"):
        load_data(folder)


def test_a_folder_without_qrels_is_refused(tmp_path):
    """Claim: one of three splits must be there.

    Catches: a data set without a question to ask, which fails much later.
    """
    write_folder(tmp_path, splits=[])
    with pytest.raises(ValueError, match="none of train.tsv, dev.tsv, test.tsv. Write query-id"):
        load_data(tmp_path)


def test_an_empty_file_is_refused(folder):
    """Claim: no rows is an error of its own.

    Catches: a corpus of nothing, in which every id of the qrels is unknown.
    """
    (folder / "corpus.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="corpus.jsonl: no rows. Write a JSON object"):
        load_data(folder)


def test_a_file_that_is_not_utf8_is_named(folder):
    """Claim: an encoding error names its file.

    Number: "ä" in Latin-1 is the byte 0xE4, which begins three bytes in UTF-8.
    Catches: a UnicodeDecodeError without a path.
    """
    line = '{"_id": "q1.en", "text": "Wh\u00e4t?"}\n'
    (folder / "queries.jsonl").write_bytes(line.encode("latin-1"))
    with pytest.raises(ValueError, match="queries.jsonl: not UTF-8.*Convert the file"):
        load_data(folder)


# ---- the hash of a data set ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_the_hash_of_a_data_set_changes_with_any_of_its_files(folder, name):
    """Claim: one character more gives another hash.

    Number: a newline at the end, which changes no text.
    Catches: hashing the corpus alone.
    """
    before = load_data(folder).sha256
    with open(folder / name, "a", encoding="utf-8") as file:
        file.write("\n")
    assert load_data(folder).sha256 != before


def test_the_hash_of_a_data_set_does_not_depend_on_its_place(tmp_path):
    """Claim: the same bytes in two folders have one hash of 64 digits.

    Catches: paths or times that are hashed as well, and a hash that is never filled in.
    """
    hashes = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        hashes.append(load_data(write_folder(tmp_path / name)).sha256)
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 64


def test_the_hash_of_a_data_set_is_that_of_its_files_in_a_fixed_order(folder):
    """Claim: it is the SHA-256 of the bytes of corpus, queries and splits, one after the other.

    Number: the same from hashlib, in the order corpus, queries, train, test, no two of which are
    alike.
    Catches: splits in the order of the disk, which is another one on another machine.
    """
    (folder / "qrels/test.tsv").write_text("q1.en\ta.en\t1\n")
    digest = hashlib.sha256()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"):
        digest.update((folder / name).read_bytes())
    assert load_data(folder).sha256 == digest.hexdigest()


# ---- random streams ------------------------------------------------------------------------------


def test_the_seed_of_a_stream_is_the_hash_of_its_name():
    """Claim: the same number on every machine and in every process.

    Number: printf 0/batches | sha256sum begins 402c26ad4eaf6091; half of that, as 63 bits.
    Catches: Python's own hash(), which is another one in every process.
    """
    assert derive_seed(0, "batches") == 0x402C26AD4EAF6091 // 2


def test_streams_of_different_names_or_seeds_are_apart():
    """Claim: four streams, four seeds.

    Number: two names, two seeds, all combined.
    Catches: a name or a seed that is left out of the hash.
    """
    seeds = set()
    for seed in (0, 1):
        for name in ("batches", "noise"):
            seeds.add(generator(seed, name).initial_seed())
    assert len(seeds) == 4


def test_a_stream_repeats():
    """Claim: a generator made twice draws the same, whatever was drawn elsewhere.

    Number: five random numbers, compared exactly.
    Catches: torch's global generator.
    """
    first = torch.rand(5, generator=generator(3, "noise"))
    torch.rand(100)
    assert torch.equal(torch.rand(5, generator=generator(3, "noise")), first)


def test_an_item_is_chosen_uniformly():
    """Claim: each of three items in a third of the draws.

    Number: n 900, so 300 each; one standard deviation is sqrt(900 * 1/3 * 2/3) = 14, five are 71.
    Catches: a last item that is never drawn.
    """
    rng = generator(0, "test")
    counts = Counter(choose(["a", "b", "c"], rng) for _ in range(900))
    assert sorted(counts) == ["a", "b", "c"]
    assert abs(counts["a"] - 300) < 71
    assert abs(counts["b"] - 300) < 71
    assert abs(counts["c"] - 300) < 71


# ---- files and help ------------------------------------------------------------------------------


def test_json_is_written_for_people(tmp_path):
    """Claim: UTF-8 as it is, a line an entry, a folder that is missing is made.

    Number: the file by hand.
    Catches: "\\u0e01" for a Thai letter.
    """
    write_json(tmp_path / "new" / "file.json", {"b": "ก", "a": 1})
    text = (tmp_path / "new" / "file.json").read_text(encoding="utf-8")
    assert text == '{\n "b": "ก",\n "a": 1\n}\n'


def test_json_is_written_aside_and_renamed(tmp_path, monkeypatch):
    """Claim: at the moment of renaming, the new file is whole and the old one untouched.

    Number: two contents, both read in that moment.
    Catches: writing over the old file, of which a killed program leaves half.
    """
    path = tmp_path / "file.json"
    write_json(path, {"step": 1})
    read_at_renaming = []

    def rename(source, target):
        """os.replace, but for a look at both files."""
        read_at_renaming.append(json.loads(Path(source).read_text()))
        read_at_renaming.append(json.loads(Path(target).read_text()))
        Path(source).rename(target)

    monkeypatch.setattr(os, "replace", rename)
    write_json(path, {"step": 2})
    assert read_at_renaming == [{"step": 2}, {"step": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_numbers_that_json_has_not_are_null(tmp_path):
    """Claim: a file that any JSON reader opens. Catches: NaN, which Python alone reads."""
    write_json(tmp_path / "file.json", {"a": [float("nan"), {"b": float("inf")}], "c": 0.5})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [None, {"b": None}], "c": 0.5}


def test_versions_name_what_the_numbers_depend_on():
    """Claim: Python and three packages, with the version that is imported.

    Number: each says its version itself.
    Catches: a package that is renamed or left out.
    """
    packages = versions()
    assert sorted(packages) == ["numpy", "python", "torch", "transformers"]
    assert packages["torch"] == torch.__version__
    assert packages["numpy"] == np.__version__
    assert packages["transformers"] == transformers.__version__


def test_help_shows_a_default_unless_the_flag_is_off():
    """Claim: "(default: 0.25)" behind a number, nothing behind a flag that is off by default.

    Number: by eye.
    Catches: "(default: False)", and a default that nobody sees.
    """
    parser = argparse.ArgumentParser(formatter_class=Help)
    parser.add_argument("--alpha", type=float, default=0.25, help="the share")
    parser.add_argument("--context", action="store_true", help="with paragraphs")
    parser.add_argument("--out", help="the folder")
    text = parser.format_help()
    assert "the share (default: 0.25)" in text
    assert text.count("default") == 1


def test_help_shows_a_default_of_zero():
    """Claim: 0 is a number, not "off".

    Number: a seed.
    Catches: `default in (None, False, [], ())`, which is true of 0.
    """
    parser = argparse.ArgumentParser(formatter_class=Help)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    assert "of all that is drawn (default: 0)" in parser.format_help()
