"""Rung 1: texts become unit vectors, and nothing but the text decides which.

Builds: xlt.Encoder, with pooling, chunks, truncation, saving and loading. Before: rung 0.
Run: pytest tests/test_01_encoder.py (and, with sentence-transformers installed, -m peers)
"""

import dataclasses
import hashlib
import json
import math
import random
import shutil
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import ROOT
from torch import nn
from training_world import write_encoder

import xlt
from xlt import (
    Encoder,
    Settings,
    Text,
    check_known,
    encoder_hashes,
    eval_mode,
    length_chunks,
    load_encoder,
    pool_tokens,
    room_for_tokens,
    save_encoder,
    truncated_texts,
    weights_hash,
)

TINY = ROOT / "data/tiny_xlmr"


def make_texts(*strings, lang="en", context=""):
    """Texts without ids that mean anything."""
    return [Text(string, lang, string, string, context) for string in strings]


# As queries 9, 17, 96 (it is cut) and 8 tokens: neither sorted by length nor of one length
LONG_AND_SHORT = make_texts(
    "Cats.", "What is the capital of France, and of Spain?", "Why? " * 60, "Paris"
)


class EmbeddingsAsOutput(nn.Module):
    """A model that returns its input: what comes out is what was looked up, plus the noise.

    The embedding of token k is (k, 0), so that whatever stands in the second place is noise.
    """

    def __init__(self):
        super().__init__()
        numbers = torch.arange(10.0)
        table = torch.stack([numbers, torch.zeros(10)], dim=1)  # (10, 2)
        self.table = nn.Embedding.from_pretrained(table, freeze=False)

    def get_input_embeddings(self):
        return self.table

    def forward(self, inputs_embeds, attention_mask):
        return SimpleNamespace(last_hidden_state=inputs_embeds)


@pytest.fixture
def transparent():
    """An encoder whose vectors can be computed by hand: the mean of token numbers, normalised."""
    tokenizer = SimpleNamespace(pad_token_id=9, name_or_path="fake")
    return Encoder(EmbeddingsAsOutput(), tokenizer)


# ---- vectors -------------------------------------------------------------------------------------


def test_encoding_gives_one_fp32_row_a_text(encoder):
    """Claim: (B, D) on the CPU, without gradient.

    Number: four texts, the 128 of data/tiny_xlmr/config.json.
    Catches: a graph that is kept for 20,000 passages.
    """
    vectors = encoder.encode(LONG_AND_SHORT, "query")
    assert vectors.shape == (4, 128)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad


def test_vectors_have_length_one(encoder):
    """Claim: the L2 norm is 1, to 1e-6 (fp32).

    Catches: a forgotten normalisation, which turns the cosine into a dot product.
    """
    norms = encoder.encode(LONG_AND_SHORT, "query").norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4), atol=1e-6, rtol=0)


def test_mean_pooling_leaves_padding_out():
    """Claim: the mean is over real tokens.

    Number: (1, 3), (3, 5) and a pad (9, 9) give (2, 4); the second text, (1, 0), (2, 0), (6, 3),
    gives (3, 1).
    Catches: the pad pooled as well (4.33, 5.67); a division by T (1.33, 2.67).
    """
    hidden = torch.tensor(
        [
            [[1.0, 3.0], [3.0, 5.0], [9.0, 9.0]],
            [[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]],
        ]
    )
    attention_mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool_tokens(hidden, attention_mask, "mean").tolist() == [[2.0, 4.0], [3.0, 1.0]]


def test_cls_pooling_takes_the_first_token():
    """Claim: the state of <s>, whatever follows.

    Number: (1, 2) of (1, 2), (3, 5).
    Catches: the mean for every pooling (2, 3.5); the first number of each token (1, 3).
    """
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    assert pool_tokens(hidden, torch.tensor([[1, 1]]), "cls").tolist() == [[1.0, 2.0]]


