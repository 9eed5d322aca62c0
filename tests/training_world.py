"""What rungs 4 and 15 train: sixteen questions in two languages, an encoder of one layer.

Every second question is answered by the next one's passage as well, so that most batches hold a
false negative, and the mask of false negatives is not symmetric.
"""

import hashlib
import json
import shutil
import subprocess
import sys

import torch
from conftest import ROOT, write_folder

# English, German, where it lives in English, in German; their lengths differ, so batches are padded
ANIMALS = [
    ("cat", "Katze", "garden", "Garten"),
    ("dog", "Hund", "house", "Haus"),
    ("fish", "Fisch", "river", "Fluss"),
    ("frog", "Frosch", "pond behind the old mill", "Teich"),
    ("bear", "Bär", "forest", "Wald"),
    ("mouse", "Maus", "wall", "Mauer hinter dem alten Haus"),
    ("horse", "Pferd", "stable", "Stall"),
    ("bird with the long red tail", "Vogel", "tree", "Baum"),
    ("snake", "Schlange", "desert", "Sand"),
    ("camel", "Kamel mit zwei Höckern", "south", "Süden"),
    ("whale", "Wal", "ocean", "Meer"),
    ("goat", "Ziege", "mountain", "Berg"),
    ("bee", "Biene", "hive", "Stock"),
    ("ant", "Ameise", "hill", "Haufen"),
    ("wolf", "Wolf", "valley", "Tal"),
    ("duck", "Ente", "lake", "See"),
]
SYNONYMS = {
    "en": {"small": ["little", "tiny"], "live": ["dwell"], "lives": ["dwells"]},
    "de": {"kleine": ["winzige"], "lebt": ["wohnt", "haust"]},
}
DICTIONARY = [("small", "kleine"), ("live", "lebt")]


def texts_of_world():
    """Rows of corpus.jsonl, rows of queries.jsonl, lines of qrels."""
    corpus, queries, qrels = [], [], []
    for number, (en, de, place_en, place_de) in enumerate(ANIMALS):
        passages = {
            "en": f"The small {en} lives in the {place_en}.",
            "de": f"Das kleine Tier {de} lebt im {place_de}.",
        }
        questions = {
            "en": (f"Where does the small {en} live?", place_en),
            "de": (f"Wo lebt das kleine Tier {de}?", place_de),
        }
        group = f"g{number:02d}"
        for lang, text in passages.items():
            corpus.append({"_id": f"{group}.{lang}", "lang": lang, "text": text, "group": group})
        for lang, (text, answer) in questions.items():
            row = {"_id": f"{group}.{lang}", "lang": lang, "text": text, "group": group}
            queries.append({**row, "answer": answer})
            for passage_lang in ("en", "de"):
                qrels.append(f"{group}.{lang}\t{group}.{passage_lang}\t1")
                if number % 2:
                    also = f"g{(number + 1) % len(ANIMALS):02d}"
                    qrels.append(f"{group}.{lang}\t{also}.{passage_lang}\t1")
    return corpus, queries, qrels


def write_world(folder):
    """The data set folder of the world, with synonyms and a dictionary."""
    write_folder(folder, *texts_of_world())
    (folder / "synonyms").mkdir()
    for lang, table in SYNONYMS.items():
        (folder / "synonyms" / f"{lang}.json").write_text(json.dumps(table))
    rows = [f"en\tde\t{english}\t{german}\n" for english, german in DICTIONARY]
    (folder / "dictionary.tsv").write_text("".join(rows))
    return folder


def write_encoder(folder, dropout=0.1, positions=514):
    """One layer of random weights with the bundled tokenizer.

    Dropout is on: a seed or a random state that is lost then shows in the weights.
    """
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=16000,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "data/tiny_xlmr" / name, folder)
    return folder


def log_lines(run):
    """The lines of a run's log, without the seconds they took and what depends on the machine."""
    lines = []
    for text in (run / "log.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name in ("seconds", "tokens_per_s", "mfu", "peak_gb"):
            del line[name]
        lines.append(line)
    return lines


def hashes(run):
    """SHA-256 of every file of a run but the two that hold seconds."""
    hash_of = {}
    for path in sorted(run.rglob("*")):
        # *.tmp: half a file of vectors that a killed process has left
        if path.is_file() and path.suffix != ".tmp" and path.name not in ("run.json", "log.jsonl"):
            name = path.relative_to(run).as_posix()
            hash_of[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hash_of


KILLED = """
import os, signal, sys
import train

plain_step = train.training_step

def step_or_die(*args):
    if args[-1] == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain_step(*args)

train.training_step = step_or_die
sys.exit(train.main(sys.argv[2:]))
"""


def run_until_killed(step, command):
    """train.py in a process of its own, which gets SIGKILL when this step begins; its exit code."""
    call = [sys.executable, "-c", KILLED, str(step), *command]
    return subprocess.run(call, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode
