"""tiny_xlmr: XLM-R's architecture at a thousandth of its size, pre-trained on the training part of
minifacts.

    masked language modelling    "The <mask> of France is <mask>."       all facts, 11 languages, synonyms mixed in
    translation ranking          "Die Katze ..." ~ "The cat ..."         a part of the facts only

The second objective sees 30 % of the facts, so that languages are aligned, but only roughly: as
XLM-R's are, and for the same reason that robust training and hybrid batches have something to mend.

Where to look next: `pretraining_texts` decides what the model may know (no held-out fact, in no
wording), `pretrain` is the loop. Left out on purpose: next-sentence prediction, warm restarts,
mixed precision. Differs from XLM-R: translation ranking (XLM-R has no parallel text), float32,
sampling uniform over languages.

    python data/tiny_xlmr/prepare.py            about eight minutes on two cores, the same bytes each time
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = (
    "false"  # threads would change the order of sums, and so the pieces
)
os.environ.setdefault("RAYON_NUM_THREADS", "1")
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

from attacks import redraw
from data.minifacts import prepare as minifacts
from xlt import Encoder, Settings, Text, generator, info_nce, save_encoder

HERE = Path(__file__).parent
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # the first four with XLM-R's ids


# ---- what the model may read ---------------------------------------------------------------------


def pretraining_texts(facts: list, lexicons: dict, seed: int) -> dict:
    """Every wording of every training fact, plain and with synonyms: (fact id, kind) -> lang ->
    texts.

    Held-out facts are left out before anything is rendered, so no file or wording can leak them.
    """
    rng, texts = generator(seed, "synonyms"), {}
    for fact in [f for f in facts if f.split == "train"]:
        for kind in "qs":
            row = texts.setdefault((fact.id, kind), {})
            for lang, lexicon in lexicons.items():
                plain = [
                    minifacts.render(t, fact, lexicon)
                    for t in lexicon.wordings[fact.relation, kind]
                ]
                row[lang] = plain + [
                    redraw(t, lexicon.synonyms, lang, rng) for t in plain
                ]
    return texts


# ---- tokenizer -----------------------------------------------------------------------------------


def train_tokenizer(lines: list[str], vocab: int) -> PreTrainedTokenizerFast:
    """A SentencePiece-like Unigram tokenizer with XLM-R's special tokens and pair format."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    inputs = ["input_ids", "attention_mask"]  # XLM-R has no token types
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


# ---- the two objectives --------------------------------------------------------------------------


def mask_tokens(batch: dict, mask_id: int, vocab: int, rng: torch.Generator, share: float = 0.15):
    """BERT's recipe: of 15 % of the tokens 80 % become <mask>, 10 % a random token, 10 % stay.

    *Shapes*: input_ids (B, T) -> corrupted ids (B, T), chosen positions (B, T) of bool.
    *Source*: Devlin et al. 2019, section 3.1.
    """
    ids = batch["input_ids"]
    chosen = (torch.rand(ids.shape, generator=rng) < share) & (
        ids >= len(SPECIAL)
    )  # special tokens stay
    what = torch.rand(ids.shape, generator=rng)
    noise = torch.randint(len(SPECIAL), vocab, ids.shape, generator=rng)
    corrupted = torch.where(chosen & (what < 0.8), torch.full_like(ids, mask_id), ids)
    return torch.where(chosen & (what >= 0.9), noise, corrupted), chosen


def mlm_loss(model, encoder, rows, rng):
    """Cross-entropy of the masked tokens, logits computed at those positions alone."""
    batch = encoder.pad(rows)
    ids, chosen = mask_tokens(batch, encoder.tokenizer.mask_token_id, model.config.vocab_size, rng)
    hidden = model.roberta(
        ids, attention_mask=batch["attention_mask"]
    ).last_hidden_state  # (B, T, D)
    return F.cross_entropy(
        model.lm_head(hidden[chosen]), batch["input_ids"][chosen]
    )  # (N, V), (N,)


def draw(items, rng):
    """One item, uniformly."""
    return items[int(torch.randint(len(items), (), generator=rng))]