def test_a_vector_does_not_depend_on_its_neighbours(encoder):
    """Claim: alone and in a batch agree to 1e-6 (fp32, unit vectors).

    Number: one padded batch of all four, against batches of one, which have no padding.
    Catches: padding that is attended to.
    """
    encoder.eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    batch = encoder.pad(rows)
    together = encoder.from_embeddings(encoder.word_embeddings(batch["input_ids"]), batch)
    alone = torch.cat([encoder([row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_the_word_embedding_entry_gives_what_token_ids_give(encoder):
    """Claim: the model, given word embeddings, gives what it gives for ids.

    Number: the library's own forward pass on ids, its states averaged text by text, to 1e-6.
    Catches: positions numbered from 0 instead of pad + 1; embeddings with positions added twice.
    """
    encoder.eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    expected = []
    for row in rows:
        hidden = encoder.model(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state
        mean = hidden[0].mean(dim=0)  # (1, t, D) -> (D,)
        expected.append(mean / mean.norm())
    torch.testing.assert_close(encoder(rows), torch.stack(expected), atol=1e-6, rtol=0)


def test_precision_bf16_still_gives_fp32_vectors():
    """Claim: autocast halves the model alone; its vectors are fp32 and of length one.

    Number: against fp32 numbers differ by more than 1e-4 somewhere (bf16 has steps of 0.004), but
    the cosine is above 0.99.
    Catches: a precision that is ignored.
    """
    vectors = load_encoder(TINY, precision="bf16").encode(LONG_AND_SHORT, "query")
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4), atol=1e-6, rtol=0)
    full = load_encoder(TINY).encode(LONG_AND_SHORT, "query")
    assert (vectors - full).abs().max() > 1e-4, "bf16 did nothing"
    assert (vectors * full).sum(dim=1).min() > 0.99


class HalfEmbeddingsAsOutput(EmbeddingsAsOutput):
    """The same in half precision, as some models give their states under autocast."""

    def forward(self, inputs_embeds, attention_mask):
        return SimpleNamespace(last_hidden_state=inputs_embeds.bfloat16())


def test_states_in_half_precision_are_pooled_in_fp32(transparent):
    """Claim: pooling and normalisation are fp32, whatever the model gives.

    Number: token 3 with noise (0, 1) is (3, 1), exact in bf16; normalised (3, 1) / sqrt(10).
    Catches: a norm taken in bf16, which gives (0.9492, 0.3164) for (0.948683, 0.316228).
    """
    transparent.model = HalfEmbeddingsAsOutput()
    vectors = transparent([{"input_ids": [3]}], [torch.tensor([[0.0, 1.0]])])
    expected = torch.tensor([[3.0, 1.0]]) / math.sqrt(10)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)


# ---- chunks --------------------------------------------------------------------------------------


def test_texts_of_similar_length_share_a_chunk():
    """Claim: shortest first, cut where that costs least: texts * longest, and 64 a chunk.

    Number: lengths 3, 50, 4, 5: three texts of 5 and one of 50 cost 15 + 50 + 2 * 64 = 193, one
    chunk 4 * 50 + 64 = 264. Catches: chunks in the order of the texts.
    """
    assert length_chunks([3, 50, 4, 5]) == [[0, 2, 3], [1]]


def test_padding_is_bought_up_to_the_price_of_a_chunk():
    """Number: two texts of 10 and one of 20: 3 * 20 + 21 = 81 in one chunk, 20 + 20 + 2 * 21 = 82
    in two; with an overhead of 19 it is 79 against 78.

    Catches: an overhead that is counted once for all chunks, or not at all.
    """
    assert length_chunks([20, 10, 10], overhead=21) == [[1, 2, 0]]
    assert length_chunks([20, 10, 10], overhead=19) == [[1, 2], [0]]


def cost_of(chunks, lengths, overhead):
    """Tokens with padding, and the overhead of each chunk."""
    return sum(len(c) * max(lengths[i] for i in c) + overhead for c in chunks)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_cuts_cost_less(seed):
    """Number: all 2^6 ways to cut seven sorted texts. Catches: a cut that is the best for its chunk
    and not for the whole, as when chunks are filled one after the other.
    """
    rng = random.Random(seed)
    lengths = sorted(rng.randint(1, 60) for _ in range(7))
    costs = []
    for cuts in range(2**6):
        chunks = [[0]]
        for i in range(1, 7):
            if cuts >> (i - 1) & 1:
                chunks.append([])
            chunks[-1].append(i)
        costs.append(cost_of(chunks, lengths, 40))
    assert cost_of(length_chunks(lengths, overhead=40), lengths, 40) == min(costs)


def test_a_chunk_holds_at_most_so_many_tokens():
    """Claim: rows times longest is at most max_tokens, and the pieces are about equal.

    Number: five texts of 10 tokens, 20 a chunk: one, two and two.
    Catches: max_tokens taken for a number of texts.
    """
    assert length_chunks([10] * 5, max_tokens=20) == [[0], [1, 2], [3, 4]]


def test_a_chunk_holds_at_most_so_many_texts():
    """Number: five texts, two a chunk. Catches: max_texts that holds for the last chunk alone."""
    assert length_chunks([3, 4, 3, 4, 3], max_texts=2) == [[0], [2, 4], [1, 3]]


@pytest.mark.parametrize("seed", range(5))
def test_every_text_is_in_one_chunk_within_the_bounds(seed):
    """Claim: nothing is lost or doubled, and a chunk is too large only if it is one text.

    Number: 40 lengths up to 99, 60 tokens a chunk, so some texts are longer than a chunk.
    Catches: a text that is dropped because it fits nowhere; the bound checked before adding.
    """
    rng = random.Random(seed)
    lengths = [rng.randint(1, 99) for _ in range(40)]
    chunks = length_chunks(lengths, max_tokens=60)
    assert sorted(chain(*chunks)) == list(range(40))
    for chunk in chunks:
        longest = max(lengths[position] for position in chunk)
        assert len(chunk) == 1 or len(chunk) * longest <= 60


def test_vectors_come_back_in_the_order_of_the_rows(encoder):
    """Claim: row i of the batch is the vector of text i.

    Number: each text alone, to 1e-6.
    Catches: vectors left sorted by length, which pairs queries with wrong passages in training;
    encode() alone would not show it, since it sorts before.
    """
    encoder.eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    lengths = [len(row["input_ids"]) for row in rows]
    assert lengths != sorted(lengths), "already in order: the test would be vacuous"
    alone = torch.cat([encoder([row]) for row in rows])
    torch.testing.assert_close(encoder(rows), alone, atol=1e-6, rtol=0)


def test_encoding_keeps_the_order_of_the_texts(encoder):
    """Claim: encode sorts by length, and sorts back.

    Number: the vectors of the rows as they are, to 1e-6.
    Catches: a corpus in the order of its lengths.
    """
    encoder.eval()
    expected = encoder(encoder.tokenize(LONG_AND_SHORT, "passage"))
    vectors = encoder.encode(LONG_AND_SHORT, "passage")
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)


def test_a_corpus_is_encoded_in_blocks_without_a_loss(transparent, monkeypatch):
    """Claim: encode takes 2,048 texts at a time and gives a vector for each, in their order.

    Number: 4,500 texts, three blocks. Text i is token i % 7, once to three times, so its mean is
    (i % 7, 1) with the second place of the table set to 1.
    Catches: a last block that is lost; blocks each sorted back by themselves.
    """
    transparent.model.table.weight.data[:, 1] = 1.0
    texts = [Text(str(i), "en", "a" * (1 + i % 3), "") for i in range(4500)]
    counts = []

    def tokenize(texts, tower):
        """Instead of a tokenizer: a token a letter."""
        counts.append(len(texts))
        return [{"input_ids": [int(text.id) % 7] * len(text.text)} for text in texts]

    monkeypatch.setattr(transparent, "tokenize", tokenize)
    means = torch.tensor([[i % 7, 1.0] for i in range(4500)])
    expected = means / means.norm(dim=1, keepdim=True)
    torch.testing.assert_close(transparent.encode(texts, "query"), expected, atol=1e-6, rtol=0)
    assert counts == [2048, 2048, 404]


def test_the_gradient_does_not_depend_on_chunks(encoder):
    """Claim: one chunk a text gives the gradient of one chunk for all.

    Number: all parameters; 2e-5 absolute, since fp32 sums come in another order.
    Catches: a chunk that is lost or detached.
    """
    encoder.eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    weight = torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    gradients = []
    for max_tokens in (10**6, 1):
        encoder.zero_grad()
        (encoder(rows, max_tokens=max_tokens) * weight).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    for one, many in zip(*gradients, strict=True):
        torch.testing.assert_close(one, many, atol=2e-5, rtol=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in gradients[0])
    assert largest > 0.01, "no gradient: the test is vacuous"


# ---- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [8192, 1])
def test_noise_is_added_to_the_right_rows_whatever_the_chunks(transparent, max_tokens):
    """Claim: noise[i] is added to the word embeddings of rows[i], token by token.

    Number: tokens 1, 2, 3 have the mean (2, 0); (0, 6) on one of them moves it to (2, 2), at 45
    degrees. Token 5 with (0, -5) is (5, -5). At 45 degrees both numbers are sqrt(1/2).
    Catches: noise left in the order of the rows, where the chunk (8192 tokens: one for both) has
    the shorter one first; noise forgotten.
    """
    rows = [{"input_ids": [1, 2, 3]}, {"input_ids": [5]}]
    noise = [torch.tensor([[0.0, 0.0], [0.0, 6.0], [0.0, 0.0]]), torch.tensor([[0.0, -5.0]])]
    half = math.sqrt(1 / 2)
    expected = torch.tensor([[half, half], [half, -half]])
    vectors = transparent(rows, noise, max_tokens)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)


def test_noise_of_zeros_changes_nothing(encoder):
    """Claim: bit for bit.

    Number: x + 0 is x.
    Catches: noise that goes another way than no noise, e.g. with positions added twice.
    """
    encoder.eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    zeros = [torch.zeros(len(row["input_ids"]), 128) for row in rows]
    assert torch.equal(encoder(rows, zeros), encoder(rows))


# ---- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("was_training", [True, False])
def test_eval_mode_ends_as_it_began(encoder, was_training):
    """Claim: no training inside, afterwards the mode from before.

    Number: both modes.
    Catches: encoder.train() at the end, whatever was before; a mode that is not changed at all.
    """
    encoder.train(was_training)
    with eval_mode(encoder):
        assert not encoder.model.training
    assert encoder.training is was_training
    assert encoder.model.training is was_training


