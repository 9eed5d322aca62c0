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

# Two meanings in two languages; every query has its answer in both
CORPUS = [
    {"_id": "a.en", "lang": "en", "text": "Paris is the capital.", "group": "a", "context": "All."},
    {"_id": "a.de", "lang": "de", "text": "Paris ist die Hauptstadt.", "group": "a"},
    {"_id": "b.en", "lang": "en", "text": "Cats eat meat.", "group": "b"},
    {"_id": "b.de", "lang": "de", "text": "Katzen fressen Fleisch.", "group": "b"},
]
QUERIES = [
    {
        "_id": "q1.en",
        "lang": "en",
        "text": "What is the capital?",
        "group": "q1",
        "answer": "Paris",
    },
    {"_id": "q1.de", "lang": "de", "text": "Was ist die Hauptstadt?", "group": "q1"},
    {"_id": "q2.en", "lang": "en", "text": "What do cats eat?", "group": "q2"},
    {"_id": "q2.de", "lang": "de", "text": "Was fressen Katzen?", "group": "q2"},
]
QRELS = [
    "q1.en\ta.en\t1",
    "q1.en\ta.de\t1",
    "q1.de\ta.en\t1",
    "q1.de\ta.de\t1",
    "q2.en\tb.en\t1",
    "q2.en\tb.de\t1",
    "q2.de\tb.en\t1",
    "q2.de\tb.de\t1",
]


def write_rows(path, rows):
    """Write JSON lines; a row may be a dict, or a raw line."""
    with open(path, "w", encoding="utf-8") as out:
        for row in rows:
            if not isinstance(row, str):
                row = json.dumps(row, ensure_ascii=False)
            out.write(row + "\n")


def write_folder(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, splits=("train", "test")):
    """Write a data set folder."""
    write_rows(folder / "corpus.jsonl", corpus)
    write_rows(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir(exist_ok=True)
    for split in splits:
        write_rows(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *qrels])
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
