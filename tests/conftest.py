"""Shared by the lab course: a world of four sentences, and where the bundled files lie."""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is a broken test
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Two meanings in two languages; q1 and q2 share an answer in German, as XQuAD-R's questions do
CORPUS = [
    {"_id": "a.en", "lang": "en", "text": "Paris is the capital.", "group": "a", "context": "All of it."},
    {"_id": "a.de", "lang": "de", "text": "Paris ist die Hauptstadt.", "group": "a"},
    {"_id": "b.en", "lang": "en", "text": "Cats eat meat.", "group": "b"},
    {"_id": "b.de", "lang": "de", "text": "Katzen fressen Fleisch.", "group": "b"},
]
QUERIES = [
    {"_id": "q1.en", "lang": "en", "text": "What is the capital?", "group": "q1", "answer": "Paris"},
    {"_id": "q1.de", "lang": "de", "text": "Was ist die Hauptstadt?", "group": "q1"},
    {"_id": "q2.en", "lang": "en", "text": "What do cats eat?", "group": "q2"},
    {"_id": "q2.de", "lang": "de", "text": "Was fressen Katzen?", "group": "q2"},
]
QRELS = [f"q{n}.{a}\t{x}.{b}\t1" for n, x in ((1, "a"), (2, "b")) for a in ("en", "de") for b in ("en", "de")]


def write_folder(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, splits=("train", "test")):
    """Write a data set folder; rows may be dicts or raw lines."""
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows]
        (folder / f"{name}.jsonl").write_text("".join(x + "\n" for x in lines), encoding="utf-8")
    (folder / "qrels").mkdir(exist_ok=True)
    for split in splits:
        lines = ["query-id\tcorpus-id\tscore", *qrels]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    """The world of four sentences as a data set folder."""
    return write_folder(tmp_path)


@pytest.fixture(scope="session")
def minifacts():
    """The bundled world, loaded once."""
    from xlt import load_data

    return load_data(ROOT / "data/minifacts")


@pytest.fixture
def encoder():
    """The bundled encoder, fresh for each test."""
    from xlt import load_encoder

    return load_encoder(ROOT / "data/tiny_xlmr")