def test_eval_mode_ends_as_it_began_also_after_an_error(encoder):
    """Claim: an error inside, such as Ctrl-C while encoding, restores the mode and goes on.

    Catches: a missing `finally`, after which training goes on without dropout.
    """
    encoder.train()
    with pytest.raises(KeyboardInterrupt), eval_mode(encoder):
        raise KeyboardInterrupt
    assert encoder.model.training


def test_encoding_is_without_dropout_and_leaves_the_mode(encoder):
    """Claim: the same vectors twice from a model in training, which afterwards still trains.

    Number: dropout of one half everywhere (the bundled model has none), compared exactly.
    Catches: evaluation with dropout.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    encoder.train()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    assert not torch.equal(encoder(rows), encoder(rows)), "no dropout: the test is vacuous"
    first = encoder.encode(LONG_AND_SHORT, "query")
    assert torch.equal(encoder.encode(LONG_AND_SHORT, "query"), first)
    assert encoder.model.training


# ---- tokens --------------------------------------------------------------------------------------


def read_back(encoder, row):
    """A token row as text, special tokens shown."""
    return encoder.tokenizer.decode(row["input_ids"])


@pytest.mark.parametrize(("tower", "start"), [("query", "Query: "), ("passage", "Passage: ")])
def test_each_tower_has_its_own_prefix(encoder, tower, start):
    """Claim: the prefix is what differs between the towers.

    Number: the hybrid-batch paper's prefixes.
    Catches: one prefix for both.
    """
    [row] = encoder.tokenize(make_texts("Cats."), tower)
    assert start + "Cats." in read_back(encoder, row)


@pytest.mark.parametrize(("tower", "limit"), [("query", 12), ("passage", 17)])
def test_a_long_text_is_cut_to_the_length_of_its_tower(encoder, tower, limit):
    """Claim: exactly the limit, special tokens included, and </s> still stands at the end.

    Number: 12 for queries, 17 for passages.
    Catches: a plain slice, which loses </s>; the other tower's limit.
    """
    encoder.settings = Settings(query_length=12, passage_length=17)
    [row] = encoder.tokenize(make_texts("Long text. " * 20), tower)
    assert len(row["input_ids"]) == limit
    assert row["input_ids"][-1] == encoder.tokenizer.eos_token_id


def test_a_text_that_just_fits_is_not_cut(encoder):
    """Claim: a text of exactly the limit keeps its end and is not counted.

    Number: its own length as the limit.
    Catches: `>=` for `>`.
    """
    texts = make_texts("What is the capital?")
    [whole] = encoder.tokenize(texts, "query")
    encoder.settings = Settings(query_length=len(whole["input_ids"]))
    assert encoder.tokenize(texts, "query") == [whole]
    assert truncated_texts(encoder) == []


def test_truncation_is_counted_by_tower_and_language(encoder):
    """Claim: how many of how many, only where texts lost their end, in the order of the names.

    Number: one of two German queries, no English one, all three Thai passages.
    Catches: one count for all, which hides that it is Thai that is cut.
    """
    encoder.settings = Settings(query_length=12, passage_length=12)
    long = "Long text. " * 20
    encoder.tokenize(make_texts(long, "Hm", lang="de"), "query")
    encoder.tokenize(make_texts("Hm", lang="en"), "query")
    encoder.tokenize(make_texts(long, long, long, lang="th"), "passage")
    assert truncated_texts(encoder) == [
        {"tower": "passage", "lang": "th", "cut": 3, "of": 3},
        {"tower": "query", "lang": "de", "cut": 1, "of": 2},
    ]


def test_with_context_a_passage_is_a_pair(encoder):
    """Claim: <s> sentence </s></s> paragraph </s>, as in LAReQA.

    Number: by eye.
    Catches: sentence and paragraph glued together; the paragraph first.
    """
    encoder.settings = Settings(context=True)
    [row] = encoder.tokenize(make_texts("Cats eat.", context="Dogs run."), "passage")
    text = read_back(encoder, row).replace(" ", "")
    assert text == "<s>Passage:Catseat.</s></s>Dogsrun.</s>"


def test_with_context_a_query_stands_alone(encoder):
    """Claim: only passages have paragraphs.

    Number: one </s>.
    Catches: the context of whatever text is given.
    """
    encoder.settings = Settings(context=True)
    [row] = encoder.tokenize(make_texts("Cats?", context="Dogs run."), "query")
    assert row["input_ids"].count(encoder.tokenizer.eos_token_id) == 1


def test_a_passage_without_a_paragraph_stands_alone(encoder):
    """Number: one </s>; with a limit of just its length it is not cut. Catches: a pair with nothing,
    two tokens longer."""
    encoder.settings = Settings(context=True)
    texts = make_texts("Cats eat.")
    [row] = encoder.tokenize(texts, "passage")
    assert row["input_ids"].count(encoder.tokenizer.eos_token_id) == 1
    encoder.settings = Settings(context=True, passage_length=len(row["input_ids"]))
    assert encoder.tokenize(texts, "passage") == [row]
    assert encoder.texts_cut["passage", "en"] == 0


def test_of_a_long_pair_only_the_paragraph_is_cut(encoder):
    """Claim: the sentence stays whole.

    Number: 24 tokens, three of them </s>.
    Catches: truncation of the longer part first, or of the sentence alone.
    """
    encoder.settings = Settings(context=True, passage_length=24)
    sentence = "Cats eat meat and fish."
    [row] = encoder.tokenize(make_texts(sentence, context="Dogs run. " * 30), "passage")
    end = encoder.tokenizer.eos_token_id
    assert len(row["input_ids"]) == 24
    assert row["input_ids"].count(end) == 3
    before_paragraph = row["input_ids"][: row["input_ids"].index(end)]
    text = encoder.tokenizer.decode(before_paragraph, skip_special_tokens=True)
    assert text.strip() == f"Passage: {sentence}"


def test_a_sentence_without_room_for_its_paragraph_is_cut_itself(encoder):
    """Claim: a sentence longer than the limit is encoded alone, up to the limit.

    Number: 12 tokens, one </s>.
    Catches: "only_second", which cannot cut enough and raises.
    """
    encoder.settings = Settings(context=True, passage_length=12)
    [row] = encoder.tokenize(make_texts("Cats eat. " * 20, context="Dogs run."), "passage")
    assert len(row["input_ids"]) == 12
    assert row["input_ids"].count(encoder.tokenizer.eos_token_id) == 1


def test_padding_is_masked_by_length_not_by_token_id(transparent):
    """Claim: the mask says where the text ends.

    Number: pad id 9; the first text is three tokens of five, and its own last token is a 9.
    Catches: a mask of `ids != 0` (XLM-R pads with 1) or of `ids != pad`.
    """
    batch = transparent.pad([{"input_ids": [0, 5, 9]}, {"input_ids": [0, 5, 7, 8, 2]}])
    assert batch["input_ids"].tolist() == [[0, 5, 9, 9, 9], [0, 5, 7, 8, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_token_types_are_padded_with_zero(transparent):
    """Claim: whatever else the tokenizer gives (BERT's token types) is padded with 0.

    Number: types 0, 1 of a pair, padded to three.
    Catches: the pad id, here 9, of which a BERT has no type embedding.
    """
    rows = [
        {"input_ids": [3, 4], "token_type_ids": [0, 1]},
        {"input_ids": [3, 4, 5], "token_type_ids": [0, 0, 1]},
    ]
    assert transparent.pad(rows)["token_type_ids"].tolist() == [[0, 1, 0], [0, 0, 1]]


# ---- saving and loading --------------------------------------------------------------------------


def test_saving_and_loading_gives_the_same_vectors(encoder, tmp_path):
    """Claim: bit for bit.

    Number: settings off their defaults; weights scaled by 1.0001, since those that are bundled
    are half-precision numbers, which would survive being rounded once more.
    Catches: weights rounded to half precision on disk; pooling that comes back as the mean.
    """
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.0001)
    encoder.settings = Settings(pooling="cls", query_prefix="F: ", query_length=12)
    vectors = encoder.encode(LONG_AND_SHORT, "query")
    save_encoder(encoder, tmp_path)
    assert torch.equal(load_encoder(tmp_path).encode(LONG_AND_SHORT, "query"), vectors)


def test_saving_and_loading_gives_the_same_settings(encoder, tmp_path):
    """Claim: all six settings come back.

    Number: each off its default.
    Catches: a setting that is not saved.
    """
    encoder.settings = Settings("cls", "F: ", "P: ", 12, 13, True)
    save_encoder(encoder, tmp_path)
    assert load_encoder(tmp_path).settings == Settings("cls", "F: ", "P: ", 12, 13, True)


def test_a_setting_that_is_given_overrides_the_saved_one(encoder, tmp_path):
    """Claim: one is changed, the others are as saved.

    Number: saved length 12, given 40; the saved prefix stays.
    Catches: saved settings that win; defaults for all that is not given.
    """
    encoder.settings = Settings(query_prefix="F: ", query_length=12)
    save_encoder(encoder, tmp_path)
    changed = load_encoder(tmp_path, query_length=40)
    assert changed.settings == Settings(query_prefix="F: ", query_length=40)


def test_two_loads_give_equal_weights(encoder):
    """Claim: nothing is drawn at random when loading.

    Number: all parameters, bit for bit.
    Catches: a pooler that the checkpoint lacks.
    """
    again = dict(load_encoder(TINY).named_parameters())
    for name, parameter in encoder.named_parameters():
        assert torch.equal(again[name], parameter), name


def test_the_hash_of_the_weights_sees_one_number(encoder):
    """Claim: equal for equal weights, another after one number of a million has moved.

    Number: one bias of about 0.01 plus 1e-7.
    Catches: a hash of names or shapes, or of numbers as they are printed.
    """
    before = weights_hash(encoder)
    assert weights_hash(load_encoder(TINY)) == before
    with torch.no_grad():
        encoder.model.encoder.layer[2].output.dense.bias[7] += 1e-7
    assert weights_hash(encoder) != before


def test_the_hash_of_the_weights_is_a_hash_of_bytes():
    """Claim: SHA-256 over name and bytes of each tensor, by name.

    Number: a model of one weight, (1, 2): its 8 bytes in little-endian fp32, after its name.
    Catches: a hash that depends on the path, or on how numbers are printed.
    """
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0]])
    content = b"weight" + bytes.fromhex("0000803f 00000040")
    assert weights_hash(SimpleNamespace(model=model)) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("changes", [{"truncation_side": "left"}, {"split_special_tokens": True}])
def test_the_hash_of_the_tokenizer_sees_what_its_configuration_changes(plain, changes):
    """Claim: other vectors of the same weights have another hash, or an old result would do.

    Number: a long text that is cut, and one that holds "<s>".
    Catches: a hash of tokenizer.json alone.
    """
    texts = make_texts("Cats eat meat. " * 60 + "Dogs do not.", "Cats <s> eat.")
    before = load_encoder(plain)
    change_json(plain / "tokenizer_config.json", **changes)
    after = load_encoder(plain)
    assert not torch.allclose(before.encode(texts, "query"), after.encode(texts, "query"))
    assert encoder_hashes(before) != encoder_hashes(after)


# ---- what other libraries read -------------------------------------------------------------------


def read_json(path):
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_saved_folder_names_three_stages(encoder, tmp_path):
    """Claim: sentence-transformers finds model, pooling and normalisation, in this order.

    Number: by eye; the model lies in the folder itself.
    Catches: a missing Normalize, with which the library's vectors have other lengths.
    """
    save_encoder(encoder, tmp_path)
    stages = read_json(tmp_path / "modules.json")
    types = [stage["type"].rpartition(".")[2] for stage in stages]
    assert types == ["Transformer", "Pooling", "Normalize"]
    assert [stage["path"] for stage in stages] == ["", "1_Pooling", "2_Normalize"]


def test_the_saved_folder_tells_prompts_pooling_and_length(encoder, tmp_path):
    """Claim: what our settings say, in the library's words.

    Number: each off its default.
    Catches: the prompts of the two towers exchanged; a pooling that is always the mean.
    """
    encoder.settings = Settings("cls", "F: ", "P: ", 12, 13)
    save_encoder(encoder, tmp_path)
    prompts = read_json(tmp_path / "config_sentence_transformers.json")["prompts"]
    assert prompts == {"query": "F: ", "passage": "P: "}
    pooling = read_json(tmp_path / "1_Pooling/config.json")
    assert pooling == {"embedding_dimension": 128, "pooling_mode": "cls"}
    assert read_json(tmp_path / "sentence_bert_config.json")["max_seq_length"] == 13


def test_the_saved_folder_says_what_opens_it(encoder, tmp_path):
    """Claim: its readme names the library's version, the one that fails, prefixes and pooling.

    Catches: a model on a hub of which nobody knows why version 4 refuses its tokenizer.
    """
    encoder.settings = Settings("cls", "F: ", "P: ", 12, 13)
    save_encoder(encoder, tmp_path)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    for words in (f"transformers {transformers.__version__}", "version 4", "'F: '", "'P: '", "cls"):
        assert words in readme


def test_a_folder_may_have_a_percent_sign_in_its_name(tmp_path):
    """Catches: a refusal that is itself an error, where the name is taken for a format."""
    folder = tmp_path / "50%s"
    folder.mkdir()
    with pytest.raises(ValueError, match="50%s: no config.json. --model takes a folder"):
        load_encoder(folder)


def test_a_readme_of_ones_own_stays(encoder, tmp_path):
    """Catches: data/tiny_xlmr/readme.md replaced where README.md is the same name."""
    (tmp_path / "readme.md").write_text("all my work")
    save_encoder(encoder, tmp_path)
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "readme.md").read_text() == "all my work"


@pytest.mark.peers
@pytest.mark.parametrize("tower", ["query", "passage"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_gives_our_vectors(encoder, tmp_path, pooling, tower):
    """Claim: agreement with an independent library on the folder that we save, to 1e-5.

    Number: the library knows one length, the passage's, so the query that we cut is left out.
    Catches: a wrong prompt, pooling or normalisation in the saved folder.
    """
    library = pytest.importorskip("sentence_transformers")
    encoder.settings = Settings(pooling=pooling)
    save_encoder(encoder, tmp_path)
    texts = [LONG_AND_SHORT[0], LONG_AND_SHORT[1], LONG_AND_SHORT[3]]
    model = library.SentenceTransformer(str(tmp_path), device="cpu")
    vectors = torch.tensor(model.encode([text.text for text in texts], prompt_name=tower))
    torch.testing.assert_close(vectors, encoder.encode(texts, tower), atol=1e-5, rtol=0)


# ---- folders that others made --------------------------------------------------------------------


def write_json_file(path, content):
    """A JSON file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change_json(path, **values):
    """Other values in a JSON file."""
    write_json_file(path, read_json(path) | values)


def write_library_files(folder, *kinds, pooling=None, prompts=None, length=100):
    """What sentence-transformers writes beside a model: stages of these kinds, and their files."""
    stages = []
    for number, kind in enumerate(("Transformer", "Pooling", *kinds)):
        place = f"{number}_{kind}" if number else ""
        kind = f"sentence_transformers.models.{kind}"
        stages.append({"idx": number, "name": str(number), "path": place, "type": kind})
    if pooling is None:
        pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    if prompts is None:
        prompts = {"query": "F: ", "document": "D: "}
    write_json_file(folder / "modules.json", stages)
    write_json_file(folder / "1_Pooling/config.json", {"embedding_dimension": 32, **pooling})
    write_json_file(folder / "config_sentence_transformers.json", {"prompts": prompts})
    write_json_file(folder / "sentence_bert_config.json", {"max_seq_length": length})


@pytest.fixture
def plain(tmp_path):
    """One layer of XLM-R as its library saves it: no settings of ours or of anybody."""
    return write_encoder(tmp_path / "plain")


def test_what_sentence_transformers_saved_is_honoured(plain):
    """Claim: pooling, prompts and length of another tool's folder are its own.

    Number: each off our default; the library has one length for both towers.
    Catches: the mean with "Query: " for a model of cls and "F: ", which costs .020 mono mAP.
    """
    write_library_files(plain, "Normalize")
    assert load_encoder(plain).settings == Settings("cls", "F: ", "D: ", 100, 100)


def test_without_prompts_the_library_puts_nothing_before_a_text(plain):
    """Claim: a folder of sentence-transformers without prompts (BGE-M3) means no prefix.

    Number: the empty string for both towers.
    Catches: our own prefixes before the texts of a model that has never seen them.
    """
    write_library_files(plain, prompts={})
    settings = load_encoder(plain).settings
    assert (settings.query_prefix, settings.passage_prefix) == ("", "")


def test_the_newer_word_for_pooling_is_read(plain):
    """Claim: {"pooling_mode": "cls"}, as the library writes since its version 5.

    Catches: the mean, for want of the older key.
    """
    write_library_files(plain, pooling={"pooling_mode": "cls"})
    assert load_encoder(plain).settings.pooling == "cls"


def test_without_a_length_of_its_own_the_librarys_is_the_tokenizers(plain):
    """Claim: its version 6 writes no max_seq_length; the tokenizer's model_max_length holds.

    Number: 64; 10**30, as a tokenizer without a limit has, is none.
    Catches: queries cut at our 96 tokens in a model of 64.
    """
    write_library_files(plain, length=None)
    change_json(plain / "tokenizer_config.json", model_max_length=64)
    settings = load_encoder(plain).settings
    assert (settings.query_length, settings.passage_length) == (64, 64)
    change_json(plain / "tokenizer_config.json", model_max_length=10**30)
    settings = load_encoder(plain).settings
    assert (settings.query_length, settings.passage_length) == (96, 256)


def test_a_model_in_the_folder_of_its_stage_is_found(plain, tmp_path):
    """Claim: the library's first versions put the model into 0_Transformer.

    Catches: "no config.json".
    """
    folder = tmp_path / "library"
    shutil.copytree(plain, folder / "0_Transformer")
    stages = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    write_json_file(folder / "modules.json", stages)
    length = {"max_seq_length": 70}
    write_json_file(folder / "0_Transformer/sentence_xlm-roberta_config.json", length)
    assert load_encoder(folder).settings == Settings("mean", "", "", 70, 70)


def test_flags_come_before_our_file_and_that_before_the_librarys(plain, capsys):
    """Claim: flag, xlt.json, sentence-transformers, default; stderr says which.

    Number: the query length is in the first three, the prefix in two, pooling in one, context in
    none.
    Catches: another order; a source that is not the value's.
    """
    write_library_files(plain)
    write_json_file(plain / "xlt.json", {"query_length": 50, "query_prefix": "X: "})
    settings = load_encoder(plain, query_length=40).settings
    assert settings == Settings("cls", "X: ", "D: ", 40, 100)
    report = capsys.readouterr().err
    assert "of flag: query_length 40" in report
    assert "of xlt.json: query_prefix 'X: '" in report
    assert "of 1_Pooling/config.json: pooling 'cls'" in report
    assert "of default: context False" in report


@pytest.mark.parametrize("path", ["../plain", "..", "/etc", "a/b", "\x1b[31m", "9" * 400, [""], 7])
def test_a_stage_lies_in_the_folder(plain, path):
    """Claim: the place of a stage is the name of a folder in the model's.

    Number: one level up, the root, two levels down, an escape code, more than a name may have,
    and what is no text.
    Catches: another model's files; a TypeError; a message that colours the terminal.
    """
    stages = [{"path": path, "type": "sentence_transformers.models.Transformer"}]
    write_json_file(plain / "modules.json", stages)
    with pytest.raises(ValueError, match='modules.json: .* without "type" and "path"') as caught:
        load_encoder(plain)
    assert str(caught.value).isprintable()


def test_a_pooling_that_is_no_text_is_refused(plain):
    """Claim: as one that we do not compute. Catches: TypeError: unhashable type."""
    write_library_files(plain, pooling={"pooling_mode": ["cls"]})
    with pytest.raises(ValueError, match="pooling .* .of 1_Pooling/config.json. is unknown"):
        load_encoder(plain)


@pytest.mark.parametrize("kind", ["Dense", "LSTM"])
def test_a_stage_that_we_do_not_compute_is_refused(plain, kind):
    """Claim: by name.

    Catches: the 32 dimensions before a Dense layer for the 16 after it.
    """
    write_library_files(plain, kind)
    with pytest.raises(ValueError, match=f"modules.json: the model has a stage '{kind}'"):
        load_encoder(plain)


@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls\+mean"),
    ],
)
def test_a_pooling_that_we_do_not_compute_is_refused_unless_a_flag_is_given(plain, pooling, name):
    """Claim: by name and file; --pooling is the remedy.

    Catches: the mean for whatever is not cls.
    """
    write_library_files(plain, pooling=pooling)
    with pytest.raises(ValueError, match=f"pooling '{name}' .of 1_Pooling/config.json. is unknown"):
        load_encoder(plain)
    assert load_encoder(plain, pooling="mean").settings.pooling == "mean"


