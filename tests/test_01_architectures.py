"""Rung 1, slow: encoders of many architectures give the vectors that their own library gives.

Builds: nothing new; xlt.Encoder meets the models of others, tiny and random, as they are saved.
Before: rung 1. Run: pytest -m slow tests/test_01_architectures.py
"""

import random
from dataclasses import dataclass

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer

from xlt import Text, eval_mode, load_encoder, room_for_tokens, truncated_texts

pytestmark = pytest.mark.slow

# Ids 0 to 4, as XLM-R has them
SPECIAL_TOKENS = ["<cls>", "<pad>", "<sep>", "<unk>", "<mask>"]
WORDS = [str(number) for number in range(50)]  # one token each
PAD = 1
POSITIONS = 70
TOLERANCE = 5e-7  # of a unit vector; the first test says why


# ---- the architectures ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """What is needed to make a tiny model of one kind, and what is to be expected of it."""

    name: str  # transformers has NAMEConfig and NAMEModel
    sizes: dict  # beside those of the vocabulary
    room: int | None = POSITIONS  # tokens of the longest text; None: no limit
    has_table: bool = True  # of positions: one token more is an error of the library
    masks: bool = True  # padding changes nothing
    plain: str = "AutoModel"  # what its users open it with


VOCABULARY = {"vocab_size": len(SPECIAL_TOKENS) + len(WORDS), "pad_token_id": PAD}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
USUAL = {**SMALL, "intermediate_size": 64, "max_position_embeddings": POSITIONS}
NARROW = {**USUAL, "embedding_size": 16}  # embeddings of another size than the states
ROTARY = {**USUAL, "num_key_value_heads": 1}
GEMMA = {**ROTARY, "head_dim": 16, "sliding_window": 8}
XLM = {**SMALL, "pad_index": PAD, "max_position_embeddings": POSITIONS}
T5 = {**SMALL, "d_kv": 16, "d_ff": 64}
XLNET = {**SMALL, "d_head": 16, "d_inner": 64}
FUNNEL = {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64}
DISENTANGLED = {**USUAL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
AFTER_PAD = POSITIONS - PAD - 1  # positions 0 and 1 are not used

ARCHITECTURES = [
    Architecture("Albert", NARROW),
    Architecture("Bert", USUAL),
    Architecture("BigBird", USUAL),
    Architecture("Camembert", USUAL, AFTER_PAD),
    Architecture("ConvBert", {**NARROW, "head_ratio": 2}, masks=False),
    Architecture("Data2VecText", USUAL, AFTER_PAD),
    Architecture("Deberta", DISENTANGLED),
    Architecture("DebertaV2", {**DISENTANGLED, "position_buckets": 8}),
    Architecture("DistilBert", {**USUAL, "hidden_dim": 64}),
    Architecture("Electra", NARROW),
    Architecture("Ernie", USUAL),
    Architecture("EuroBert", ROTARY, has_table=False),
    Architecture("Flaubert", XLM),  # language embeddings by default, of one language: none
    Architecture("FNet", USUAL, masks=False),
    Architecture("Gemma3Text", {**GEMMA, "use_bidirectional_attention": True}, has_table=False),
    Architecture("Gte", USUAL, has_table=False),
    Architecture("JinaEmbeddingsV3", USUAL, has_table=False),
    # Texts are padded to whole windows of 16. Padding needs positions only with word embeddings,
    # so the library goes on to 68 tokens with ids
    Architecture("Longformer", {**USUAL, "attention_window": [8, 16]}, 64, has_table=False),
    Architecture("Luke", {**USUAL, "entity_vocab_size": 9, "entity_emb_size": 16}, AFTER_PAD),
    Architecture("MegatronBert", USUAL),
    # It sees a token's neighbours, the padding after the last one among them
    Architecture("MobileBert", {**NARROW, "intra_bottleneck_size": 16}, masks=False),
    Architecture("ModernBert", {**USUAL, "local_attention": 8}, has_table=False),
    Architecture("MPNet", USUAL, AFTER_PAD),
    Architecture("NomicBert", USUAL, has_table=False),
    Architecture("Nystromformer", USUAL, masks=False),
    Architecture("RemBert", {**USUAL, "input_embedding_size": 16}),
    Architecture("Roberta", USUAL, AFTER_PAD),
    Architecture("RobertaPreLayerNorm", USUAL, AFTER_PAD),
    Architecture("RoCBert", {**USUAL, "shape_vocab_size": 9, "pronunciation_vocab_size": 9}),
    Architecture("RoFormer", NARROW),
    Architecture("Splinter", USUAL),
    Architecture("SqueezeBert", {**USUAL, "embedding_size": 32}),
    Architecture("XLM", {**XLM, "use_lang_emb": False}),
    Architecture("XLMRoberta", USUAL, AFTER_PAD),
    Architecture("XLMRobertaXL", USUAL, AFTER_PAD),
    Architecture("Xmod", {**USUAL, "default_language": "en_XX"}, AFTER_PAD),
    Architecture("Yoso", USUAL, masks=False),
    # Relative positions without an end
    Architecture("Funnel", FUNNEL, None, masks=False),
    Architecture("MT5", T5, None, plain="MT5EncoderModel"),
    Architecture("T5", T5, None, plain="T5EncoderModel"),
    Architecture("UMT5", T5, None, plain="UMT5EncoderModel"),
    Architecture("XLNet", XLNET, None),
]
UNMASKED = [architecture for architecture in ARCHITECTURES if not architecture.masks]
LIMITED = [architecture for architecture in ARCHITECTURES if architecture.room is not None]
UNLIMITED = [architecture for architecture in ARCHITECTURES if architecture.room is None]


def name_of(architecture):
    """What pytest shows."""
    return architecture.name


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models are so small that a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    """One token a word, and two more a text."""
    words = Tokenizer(WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.train_from_iterator(WORDS, WordLevelTrainer(special_tokens=SPECIAL_TOKENS))
    ends = [("<cls>", SPECIAL_TOKENS.index("<cls>")), ("<sep>", SPECIAL_TOKENS.index("<sep>"))]
    words.post_processor = TemplateProcessing(single="<cls> $A <sep>", special_tokens=ends)
    roles = {f"{token.strip('<>')}_token": token for token in SPECIAL_TOKENS}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **roles)


def make_folder(folder, tokenizer, name, sizes, noise=0.1):
    """The folder of a tiny random model, as its library saves it.

    The library's first weights hide mistakes: biases and the embedding of padding are zero, and
    attention is even. So all weights are moved by noise.
    """
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**VOCABULARY, **sizes)
    model = getattr(transformers, f"{name}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def open_folder(folder, length=60):
    """Our encoder, without prefixes and with one length for both towers."""
    lengths = {"query_length": length, "passage_length": length}
    return load_encoder(folder, query_prefix="", passage_prefix="", **lengths)


def text_of(n_words):
    """A text of words drawn by chance."""
    string = " ".join(random.Random(n_words).choices(WORDS, k=n_words))
    return Text(str(n_words), "en", string, "group")


# 3 to 42 tokens, neither sorted nor of one length
TEXTS = [text_of(n_words) for n_words in (7, 1, 40, 2, 25, 5, 3, 12, 4, 26)]


def expected_vectors(folder, tokenizer, texts, architecture):
    """The library's own forward pass on token ids, one text at a time, its states averaged."""
    opener = getattr(transformers, architecture.plain)
    model = opener.from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        ids = torch.tensor([tokenizer(text.text)["input_ids"]])  # (1, t)
        with torch.no_grad():
            hidden = model(input_ids=ids).last_hidden_state
        mean = hidden[0].mean(dim=0)  # (t, D) -> (D,)
        vectors.append(mean / mean.norm())
    return torch.stack(vectors)


def one_padded_batch(encoder, texts):
    """The vectors of all texts from one batch, whatever their lengths."""
    batch = encoder.pad(encoder.tokenize(texts, "query"))
    with torch.no_grad(), eval_mode(encoder):
        return encoder.from_embeddings(encoder.word_embeddings(batch["input_ids"]), batch)


# ---- vectors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name_of)
def test_the_vectors_are_those_of_the_librarys_own_model(architecture, tokenizer, tmp_path):
    """Claim: word embeddings in chunks give what token ids give, one text at a time.

    Number: 5e-7. A number of fp32 below 1 has steps of 6e-8, and a batch is summed in another order
    than a text: 2e-7 was the most (XLM-R XL), below 1e-7 is usual. Two texts are 0.02 apart.
    Catches: padding that is pooled or attended to, without a word; positions numbered from 0
    (XLM-R); embeddings not scaled (Gemma); the first token for the mean; a wrong order.
    """
    folder = make_folder(tmp_path, tokenizer, architecture.name, architecture.sizes)
    encoder = open_folder(folder)
    expected = expected_vectors(folder, tokenizer, TEXTS, architecture)
    torch.testing.assert_close(encoder.encode(TEXTS, "query"), expected, atol=TOLERANCE, rtol=0)
    with torch.no_grad(), eval_mode(encoder):
        vectors = encoder(encoder.tokenize(TEXTS, "query"))
    torch.testing.assert_close(vectors, expected, atol=TOLERANCE, rtol=0)
    assert (expected - expected[0])[1:].abs().max(dim=1).values.min() > 0.01, "all alike"


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name_of)
def test_padding_changes_no_vector_or_is_left_out(architecture, tokenizer, tmp_path):
    """Claim: one batch of 1 to 40 words gives the same, or a chunk has texts of one length only.

    Number: 5e-7 as above (3e-7 was the most, of UMT5); unmasked padding moves a vector by more than
    0.01.
    Catches: a mask of ones or of token ids; the mean over padding; texts of many lengths in one
    chunk for a model without a mask (FNet), with convolutions (ConvBERT) or a look at the next
    token (MobileBERT).
    """
    folder = make_folder(tmp_path, tokenizer, architecture.name, architecture.sizes)
    encoder = open_folder(folder)
    expected = expected_vectors(folder, tokenizer, TEXTS, architecture)
    vectors = one_padded_batch(encoder, TEXTS)
    assert encoder.one_length is not architecture.masks
    if architecture.masks:
        torch.testing.assert_close(vectors, expected, atol=TOLERANCE, rtol=0)
    else:
        assert (vectors - expected).abs().max() > 0.01, "padding does not matter"


