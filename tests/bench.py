"""How many candidates an attack scores a second: ours, and one query at a time padded to 512.

    python tests/bench.py                    # two rates and their ratio, about a minute
    python tests/bench.py --greedy           # also a whole greedy attack on the test split
    python tests/bench.py --robust           # instead: what a robust training step costs

Measured in one run, on the same dev queries of all eleven languages and the same candidates (the
query, and each single replacement from synonyms/), against all passages, on the CPU:

    ours    attacks.Scorer: all queries at once, each distinct text once, sorted by length
    padded  as TextAttack and OpenAttack: one query after the other, its candidates one batch,
            padded to the model's maximum of at most 512 tokens; same model, pooling and passages

The two take turns, and each number is the median of the repeats. Both must find the same margins,
or the ratio would compare two different things. Where TextAttack can be imported it attacks the
same queries itself (its greedy search, its batches, our table), with the padded way as its model.

Not measured: loading, encoding the passages (once, for all), looking words up in the table, a GPU;
--greedy measures all of these but loading. TextAttack pads to what the tokenizer names as its
maximum, or to 512; ours names 256 (a passage's limit), XLM-R's own names 512: see --length.
"""

import argparse
import platform
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F

import attacks
import train
import xlt


def parse(argv=None):
    """The flags of bench.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=xlt.Help
    )
    add = parser.add_argument
    # fmt: off
    add("--queries", type=int, default=40, metavar="N", help="dev queries, spread over languages")
    add("--model", default=ROOT / "data/tiny_xlmr", type=Path, help="Hugging Face folder")
    add("--data", default=ROOT / "data/minifacts", type=Path, help="folder with synonyms/")
    add("--repeats", type=int, default=3, metavar="N", help="medians of so many")
    add("--length", type=int, default=512, metavar="T",
        help="tokens that the padded way pads to, at most the model's positions")
    add("--greedy", type=int, nargs="?", const=0, metavar="N",
        help="also a greedy attack in all views, on N test queries (without N: all)")
    add("--robust", action="store_true", help="measure training steps instead, robust over plain")
    # fmt: on
    return parser.parse_args(argv)


# ---- the same work for both ----------------------------------------------------------------------


def spread(queries, n):
    """About n of the queries (0: all), from the first to the last: they are sorted by language."""
    if not n:
        return queries
    return queries[:: max(1, len(queries) // n)][:n]


def candidates(item):
    """The query and each of its single replacements, each once."""
    texts = [item.source.text]
    for slot in item.slots:
        for option in slot.options:
            texts.append(attacks.substitute(item.source.text, {slot.span: option}))
    return list(dict.fromkeys(texts))


def make_scene(data, encoder, split, n, views):
    """Queries under a greedy attack, and the pools that they are ranked in."""
    start = time.perf_counter()
    p = encoder.encode(data.passages, "passage")
    seconds = time.perf_counter() - start
    queries = spread(sorted(data.qrels[split]), n)
    passages = list(range(len(data.passages)))
    pools = attacks.make_pools(p, data, queries, passages, split)
    tables = attacks.read_synonyms(data.folder)
    greedy = attacks.parse_attack("greedy")
    items = attacks.make_attacked(data, queries, views, greedy, tables, 0)
    print(f"{len(queries)} {split} queries, {len(p)} passages ({seconds:.1f} s)")
    return items, pools, tables


# ---- two ways to score them ----------------------------------------------------------------------


def score_ours(encoder, pools, items, texts):
    """All candidates of all queries as one step of a search -> margins in the pool of all."""
    score = attacks.Scorer(encoder, pools)  # a new one: nothing is scored yet
    pairs = []
    for item, texts_of_item in zip(items, texts, strict=True):
        pairs += [(item, text) for text in texts_of_item]
    return score(pairs)[0][:, -1]


class Padded:
    """A model as TextAttack wraps it: texts of one query -> (C, 2) best other and best relevant."""

    def __init__(self, encoder, pools, length):
        self.encoder, self.p, self.scored = encoder, pools.p[:-1], 0
        self.length = length
        room = xlt.room_for_tokens(encoder.model)
        if room is not None:
            self.length = min(length, room)
        self.relevant = None  # (P,) of bool, of the query under attack

    def aim(self, pools, item):
        """Take this query's relevant passages."""
        rows = pools.relevant[item.query]
        self.relevant = torch.zeros(len(self.p), dtype=torch.bool)
        self.relevant[rows[rows < len(self.p)]] = True

    @torch.no_grad()
    def __call__(self, texts):
        encoder = self.encoder
        self.scored += len(texts)
        encoder.tokenizer.model_max_length = self.length
        batch = encoder.tokenizer(
            [encoder.settings.query_prefix + text for text in texts],
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self.length,
        )
        hidden = encoder.model(**batch).last_hidden_state  # (C, T, D)
        pooled = xlt.pool_tokens(hidden, batch["attention_mask"], encoder.settings.pooling)
        scores = F.normalize(pooled, dim=-1) @ self.p.T  # (C, D) @ (D, P) -> (C, P)
        relevant, other = scores[:, self.relevant], scores[:, ~self.relevant]
        return torch.stack([other.amax(1), relevant.amax(1)], 1)