def test_a_dot_product_without_normalisation_is_refused(plain):
    """Claim: we compare by the cosine; with a Normalize stage the two are one.

    Catches: another ranking than the model's own.
    """
    write_library_files(plain)
    dot = {"similarity_fn_name": "dot"}
    write_json_file(plain / "config_sentence_transformers.json", dot)
    with pytest.raises(ValueError, match="similarity is 'dot' without a Normalize stage"):
        load_encoder(plain)
    write_library_files(plain, "Normalize")
    write_json_file(plain / "config_sentence_transformers.json", dot)
    load_encoder(plain)
    other = {"similarity_fn_name": "manhattan"}
    write_json_file(plain / "config_sentence_transformers.json", other)
    with pytest.raises(ValueError, match="similarity is 'manhattan' with a Normalize stage"):
        load_encoder(plain)


def test_a_pooling_stage_in_the_models_own_folder_is_read_there(plain, monkeypatch):
    """Number: path "", as the Transformer stage has it. Catches: /config.json of the machine."""
    asked = []
    whole = xlt.model_file

    def listening(path, name):
        """Keep the name."""
        asked.append(name)
        return whole(path, name)

    write_library_files(plain)
    modules = [{"type": "sentence_transformers.models.Pooling", "path": ""}]
    write_json_file(plain / "modules.json", modules)
    monkeypatch.setattr(xlt, "model_file", listening)
    xlt.library_settings(plain)
    assert "config.json" in asked
    assert not any(name.startswith("/") for name in asked)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "xlt.json: no JSON"),
        ("[]", "xlt.json: no JSON object"),
        ('{"poling": "cls"}', "xlt.json: unknown setting 'poling'"),
        ('{"query_length": "12"}', r"query length '12' \(of xlt.json\) is no int"),
        ('{"query_length": 0}', "query length 0 .* at least one token"),
    ],
)
def test_damaged_settings_are_refused(plain, content, message):
    """Claim: the file and the value are named.

    Catches: tracebacks, and "12" compared with a number.
    """
    (plain / "xlt.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_encoder(plain)


@pytest.mark.peers
@pytest.mark.parametrize("tower", ["query", "document"])
def test_sentence_transformers_agrees_on_its_own_folder(plain, tower):
    """Claim: agreement on a folder with cls, prompts and a length, to 1e-5.

    Number: 20 tokens, so that two of the four texts are cut.
    Catches: a setting of the folder that is not honoured.
    """
    library = pytest.importorskip("sentence_transformers")
    write_library_files(plain, "Normalize", length=20)
    (plain / "2_Normalize").mkdir()
    model = library.SentenceTransformer(str(plain), device="cpu")
    texts = [text.text for text in LONG_AND_SHORT]
    vectors = torch.tensor(model.encode(texts, prompt_name=tower))
    ours = load_encoder(plain).encode(LONG_AND_SHORT, tower.replace("document", "passage"))
    torch.testing.assert_close(vectors, ours, atol=1e-5, rtol=0)


# ---- model and tokenizer belong together ---------------------------------------------------------


def test_a_folder_without_its_vocabulary_is_refused(plain):
    """Claim: the library then makes a tokenizer of five entries, which is refused by its size.

    Number: 16,000 embeddings.
    Catches: every word unknown, mAP below chance, exit 0.
    """
    (plain / "tokenizer.json").unlink()
    change_json(plain / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    with pytest.raises(ValueError, match="the model has 16000 embeddings: the vocabulary is miss"):
        load_encoder(plain)


def resize(folder, rows):
    """Other numbers of embeddings."""
    model = load_encoder(folder).model
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder)


@pytest.mark.parametrize("rows", [15999, 32001])
def test_a_tokenizer_of_another_size_is_refused(plain, rows):
    """Claim: an id without a row, or more than half of the rows without a token.

    Number: 16,000 tokens with one row too few, and with one more than twice as many rows.
    Catches: an IndexError at the first text that holds the last token.
    """
    resize(plain, rows)
    with pytest.raises(ValueError, match=f"ids end at 15999, the model has {rows} embeddings"):
        load_encoder(plain)


def test_embeddings_that_are_padded_to_a_round_number_load(plain):
    """Claim: some rows without tokens are common (mT5 has 12, mDeBERTa 898).

    Number: 16,384 rows for 16,000 tokens.
    Catches: a demand that the two be equal.
    """
    resize(plain, 16384)
    load_encoder(plain)


def test_a_vocabulary_that_knows_few_of_the_texts_is_refused(plain, capsys):
    """Claim: above one half of the tokens; of a single language only a warning.

    Number: Amharic is not in the bundled vocabulary, English is. Alone it is refused; beside four
    English texts it is a warning.
    Catches: an evaluation of <unk> against <unk>.
    """
    encoder = load_encoder(plain)
    amharic = make_texts("ሰላም ለዓለም", lang="am")
    with pytest.raises(ValueError, match="100 % of the tokens are unknown to the tokenizer .am"):
        check_known(encoder, amharic)
    check_known(encoder, [*LONG_AND_SHORT, *amharic])
    assert "100 % of the tokens of am are unknown" in capsys.readouterr().err


# ---- kinds of models -----------------------------------------------------------------------------

SMALL = {
    "vocab_size": 16000,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def write_model(folder, kind, model_class=None, **more):
    """A tiny model of any kind with the bundled tokenizer."""
    config = getattr(transformers, f"{kind}Config")(**(SMALL | more))
    torch.manual_seed(0)
    getattr(transformers, model_class or f"{kind}Model")(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "more", "room"),
    [
        ("Bert", {}, 66),
        ("XLMRoberta", {"pad_token_id": 1}, 64),
        ("Camembert", {"pad_token_id": 1}, 64),
        ("MPNet", {"pad_token_id": 1}, 64),
        ("Longformer", {"pad_token_id": 1, "attention_window": [16, 16]}, 64),
        ("Luke", {"pad_token_id": 1, "entity_vocab_size": 9, "entity_emb_size": 32}, 64),
    ],
)
def test_the_room_for_tokens_follows_from_the_model(tmp_path, kind, more, room):
    """Claim: the longest text that fits is encoded, and one more is refused.

    Number: 66 positions, of which some models leave out those up to the pad id.
    Catches: an IndexError for models of this kind without "roberta" in their names.
    """
    write_model(tmp_path, kind, max_position_embeddings=66, **more)
    encoder = load_encoder(tmp_path, query_length=room, passage_length=room)
    encoder.encode(make_texts("Cats eat. " * 60), "query")
    with pytest.raises(ValueError, match=f"--query-length {room + 1}: .*at most {room} tokens"):
        load_encoder(tmp_path, query_length=room + 1, passage_length=room)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("XLNet", {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64}),
        ("MT5", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}),
    ],
)
def test_a_model_without_a_table_of_positions_has_no_limit(tmp_path, kind, more):
    """Claim: relative positions have no end; of mT5 the encoder alone is taken.

    Number: 3,000 tokens.
    Catches: an AttributeError (mT5), "at most -1 tokens" (XLNet).
    """
    write_model(tmp_path, kind, **more)
    encoder = load_encoder(tmp_path, passage_length=3000)
    assert room_for_tokens(encoder.model) is None
    assert encoder.encode(make_texts("Cats eat. " * 60), "passage").shape == (1, 32)


