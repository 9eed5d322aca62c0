"""Rung 7: published data enters through the one format, and its counts are checked.

Builds: data/xquad_r/prepare.py. Before: rung 0. Run: pytest tests/test_07_xquad_r.py
"""

import json
from pathlib import Path

import pytest
from conftest import ROOT

from data.xquad_r import prepare
from xlt import load_data

# Two sentences that read alike and a third; borders leave the blanks out
CONTEXT = "Yes. Yes. It rains\u2028today."
PARAGRAPH = {
    "context": CONTEXT,
    "sentence_breaks": [[0, 4], [5, 9], [10, 25]],
    "sentences": ["Yes.", "Yes.", "It rains\u2028today."],
}


def question(name, start, text):
    return {"id": name, "question": f"{name}?", "answers": [{"answer_start": start, "text": text}]}


def write(path, questions, **changes):
    data = {"data": [{"title": "t", "paragraphs": [PARAGRAPH | {"qas": questions} | changes]}]}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_the_gold_sentence_is_the_one_that_holds_the_answers_start(tmp_path):
    """Number: starts 5, 10 and 7: sentences 1, 2 and 1; "s. It" runs over a border and counts.

    Catches: looking the sentence up by its text (twins), or by the answer's end.
    """
    asked = [question("a", 5, "Yes"), question("b", 10, "It"), question("c", 7, "s. It")]
    passages, queries, gold, crossings = prepare.convert(write(tmp_path / "x.json", asked), "en")
    assert gold == {"a": "p0.en.s1", "b": "p0.en.s2", "c": "p0.en.s1"}
    assert crossings == 1
    assert [p["text"] for p in passages] == PARAGRAPH["sentences"], "twins stay, U+2028 stays"
    assert all(p["context"] == CONTEXT for p in passages)
    assert [q["group"] for q in queries] == ["a", "b", "c"] and queries[0]["answer"] == "Yes"


def test_offsets_that_do_not_fit_are_refused(tmp_path):
    """Claim: an answer that is not at its offset is an error. Catches: a normalised copy of the file."""
    with pytest.raises(ValueError, match="question a"):
        prepare.convert(write(tmp_path / "x.json", [question("a", 6, "Yes")]), "en")
    with pytest.raises(ValueError, match="sentences"):
        prepare.convert(write(tmp_path / "x.json", [], sentences=["Yes."]), "en")


def test_counts_that_are_not_the_published_ones_are_refused(tmp_path, capsys):
    """Claim: exit 1, file and both numbers named, nothing written. Catches: a partial download."""
    for lang in prepare.PUBLISHED:
        write(tmp_path / f"{lang}.json", [question("a", 0, "Yes")])
    assert prepare.main(["--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "ar.json" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/**/*.jsonl"))


REAL = Path(ROOT.parent / "real-data/xquad-r")


@pytest.mark.skipif(not REAL.exists(), reason="the published files are not on this machine")
def test_the_published_files_give_the_published_counts(tmp_path):
    """Number: 13,014 candidates, 13,090 queries, 11 relevant passages each (DATASETS)."""
    assert prepare.main(["--source", str(REAL), "--out", str(tmp_path)]) == 0
    data = load_data(tmp_path)
    assert len(data.passages) == 13014 and len(data.queries) == 13090
    assert {len(relevant) for relevant in data.qrels["test"].values()} == {11}
