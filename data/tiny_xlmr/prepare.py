"""tiny_xlmr: XLM-R's architecture, pre-trained in minutes on the training part of minifacts.

    masked language modelling   "The <mask> of France is <mask>."   all training facts
    translation ranking         "Die Katze ..." ~ "The cat ..."     a part of them only

The second objective sees half of the facts: languages are aligned, but only roughly, as
XLM-R's are, which leaves robust training and hybrid batches something to mend.

Where to look next: `pretraining_texts` decides what the model may know, `pretrain` is the loop.
Left out on purpose: resuming, mixed precision, a learning-rate search.
Differs from XLM-R: translation ranking (XLM-R sees no parallel text), languages drawn uniformly,
feed-forward layers of twice the hidden size (XLM-R: four times), no dropout: it underfits.

    python data/tiny_xlmr/prepare.py      eight minutes on two cores, the same bytes each time

Shapes: B texts, T tokens, D hidden size, N masked tokens, V pieces of the vocabulary.
"""

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads would change the order of sums and pieces
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Generator, Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForMaskedLM

from attacks import add_options, match_case, redraw
from data.minifacts import prepare as minifacts
from data.minifacts.prepare import LANGS
from xlt import (
    Encoder,
    Settings,
    Text,
    choose,
    false_negatives,
    generator,
    info_nce,
    save_encoder,
    write_json,
)

HERE = Path(__file__).parent
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # the first four with XLM-R's ids
# Words of the prefixes that fine-tuning puts before every text (here there are none): a piece each
PREFIX_WORDS = ["▁Query", "▁Passage"]
FACT_KINDS = ["q", "s", "k"]  # kinds of text that ask or tell a whole fact
# Of the translations: five sevenths are such texts, two sevenths names by themselves
RANKED_KINDS = ["q", "q", "s", "s", "k", "e", "v"]


# ---- what the model may read ---------------------------------------------------------------------


class TextKey(NamedTuple):
    """What all translations of a text have in common."""

    fact_id: str
    kind: str  # "q" question, "s" statement, "k" short query; "e" entity's name, "v" value's


Texts = dict[TextKey, dict[str, list[str]]]  # key -> language -> texts


def all_replacements(lexicon: minifacts.Lexicon) -> dict[str, list[str]]:
    """word -> its synonyms and what stands for it with a filler."""
    merged = {}
    for source in (lexicon.synonyms, lexicon.fillers):
        for word, others in source.items():
            add_options(merged, word, others)
    return merged


def all_wordings(fact, kind, lexicon):
    """All questions or statements about a fact, or its one short query."""
    if kind == "k":
        return [minifacts.short_query(fact, lexicon)]
    return minifacts.sentences(fact, kind, lexicon)


def pretraining_texts(
    facts: list[minifacts.Fact], lexicons: dict[str, minifacts.Lexicon], seed: int
) -> Texts:
    """All wordings of the training facts, reworded too, and names by themselves.

        texts["france.capital", "e"] -> {"en": ["France"], "th": ["ฝรั่งเศส"], ...}

    Held-out facts are left out before anything is rendered, so no file or wording can leak them.
    Synonyms and fillers are mixed in so that the model knows them as words; fine-tuning does not
    see them.
    """
    rng = generator(seed, "synonyms")
    replacements = {lang: all_replacements(lexicon) for lang, lexicon in lexicons.items()}
    texts = {}
    for fact in facts:
        if fact.split != "train":
            continue
        for kind in FACT_KINDS:
            by_lang = {}
            for lang, lexicon in lexicons.items():
                plain = all_wordings(fact, kind, lexicon)
                reworded = [redraw(text, replacements[lang], lang, rng) for text in plain]
                by_lang[lang] = plain + reworded
            texts[TextKey(fact.id, kind)] = by_lang
        for slot in ("e", "v"):
            by_lang = {}
            for lang, lexicon in lexicons.items():
                by_lang[lang] = [minifacts.slot_text(slot, "", fact, lexicon)]
            texts[TextKey(fact.id, slot)] = by_lang
    return texts


def all_texts(texts):
    """The texts of all keys and languages in one list."""
    lines = []
    for by_lang in texts.values():
        for options in by_lang.values():
            lines += options
    return lines


def all_names(facts, lexicons):
    """All names by themselves, also those of held-out facts, each as it stands and with a capital.

    For the tokenizer alone: no character of a name that only a held-out fact uses may be unknown,
    nor its capital, where it begins a sentence.
    """
    names = []
    for lang, lexicon in lexicons.items():
        for forms in lexicon.terms.values():
            for form in forms.values():
                names += [form, match_case("A", form, lang)]
    names += [fact.value[1:] for fact in facts if fact.value[0] in "=#"]
    return names


# ---- tokenizer -----------------------------------------------------------------------------------