def test_a_model_that_does_not_mask_padding_gets_none(tmp_path):
    """Claim: FNet mixes all tokens, so its texts are encoded in chunks of one length.

    Number: alone and among the others, to 1e-6; padded they differ by more than 0.1.
    Catches: vectors that hang on a text's neighbours.
    """
    encoder = load_encoder(write_model(tmp_path, "FNet")).eval()
    rows = encoder.tokenize(LONG_AND_SHORT, "query")
    alone = torch.cat([encoder([row]) for row in rows])
    torch.testing.assert_close(encoder(rows), alone, atol=1e-6, rtol=0)
    batch = encoder.pad(rows)
    padded = encoder.from_embeddings(encoder.word_embeddings(batch["input_ids"]), batch)
    assert (padded - alone).abs().max() > 0.1, "padding does not matter: the test is vacuous"


def test_a_chunk_of_one_length_holds_equal_texts_alone():
    """Claim: an overhead of 0.

    Number: 3 and 3 share one, 4 does not.
    Catches: the four tokens more that very short texts may have.
    """
    assert length_chunks([3, 4, 3], overhead=0) == [[0, 2], [1]]


def test_a_model_with_a_decoder_is_refused(tmp_path):
    """Claim: BART is refused by its kind.

    Catches: "incomplete", or decoder inputs that are missing.
    """
    write_model(tmp_path, "Bart", d_model=32, encoder_layers=1, decoder_layers=1)
    with pytest.raises(ValueError, match="config.json: bart has a decoder, too. Take an"):
        load_encoder(tmp_path)


