"""Rung 21, the three families of the papers: mBERT, XLM and XLM-R train, evaluate and classify.

Builds: nothing new; the programs meet tiny encoders of each kind, with a tokenizer of its own kind.
Before: rungs 4, 6 and 21. Run: pytest tests/test_21_families.py
"""

import json
import shutil
import sys
from itertools import chain

import pytest
import torch
import transformers
from conftest import ROOT
from test_21_pairs import labelled, write_pairs
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from training_world import texts_of_world, write_encoder, write_world

import pairs
import train
import xlt

FAMILIES = ["bert", "xlm", "xlm-r"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
XLM_SPECIAL = ["<s>", "</s>", "<pad>", "<unk>"]
SMALL = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def sentences():
    """What the tokenizers are trained on: the texts of both little worlds."""
    corpus, queries, _ = texts_of_world()
    for row in corpus + queries:
        yield row["text"]
    yield from chain(*(row[:2] for lang in ("en", "de") for row in labelled(lang)))


def write_bert(folder):
    """As bert-base-multilingual-cased: WordPiece in vocab.txt, two token types."""
    word_piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    word_piece.normalizer = normalizers.BertNormalizer(lowercase=False)
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=BERT_SPECIAL)
    word_piece.train_from_iterator(sentences(), trainer)
    numbers = word_piece.get_vocab()
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, intermediate_size=64)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    words = sorted(numbers, key=numbers.get)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def byte_pairs():
    """XLM's kind of vocabulary: byte pairs of words whose last letter carries </w>."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=XLM_SPECIAL, end_of_word_suffix="</w>"
    )
    bpe.train_from_iterator(sentences(), trainer)
    return bpe


def write_xlm(folder):
    """As xlm-mlm-100-1280: byte pairs, no token types, no language embeddings.

    Its tokenizer is saved in the fast format; the original one needs sacremoses (below).
    """
    bpe = byte_pairs()
    template = {"single": "<s> $A </s>", "pair": "<s> $A </s> $B </s>"}
    special = [("<s>", 0), ("</s>", 1)]
    bpe.post_processor = processors.TemplateProcessing(**template, special_tokens=special)
    torch.manual_seed(0)
    config = transformers.XLMConfig(
        vocab_size=400, emb_dim=32, n_layers=1, n_heads=2, use_lang_emb=False, n_langs=100,
        pad_index=2, bos_index=0, eos_index=1, unk_index=3,
    )  # fmt: skip
    transformers.XLMModel(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """family -> the folder of its tiny encoder."""
    root = tmp_path_factory.mktemp("families")
    xlm_r = root / "xlm-r"
    xlm_r.mkdir()
    return {
        "bert": write_bert(root / "bert"),
        "xlm": write_xlm(root / "xlm"),
        "xlm-r": write_encoder(xlm_r),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_trains_and_evaluates_for_retrieval(checkpoints, tmp_path, capsys, family):
    """Claim: hybrid batches, noise and worst-case noise, then a table. Number: three runs.

    Catches: an encoder whose word embeddings are not found; an input that its forward pass lacks.
    """
    (tmp_path / "world").mkdir()
    world = write_world(tmp_path / "world")
    flags = ["--model", str(checkpoints[family]), "--data", str(world), "--out", str(tmp_path)]
    flags += ["--train-langs", "en", "de", "--batch-size", "4", "--steps", "2", "--lr", "0.001"]
    flags += ["--robust", "none", "rs-rp", "adv", "--attacks", "clean", "random"]
    assert train.main(flags) == 0
    printed = capsys.readouterr().out
    for robust in ("none", "rs-rp", "adv"):
        assert f"hybrid-{robust}" in printed


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_classifies_pairs(checkpoints, tmp_path, family):
    """Claim: plainly, with edits and with worst-case noise. Number: a matrix of two languages each.

    Catches: token types that get lost when a pair is padded.
    """
    for split in ("train", "dev", "test"):
        for lang in ("en", "de"):
            write_pairs(tmp_path, split, lang, labelled(lang) * 2)
    (tmp_path / "synonyms").mkdir()
    (tmp_path / "synonyms/en.json").write_text(json.dumps({"big": ["huge"]}))
    flags = ["--model", str(checkpoints[family]), "--data", str(tmp_path), "--out", str(tmp_path)]
    flags += ["--batch-size", "4", "--steps", "2", "--choices", "1"]
    assert pairs.main([*flags, "--robust", "none", "adv", "rs-da"]) == 0
    for robust in ("none", "adv", "rs-da"):
        metrics = pairs.read_metrics(tmp_path / f"pairs-{robust}-seed0")
        assert len(metrics["results"]) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_is_what_the_family_reads(checkpoints, family):
    """Number: logits of two pairs of unequal length, by a plain call of the library with the
    tokenizer's own columns.

    Catches: BERT's second sentence without its token type 1; a filler that is not the model's own.
    """
    encoder = xlt.load_encoder(checkpoints[family])
    classifier = pairs.PairClassifier(encoder, n_labels=3)
    couples = [("The big cat sleeps.", "A dog eats."), ("A dog.", "The large cat is big.")]
    given = []
    for first, second in couples:
        texts = xlt.Text("a", "en", first, "g"), xlt.Text("a", "en", second, "g")
        given.append(pairs.Pair(*texts, 0))
    logits = classifier.predict(given)
    for couple, row in zip(couples, logits, strict=True):
        columns = encoder.tokenizer(*couple, return_tensors="pt")
        model = transformers.AutoModel.from_pretrained(checkpoints[family]).eval()
        with torch.no_grad():
            first_token = model(**columns).last_hidden_state[:, 0]
            expected = first_token @ classifier.head.weight.T + classifier.head.bias
        assert torch.allclose(row, expected[0], atol=1e-6)


def test_only_bert_has_token_types(checkpoints):
    """Number: [CLS] a [SEP] b [SEP] has types 0 0 0 1 1. Catches: types for XLM-R, which it lacks."""
    types = {}
    for family, folder in checkpoints.items():
        classifier = pairs.PairClassifier(xlt.load_encoder(folder), n_labels=2)
        text = xlt.Text("a", "en", "big", "g")
        (row,) = classifier.tokenize_pairs([pairs.Pair(text, text, 0)])
        types[family] = row.get("token_type_ids")
    assert types["xlm"] is None
    assert types["xlm-r"] is None
    assert types["bert"] == [0, 0, 0, 1, 1]


def test_the_original_tokenizer_of_xlm(checkpoints, tmp_path):
    """Claim: vocab.json and merges.txt, as XLM is published, give the ids of the fast format.

    Number: all texts of the world. Catches: a tokenizer that cannot be asked for many texts.
    """
    pytest.importorskip("sacremoses")
    folder = shutil.copytree(checkpoints["xlm"], tmp_path / "xlm")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]), encoding="utf-8")
    merges = [" ".join(merge) + " 0" for merge in content["merges"]]
    text = "\n".join(["#version", *merges]) + "\n"
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    about = {"tokenizer_class": "XLMTokenizer", "do_lowercase_and_remove_accent": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    original, fast = xlt.load_encoder(folder), xlt.load_encoder(checkpoints["xlm"])
    world = [xlt.Text(str(i), "en", text, "g") for i, text in enumerate(sentences())]
    rows = original.tokenize(world, "query")
    assert [row["input_ids"] for row in rows] == [
        row["input_ids"] for row in fast.tokenize(world, "query")
    ]


def test_without_sacremoses_the_error_names_it(checkpoints, tmp_path, monkeypatch):
    """Catches: a traceback of the library."""
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    folder = shutil.copytree(checkpoints["xlm"], tmp_path / "xlm")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("#version\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMTokenizer"}')
    with pytest.raises(ValueError, match="sacremoses"):
        xlt.load_encoder(folder)


def test_the_bundled_encoder_is_of_the_third_family():
    """Catches: a world that says nothing about XLM-R."""
    config = transformers.AutoConfig.from_pretrained(ROOT / "data/tiny_xlmr")
    assert config.model_type == "xlm-roberta"