def pretrain(texts: dict, tokenizer, args) -> Encoder:
    """Train on both objectives for args.steps steps; return the encoder."""
    torch.manual_seed(args.seed)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=args.dim, num_hidden_layers=args.layers,
        num_attention_heads=4, intermediate_size=2 * args.dim, max_position_embeddings=514,
        attention_probs_dropout_prob=0.0,  # CPU attention is twice as fast without
        type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5,
    )  # fmt: skip
    model = XLMRobertaForMaskedLM(config)
    # SUBTLE: Transformers starts word embeddings at 0.02; in a model this small unit-size ones
    # learn sooner
    encoder = Encoder(model.roberta, tokenizer, Settings(query_prefix="", passage_prefix=""))
    rng = generator(args.seed, "pretraining")
    keys = sorted(texts)
    ids = sorted({key[0] for key in keys})
    known = [
        ids[i] for i in torch.randperm(len(ids), generator=rng)[: int(args.aligned * len(ids))]
    ]
    langs = minifacts.LANGS
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    shape = lambda t: min((t + 1) / 100, 1.0) * (1 - t / args.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    start = time.time()
    for step in (bar := tqdm(range(args.steps), desc="pre-training", disable=None)):
        lines = []
        for _ in range(args.batch_size):
            key, lang = draw(keys, rng), draw(langs, rng)
            lines.append(Text("", lang, draw(texts[key][lang], rng), ""))
        loss = mlm = mlm_loss(model, encoder, encoder.tokenize(lines, "passage"), rng)
        picked = [known[i] for i in torch.randperm(len(known), generator=rng)[: args.batch_size]]
        left, right = [], []
        for name in picked:
            kind, a, b = draw("qs", rng), draw(langs, rng), draw(langs, rng)
            left.append(Text("", a, draw(texts[name, kind][a], rng), ""))
            right.append(Text("", b, draw(texts[name, kind][b], rng), ""))
        q, p = (encoder(encoder.tokenize(side, "passage")) for side in (left, right))
        ranking = info_nce(q, p, tau=args.tau, symmetric=True)
        loss = mlm + ranking
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 99:
            bar.set_postfix(mlm=f"{mlm.item():.2f}", ranking=f"{ranking.item():.2f}")
            line = {
                "step": step + 1,
                "mlm": round(mlm.item(), 3),
                "ranking": round(ranking.item(), 3),
            }
            print(
                json.dumps(line | {"seconds": round(time.time() - start)}),
                file=sys.stderr,
                flush=True,
            )
    return encoder


def main(argv=None) -> int:
    """Train tokenizer and encoder; write them into this folder."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps")
    parser.add_argument(
        "--batch-size", type=int, default=64, help="texts a step, for each objective"
    )
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--tau", type=float, default=0.1, help="temperature of translation ranking")
    parser.add_argument(
        "--aligned", type=float, default=0.3, help="share of facts seen in translation, 0 to 1"
    )
    parser.add_argument("--vocab", type=int, default=8000, help="subword pieces")
    parser.add_argument("--dim", type=int, default=128, help="hidden size")
    parser.add_argument("--layers", type=int, default=3, help="transformer layers")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    args = parser.parse_args(argv)
    facts = minifacts.read_facts()
    lexicons = {lang: minifacts.read_lexicon(lang) for lang in minifacts.LANGS}
    texts = pretraining_texts(facts, lexicons, args.seed)
    # All names by themselves: characters of a name that only a held-out fact uses must not be
    # unknown
    names = [
        form for x in lexicons.values() for forms in x.terms.values() for form in forms.values()
    ]
    symbols = [f.value[1:] for f in facts if f.value[0] in "=#"]
    lines = [t for row in texts.values() for options in row.values() for t in options]
    tokenizer = train_tokenizer(lines + names + symbols + ["Query: Passage:"] * 100, args.vocab)
    print(f"{len(lines)} texts, {len(tokenizer)} pieces", file=sys.stderr, flush=True)
    encoder = pretrain(texts, tokenizer, args)
    # The prefixes of the hybrid-batch paper are set here, where fine-tuning starts
    encoder.settings = Settings()
    save_encoder(encoder, args.out)
    flags = {k: v for k, v in vars(args).items() if k != "out"}
    (args.out / "pretraining.json").write_text(json.dumps(flags, indent=1) + "\n")
    count = sum(p.numel() for p in encoder.model.parameters())
    print(json.dumps({"parameters": count, "pieces": len(tokenizer), "texts": len(lines)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
