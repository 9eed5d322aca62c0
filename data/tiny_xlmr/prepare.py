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
"""

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from pathlib import Path

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
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForMaskedLM

from attacks import match_case, redraw
from data.minifacts import prepare as minifacts
from xlt import Encoder, Settings, Text, choose, generator, info_nce, save_encoder

HERE = Path(__file__).parent
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # the first four with XLM-R's ids


# ---- what the model may read ---------------------------------------------------------------------


def pretraining_texts(facts: list, lexicons: dict, seed: int) -> dict:
    """All wordings of the training facts, with synonyms too: (fact id, kind) -> lang -> texts.

    Kinds: question, statement, and by themselves the names of entity and value.

    Held-out facts are left out before anything is rendered, so no file or wording can leak them.
    Synonyms are mixed in so that the model knows them as words; fine-tuning does not see them.
    """
    rng, texts = generator(seed, "synonyms"), {}
    for fact in [f for f in facts if f.split == "train"]:
        for kind in "qs":
            row = texts.setdefault((fact.id, kind), {})
            for lang, lexicon in lexicons.items():
                templates = lexicon.wordings[fact.relation, kind]
                row[lang] = [minifacts.render(t, fact, lexicon) for t in templates]
                row[lang] += [redraw(t, lexicon.synonyms, lang, rng) for t in row[lang]]
        for slot in "ev":
            names = {a: [minifacts.form(slot, "", fact, x)] for a, x in lexicons.items()}
            texts[fact.id, slot] = names
    return texts


# ---- tokenizer -----------------------------------------------------------------------------------


def unigram(score: dict[str, float] | None) -> Tokenizer:
    """SentencePiece's way with text: NFKC, blanks as "▁", punctuation by itself; None: BPE."""
    pieces = [(piece, 0.0) for piece in SPECIAL] + sorted((score or {}).items())
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3) if score else models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    parts = [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def train_tokenizer(lines: list[str], vocab: int) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer with XLM-R's special tokens and pair format, the same each time.

    Candidates are the pieces of a BPE half as large again; two rounds of hard EM (cut all lines,
    score = log share of the cuts) keep the most used. *Source*: Kudo 2018, with Viterbi counts.
    """
    # SUBTLE: UnigramTrainer adds up in the order of a hash table: other scores in every run
    bpe, lines = unigram(None), sorted(set(lines))
    how = {"vocab_size": vocab * 3 // 2, "show_progress": False}
    bpe.train_from_iterator(lines, trainers.BpeTrainer(**how))
    score = dict.fromkeys(bpe.get_vocab(), -math.log(bpe.get_vocab_size()))
    for _ in range(2):
        tokenizer, counts = unigram(score), Counter()
        for start in range(0, len(lines), 4096):
            for cut in tokenizer.encode_batch(lines[start : start + 4096]):
                counts.update(cut.tokens)
        # Single characters stay, whatever their count: nothing may be unknown
        kept = sorted(score, key=lambda piece: (len(piece) > 1, -counts[piece], piece))
        kept, total = kept[: vocab - len(SPECIAL)], counts.total()
        score = {piece: math.log(max(counts[piece], 0.5) / total) for piece in kept}
    tokenizer, ends = unigram(score), [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    names["model_input_names"] = ["input_ids", "attention_mask"]  # XLM-R has no token types
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


# ---- the two objectives --------------------------------------------------------------------------


def mask_tokens(ids: torch.Tensor, mask_id: int, vocab: int, rng: torch.Generator):
    """BERT's recipe: of 15 % of the tokens 80 % become <mask>, 10 % a random token, 10 % stay.

    *Shapes*: ids (B, T) -> corrupted ids (B, T), chosen positions (B, T) of bool.
    *Source*: Devlin et al. 2019, section 3.1.
    """
    chosen = (torch.rand(ids.shape, generator=rng) < 0.15) & (ids >= len(SPECIAL))
    what = torch.rand(ids.shape, generator=rng)
    noise = torch.randint(len(SPECIAL), vocab, ids.shape, generator=rng)
    corrupted = torch.where(chosen & (what < 0.8), torch.full_like(ids, mask_id), ids)
    return torch.where(chosen & (what >= 0.9), noise, corrupted), chosen


def mlm_loss(model, encoder, rows, rng):
    """Cross-entropy of the masked tokens, logits computed at those positions alone."""
    batch = encoder.pad(rows)
    ids, chosen = mask_tokens(
        batch["input_ids"], encoder.tokenizer.mask_token_id, model.config.vocab_size, rng
    )
    hidden = model.roberta(ids, attention_mask=batch["attention_mask"]).last_hidden_state
    logits = model.lm_head(hidden[chosen])  # (B, T, D) -> (N, D) -> (N, V)
    return F.cross_entropy(logits, batch["input_ids"][chosen])


def pretrain(texts: dict, tokenizer, args) -> Encoder:
    """Train on the sum of both objectives for args.steps steps; return the encoder."""
    torch.manual_seed(args.seed)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=args.dim, num_hidden_layers=args.layers,
        num_attention_heads=4, intermediate_size=2 * args.dim, max_position_embeddings=514,
        type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        layer_norm_eps=1e-5, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = XLMRobertaForMaskedLM(config)
    encoder = Encoder(model.roberta, tokenizer, Settings(query_prefix="", passage_prefix=""))
    rng, langs = generator(args.seed, "pretraining"), minifacts.LANGS
    keys = sorted(texts)
    number = {name: i for i, name in enumerate(sorted({texts[key]["en"][0] for key in keys}))}
    sentences = [key for key in keys if key[1] in "qs"]
    known = sorted({key[0] for key in keys})  # the part of the facts that is seen in translation
    known = [known[i] for i in torch.randperm(len(known), generator=rng)]
    known = known[: int(args.aligned * len(known))]

    def draw(key, lang):
        return Text("", lang, choose(texts[key][lang], rng), "")

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    shape = lambda t: min((t + 1) / 100, 1.0) * (1 - t / args.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    start = time.time()
    for step in tqdm(range(args.steps), desc="pre-training", disable=None):
        lines = [draw(choose(sentences, rng), choose(langs, rng)) for _ in range(args.batch_size)]
        mlm = mlm_loss(model, encoder, encoder.tokenize(lines, "passage"), rng)
        order = torch.randperm(len(known), generator=rng)[: args.pairs]
        facts = [(known[i], choose("qqssev", rng)) for i in order]
        sides = [draw(fact, choose(langs, rng)) for _ in "qp" for fact in facts]
        q, p = encoder(encoder.tokenize(sides, "passage")).chunk(2)  # (2B, D) -> twice (B, D)
        # Two facts may share a name, which would be a negative of itself
        same = torch.tensor([number[texts[fact]["en"][0]] for fact in facts])
        mask = (same[:, None] == same) & ~torch.eye(len(same), dtype=torch.bool)  # (B, B)
        ranking = info_nce(q, p, args.tau, mask, symmetric=True)
        (mlm + ranking).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 100 == 0:
            line = {"step": step + 1, "mlm": round(mlm.item(), 3)}
            line |= {"ranking": round(ranking.item(), 3), "seconds": round(time.time() - start)}
            tqdm.write(json.dumps(line), file=sys.stderr)
    return encoder


def main(argv=None) -> int:
    """Train tokenizer and encoder; write them into this folder."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
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
    args = parser.parse_args(argv)
    facts = minifacts.read_facts()
    lexicons = {lang: minifacts.read_lexicon(lang) for lang in minifacts.LANGS}
    texts = pretraining_texts(facts, lexicons, args.seed)
    lines = [t for row in texts.values() for options in row.values() for t in options]
    # All names by themselves: no character of a name that only a held-out fact uses may be unknown
    # (nor its capital, where it begins a sentence)
    names = [
        name
        for lang, lexicon in lexicons.items()
        for forms in lexicon.terms.values()
        for form in forms.values()
        for name in (form, match_case("A", form, lang))
    ]
    names += [f.value[1:] for f in facts if f.value[0] in "=#"] + ["Query: Passage:"] * 100
    tokenizer = train_tokenizer(lines + names, args.vocab)
    print(f"{len(lines)} texts, {len(tokenizer)} pieces", file=sys.stderr, flush=True)
    encoder = pretrain(texts, tokenizer, args)
    encoder.model.half()  # on disk alone: load_encoder computes in fp32
    encoder.settings = Settings()  # from here on with the hybrid-batch paper's prefixes
    save_encoder(encoder, args.out)
    flags = {k: v for k, v in vars(args).items() if k != "out"}
    (args.out / "pretraining.json").write_text(json.dumps(flags, indent=1) + "\n")
    count = sum(p.numel() for p in encoder.model.parameters())
    print(json.dumps({"parameters": count, "pieces": len(tokenizer), "texts": len(lines)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
