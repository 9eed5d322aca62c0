"""Rung 19: eleven thousand damaged files, each of which opens or is refused in one line.

Builds: nothing. Checks all that is read: data sets, word lists, models, records, flags. A mutant is
a good file with one to three mutations, drawn from SEED, the name of its target and its number.
Before: rungs 0, 1, 4, 6 and 9. Run: pytest -m slow tests/test_19_fuzz.py
One mutant again, with its traceback: python tests/test_19_fuzz.py TARGET NUMBER
"""

import argparse
import contextlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, write_folder
from torch import nn

import attacks
import evaluate
import study
import train
import xlt

pytestmark = pytest.mark.slow

SEED = 19
LONGEST_MESSAGE = 400
MOST_SECONDS = 20  # a mutant; the slowest good one takes 0.1
MOST_MEMORY = 4 * 2**30  # more than before; a good one takes a few MB


# ---- mutations of bytes: (random numbers, content) -> content ------------------------------------

# What is put in somewhere, or in the place of a cell
ODD_TEXTS = (
    "\ufeff", "\x00", "\r", "\r\n", "\n", "\t", " ", "\u00a0", "\u0085", "\u2028", "\u202e",
    "\x1b[31m",
    "\x1b]0;title\x07", "\x7f", "\ud800", "\\ud800", "\\u0000", "\\", '"', "'", "<", "+", "=", ":",
    ",", ",,", "/", "../", "/dev/zero", "~", "%s", "{}", "e\u0301", "\u0301", "ﬁ", "İ", "漢+字", "🙂",
    "NaN", "nan", "inf", "-inf", "1e400", "1e999999999", "-1", "-0", "0", "00", "0x1", "1_0", "٣",
    "null", "true", "9" * 400, "9" * 5000, "9" * 50_000 + "x", "9" * 200_000,
    "a" * 200_000, "[" * 200_000, " " * 200_000,
    "\n" * 1000, '{"a":' * 5000,
)  # fmt: skip


ODD_NUMBERS = (
    "nan", "-inf", "1e400", "1e-400", "-1", "-0", ".5", "5.", "+1", "1_0", "0x1", "٣", "9" * 400,
    "9" * 5000, "9" * 50_000 + "x",
)  # fmt: skip


def odd_bytes(rng):
    """One of ODD_TEXTS, or a byte that no UTF-8 holds."""
    if rng.random() < 0.1:
        return b"\xff"
    return rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")


def stretch(rng, content):
    """Start and end of a part: mostly short, sometimes up to the end."""
    start = rng.randrange(len(content) + 1)
    length = min(len(content) - start, int(2 ** rng.uniform(0, 14)))
    return start, start + length


def flip_bit(rng, content):
    """One bit is another."""
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def other_byte(rng, content):
    """One character of ASCII is another."""
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] = rng.randrange(32, 127)
    return bytes(changed)


def delete_stretch(rng, content):
    """A part is missing."""
    start, end = stretch(rng, content)
    return content[:start] + content[end:]


def repeat_stretch(rng, content):
    """A part stands twice."""
    start, end = stretch(rng, content)
    return content[:end] + content[start:end] + content[end:]


def zero_stretch(rng, content):
    """A part is zeros, as a crash leaves it."""
    start, end = stretch(rng, content)
    return content[:start] + bytes(end - start) + content[end:]


def cut_off(rng, content):
    """The end is missing."""
    return content[: rng.randrange(len(content) + 1)]


def insert_oddity(rng, content):
    """An odd text somewhere, one time in four at the beginning."""
    place = rng.randrange(len(content) + 1)
    if rng.random() < 0.25:
        place = 0
    return content[:place] + odd_bytes(rng) + content[place:]


def change_number(rng, content):
    """A number is an odd one."""
    numbers = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", content))
    if not numbers:
        return content
    number, odd = rng.choice(numbers), rng.choice(ODD_NUMBERS)
    return content[: number.start()] + odd.encode() + content[number.end() :]


BYTES = (
    flip_bit, other_byte, delete_stretch, repeat_stretch, zero_stretch, cut_off, insert_oddity
)  # fmt: skip


# ---- mutations of lines --------------------------------------------------------------------------