@pytest.mark.parametrize("architecture", UNMASKED, ids=name_of)
def test_padding_that_changes_little_is_left_out_as_well(architecture, tokenizer, tmp_path):
    """Claim: also with the library's first weights our vectors are those of each text alone.

    Number: attention is even and padding weighs little: Nystromformer's moves a vector by 3e-4.
    Catches: padding that counts only from 0.001 on, and vectors that hang on their neighbours.
    """
    folder = make_folder(tmp_path, tokenizer, architecture.name, architecture.sizes, noise=0)
    expected = expected_vectors(folder, tokenizer, TEXTS, architecture)
    vectors = open_folder(folder).encode(TEXTS, "query")
    torch.testing.assert_close(vectors, expected, atol=TOLERANCE, rtol=0)


# ---- room for tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", LIMITED, ids=name_of)
def test_a_text_that_fills_all_positions_is_encoded(architecture, tokenizer, tmp_path):
    """Claim: a text of exactly `room_for_tokens` tokens is not cut and has the library's vector.

    Number: 70 positions; without the two up to the pad id, 68; in whole windows of 16, 64. One
    token more is cut by us; where there is a table of positions, the library fails on it.
    Catches: an IndexError at the first long text; a room that is larger than it need be.
    """
    room = architecture.room
    folder = make_folder(tmp_path, tokenizer, architecture.name, architecture.sizes)
    encoder = open_folder(folder, room)
    assert room_for_tokens(encoder.model) == room
    longest = text_of(room - 2)  # and two special tokens
    expected = expected_vectors(folder, tokenizer, [longest], architecture)
    vectors = encoder.encode([longest, text_of(room - 1)], "query")
    torch.testing.assert_close(vectors[:1], expected, atol=TOLERANCE, rtol=0)
    assert truncated_texts(encoder) == [{"tower": "query", "lang": "en", "cut": 1, "of": 2}]
    if architecture.has_table:
        with pytest.raises((IndexError, RuntimeError)):
            expected_vectors(folder, tokenizer, [text_of(room - 1)], architecture)


