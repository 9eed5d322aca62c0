"""Rung 0: a folder of texts becomes a data set, and bad input becomes one clear error.

Builds: xlt.load_data. Before: nothing. Run: pytest tests/test_00_data.py
"""

import json
import re

import pytest
from conftest import CORPUS, QRELS, QUERIES, write_folder

from xlt import derive_seed, generator, load_data


def test_a_folder_loads_in_file_order_with_its_languages_and_groups(folder):
    """Claim: rows keep their order and fields. Number: 4 and 4 of conftest. Catches: sorting by id."""
    data = load_data(folder)
    assert [p.id for p in data.passages] == ["a.en", "a.de", "b.en", "b.de"]
    assert [q.group for q in data.queries] == ["q1", "q1", "q2", "q2"]
    assert data.passages[0].context == "All of it." and data.queries[0].answer == "Paris"
    assert data.langs() == ["de", "en"]
    # q1.de is row 1; a.en and a.de are rows 0 and 1
    assert data.qrels["test"][1] == {0: 1.0, 1: 1.0}


def test_a_plain_beir_folder_loads_without_language_or_group(tmp_path):
    """Claim: lang is und, group the id, the title stands first. Catches: keys that BEIR lacks required."""
    corpus = [{"_id": "d1", "title": "Cats", "text": "They purr.", "metadata": {"url": 1}}]
    write_folder(tmp_path, corpus, [{"_id": "d1", "text": "Who purrs?"}], ["d1\td1\t2"], ["test"])
    data = load_data(tmp_path)
    assert (data.passages[0].text, data.passages[0].lang) == ("Cats They purr.", "und")
    assert data.passages[0].group == "d1"
    # A query and a passage with one id are two things (PITFALLS 19)
    assert data.qrels["test"] == {0: {0: 2.0}}


def test_unicode_line_separators_stay_inside_a_text(tmp_path):
    """Claim: only a newline ends a row. Catches: splitlines(), which also cuts at U+2028 and U+0085."""
    text = "one\u2028two\u0085three\tfour"
    write_folder(tmp_path, [dict(CORPUS[0], text=text), *CORPUS[1:]])
    assert load_data(tmp_path).passages[0].text == text


def test_text_is_not_stripped_or_normalised(tmp_path):
    """Claim: what is in the file is what is encoded. Number: a decomposed letter. Catches: NFC, strip()."""
    text = " cafe\u0301 "
    write_folder(tmp_path, [dict(CORPUS[0], text=text), *CORPUS[1:]])
    assert load_data(tmp_path).passages[0].text == text


def test_rows_judged_irrelevant_are_counted_not_lost(tmp_path):
    """Claim: score 0 is no relevance and is counted. Catches: qrels read as a set of pairs."""
    write_folder(tmp_path, qrels=[*QRELS, "q1.en\tb.en\t0"], splits=["test"])
    data = load_data(tmp_path)
    assert 2 not in data.qrels["test"][0]
    assert data.dropped == {"test": 1}


BAD_ROWS = {
    "broken JSON": ('{"_id": "x", "text": ', "no JSON object"),
    "a list": ("[1, 2]", "no JSON object"),
    "no id": ({"text": "hello"}, '"_id" is missing'),
    "no text": ({"_id": "x"}, '"text" is missing'),
    "empty text": ({"_id": "x", "text": " \n"}, '"text" is empty'),
    "a number": ({"_id": 7, "text": "hello"}, '"_id" is 7, not a string'),
    "unknown language": ({"_id": "x", "text": "hello", "lang": "German"}, "unknown language 'German'"),
    "duplicate id": (CORPUS[0], "duplicate id 'a.en', see line 1"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_with_file_line_and_remedy(tmp_path, name):
    """Claim: the error names file, line and value. Number: line 5, after four good rows."""
    row, message = BAD_ROWS[name]
    write_folder(tmp_path, [*CORPUS, row])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_data(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/corpus.jsonl:5: ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q9\ta.en\t1", "unknown id 'q9'. Add it to queries.jsonl"),
        ("q1.en\tz\t1", "unknown id 'z'. Add it to corpus.jsonl"),
        ("q1.en\ta.en\tyes", "is not query-id, corpus-id, score with tabs"),
        ("q1.en a.en 1", "is not query-id, corpus-id, score with tabs"),
        (QRELS[0], "stands twice"),
    ],
)
def test_a_bad_qrels_row_is_refused_with_file_and_line(tmp_path, row, message):
    """Claim: ids are checked against both files. Number: line 10: a header and eight good rows."""
    write_folder(tmp_path, qrels=[*QRELS, row], splits=["test"])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_data(tmp_path)
    assert f"{tmp_path}/qrels/test.tsv:10: " in str(error.value)


def test_missing_files_are_named(tmp_path):
    """Claim: each missing piece has its own sentence. Catches: a bare FileNotFoundError."""
    with pytest.raises(ValueError, match="no such folder"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"queries.jsonl: no such file"):
        load_data(tmp_path)
    write_folder(tmp_path, splits=[])
    with pytest.raises(ValueError, match=r"none of train.tsv, dev.tsv, test.tsv"):
        load_data(tmp_path)


def test_a_file_that_is_not_utf8_is_named(folder):
    """Claim: an encoding error names the file. Catches: UnicodeDecodeError without a path."""
    line = json.dumps(QUERIES[0], ensure_ascii=False).replace("What", "Wh\u00e4t")
    (folder / "queries.jsonl").write_bytes(line.encode("latin-1"))
    with pytest.raises(ValueError, match=r"queries.jsonl: not UTF-8"):
        load_data(folder)


def test_the_hash_of_a_data_set_changes_with_any_of_its_files(folder):
    """Claim: one character more gives another hash. Catches: hashing the corpus alone."""
    before = load_data(folder).sha256
    path = folder / "qrels/test.tsv"
    path.write_text(path.read_text() + "\n")
    assert load_data(folder).sha256 != before


def test_named_random_streams_are_apart_and_repeat():
    """Claim: a stream depends on seed and name. Number: sha256 of "0/batches", first 8 bytes, halved."""
    import hashlib

    first = hashlib.sha256(b"0/batches").hexdigest()[:16]
    assert derive_seed(0, "batches") == int(first, 16) // 2
    draws = {name: generator(0, name).initial_seed() for name in ("batches", "noise", "attacks")}
    assert len(set(draws.values())) == 3
    assert generator(1, "noise").initial_seed() != draws["noise"]