def test_a_checkpoint_of_another_kind_is_not_called_incomplete(tmp_path):
    """Claim: DPR's passage encoder has names of its own, which are shown.

    Catches: "the checkpoint is incomplete", after which one fetches it again.
    """
    write_model(tmp_path, "DPR", "DPRContextEncoder")
    with pytest.raises(ValueError, match="a checkpoint of another kind than DPRQ.*'ctx_encoder"):
        load_encoder(tmp_path)


# ---- weights that are not the model's ------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 9_999_999])
def test_an_impossible_number_of_layers_is_refused_at_once(plain, layers):
    """Claim: before anything is built.

    Catches: memory for 9,999,999 layers; a model of none.
    """
    change_json(plain / "config.json", num_hidden_layers=layers)
    with pytest.raises(ValueError, match=f"config.json: {layers} layers. Write 1 to 200"):
        load_encoder(plain)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("vocab_size", 10**9, "'vocab_size' is 1000000000. Write at most 10000000"),
        ("type_vocab_size", 10**400, "'type_vocab_size' is 1000000"),
        ("num_labels", 10**6, "'num_labels' is 1000000. Write at most 10000"),
        ("hidden_size", 10**6, ", 2.2e.06 bytes in model.safetensors"),
        ("num_attention_heads", 3, "describes no model. ValueError: The hidden size .32. is not"),
        ("hidden_act", "rely", "describes no model. KeyError: 'rely'"),
    ],
)
def test_a_config_that_is_not_of_these_weights_is_refused_before_memory_is_taken(
    plain, name, value, message
):
    """Claim: config.json is named, and no number of the model is made.

    Number: a million times a million numbers, five times, are 20 TB.
    Catches: "can't allocate memory", or a machine that swaps; "the weights do not open"; a name for
    each of a million labels, which takes half a minute.
    """
    change_json(plain / "config.json", **{name: value})
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        load_encoder(plain)


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e30])
def test_weights_that_are_no_weights_are_refused(plain, value):
    """Claim: by name, wherever in the table they stand.

    Number: one number, in the last row of 16,000; a bit of a small number turned makes it 1e30.
    Catches: vectors of NaN or of no length, for those texts alone that hold the word.
    """
    encoder = load_encoder(plain)
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight[-1, 5] = value
    encoder.model.save_pretrained(plain)
    with pytest.raises(ValueError, match="model.safetensors: .*word_embeddings.* damaged"):
        load_encoder(plain)


