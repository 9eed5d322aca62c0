"""How many candidates an attack scores a second: ours, and one query at a time padded to 512.

    python tests/bench.py                    # two rates and their ratio, about a minute
    python tests/bench.py --greedy           # also a whole greedy attack on the test split
    python tests/bench.py --robust           # instead: what a robust training step costs

Measured in one run, on the same dev queries of all eleven languages and the same candidates (the
query, and each single replacement from synonyms/), against all passages, on the CPU:

    ours    attacks.scorer: all queries at once, each distinct text once, sorted by length
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
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F

import attacks
import evaluate
import train
from xlt import Pairs, batches, load_data, load_encoder, pool


def parse(argv=None):
    """The flags of bench.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=evaluate.Help
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


def spread(queries: list[int], n: int) -> list[int]:
    """About n of the queries, from the first to the last: they are sorted by language."""
    return queries[:: max(1, len(queries) // n)][:n] if n else queries


def candidates(item) -> list[str]:
    """The query and each of its single replacements."""
    changes = [{(a, b): other} for a, b, options in item.slots for other in options]
    return list(dict.fromkeys(attacks.substitute(item.source.text, c) for c in [{}, *changes]))


def timed(work) -> tuple[float, object]:
    """Seconds of wall clock, and the result."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


# ---- two ways to score them ----------------------------------------------------------------------


def ours(encoder, pools, items: list, texts: list[list[str]]) -> torch.Tensor:
    """All candidates of all queries as one step of a search -> margins in the pool of all."""
    score = attacks.scorer(encoder, pools)  # a new one: nothing is known yet
    pairs = [(item, text) for item, mine in zip(items, texts, strict=True) for text in mine]
    return score(pairs)[0][:, -1]


class Padded:
    """A model as TextAttack wraps it: texts of one query -> (C, 2) best other and best relevant."""

    def __init__(self, encoder, p: torch.Tensor, length: int):
        config = encoder.model.config
        room = config.max_position_embeddings
        room -= config.pad_token_id + 1 if "roberta" in config.model_type else 0
        self.encoder, self.model, self.p, self.scored = encoder, encoder.model, p, 0
        self.length = min(length, room)

    def aim(self, relevant: list[int]) -> None:
        """The rows of p that answer the query under attack."""
        self.relevant = torch.zeros(len(self.p), dtype=torch.bool)
        self.relevant[relevant] = True

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> torch.Tensor:
        encoder, self.scored = self.encoder, self.scored + len(texts)
        encoder.tokenizer.model_max_length = self.length
        batch = encoder.tokenizer(
            [encoder.settings.query_prefix + text for text in texts], return_tensors="pt",
            padding="max_length", truncation=True, max_length=self.length,
        )  # fmt: skip
        hidden = self.model(**batch).last_hidden_state  # (C, T, D)
        v = F.normalize(pool(hidden, batch["attention_mask"], encoder.settings.pooling), dim=-1)
        scores = v @ self.p.T  # (C, D) @ (D, P) -> (C, P)
        good, other = scores[:, self.relevant], scores[:, ~self.relevant]
        return torch.stack([other.amax(1), good.amax(1)], 1)


def padded(model: Padded, relevant: list[list[int]], texts: list[list[str]]) -> torch.Tensor:
    """The candidates of one query after the other -> margins in the pool of all."""
    margins = []
    for rows, mine in zip(relevant, texts, strict=True):
        model.aim(rows)
        other, good = model(mine).T
        margins.append(good - other)
    return torch.cat(margins)


# ---- TextAttack itself ---------------------------------------------------------------------------


def peer(model: Padded, relevant: list[list[int]], items: list, tables: dict) -> None:
    """Print TextAttack's own rate on the same queries, or why there is none.

    Its greedy search (leave-one-out, then the best replacement) sees (best other, best relevant) as
    two classes; it stops when the query is broken and skips one that is wrong from the start, and
    finds its own words: so it scores other candidates than ours, and only the rate compares.
    """
    try:
        import textattack as ta
        from textattack.constraints.pre_transformation import RepeatModification
    except (ImportError, LookupError) as error:  # LookupError: nltk's data are missing
        print("TextAttack    not measured:", " ".join(str(error).split())[:80])
        return

    class Swap(ta.transformations.WordSwap):
        def _get_replacement_words(self, word):
            return tables.get(self.lang, {}).get(word.lower(), [])

    swap, goal = Swap(), ta.goal_functions.UntargetedClassification(model)
    search, model.scored = ta.search_methods.GreedyWordSwapWIR(wir_method="delete"), 0
    attack = ta.Attack(goal, [RepeatModification()], swap, search)

    def work():
        for rows, item in zip(relevant, items, strict=True):
            swap.lang = item.source.lang
            model.aim(rows)
            attack.clear_cache()  # the same text has another score for another query
            attack.attack(item.source.text, 1)

    seconds, _ = timed(work)
    report("TextAttack", model.scored, [seconds])
    print(f"TextAttack is version {metadata.version('textattack')}")


# ---- reports -------------------------------------------------------------------------------------


def report(name: str, scored: int, seconds: list[float]) -> float:
    """Print and return the median rate."""
    low, rate, high = (scored / f(seconds) for f in (max, statistics.median, min))
    print(f"{name:<13} {rate:9.1f} scores/s ({low:.1f} to {high:.1f}, n = {len(seconds)})")
    return rate


def compare(args, data, encoder, tables: dict) -> None:
    """Print the rate of both ways, their ratio, and TextAttack's own."""
    queries = spread(sorted(data.qrels["dev"]), args.queries)
    passages = list(range(len(data.passages)))
    seconds, p = timed(lambda: encoder.encode(data.passages, "passage"))
    spec = attacks.parse_attack("greedy")
    items = attacks.make_items(data, queries, ["pool"], spec, tables, seed=0)
    pools = attacks.make_pools(p, data, queries, passages, "dev")
    texts, relevant = [candidates(x) for x in items], [list(data.qrels["dev"][q]) for q in queries]
    count = sum(map(len, texts))
    model = Padded(encoder, p, args.length)
    print(f"{len(queries)} dev queries, {count} candidates, {len(p)} passages ({seconds:.1f} s)")
    ours(encoder, pools, items[:2], texts[:2]), padded(model, relevant[:1], texts[:1])  # warm up
    spent = {"ours": [], "padded": []}
    for _ in range(args.repeats):
        seconds, mine = timed(lambda: ours(encoder, pools, items, texts))
        spent["ours"].append(seconds)
        seconds, theirs = timed(lambda: padded(model, relevant, texts))
        spent["padded"].append(seconds)
    gap = float((mine - theirs).abs().max())
    if not gap < 1e-4:
        raise ValueError(f"the two ways differ by {gap:.1e} in a margin: the ratio means nothing.")
    fast = report("ours", count, spent["ours"])
    slow = report(f"padded to {model.length}", count, spent["padded"])
    print(f"ratio {fast / slow:.1f} (goal: at least 20); margins agree to {gap:.0e}")
    peer(model, relevant, items, tables)


def greedy(args, data, encoder, tables: dict) -> None:
    """Print the seconds of what evaluate.py --attacks greedy does, without the metrics."""
    queries = spread(sorted(data.qrels["test"]), args.greedy)
    passages = list(range(len(data.passages)))
    first, p = timed(lambda: encoder.encode(data.passages, "passage"))
    spec = attacks.parse_attack("greedy")

    def work():
        items = attacks.make_items(data, queries, list(evaluate.VIEWS), spec, tables, seed=0)
        pools = attacks.make_pools(p, data, queries, passages, "test")
        attacks.run(items, encoder, pools, spec, seed=0)
        return items

    seconds, items = timed(work)
    calls = sum(len(x.asked) for x in items)
    print(f"greedy attack {seconds:.1f} s and {first:.1f} s for the passages (goal: at most 60 s)")
    changed = f"{sum(x.changed for x in items)} of {len(items)} changed"
    print(f"{len(queries)} test queries, three views: {calls} scores, {changed}")


METHODS = (
    "rs-rp", "rs-da", "code-switch", "typos", "adv:weight=1", "adv", "adv:how=pgd,steps=2",
    "adv:how=pgd", "adv:how=freelb,steps=2", "adv:how=freelb", "rs-da+self-teaching",
    "rs-da:perturb=both",
)  # fmt: skip


def robust(data, encoder, steps: int = 9) -> None:
    """Print the time of a robust step over that of a plain one, forward and back: medians.

    The two take turns on the same batches of 100 hybrid pairs; texts are found once, as in a run.
    """
    flags = vars(train.parse([])) | {"robust": "none", "batching": "hybrid", "seed": 0}
    pairs = Pairs(data, flags["train_langs"])
    plan = list(batches(pairs, "hybrid", flags["batch_size"], steps + 1))
    plain = train.make_perturber(flags, data, encoder)

    def step(tools, batch, n):
        encoder.zero_grad()
        train.batch_losses(encoder, data, batch, flags, tools, n)[0]["loss"].backward()

    for text in METHODS:
        tools, ratios, spent = train.make_perturber(flags | {"robust": text}, data, encoder), [], []
        for n, batch in enumerate(plan):
            first, _ = timed(lambda batch=batch, n=n: step(plain, batch, n))
            second, _ = timed(lambda batch=batch, n=n, tools=tools: step(tools, batch, n))
            ratios.append(second / first)
            spent.append(1000 * second)
        low, ratio, high = (f(ratios[1:]) for f in (min, statistics.median, max))  # the first warms up
        print(f"{text:24} {ratio:5.2f} times a plain step ({low:.2f} to {high:.2f}, n = {steps}), "
              f"{statistics.median(spent[1:]):.0f} ms", flush=True)  # fmt: skip


def main(argv=None) -> int:
    """Measure and print. Exit 0 done, 1 failed, 2 usage."""
    args = parse(argv)
    try:
        data, encoder = load_data(args.data), load_encoder(args.model).eval()
        print(f"{args.model}: {platform.machine()}, {torch.get_num_threads()} threads")
        print(", ".join(f"{name} {version}" for name, version in evaluate.versions().items()))
        if args.robust:
            robust(data, encoder)
            return 0
        tables = attacks.read_synonyms(data.folder)
        compare(args, data, encoder, tables)
        if args.greedy is not None:
            greedy(args, data, encoder, tables)
    except (ValueError, OSError) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