@pytest.mark.parametrize("architecture", LIMITED, ids=name_of)
def test_a_length_above_the_room_is_refused(architecture, tokenizer, tmp_path):
    """Claim: one token more than there is room for, with the number that would do.

    Number: as above, plus one.
    Catches: an error in the middle of a corpus.
    """
    folder = make_folder(tmp_path, tokenizer, architecture.name, architecture.sizes)
    room = architecture.room
    message = f"--query-length {room + 1}: texts have at most {room} tokens"
    with pytest.raises(ValueError, match=message):
        open_folder(folder, room + 1)


@pytest.mark.parametrize("architecture", UNLIMITED, ids=name_of)
def test_a_model_without_a_limit_takes_long_texts(architecture, tokenizer, tmp_path):
    """Claim: relative positions have no end, and the vectors are still the library's.

    Number: 300 words, more than four times the positions of the others.
    Catches: a limit that is made up ("at most -1 tokens").
    """
    folder = make_folder(tmp_path, tokenizer, architecture.name, architecture.sizes)
    encoder = open_folder(folder, 400)
    assert room_for_tokens(encoder.model) is None
    texts = [text_of(300), text_of(1)]
    expected = expected_vectors(folder, tokenizer, texts, architecture)
    torch.testing.assert_close(encoder.encode(texts, "query"), expected, atol=TOLERANCE, rtol=0)