def new_tokenizer(model) -> Tokenizer:
    """SentencePiece's way with text: NFKC, blanks as "▁", punctuation by itself."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFKC()
    steps = [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def unigram_tokenizer(scores: dict[str, float]) -> Tokenizer:
    """It cuts a text into the pieces whose scores, which are log shares, have the largest sum."""
    pieces = [(piece, 0.0) for piece in SPECIAL]
    pieces += sorted(scores.items())
    return new_tokenizer(models.Unigram(pieces, unk_id=3))


def candidate_pieces(lines, count):
    """The pieces of a BPE of the lines, at most `count`, in no order."""
    bpe = new_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=count, show_progress=False)
    bpe.train_from_iterator(lines, trainer)
    return list(bpe.get_vocab())


def count_pieces(lines, tokenizer):
    """How often each piece is used when all lines are cut."""
    counts = Counter()
    for start in range(0, len(lines), 4096):
        for encoding in tokenizer.encode_batch(lines[start : start + 4096]):
            counts.update(encoding.tokens)
    return counts


def most_used(pieces, counts, limit):
    """All single characters, so that nothing is unknown, PREFIX_WORDS, and the most used others."""

    def rank(piece):
        may_go = len(piece) > 1 and piece not in PREFIX_WORDS
        return may_go, -counts[piece], piece

    return sorted(pieces, key=rank)[:limit]


def train_tokenizer(lines: list[str], vocab: int) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer with XLM-R's special tokens and pair format, the same each time.

    Candidates are the pieces of a BPE half as large again. Twice (hard EM) all lines are cut, and
    score = log share of the cuts. The first round drops the least used, the second scores the rest.
    *Source*: Kudo 2018, with Viterbi counts.
    """
    # SUBTLE: not tokenizers' UnigramTrainer: it adds up in the order of a hash table, so that its
    # scores differ from run to run
    lines = sorted(set(lines))
    pieces = sorted({*candidate_pieces(lines, vocab * 3 // 2), *PREFIX_WORDS})
    scores = dict.fromkeys(pieces, -math.log(len(pieces)))
    for _ in range(2):
        counts = count_pieces(lines, unigram_tokenizer(scores))
        total = counts.total()
        pieces = most_used(pieces, counts, vocab - len(SPECIAL))
        scores = {piece: math.log(max(counts[piece], 0.5) / total) for piece in pieces}
    tokenizer = unigram_tokenizer(scores)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],  # XLM-R has no token types
    )


# ---- the first objective: masked language modelling ----------------------------------------------


def draw_text(texts: Texts, key: TextKey, rng: Generator) -> Text:
    """One of a key's texts in one of the languages."""
    lang = choose(LANGS, rng)
    return Text("", lang, choose(texts[key][lang], rng), "")


def mask_tokens(ids: Tensor, mask_id: int, vocab: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """BERT's recipe: of 15 % of the tokens 80 % become <mask>, 10 % a random token, 10 % stay.

    *Shapes*: ids (B, T) -> corrupted ids (B, T), chosen positions (B, T) of bool.
    *Source*: Devlin et al. 2019, section 3.1.
    """
    chosen = (torch.rand(ids.shape, generator=rng) < 0.15) & (ids >= len(SPECIAL))
    fate = torch.rand(ids.shape, generator=rng)
    random_ids = torch.randint(len(SPECIAL), vocab, ids.shape, generator=rng)
    corrupted = ids.masked_fill(chosen & (fate < 0.8), mask_id)
    corrupted = torch.where(chosen & (fate >= 0.9), random_ids, corrupted)
    return corrupted, chosen


def mlm_loss(model, encoder: Encoder, texts: list[Text], rng: Generator) -> Tensor:
    """Cross-entropy of the masked tokens, logits computed at those positions alone."""
    batch = encoder.pad(encoder.tokenize(texts, "passage"))
    ids, mask_id = batch["input_ids"], encoder.tokenizer.mask_token_id
    corrupted, chosen = mask_tokens(ids, mask_id, model.config.vocab_size, rng)
    hidden = model.roberta(corrupted, attention_mask=batch["attention_mask"]).last_hidden_state
    logits = model.lm_head(hidden[chosen])  # (B, T, D) -> (N, D) -> (N, V)
    return F.cross_entropy(logits, ids[chosen])


# ---- the second objective: translation ranking ---------------------------------------------------


def draw_keys(fact_ids: list[str], count: int, rng: Generator) -> list[TextKey]:
    """So many facts, no fact twice, and a kind of text for each."""
    order = torch.randperm(len(fact_ids), generator=rng)[:count]
    return [TextKey(fact_ids[i], choose(RANKED_KINDS, rng)) for i in order]


def same_text(texts: Texts, keys: list[TextKey]) -> Tensor:
    """True at [i, j], i != j, where two keys have one English text: (B, B).

    Two facts may share a name, which would be a negative of itself.
    """
    english = [texts[key]["en"][0] for key in keys]
    first_row = torch.tensor([english.index(text) for text in english])  # (B,)
    return false_negatives(first_row[:, None], first_row)


def ranking_loss(
    encoder: Encoder, texts: Texts, keys: list[TextKey], tau: float, rng: Generator
) -> Tensor:
    """InfoNCE, both ways, between two texts of each key, each in a language drawn for it."""
    left = [draw_text(texts, key, rng) for key in keys]
    right = [draw_text(texts, key, rng) for key in keys]
    rows = encoder.tokenize(left + right, "passage")
    q, p = encoder(rows).chunk(2)  # (2B, D) -> twice (B, D)
    return info_nce(q, p, tau, same_text(texts, keys), symmetric=True)


# ---- the loop ------------------------------------------------------------------------------------


def new_model(vocab: int, dim: int, layers: int) -> XLMRobertaForMaskedLM:
    """XLM-R in small, with random weights."""
    config = XLMRobertaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * dim,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
    return XLMRobertaForMaskedLM(config)


def draw_aligned(texts, share, rng):
    """Ids of the facts that are seen in translation."""
    fact_ids = sorted({key.fact_id for key in texts})
    order = torch.randperm(len(fact_ids), generator=rng)
    count = int(share * len(fact_ids))
    return [fact_ids[i] for i in order[:count]]


def pretrain(texts: Texts, tokenizer: PreTrainedTokenizerFast, args) -> Encoder:
    """Train on the sum of both objectives for args.steps steps; return the encoder."""
    torch.manual_seed(args.seed)
    model = new_model(len(tokenizer), args.dim, args.layers)
    encoder = Encoder(model.roberta, tokenizer, Settings(query_prefix="", passage_prefix=""))
    rng = generator(args.seed, "pretraining")
    fact_keys = sorted(key for key in texts if key.kind in FACT_KINDS)
    aligned = draw_aligned(texts, args.aligned, rng)

    def share_of_lr(step):
        """A line down to 0, times a warm-up of 100 steps."""
        return min((step + 1) / 100, 1.0) * (1 - step / args.steps)

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_lr)
    start = time.time()
    for step in tqdm(range(args.steps), desc="pre-training", disable=None):
        batch = []
        for _ in range(args.batch_size):
            batch.append(draw_text(texts, choose(fact_keys, rng), rng))
        mlm = mlm_loss(model, encoder, batch, rng)
        keys = draw_keys(aligned, args.pairs, rng)
        ranking = ranking_loss(encoder, texts, keys, args.tau, rng)
        (mlm + ranking).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 100 == 0:
            line = {
                "step": step + 1,
                "mlm": round(mlm.item(), 3),
                "ranking": round(ranking.item(), 3),
                "seconds": round(time.time() - start),
            }
            tqdm.write(json.dumps(line), file=sys.stderr)
    return encoder


def parse(argv):
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=HERE, help="folder to write")
    add("--steps", type=int, default=3000, help="optimiser steps")
    add("--batch-size", type=int, default=16, help="texts a step for masked language modelling")
    add("--pairs", type=int, default=128, help="translation pairs a step")
    add("--lr", type=float, default=1.5e-3, help="peak learning rate of AdamW")
    add("--tau", type=float, default=0.1, help="temperature of translation ranking")
    add("--aligned", type=float, default=0.5, help="share of facts seen in translation, 0 to 1")
    add("--vocab", type=int, default=16000, help="subword pieces")
    add("--dim", type=int, default=128, help="hidden size")
    add("--layers", type=int, default=3, help="transformer layers")
    add("--seed", type=int, default=0, help="of everything")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Train tokenizer and encoder; write them into --out."""
    args = parse(argv)
    facts = minifacts.read_facts()
    lexicons = {lang: minifacts.read_lexicon(lang) for lang in LANGS}
    texts = pretraining_texts(facts, lexicons, args.seed)
    lines = all_texts(texts)
    prefixes = ["Query: Passage:"]
    tokenizer = train_tokenizer(lines + all_names(facts, lexicons) + prefixes, args.vocab)
    print(f"{len(lines)} texts, {len(tokenizer)} pieces", file=sys.stderr, flush=True)
    encoder = pretrain(texts, tokenizer, args)
    encoder.model.half()  # on disk alone: load_encoder computes in fp32
    encoder.settings = Settings()  # from here on with the hybrid-batch paper's prefixes
    save_encoder(encoder, args.out)
    flags = {name: value for name, value in vars(args).items() if name != "out"}
    write_json(args.out / "pretraining.json", flags)
    count = sum(parameter.numel() for parameter in encoder.model.parameters())
    print(json.dumps({"parameters": count, "pieces": len(tokenizer), "texts": len(lines)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