def score_padded(model, pools, items, texts):
    """The candidates of one query after the other -> margins in the pool of all."""
    margins = []
    for item, texts_of_item in zip(items, texts, strict=True):
        model.aim(pools, item)
        other, relevant = model(texts_of_item).T
        margins.append(relevant - other)
    return torch.cat(margins)


# ---- TextAttack itself ---------------------------------------------------------------------------


def attack_with_textattack(model, pools, items, tables):
    """Print TextAttack's own rate on the same queries, or why there is none.

    Its greedy search (leave-one-out, then the best replacement) sees (best other, best relevant) as
    two classes; it stops when the query is broken and skips one that is wrong from the start, and
    finds its own words: so it scores other candidates than ours, and only the rate compares.
    """
    try:
        import textattack
        from textattack.constraints.pre_transformation import RepeatModification
    except (ImportError, LookupError) as error:  # LookupError: nltk's data are missing
        print("TextAttack    not measured:", " ".join(str(error).split())[:80])
        return

    class Swap(textattack.transformations.WordSwap):
        lang = ""

        def _get_replacement_words(self, word):
            return tables.get(self.lang, {}).get(word.lower(), [])

    swap = Swap()
    goal = textattack.goal_functions.UntargetedClassification(model)
    search = textattack.search_methods.GreedyWordSwapWIR(wir_method="delete")
    attack = textattack.Attack(goal, [RepeatModification()], swap, search)
    model.scored, start = 0, time.perf_counter()
    for item in items:
        swap.lang = item.source.lang
        model.aim(pools, item)
        attack.clear_cache()  # the same text has another score for another query
        attack.attack(item.source.text, 1)
    print_rate("TextAttack", model.scored, [time.perf_counter() - start])
    print(f"TextAttack is version {metadata.version('textattack')}")


# ---- measuring -----------------------------------------------------------------------------------


def print_rate(name, scored, seconds):
    """Print and return the median rate."""
    rates = sorted(scored / s for s in seconds)
    span = f"{rates[0]:.1f} to {rates[-1]:.1f}, n = {len(rates)}"
    print(f"{name:<13} {median(rates):9.1f} scores/s ({span})")
    return median(rates)