def test_weights_that_give_vectors_of_no_length_are_refused(plain):
    """Claim: zeros in the last normalisation, as a crash leaves them, make every text zero.

    Catches: cosines of 0 between all texts, evaluated as a model like any other.
    """
    encoder = load_encoder(plain)
    with torch.no_grad():
        encoder.model.encoder.layer[-1].output.LayerNorm.weight.zero_()
        encoder.model.encoder.layer[-1].output.LayerNorm.bias.zero_()
    encoder.model.save_pretrained(plain)
    with pytest.raises(
        ValueError, match="no vectors .*model.safetensors.*has the length 0 and not 1"
    ):
        load_encoder(plain)


def test_layers_that_config_json_leaves_out_are_refused(tmp_path):
    """Claim: a checkpoint of two layers is no model of one.

    Number: the first weight of the second layer is named.
    Catches: half a model, without a word.
    """
    write_model(tmp_path, "XLMRoberta")
    change_json(tmp_path / "config.json", num_hidden_layers=1)
    with pytest.raises(ValueError, match="encoder.layer.1.* would be left out. Set num_hidden"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("layers", [2, 7])
def test_layers_that_the_checkpoint_has_not_are_refused_with_config_json(plain, layers):
    """Claim: it may be config.json that is wrong. Number: of 7 layers most weights are missing.

    Catches: "of another kind" for a checkpoint that holds no other name.
    """
    change_json(plain / "config.json", num_hidden_layers=layers)
    with pytest.raises(ValueError, match="lacks .*encoder.layer.1.*or config.json describes more"):
        load_encoder(plain)


def test_weights_of_another_size_are_refused_with_both(plain):
    """Claim: which weight, its size in the file, and by config.json.

    Number: 32 and 64.
    Catches: the library's "see the above report", of which there is none.
    """
    change_json(plain / "config.json", hidden_size=64)
    with pytest.raises(ValueError, match=r"\(32,\) in the checkpoint and \(64,\) by config.json"):
        load_encoder(plain)


def test_default_lengths_are_cut_to_the_model(tmp_path, capsys):
    """Number: 128 positions, XLM-R's two less; the default of passages is 256, that of queries 96.

    Catches: a refusal that names a flag which nobody gave; a chosen length that is cut as well.
    """
    write_encoder(tmp_path, positions=128)
    settings = load_encoder(tmp_path).settings
    assert (settings.query_length, settings.passage_length) == (96, 126)
    assert "of default: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="--passage-length 200: texts have at most 126 tokens"):
        load_encoder(tmp_path, passage_length=200)


def test_the_padding_token_may_stand_in_config_json_alone(plain):
    """Number: the vectors are those of the same model with the token in both files.

    Catches: a folder of config.json, weights and tokenizer.json refused.
    """
    expected = load_encoder(plain).encode(LONG_AND_SHORT, "query")
    content = read_json(plain / "tokenizer_config.json")
    del content["pad_token"]
    write_json_file(plain / "tokenizer_config.json", content)
    assert torch.equal(load_encoder(plain).encode(LONG_AND_SHORT, "query"), expected)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "model.safetensors", "pytorch_model.bin", "modules.json"]
)
def test_a_pointer_of_git_lfs_is_refused_by_name(plain, name):
    """Claim: the file and the command that fetches it.

    Catches: "header too small", "invalid load key".
    """
    (plain / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(ValueError, match=f"{name}: a pointer of git-lfs.*git lfs pull"):
        load_encoder(plain)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("config.json", "/config.json: .*utf-8"),
        ("tokenizer.json", ": the tokenizer does not open"),
        ("model.safetensors", ": .* numbers by config.json, 2.0e.00 bytes"),
    ],
)
def test_a_damaged_file_is_refused_with_the_path(plain, name, part):
    """Claim: one line of at most 300 characters with the folder, the part and the file.

    Number: two bytes that are neither JSON nor safetensors.
    Catches: JSONDecodeError, SafetensorError and others as tracebacks without a path.
    """
    (plain / name).write_bytes(b"{\xff")
    with pytest.raises(ValueError, match=f"{plain}{part}") as caught:
        load_encoder(plain)
    assert name in str(caught.value)
    assert len(str(caught.value)) - len(str(plain)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["no unknown token", "no length"])