def swap_lines(rng, content):
    """Two lines change places."""
    lines = content.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def repeat_line(rng, content):
    """A line stands twice, the second time anywhere."""
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"\n".join(lines)


def delete_line(rng, content):
    """A line is missing."""
    lines = content.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def join_lines(rng, content):
    """A line goes on with the next."""
    return replace_one(rng, content, b"\n", b"")


def tab_to_blanks(rng, content):
    """A tab is blanks, as some editors save it."""
    return replace_one(rng, content, b"\t", b"    ")


def replace_one(rng, content, old, new):
    """One of the places where `old` stands holds `new`."""
    parts = content.split(old)
    if len(parts) == 1:
        return content
    place = rng.randrange(1, len(parts))
    return old.join(parts[:place]) + new + old.join(parts[place:])


def change_cell(rng, content):
    """A cell between tabs or line ends is an odd text, or another cell."""
    cells = re.split(rb"([\t\n])", content)  # cells at even places
    place = 2 * rng.randrange(len(cells) // 2 + 1)
    if rng.random() < 0.3:
        cells[place] = rng.choice(cells[::2])
    else:
        cells[place] = odd_bytes(rng)
    return b"".join(cells)


LINES = (swap_lines, repeat_line, delete_line, join_lines)
CELLS = (tab_to_blanks, change_cell, change_cell, change_number)


# ---- mutations of JSON ---------------------------------------------------------------------------

ODD_VALUES = (
    None, True, False, 0, 1, -1, 2, 7, 10**6, 10**9, 10**30, -(10**9), 0.5, -0.0, 1e-320, 1e308,
    math.nan, math.inf, -math.inf, [], {}, [None], [[[]]], {"a": {"b": [1]}}, {"": ""}, ["x", 1],
    "left", "max_length", *ODD_TEXTS[:-2],
)  # fmt: skip
# Keys that mean something to somebody
ODD_KEYS = (
    "", "\x00", "\ud800", "x" * 10_000, "_id", "text", "title", "lang", "language", "group",
    "answer", "context", "checksum", "num_labels", "id2label", "auto_map", "architectures",
    "model_type", "quantization_config", "dtype", "attn_implementation", "is_decoder", "use_lang_emb",
    "add_cross_attention", "chunk_size_feed_forward", "pruned_heads", "tokenizer_class",
    "truncation_side", "padding_side", "added_tokens_decoder", "extra_special_tokens",
    "model_max_length", "do_lower_case", "add_prefix_space", "split_special_tokens", "prompts",
    "default_prompt_name", "pooling_mode_cls_token", "include_prompt", "truncate_dim",
)  # fmt: skip
TWIN = "\u0001"  # what the second of two equal keys ends in until they are written


@dataclass
class Place:
    """Where a value stands: container[key]."""

    container: dict | list
    key: str | int


def random_place(rng, content):
    """A place in the content; deeper ones are rarer, so that long lists do not hide the rest."""
    place = None
    while isinstance(content, (dict, list)) and content:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        place = Place(content, rng.choice(keys))
        content = content[place.key]
        if rng.random() < 0.15:
            break
    return place


def odd_value(rng, value):
    """A value of another kind, or a relative of this one."""
    relatives = [[value], {"a": value}, str(value)]
    if type(value) in (int, float):
        relatives += [value + 1, -value, value * 1000, float(value)]
    if isinstance(value, str):
        relatives += [value.upper(), value + " ", value[:-1], value + rng.choice(ODD_TEXTS)]
    if rng.random() < 0.4:
        return rng.choice(relatives)
    if rng.random() < 0.02:
        return json.loads("[" * 900 + "]" * 900)
    return rng.choice(ODD_VALUES)


def change_content(rng, content):
    """One value, key or entry of a JSON content is another, in its place."""
    place = random_place(rng, content)
    if place is None:
        return
    container, key = place.container, place.key
    kind = rng.choice(["value"] * 6 + ["missing", "new key", "renamed", "twice"])
    if kind == "value":
        container[key] = odd_value(rng, container[key])
    elif kind == "missing":
        del container[key]
    elif isinstance(container, list):
        container.insert(key, container[key])
    elif kind == "new key":
        container[rng.choice(ODD_KEYS)] = rng.choice(ODD_VALUES)
    elif kind == "renamed":
        container[rng.choice(ODD_KEYS)] = container.pop(key)
    else:
        container[key + TWIN] = odd_value(rng, container[key])


def mutate_json(rng, text):
    """A JSON text with one change of its content; what is no JSON stays."""
    try:
        content = [json.loads(text)]  # in a list, so that the whole has a place, too
    except (ValueError, RecursionError):
        return text
    change_content(rng, content)
    if len(content) != 1:
        return b""
    try:
        changed = json.dumps(content[0], ensure_ascii=rng.random() < 0.5)
    except RecursionError:
        return text
    changed = changed.replace(TWIN, "").replace("\\u0001", "")
    return changed.encode("utf-8", "surrogatepass")


def change_json(rng, content):
    """Of a file that is one JSON text."""
    return mutate_json(rng, content)


def object_in(content):
    """The JSON object that a file still holds after other mutations, or None."""
    try:
        read = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def huge_number(rng, content):
    """A size in a JSON object is one that no machine has memory or time for."""
    changed = object_in(content)
    if changed is None:
        return content
    keys = [key for key, value in changed.items() if type(value) is int]
    key = rng.choice([*keys, rng.choice(ODD_KEYS[12:])])
    changed[key] = rng.choice([10**3, 10**5, 10**7, 10**9, 10**12, 2**63, 10**400])
    return json.dumps(changed).encode()


KNOWN_SETTINGS = (
    {"truncation_side": "left"}, {"split_special_tokens": True}, {"padding_side": "left"},
    {"do_lower_case": True}, {"add_prefix_space": False}, {"pad_token": "<unk>"},
    {"model_input_names": ["input_ids", "token_type_ids"]}, {"cls_token": "<mask>"},
    {"tokenizer_class": "BertTokenizer"}, {"model_max_length": 8}, {"mask_token": "e"},
)  # fmt: skip


def known_setting(rng, content):
    """A tokenizer's setting that somebody uses has another value than ours."""
    changed = object_in(content)
    if changed is None:
        return content
    return json.dumps(changed | rng.choice(KNOWN_SETTINGS)).encode()


def change_row(rng, content):
    """Of a file with one JSON text a line."""
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    lines[place] = mutate_json(rng, lines[place])
    return b"\n".join(lines)


ROWS = (change_row,) * 7
WHOLE = (change_json,) * 10 + (change_number,)


# ---- what must hold for whatever was loaded ------------------------------------------------------


def is_head(line):
    """Three columns, the last of which is a word and no number."""
    cells = line.split("\t")
    try:
        float(cells[-1])
    except ValueError:
        return len(cells) == 3
    return False


def rows_of(path):
    """How many lines of a file are rows: not blank, and no head."""
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    lines = [line for line in lines if line.strip()]
    return len(lines) - (path.suffix == ".tsv" and is_head(lines[0]))


def check_texts(texts):
    """No id stands twice, no text is empty or holds half a character."""
    assert len({text.id for text in texts}) == len(texts)
    for text in texts:
        for part in (text.id, text.text, text.group, text.context, text.answer):
            part.encode()
        assert text.text.strip("\x00 \t\r\u2028\ufeff") != ""
        assert text.group != "" or text.id == ""
        assert re.fullmatch("[a-z]{2,3}", text.lang)


def check_gains(relevant):
    """Relevances are sizes."""
    assert all(0 < relevance < math.inf for relevance in relevant.values())


def check_data(data, base):
    """Positions are positions, and every row is there or counted."""
    check_texts(data.queries)
    check_texts(data.passages)
    n_judged = sum(data.dropped.values())
    for split, relevant_of in data.qrels.items():
        assert relevant_of
        for query, relevant in relevant_of.items():
            assert 0 <= query < len(data.queries)
            assert set(relevant) <= set(range(len(data.passages)))
            check_gains(relevant)
            n_judged += len(relevant)
        for missing in data.missing[split].values():
            check_gains(missing)
            assert not missing.keys() & {passage.id for passage in data.passages}
    n_left_out = Counter()
    for kind, count in data.left_out.counts.items():
        n_left_out["qrels" if kind.startswith("qrels") else "texts"] += count
    n_rows = sum(rows_of(path) for path in (data.folder / "qrels").iterdir())
    assert n_rows == n_judged + n_left_out["qrels"]
    n_rows = rows_of(data.folder / "queries.jsonl") + rows_of(data.folder / "corpus.jsonl")
    assert n_rows == len(data.queries) + len(data.passages) + n_left_out["texts"]
    assert not (data.left_out.strict and data.left_out.counts)


def check_word(word):
    """Something to put into a text: no blanks around it, no part of a wordnet's notation."""
    word.encode()
    assert word == " ".join(word.split())
    assert word != ""
    assert not re.search(r"[\u3400-\u9fff]\+|\+[\u3400-\u9fff]", word)
    assert "_" not in word


def check_tables(tables, base):
    """Languages are codes; words and replacements are words."""
    for lang, table in tables.items():
        assert xlt.base_language(lang) == lang
        for word, options in table.items():
            assert word == attacks.lower(word, lang)
            for text in (word, *options):
                check_word(text)


def check_words(fixed, base):
    """Protected words, in lower case."""
    for word in fixed:
        word.encode()
        assert word.strip() == word != ""


def same(a, b):
    """Equal to the last bit, whatever it is made of."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def check_same(content, base):
    """What is read back is what was written, or the checksum is worth nothing."""
    assert same(content, base)


def check_attack(attack, base):
    """Its label is one way to write it, and its settings are sizes."""
    assert attacks.parse_attack(attack.label) == attack
    for value in vars(attack).values():
        assert isinstance(value, str) or 0 <= value < 10**400


def check_robust(robust, base):
    """Shares of the loss are shares."""
    assert -1e-6 <= robust.clean_share <= 1
    assert 0 <= robust.consistency < math.inf
    for method in robust.methods:
        assert 0 <= method.weight <= 1 + 1e-6
        assert 0 < method.rate <= 1


def check_code(code, base):
    """A code is its own base language."""
    assert re.fullmatch("[a-z]{2,3}", code)
    assert xlt.base_language(code) == code


# ---- models --------------------------------------------------------------------------------------

SENTENCES = ("Cats eat meat.", "Who lives in the old house behind the mill?", "Das <s> Haus", "1 +")
SAVED = xlt.Settings("mean", "Q: ", "P: ", 16, 24)


def write_tokenizer(folder):
    """The bundled tokenizer with 150 of its pieces, so that structure is hit as often as pieces."""
    content = json.loads((ROOT / "data/tiny_xlmr/tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    pieces = [entry for entry in vocabulary[5:] if re.fullmatch("▁?[A-Za-z.,?:]{1,2}", entry[0])]
    content["model"]["vocab"] = vocabulary[:5] + pieces[:145]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    shutil.copy(ROOT / "data/tiny_xlmr/tokenizer_config.json", folder)


def write_small_model(folder):
    """One layer of random weights, with all files that `save_encoder` writes."""
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    folder.mkdir(parents=True)
    write_tokenizer(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=150,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
        type_vocab_size=1,
    )
    model = XLMRobertaModel(config, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    xlt.save_encoder(xlt.Encoder(model, tokenizer, SAVED), folder)


def open_model(folder):
    """An encoder, and what it makes of texts of both towers."""
    encoder = xlt.load_encoder(folder)
    texts = [xlt.Text(str(i), "en", text, str(i)) for i, text in enumerate(SENTENCES)]
    vectors = torch.cat([encoder.encode(texts, tower) for tower in ("query", "passage")])
    hashes = [xlt.weights_hash(encoder), xlt.encoder_hashes(encoder), vars(encoder.settings)]
    return SimpleNamespace(vectors=vectors, hashes=hashes, width=encoder.model.config.hidden_size)


def check_model(opened, base):
    """Unit vectors; and the same ones unless weights, tokenizer, config.json or settings differ.

    *Units*: 1e-5, of rounding.
    """
    assert opened.vectors.shape == (2 * len(SENTENCES), opened.width)
    lengths = opened.vectors.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-5, rtol=0)
    if opened.hashes == base.hashes:
        torch.testing.assert_close(opened.vectors, base.vectors, atol=1e-5, rtol=0)


# ---- targets: what is mutated, who loads it ------------------------------------------------------


@dataclass
class Target:
    """One file, and who reads it."""

    name: str
    file: str  # in the folder; "" for a text of a flag
    number: int  # of mutants
    write: Callable  # folder -> None: the good files
    load: Callable  # folder -> content; of a flag: text -> content
    check: Callable  # content, good content -> None
    mutations: tuple


def write_data(folder):
    """The world of four sentences with word lists."""
    folder.mkdir()
    write_folder(folder)
    (folder / "synonyms").mkdir()
    english = {"capital": ["chief town", "seat"], "eat": ["devour", "C++"]}
    write_json(folder / "synonyms/en.json", english)
    write_json(folder / "synonyms/zh.json", {"首都": ["京+城", "首_府"], "猫": ["小猫"]})
    rows = ["en\tde\tcat\tKatze", "en\tde\tcapital\tHauptstadt", "en\tzh-Hans\tcat\t猫"]
    (folder / "dictionary.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    rows = ["# wordnet", "1-n\tfra:lemma\tpomme_de_terre", "1-n\tfra:lemma\tpatate"]
    rows += ["2-n\tfra:lemma\tchat", "2-n\tfra:lemma\tminou", "2-n\tfra:def\tbête"]
    (folder / "french.tab").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "protect.txt").write_text("Paris\ncapital\nİzmir\n", encoding="utf-8")


def write_json(path, content):
    """A JSON file as people write it."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


MANIFEST = {
    "flags": {"batching": "hybrid", "alpha": 0.5, "lr": 1e-3, "train_langs": ["en", "de"]},
    "complete": True,
    "data_sha256": "0123456789abcdef",
    "versions": {"torch": "2", "naïve": "ü"},
    "seconds_training": 12.25,
}
RESULTS = {
    "results": [{"view": "mono", "mAP": 0.5, "query_lang": "en"}, {"view": "pool", "mAP": None}],
    "chance": {"mono": {"mAP": 0.25}},
    "seed": 0,
}


def write_run(folder):
    """What train.py and evaluate.py leave in a run: records, arrays, a checkpoint."""
    folder.mkdir()
    xlt.write_record(folder / "run.json", MANIFEST)
    xlt.write_record(folder / "metrics.json", RESULTS)
    rng = np.random.default_rng(0)
    ids = np.array(["q1.en", "q2.de", "q3.ü"])
    arrays = {"id": ids, "group": ids, "clean mono mAP": rng.random(3), "clean pool": np.ones(3)}
    np.savez_compressed(folder / "metrics.npz", **arrays)
    encoder, state = nn.Linear(3, 2), train.LoopState(7, 100, 1.5)
    encoder.texts_cut, encoder.texts_seen = {("query", "en"): 1}, {("query", "en"): 9}
    train.save_checkpoint(folder / "ckpt", encoder, torch.optim.AdamW(encoder.parameters()), state)
    page = f"<html>{'numbers ' * 50}</html><!-- {study.SIGNATURE} -->\n"
    for path in study.report_files(folder / "report.html"):
        path.write_text(page, encoding="utf-8")


def read_run(folder):
    """run.json."""
    return evaluate.read_manifest(folder)


def read_results(folder):
    """metrics.json."""
    return evaluate.read_evaluated(folder).metrics


def read_queries(folder):
    """metrics.npz, as study.py does."""
    return study.open_queries(SimpleNamespace(path=folder / "metrics.json"))


def read_state(folder):
    """state.pt."""
    return train.read_checkpoint(folder / "ckpt/state.pt")


def read_report(folder):
    """May the report be replaced? True, or an error."""
    study.check_report(folder / "report.html")
    return study.SIGNATURE.encode() in (folder / "report.html").read_bytes()


def frozen_queries(folder):
    """Arguments of `check_frozen`: a fake of an encoder, its data, an attack that freezes."""
    torch.manual_seed(0)
    encoder = SimpleNamespace(model=nn.Linear(2, 1), precision="fp32")
    attack = attacks.parse_attack("random:edits=2")
    options = evaluate.Options(views=["mono"], attacks=[attack], attack_out=folder / "frozen")
    adversary = evaluate.Adversary(options, {"synonyms": {}}, frozenset())
    return encoder, xlt.load_data(folder), adversary


def write_frozen(folder):
    """attack.json, as --attack-out writes it."""
    write_data(folder)
    encoder, data, adversary = frozen_queries(folder)
    attack = adversary.options.attacks[0]
    described = evaluate.describe_frozen(encoder, data, adversary, attack, "mono")
    place = evaluate.frozen_folder(adversary.options, adversary.options.condition(attack), "mono")
    xlt.write_record(place / "attack.json", described)


def read_frozen(folder):
    """attack.json: it must say the same, or `check_frozen` refuses."""
    evaluate.check_frozen(*frozen_queries(folder))
    return xlt.read_record(folder / FROZEN, "")


def load_loosely(folder):
    """A data set, as the programs open it."""
    return xlt.load_data(folder)


def load_strictly(folder):
    """A data set with --strict."""
    return xlt.load_data(folder, strict=True)


def read_tables(folder):
    """synonyms/*.json."""
    return attacks.read_synonyms(folder)


def read_wordnet(folder):
    """A wordnet's tab file, as of --table fr=FILE."""
    return {"fr": attacks.read_table(folder / "french.tab", "fr")}


def read_dictionary(folder):
    """dictionary.tsv."""
    return attacks.read_dictionary(folder / "dictionary.tsv")


def read_protected(folder):
    """The file of --protect."""
    options = evaluate.Options(protect=folder / "protect.txt")
    return evaluate.open_adversary(options, xlt.load_data(folder), None).fixed


def write_other_name(folder):
    """One file of synonyms, whose name is the mutant."""
    write_data(folder)
    (folder / "synonyms/zh.json").unlink()
    (folder / "synonyms/en.json").rename(folder / "table.json")


def read_other_name(text):
    """synonyms/TEXT.json beside synonyms/de.json."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "synonyms"
        place.mkdir()
        for name in (text, "de"):
            with contextlib.suppress(OSError, ValueError):  # no name of a file
                write_json(place / f"{name}.json", {"cat": ["kitten"]})
        return attacks.read_synonyms(Path(folder))


def write_nothing(folder):
    """A flag has no files."""
    folder.mkdir()


FROZEN = "frozen/random_edits=2-mono/attack.json"
WORDS = (*BYTES, *LINES, *CELLS)
CODES = ("de", "deu_Latn", "zh-Hans", "en-US", "az_AZ")
ATTACK_TEXTS = (
    "greedy:edits=2,k=4", "pgd:epsilon=0.1,steps=3,norm=max", "random", "smoothed:samples=9",
    "exact:edits=0.5,limit=10,order=gradient",
)  # fmt: skip
ROBUST_TEXTS = (
    "none", "rs-da+typos", "adv:weight=.3+self-teaching:weight=2", "rs-rp:sigma=0.5,noise=uniform",
    "adv:how=pgd,epsilon=0.1,step_size=.5", "code-switch:words=.4,copies=3",
)  # fmt: skip


def data_targets():
    """Each file of a data set, with and without --strict."""
    targets = []
    for file, kinds in (
        ("corpus.jsonl", ROWS), ("queries.jsonl", ROWS), ("qrels/train.tsv", CELLS)
    ):  # fmt: skip
        for load in (load_loosely, load_strictly):
            name = f"{Path(file).name} {load.__name__}"
            mutations = (*BYTES, *LINES, *kinds)
            targets.append(Target(name, file, 600, write_data, load, check_data, mutations))
    return targets


def model_targets():
    """Each file of a model."""
    targets = []
    for file, number, mutations in (
        ("config.json", 300, (*BYTES, *WHOLE, *[huge_number] * 5)),
        ("tokenizer.json", 250, (*BYTES, *WHOLE)),
        ("tokenizer_config.json", 150, (*BYTES, *WHOLE, *[known_setting] * 4)),
        ("model.safetensors", 150, BYTES),
        ("xlt.json", 100, (*BYTES, *WHOLE)),
        ("modules.json", 100, (*BYTES, *WHOLE)),
        ("1_Pooling/config.json", 60, (*BYTES, *WHOLE)),
        ("config_sentence_transformers.json", 80, (*BYTES, *WHOLE)),
        ("sentence_bert_config.json", 60, (*BYTES, *WHOLE)),
    ):
        name = f"model {file}"
        write, load, check = write_small_model, open_model, check_model
        targets.append(Target(name, file, number, write, load, check, mutations))
    return targets


TARGETS = [
    *data_targets(),
    Target("synonyms", "synonyms/zh.json", 700, write_data, read_tables, check_tables,
           (*BYTES, *WHOLE)),
    Target("wordnet", "french.tab", 500, write_data, read_wordnet, check_tables, WORDS),
    Target("dictionary", "dictionary.tsv", 800, write_data, read_dictionary, check_tables, WORDS),
    Target("protect", "protect.txt", 200, write_data, read_protected, check_words, WORDS),
    Target("run.json", "run.json", 500, write_run, read_run, check_same, (*BYTES, *WHOLE)),
    Target("metrics.json", "metrics.json", 500, write_run, read_results, check_same,
           (*BYTES, *WHOLE)),
    Target("attack.json", FROZEN, 200, write_frozen, read_frozen, check_same, (*BYTES, *WHOLE)),
    Target("metrics.npz", "metrics.npz", 500, write_run, read_queries, check_same, BYTES),
    Target("state.pt", "ckpt/state.pt", 400, write_run, read_state, check_same, BYTES),
    Target("report", "report.html", 50, write_run, read_report, check_same, BYTES),
    Target("file name", "", 400, write_nothing, read_other_name, check_tables, (*BYTES, *CELLS)),
    Target("--attacks", "", 700, write_nothing, attacks.parse_attack, check_attack,
           (*BYTES, *CELLS)),
    Target("--robust", "", 500, write_nothing, train.parse_robust, check_robust, (*BYTES, *CELLS)),
    Target("language", "", 300, write_nothing, xlt.base_language, check_code, (*BYTES, *CELLS)),
    *model_targets(),
]  # fmt: skip
TEXTS = {
    "file name": CODES, "--attacks": ATTACK_TEXTS, "--robust": ROBUST_TEXTS, "language": CODES
}  # fmt: skip


# ---- one mutant ----------------------------------------------------------------------------------


class TooSlowError(BaseException):
    """The time of one mutant is over. (No Exception, which a loader would take for its own.)"""


@dataclass
class Mutant:
    """A good content and what became of it."""

    target: Target
    number: int
    content: bytes
    names: list[str]  # of its mutations

    @property
    def text(self):
        """As the system hands over a flag or a file's name."""
        return os.fsdecode(self.content)


@dataclass
class Failure:
    """A mutant that did neither load nor be refused in one line."""

    mutant: Mutant
    problem: str

    def __str__(self):
        name, number = self.mutant.target.name, self.mutant.number
        return f"{name!r} {number} ({', '.join(self.mutant.names)}): {self.problem[:300]}"


def make_mutant(target, number, good):
    """The mutant of this number, always the same one: one mutation, sometimes two or three."""
    rng = random.Random(f"{SEED} {target.name} {number}")
    if target.name in TEXTS:
        good = rng.choice(TEXTS[target.name]).encode()
    content, names = good, []
    while (content == good and len(names) < 20) or rng.random() < 0.2:
        mutate = rng.choice(target.mutations)
        content = mutate(rng, content)
        names.append(mutate.__name__)
    return Mutant(target, number, content, names)


# What the refusal of a text must hold, as that of a file holds its name
NAMED = {
    "--attacks": "attack ",
    "--robust": "--robust ",
    "language": "unknown language",
    "file name": "synonyms",
}


def problem_of_refusal(error, target):
    """What is wrong with an error, "" if it is one line that a user can act upon."""
    text = str(error)
    shown = f"{type(error).__name__}: {text[:200]!a}"
    if type(error) is not ValueError:
        return f"no plain ValueError but {shown}"
    if not text.isprintable():
        return f"lines or control characters in {shown}"
    if len(text) > LONGEST_MESSAGE:
        return f"{len(text)} characters: {shown}"
    if NAMED.get(target.name, Path(target.file).name) not in text:
        return f"does not name the file: {shown}"
    if re.search("alloc|memory", text, re.IGNORECASE):
        return f"memory was asked for: {shown}"
    return ""


def raise_too_slow(signum, frame):
    """What SIGALRM does."""
    raise TooSlowError(f"more than {MOST_SECONDS} s")


@contextlib.contextmanager
def limits():
    """Inside the `with` a mutant gets so much time and memory, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MOST_MEMORY
    old_handler = signal.signal(signal.SIGALRM, raise_too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, old_handler)


@contextlib.contextmanager
def in_place(mutant, folder):
    """Inside the `with` the mutant lies in the good file's place. -> what its loader is given."""
    if not mutant.target.file:
        yield mutant.text
        return
    path = folder / mutant.target.file
    good = path.read_bytes()
    path.write_bytes(mutant.content)
    try:
        yield folder
    finally:
        path.write_bytes(good)


@dataclass
class Ends:
    """How the mutants of a target ended."""

    loaded: int = 0
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)