def compare_rates(args, data, encoder):
    """Print the rate of both ways, their ratio, and TextAttack's own."""
    items, pools, tables = make_scene(data, encoder, "dev", args.queries, ["pool"])
    texts = [candidates(item) for item in items]
    count = sum(len(texts_of_item) for texts_of_item in texts)
    model = Padded(encoder, pools, args.length)
    score_ours(encoder, pools, items[:2], texts[:2])  # warm up
    score_padded(model, pools, items[:1], texts[:1])
    seconds_ours, seconds_padded = [], []
    for _ in range(args.repeats):
        start = time.perf_counter()
        ours = score_ours(encoder, pools, items, texts)
        middle = time.perf_counter()
        padded = score_padded(model, pools, items, texts)
        seconds_ours.append(middle - start)
        seconds_padded.append(time.perf_counter() - middle)
    gap = float((ours - padded).abs().max())
    if not gap < 1e-4:
        raise ValueError(f"the two ways differ by {gap:.1e} in a margin: the ratio means nothing.")
    fast = print_rate("ours", count, seconds_ours)
    slow = print_rate(f"padded to {model.length}", count, seconds_padded)
    print(f"ratio {fast / slow:.1f} (goal: at least 20); margins agree to {gap:.0e}")
    attack_with_textattack(model, pools, items, tables)


def time_greedy(args, data, encoder):
    """Print the seconds of what evaluate.py --attacks greedy does, without the metrics."""
    items, pools, _ = make_scene(data, encoder, "test", args.greedy, ["mono", "cross", "pool"])
    start = time.perf_counter()
    attacks.attack_queries(items, encoder, pools, attacks.parse_attack("greedy"), 0)
    seconds = time.perf_counter() - start
    calls = sum(len(item.asked) for item in items)
    changed = sum(item.changed for item in items)
    print(f"greedy attack in three views {seconds:.1f} s (goal: at most 60 s)")
    print(f"{calls} scores, {changed} of {len(items)} changed")


METHODS = (
    "rs-rp", "rs-da", "code-switch", "typos", "adv:weight=1", "adv", "adv:how=pgd,steps=2",
    "adv:how=pgd", "adv:how=freelb,steps=2", "adv:how=freelb", "rs-da+self-teaching",
    "rs-da:perturb=both",
)  # fmt: skip


def seconds_of_step(encoder, batch, flags, perturber, step):
    """One training step, forward and back."""
    encoder.zero_grad()
    start = time.perf_counter()
    losses, _ = train.training_step(encoder, batch, flags, perturber, step)
    losses.loss.backward()
    return time.perf_counter() - start


def time_robust_steps(data, encoder, steps=9):
    """Print the time of a robust step over that of a plain one, forward and back: medians.

    The two take turns on the same batches of 100 hybrid pairs; texts are looked up once, as in a
    run.
    """
    flags = train.single_runs(train.parse([]))[0]
    pairs = xlt.TrainingPairs(data, flags.train_langs)
    plan = list(xlt.batches(pairs, "hybrid", flags.batch_size, steps + 1))
    plain = train.make_perturber(flags, data, encoder)
    for text in METHODS:
        robust = train.make_perturber(replace(flags, robust=text), data, encoder)
        ratios, milliseconds = [], []
        for step, batch in enumerate(plan):
            first = seconds_of_step(encoder, batch, flags, plain, step)
            second = seconds_of_step(encoder, batch, flags, robust, step)
            if step > 0:  # the first warms up
                ratios.append(second / first)
                milliseconds.append(1000 * second)
        span = f"{min(ratios):.2f} to {max(ratios):.2f}, n = {steps}"
        cost = f"{median(ratios):5.2f} times a plain step ({span})"
        print(f"{text:24} {cost}, {median(milliseconds):.0f} ms", flush=True)


def main(argv=None) -> int:
    """Measure and print. Exit 0 done, 1 failed, 2 usage."""
    args = parse(argv)
    try:
        data, encoder = xlt.load_data(args.data), xlt.load_encoder(args.model).eval()
        print(f"{args.model}: {platform.machine()}, {torch.get_num_threads()} threads")
        print(", ".join(f"{name} {version}" for name, version in xlt.versions().items()))
        if args.robust:
            time_robust_steps(data, encoder)
            return 0
        compare_rates(args, data, encoder)
        if args.greedy is not None:
            time_greedy(args, data, encoder)
    except (ValueError, OSError) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
