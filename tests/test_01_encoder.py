"""Rung 1: texts become unit vectors, and nothing but the text decides which.

Builds: xlt.Encoder. Before: rung 0. Run: pytest tests/test_01_encoder.py
"""

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import ROOT

from xlt import Encoder, Settings, Text, length_chunks, load_encoder, pool, save_encoder


def texts(*strings, lang="en", context=""):
    return [Text(str(i), lang, s, str(i), context) for i, s in enumerate(strings)]


LONG_AND_SHORT = texts("Cats.", "What is the capital of France, and of Spain?", "Why? " * 40, "Paris")


def test_vectors_have_one_row_a_text_and_length_one(encoder):
    """Claim: (B, D) in fp32, L2 norm 1. Catches: a forgotten normalisation, which turns cosine into dot."""
    vectors = encoder.encode(LONG_AND_SHORT, "query")
    assert vectors.shape == (4, encoder.model.config.hidden_size) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4), atol=1e-6, rtol=0)


def test_mean_pooling_leaves_padding_out():
    """Number: mean of (1, 3), (3, 5) is (2, 4); with the pad (9, 9) it would be (4.33, 5.67)."""
    hidden = torch.tensor([[[1.0, 3.0], [3.0, 5.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0, 4.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0, 3.0]]


def test_a_vector_does_not_depend_on_its_neighbours(encoder):
    """Claim: alone and in a batch agree to 1e-6. Catches: padding that is attended to or pooled."""
    together = encoder.encode(LONG_AND_SHORT, "query")
    alone = torch.cat([encoder.encode([t], "query") for t in LONG_AND_SHORT])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_the_word_embedding_entry_gives_what_token_ids_give(encoder):
    """Claim: inputs_embeds and input_ids agree. Catches: positions numbered from 0, not from pad + 1."""
    encoder.eval()
    batch = encoder.pad(encoder.tokenize(LONG_AND_SHORT, "query"))
    ours = encoder.from_words(encoder.words(batch["input_ids"]), batch)
    hidden = encoder.model(**batch).last_hidden_state
    theirs = torch.nn.functional.normalize(pool(hidden, batch["attention_mask"], "mean"), dim=-1)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_chunks_are_length_sorted_and_hold_every_text_once():
    """Number: lengths 3, 50, 4, 5 with waste 1.5: 3, 4, 5 share a chunk (5 <= 1.5 * 3 + 4), 50 does not."""
    assert length_chunks([3, 50, 4, 5]) == [[0, 2, 3], [1]]
    assert length_chunks([10] * 5, max_tokens=20) == [[0, 1], [2, 3], [4]]


def test_chunks_change_neither_vectors_nor_gradient(encoder):
    """Claim: one chunk a text gives the gradient of one chunk. Catches: losing or reordering a chunk."""
    encoder.eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    weight = torch.randn(4, encoder.model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    found = []
    for max_tokens in (10**6, 1):
        encoder.zero_grad()
        vectors = encoder(rows, max_tokens)
        (vectors * weight).sum().backward()
        found.append((vectors.detach(), [p.grad.clone() for p in encoder.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=0)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    assert max(float(g.abs().max()) for g in found[0][1]) > 0.01, "no gradient: the test is vacuous"


def test_vectors_come_back_in_the_order_of_the_rows(encoder):
    """Claim: row i of the batch is the vector of text i. Catches: leaving them sorted by length,
    which pairs queries with wrong passages in training and which encode() alone would not show.
    """
    encoder.eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    lengths = [len(row["input_ids"]) for row in rows]
    assert lengths != sorted(lengths), "already in order: the test would be vacuous"
    alone = torch.cat([encoder([row]) for row in rows])
    torch.testing.assert_close(encoder(rows), alone, atol=1e-6, rtol=0)


def test_queries_and_passages_get_their_own_prefix(encoder):
    """Claim: the prefix is what differs. Catches: one prefix for both sides."""
    both = [encoder.tokenizer.decode(encoder.tokenize(texts("Cats."), k)[0]["input_ids"]) for k in
            ("query", "passage")]  # fmt: skip
    assert "Query: Cats." in both[0] and "Passage: Cats." in both[1]


def test_truncation_is_counted_by_side_and_language(encoder):
    """Claim: a text over the limit is cut to it and counted. Number: 12 tokens with <s> and </s>."""
    encoder.settings = dataclasses.replace(encoder.settings, query_length=12)
    rows = encoder.tokenize(texts("Long question. " * 20, lang="de"), "query")
    rows += encoder.tokenize(texts("Hm"), "query")
    assert len(rows[0]["input_ids"]) == 12 and rows[0]["input_ids"][-1] == encoder.tokenizer.eos_token_id
    assert encoder.truncated == {("query", "de"): 1}
    assert encoder.seen == {("query", "de"): 1, ("query", "en"): 1}


def test_with_context_a_passage_is_a_pair_and_only_the_paragraph_is_cut(encoder):
    """Claim: <s> sentence </s></s> paragraph </s>, as LAReQA. Catches: a cut sentence."""
    encoder.settings = dataclasses.replace(encoder.settings, context=True, passage_length=24)
    row = encoder.tokenize(texts("Cats eat meat.", context="Dogs run. " * 30), "passage")[0]["input_ids"]
    end = encoder.tokenizer.eos_token_id
    assert len(row) == 24 and row.count(end) == 3 and row[-1] == end
    sentence = encoder.tokenizer.decode(row[: row.index(end)], skip_special_tokens=True)
    assert sentence.strip() == "Passage: Cats eat meat."
    query = encoder.tokenize(texts("Cats?", context="Dogs."), "query")[0]["input_ids"]
    assert query.count(end) == 1, "a query has no paragraph"


def test_padding_is_masked_by_length_not_by_token_id(encoder):
    """Claim: XLM-R pads with id 1, so a mask of `ids != 0` is wrong. Number: 2 pads of the shorter row."""
    batch = encoder.pad([{"input_ids": [0, 5, 2]}, {"input_ids": [0, 5, 7, 8, 2]}])
    assert batch["input_ids"][0].tolist() == [0, 5, 2, 1, 1]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_saving_and_loading_gives_the_same_vectors_and_settings(encoder, tmp_path):
    """Claim: bit for bit. Catches: settings that are not saved, so that other vectors come back."""
    encoder.settings = Settings(pooling="cls", query_prefix="F: ", query_length=12)
    save_encoder(encoder, tmp_path)
    again = load_encoder(tmp_path)
    assert again.settings == encoder.settings
    assert torch.equal(again.encode(LONG_AND_SHORT, "query"), encoder.encode(LONG_AND_SHORT, "query"))


def test_two_loads_give_equal_weights(encoder):
    """Claim: nothing is drawn at random when loading. Catches: a pooler that the checkpoint lacks."""
    again = load_encoder(ROOT / "data/tiny_xlmr")
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters(), strict=True))


def test_the_saved_folder_tells_sentence_transformers_what_to_do(encoder, tmp_path):
    """Claim: modules, pooling and prompts are written. (The library itself: test -m peers below.)"""
    save_encoder(encoder, tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [m["type"].rsplit(".", 1)[1] for m in modules] == ["Transformer", "Pooling", "Normalize"]
    prompts = json.loads((tmp_path / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": "Query: ", "passage": "Passage: "}


@pytest.mark.peers
def test_sentence_transformers_gives_our_vectors(encoder, tmp_path):
    """Claim: agreement with an independent library to 1e-5, for both prompts and poolings.

    The library knows one maximum length, the passage's, so the query that we cut at 96 is left out.
    """
    library = pytest.importorskip("sentence_transformers")
    some = LONG_AND_SHORT[:2] + LONG_AND_SHORT[3:]
    for pooling in ("mean", "cls"):
        encoder.settings = Settings(pooling=pooling)
        save_encoder(encoder, tmp_path)
        model = library.SentenceTransformer(str(tmp_path), device="cpu")
        for kind in ("query", "passage"):
            theirs = model.encode([t.text for t in some], prompt_name=kind)
            ours = encoder.encode(some, kind)
            torch.testing.assert_close(torch.tensor(theirs), ours, atol=1e-5, rtol=0)


def test_a_folder_without_model_or_tokenizer_is_refused(tmp_path):
    """Claim: the missing file is named. Catches: a traceback from deep inside the library."""
    with pytest.raises(ValueError, match=r"no config.json"):
        load_encoder(tmp_path)
    shutil.copy(ROOT / "data/tiny_xlmr/config.json", tmp_path)
    with pytest.raises(ValueError, match=r"no tokenizer_config.json.*a tokenizer"):
        load_encoder(tmp_path)


def test_an_unknown_pooling_is_refused(encoder):
    """Claim: the value and the remedy are named."""
    with pytest.raises(ValueError, match="pooling 'max' is unknown. Take mean or cls"):
        Encoder(encoder.model, encoder.tokenizer, Settings(pooling="max"))