# ---- refusals ------------------------------------------------------------------------------------

BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 70}
REFUSED = [
    ("Bart", BART, "bart has a decoder, too. Take an encoder"),
    ("MBart", BART, "mbart has a decoder, too. Take an encoder"),
    ("M2M100", BART, "m2m_100 has a decoder, too. Take an encoder"),
    ("LongT5", T5, "longt5 has a decoder, too. Take an encoder"),
    ("XLM", {**XLM, "n_langs": 2, "use_lang_emb": True}, "wants a language id for each token"),
    ("Xmod", USUAL, "no vectors come .*Input language unknown"),
    ("CLIPText", USUAL, "no vectors come .*You have to specify input_ids"),
    ("Bros", USUAL, "no vectors come .*You have to specify bbox"),
    ("Esm", {**USUAL, "mask_token_id": 4}, "other vectors for word embeddings than for token ids"),
    ("IBert", USUAL, "no vectors come .*'tuple' object"),
    ("Nystromformer", {**USUAL, "segment_means_seq_len": 64, "num_landmarks": 8}, "no vectors"),
]


@pytest.mark.parametrize(("name", "sizes", "message"), REFUSED)
def test_an_architecture_that_cannot_be_used_is_refused(name, sizes, message, tokenizer, tmp_path):
    """Claim: a ValueError that says why, before the first text is encoded.

    Number: decoders; languages or boxes beside the tokens; word embeddings that are no entry, or
    to which no positions are added (ESM), or only for texts of one length (Nystromformer).
    Catches: vectors without what the model wants, which look well; a traceback.
    """
    make_folder(tmp_path, tokenizer, name, sizes)
    with pytest.raises(ValueError, match=f"--model {tmp_path}: .*{message}"):
        open_folder(tmp_path)