def try_mutant(mutant, folder, base, ends):
    """Load a mutant, check what was loaded. -> what is wrong with its end, "" if nothing is."""
    with in_place(mutant, folder) as place, limits():
        try:
            content = mutant.target.load(place)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 (TooSlowError, panics of other languages)
            ends.refused += 1
            return problem_of_refusal(error, mutant.target)
        ends.loaded += 1
        try:
            mutant.target.check(content, base)
        except (Exception, TooSlowError) as error:  # noqa: BLE001
            return f"loaded, but {type(error).__name__}: {str(error)[:200]!a}"
    return ""


def prepare(target, folder):
    """Write the good files. -> the good file, what is loaded of it."""
    target.write(folder)
    if not target.file:
        return b"", None
    base = target.load(folder)
    target.check(base, base)
    return (folder / target.file).read_bytes(), base


def fuzz(target, folder):
    """All mutants of a target, until ten have failed. -> how they ended."""
    good, base = prepare(target, folder)
    ends = Ends()
    for number in range(target.number):
        mutant = make_mutant(target, number, good)
        problem = try_mutant(mutant, folder, base, ends)
        if problem:
            ends.failures.append(Failure(mutant, problem))
        if len(ends.failures) == 10:
            break
    return ends


@pytest.fixture
def one_thread():
    """Small models are slower on many threads, and so are their neighbours."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_every_mutant_opens_or_is_refused_in_one_line(target, tmp_path, one_thread):
    """Claim: whatever a file holds, it loads, and then what was loaded is sound, or a ValueError of
    one line names the file; in time, and without asking for memory.

    Number: some hundred mutants a target, 11,100 in all; at the tenth failure the message shows
    them, each by the name and number that bring it back.
    Catches: tracebacks of libraries, NaN, half a character, a checksum that nobody compares.
    """
    ends = fuzz(target, tmp_path / "fuzz")
    print(f"{target.name}: {ends.loaded} loaded, {ends.refused} refused")
    shown = "\n".join(map(str, ends.failures))
    tried = ends.loaded + ends.refused
    assert shown == "", f"{len(ends.failures)} of {tried} mutants:\n{shown}"
    assert min(ends.loaded, ends.refused) > 0, "all ended alike: the target is vacuous"


def main(argv=None):
    """One mutant again, with the traceback of its loader."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("target", choices=[target.name for target in TARGETS])
    parser.add_argument("number", type=int)
    args = parser.parse_args(argv)
    target = next(target for target in TARGETS if target.name == args.target)
    with tempfile.TemporaryDirectory() as folder:
        good, base = prepare(target, Path(folder) / "fuzz")
        mutant = make_mutant(target, args.number, good)
        print(ascii(mutant.content)[:2000], mutant.names)
        with in_place(mutant, Path(folder) / "fuzz") as place, limits():
            content = target.load(place)
            target.check(content, base)
        print(content)


if __name__ == "__main__":
    main(sys.argv[1:])