def test_a_tokenizer_that_opens_and_cannot_encode_is_refused(plain, damage):
    """Claim: one is asked for a character that no vocabulary has, before the first text.

    Number: two settings that only a call looks at.
    Catches: the tokenizer's own exception, hours later, at the first rare character.
    """
    if damage == "no unknown token":
        content = read_json(plain / "tokenizer.json")
        content["model"]["unk_id"] = None
        write_json_file(plain / "tokenizer.json", content)
    else:
        change_json(plain / "tokenizer_config.json", model_max_length={"a": 1})
    with pytest.raises(
        ValueError, match="the tokenizer does not open .tokenizer.json, tokenizer_c"
    ):
        load_encoder(plain)


def test_a_sentencepiece_model_alone_says_what_to_install(plain):
    """Claim: the tokenizer's own format needs two packages, which are named.

    Catches: "tiktoken is required", which would not help.
    """
    (plain / "tokenizer.json").unlink()
    (plain / "tokenizer_config.json").unlink()
    (plain / "sentencepiece.bpe.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(ValueError, match=r"pip install sentencepiece protobuf|16000 embeddings"):
        load_encoder(plain)


def test_a_vocab_txt_alone_opens(tmp_path):
    """Claim: the library makes BERT's tokenizer of the list alone.

    Number: seven entries; "cats" is the sixth.
    Catches: "no tokenizer_config.json" for a folder that has all it needs.
    """
    write_model(tmp_path, "Bert", vocab_size=7)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cats", "eat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    [row] = load_encoder(tmp_path, query_prefix="").tokenize(make_texts("Cats"), "query")
    assert row["input_ids"] == [2, 5, 3]


# ---- paths and lengths ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["./no", "no/such/folder", "/no/such", "tests/no"])
def test_what_looks_like_a_path_is_never_looked_up_on_a_hub(path, monkeypatch):
    """Claim: refused at once, also where a hub's names are allowed.

    Number: "tests/no" could be a name, but there is a folder "tests" here.
    Catches: 25 s of waiting, or a stranger's model under a mistyped path.
    """
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=f"--model {path}: no such folder. Give a folder with a m"):
        load_encoder(path, hub=True)


def test_code_in_a_model_folder_is_not_run(plain):
    """Claim: a model that brings its own code is refused.

    Number: the code would leave a file.
    Catches: trust_remote_code.
    """
    code = f"open({str(plain / 'ran')!r}, 'w')\n"
    (plain / "own.py").write_text(code)
    change_json(
        plain / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"},
    )
    with pytest.raises(ValueError, match="config.json does not open.*custom code"):
        load_encoder(plain)
    assert not (plain / "ran").exists()


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_length_that_leaves_nothing_of_a_text_is_refused(length):
    """Claim: prefix and special tokens must leave room for one token.

    Number: <s> Query : </s> and the blank after the colon are 5 tokens; 6 is enough.
    Catches: texts that are all alike, or not cut at all.
    """
    with pytest.raises(ValueError, match=f"--query-length {length}: prefix and special tokens tak"):
        load_encoder(TINY, query_length=length)
    load_encoder(TINY, query_length=6)


# ---- refusals ------------------------------------------------------------------------------------


def test_a_folder_without_a_model_is_refused(tmp_path):
    """Claim: the missing file is named.

    Catches: a traceback from deep inside the library.
    """
    with pytest.raises(ValueError, match="no config.json. --model takes a folder that holds a mod"):
        load_encoder(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    """Claim: the missing file is named.

    Catches: as above.
    """
    shutil.copy(TINY / "config.json", tmp_path)
    with pytest.raises(ValueError, match="no tokenizer_config.json.*a tokenizer"):
        load_encoder(tmp_path)


def test_a_name_that_opens_nothing_is_refused():
    """Claim: no folder; a name on the hub (which no test asks) only where it is allowed.

    Catches: the library's OSError, without our flag's name.
    """
    with pytest.raises(ValueError, match="--model no/such: no such folder.*--model of train.py"):
        load_encoder("no/such")
    with pytest.raises(ValueError, match="--model no/such: config.json does not open"):
        load_encoder("no/such", hub=True)


def test_a_checkpoint_that_lacks_weights_is_refused(encoder, tmp_path):
    """Claim: the missing weights are named.

    Number: one bias is left out.
    Catches: weights that the library draws at random instead, with a warning at most.
    """
    save_encoder(encoder, tmp_path)
    weights = encoder.model.state_dict()
    del weights["encoder.layer.0.output.dense.bias"]
    encoder.model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="lacks .*layer.0.output.dense.bias.*incomplete"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["query_length", "passage_length"])
def test_lengths_that_the_model_has_no_positions_for_are_refused(name):
    """Claim: 512 tokens are the most, for either tower.

    Number: 514 position embeddings, of which XLM-R leaves out the first two (pad id 1, plus 1).
    Catches: 513 and 514, which raise an index error at the first long text.
    """
    assert getattr(load_encoder(TINY, **{name: 512}).settings, name) == 512
    with pytest.raises(ValueError, match="at most 512 tokens. Take smaller lengths .*xlt.json"):
        load_encoder(TINY, **{name: 513})


def test_a_model_that_wants_a_language_id_is_refused(encoder, tmp_path):
    """Claim: XLM's older checkpoints are refused in one sentence.

    Number: the setting that marks them, in the configuration of the bundled model.
    Catches: vectors without the ids, which are wrong and look well.
    """
    encoder.model.config.use_lang_emb = True
    save_encoder(encoder, tmp_path)
    with pytest.raises(ValueError, match="config.json: wants a language id for each token. Take"):
        load_encoder(tmp_path)


def test_an_unknown_pooling_is_refused(encoder):
    """Claim: the value and the remedy are named.

    Catches: the mean for whatever is not "cls".
    """
    with pytest.raises(ValueError, match="pooling 'max' is unknown. Take mean or cls"):
        Encoder(encoder.model, encoder.tokenizer, Settings(pooling="max"))


def test_a_tokenizer_without_padding_is_refused(encoder):
    """Claim: a decoder's tokenizer is refused by name.

    Catches: a TypeError at the first batch of two texts.
    """
    tokenizer = SimpleNamespace(pad_token_id=None, name_or_path="gpt2")
    with pytest.raises(ValueError, match="'gpt2' has no padding token. Take an encoder's"):
        Encoder(encoder.model, tokenizer)


def test_settings_cannot_be_changed_by_accident(encoder):
    """Claim: settings are frozen; other settings are another object.

    Catches: a default of one encoder that all encoders share and one of them changes.
    """
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoder.settings.query_length = 7
