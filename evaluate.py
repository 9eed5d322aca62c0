"""Evaluate encoders on retrieval: vectors -> ranks of the relevant passages -> metrics -> a table.

    scores = q @ p.T                                         (Q, D) @ (D, P) -> (Q, P)
    rank_k = k + number of non-relevant passages that score at least as high as the k-th relevant
    AP     = mean over the R relevant passages of k / rank_k

One encode serves three views: `mono` (candidates in the query's language), `cross` (in one other
language, for every pair of languages) and `pool` (candidates in all languages at once; every
translation is relevant).
Where to look next: `relevant_ranks` is all of the evaluation, `records` is what metrics.json holds.
Left out on purpose: approximate search, full rankings in memory, a metrics library.
Differs from common practice: non-relevant passages win every tie; scores are summed in fp64 and
rounded to fp32, so that neither a constant scorer nor another block size can change a metric.

Shapes: Q queries, P passages, R relevant passages of a query (padded), D embedding.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import sys
from collections import Counter, defaultdict
from pathlib import Path

VIEWS = ("mono", "cross", "pool")
METRICS = ("mAP", "mAP@20", "R@1", "R@10", "MRR@10", "nDCG@10", "rank_distance")
TIES = "non-relevant passages first; scores summed in fp64, rounded to fp32"
# One screen of results: the hybrid-batch paper's columns (R@1 in the pool could not exceed 1/11)
COLUMNS = (
    ("mono", "mAP"), ("cross", "mAP"), ("pool", "mAP"), ("mono", "R@1"), ("cross", "R@1"),
    ("pool", "R@10"), ("pool", "rank_distance"),
)  # fmt: skip


# ---- flags ---------------------------------------------------------------------------------------


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, but for flags that are off or say themselves what happens without."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def parse(argv=None):
    """The flags of evaluate.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=Help
    )
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        type=Path,
        metavar="MODEL|RUN",
        help="Hugging Face folder, or a run of train.py",
    )
    add(
        "--data",
        type=Path,
        default=Path("data/minifacts"),
        help="data set folder (DESIGN: one format)",
    )
    add(
        "--split",
        choices=("train", "dev", "test"),
        default="test",
        help="which qrels; select on dev, report test",
    )
    add(
        "--langs",
        nargs="+",
        metavar="LANG",
        help="languages of queries and passages (default: all)",
    )
    add(
        "--views",
        nargs="+",
        choices=VIEWS,
        default=list(VIEWS),
        help="candidates: own, one other, all languages",
    )
    add(
        "--context",
        action="store_true",
        default=None,
        help="encode passages with their paragraph, as LAReQA",
    )
    add("--device", default="auto", help="torch device; auto: cuda if there is one, else cpu")
    add(
        "--out",
        type=Path,
        help="folder for metrics.json (default: the run's own; none for a model)",
    )
    add("--trec", type=Path, metavar="DIR", help="also write run.trec and qrels.trec")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported: --help answers at once
    parse()

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm import tqdm

from xlt import DataSet, Encoder, load_data, load_encoder

# ---- ranks ---------------------------------------------------------------------------------------


def relevant_ranks(scores: Tensor, relevant: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of each query's relevant passages, best first, without sorting the passages.

        rank_k = k + #{non-relevant passages that score >= the k-th best relevant one}

    *Shapes*: scores (Q, P), relevant (Q, R) positions padded with -1, gains (Q, R) -> ranks (Q, R)
    from 1, padded with 0, and the gains in the same order. The padding comes last.
    *Source*: trec_eval's ranks, but pessimistic among ties (PITFALLS.md 18).
    """
    real = relevant >= 0
    own = scores.gather(1, relevant.clamp(min=0)).masked_fill(~real, -math.inf)  # (Q, R)
    # Among relevant passages that tie, the smaller gain first: pessimistic for nDCG as well
    order = torch.argsort(gains, dim=1, stable=True)
    order = order.gather(
        1, torch.argsort(own.gather(1, order), dim=1, descending=True, stable=True)
    )
    own, real, gains = own.gather(1, order), real.gather(1, order), gains.gather(1, order)
    columns = []
    for k in range(own.shape[1]):  # R passes over the scores; a sort would cost log2(P)
        bar = own[:, k : k + 1]  # (Q, 1)
        others = (scores >= bar).sum(1) - ((own >= bar) & real).sum(1)  # (Q, P) -> (Q,)
        columns.append(k + 1 + others)
    ranks = torch.stack(columns, dim=1)  # (Q, R)
    return ranks.masked_fill(~real, 0), gains.masked_fill(~real, 0)


def measure(ranks: np.ndarray, gains: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each query from the ranks of its relevant passages.

    *Shapes*: ranks, gains (Q, R), padded with 0 at the end -> (Q,) a metric; NaN where nothing is
    relevant.
    *Units*: all in [0, 1] but rank_distance (ranks; NaN with fewer than two relevant passages). mAP
    is uncut, mAP@20 sums to rank 20 and still divides by all R relevant ones; R@k is recall: with
    11 relevant passages R@10 cannot exceed 10/11; nDCG@10 has linear gains.
    *Source*: trec_eval's map, map_cut, recall, recip_rank, ndcg_cut; rank distance: Elmahdy et al.
    2024.
    """
    count = (ranks > 0).sum(1)  # (Q,)
    safe, hit = np.maximum(ranks, 1), ranks > 0
    precision = np.where(hit, (np.arange(ranks.shape[1]) + 1) / safe, 0.0)  # k / rank_k
    ten = hit & (ranks <= 10)
    ideal = -np.sort(-gains, axis=1)[:, :10]
    ideal = (ideal / np.log2(np.arange(2, ideal.shape[1] + 2))).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 -> NaN: nothing is relevant
        found = {
            "mAP": precision.sum(1) / count,
            "mAP@20": np.where(ranks <= 20, precision, 0.0).sum(1) / count,
            "R@1": (hit & (ranks <= 1)).sum(1) / count,
            "R@10": ten.sum(1) / count,
            "MRR@10": np.where(ten[:, 0], 1 / safe[:, 0], 0.0) * count / count,
            "nDCG@10": np.where(ten, gains / np.log2(safe + 1), 0.0).sum(1) / ideal,
        }
    distance = ranks.max(1) - np.where(hit, ranks, ranks.max(initial=0)).min(1)
    return found | {"rank_distance": np.where(count > 1, distance, np.nan)}


def relevant_table(
    data: DataSet, queries: list[int], where: dict[int, int], split: str
) -> tuple[Tensor, Tensor]:
    """The relevant passages of each query in a pool; `where`: passage -> column of the pool.

    *Shapes*: -> columns (Q, R) padded with -1, gains (Q, R).
    """
    rows = [[(where[p], s) for p, s in data.qrels[split][q].items() if p in where] for q in queries]
    width = max(1, max(map(len, rows)))
    columns = [[c for c, _ in row] + [-1] * (width - len(row)) for row in rows]
    gains = [[s for _, s in row] + [0.0] * (width - len(row)) for row in rows]
    return torch.tensor(columns), torch.tensor(gains)


def rank_queries(
    q: Tensor, p: Tensor, data: DataSet, queries: list[int], passages: list[int], split: str,
    langs: list[str], block: int = 512,
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Metrics of every query against every pool: one language's passages each, and "*" for all.

    *Shapes*: q (Q, D) of `queries`, p (P, D) of `passages` -> pool -> metric -> (Q,).
    """
    pools = {"*": list(range(len(passages)))}
    in_lang = {a: [i for i, x in enumerate(passages) if data.passages[x].lang == a] for a in langs}
    pools |= {lang: columns for lang, columns in in_lang.items() if columns}
    tables = {
        name: relevant_table(data, queries, {passages[c]: i for i, c in enumerate(columns)}, split)
        for name, columns in pools.items()
    }
    index = {name: torch.tensor(columns) for name, columns in pools.items()}
    found = {name: [] for name in pools}
    wide = p.double().T.contiguous()  # (D, P)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        # SUBTLE: a product in fp32 depends on the shape of the block; in fp64, rounded, it does not
        scores = (q[rows].double() @ wide).float()  # (block, D) @ (D, P) -> (block, P)
        for name, (relevant, gains) in tables.items():
            part = scores if name == "*" else scores[:, index[name]]
            found[name].append(
                [t.numpy() for t in relevant_ranks(part, relevant[rows], gains[rows])]
            )
    return {
        n: measure(*(np.concatenate(x) for x in zip(*parts, strict=True)))
        for n, parts in found.items()
    }


def chance(passages: int, relevant: int) -> dict[str, float]:
    """Expected metrics of a random ranking.

        E[AP] = H_P / P + (R - 1) (P - H_P) / (P (P - 1)),   H_P = 1 + 1/2 + ... + 1/P

    *Units*: counts of candidates and of relevant ones among them. Derived: a passage at rank i is
    relevant with probability R / P, and then i's precision is (1 + (i - 1)(R - 1) / (P - 1)) / i.
    """
    harmonic = sum(1 / i for i in range(1, passages + 1))
    ap = harmonic / passages
    if passages > 1:
        ap += (relevant - 1) * (passages - harmonic) / (passages * (passages - 1))
    # The expected gap between the smallest and the largest of R ranks drawn from P
    gap = (passages + 1) * (relevant - 1) / (relevant + 1)
    return {"mAP": ap, "R@1": 1 / passages, "R@10": min(1.0, 10 / passages), "rank_distance": gap}


def chance_of_views(data: DataSet, queries: list[int], passages: list[int], split: str) -> dict:
    """Expected metrics of a random ranking, averaged over the queries of each view."""
    size = Counter(data.passages[p].lang for p in passages)
    within, cases = set(passages), {view: Counter() for view in VIEWS}
    for query in queries:
        relevant = Counter(data.passages[p].lang for p in data.qrels[split][query] if p in within)
        for lang, count in relevant.items():
            view = "mono" if lang == data.queries[query].lang else "cross"
            cases[view][size[lang], count] += 1
        if relevant:
            cases["pool"][len(passages), relevant.total()] += 1
    found = {}
    for view, counts in cases.items():  # few distinct (candidates, relevant) pairs, many queries
        each = [(chance(*case), n / counts.total()) for case, n in counts.items()]
        found[view] = {m: sum(c[m] * share for c, share in each) for m in (each and each[0][0])}
    return found


# ---- records -------------------------------------------------------------------------------------


def encode_split(encoder: Encoder, data: DataSet, split: str, langs: list[str]):
    """Encode the split's queries and all passages of these languages.

    *Shapes*: -> positions of queries (Q) and passages (P), q (Q, D), p (P, D).
    *Errors*: ValueError for a split or a language that the data has not, or vectors not finite.
    """
    if split not in data.qrels:
        have = sorted(data.qrels)
        raise ValueError(f"{data.folder}/qrels/{split}.tsv: no such file. There is {have}.")
    if unknown := sorted(set(langs) - set(all_langs(data))):
        raise ValueError(f"--langs {unknown[0]}: {data.folder} has {all_langs(data)}.")
    queries = [q for q in sorted(data.qrels[split]) if data.queries[q].lang in langs]
    passages = [i for i, p in enumerate(data.passages) if p.lang in langs]
    if not queries or not passages:
        raise ValueError(f"{data.folder}, {split}: no query or no passage in {langs}. Add --langs.")
    bar = lambda name: lambda blocks: tqdm(blocks, desc=name, disable=None, leave=False)
    q = encoder.encode([data.queries[i] for i in queries], "query", bar("queries"))
    p = encoder.encode([data.passages[i] for i in passages], "passage", bar("passages"))
    if not (q.isfinite().all() and p.isfinite().all()):
        raise ValueError("the encoder gave vectors that are not finite. Train with a smaller --lr.")
    return queries, passages, q, p


def all_langs(data: DataSet) -> list[str]:
    """Languages of queries or passages: in Mewsli-X, say, they are not the same."""
    return sorted({text.lang for text in (*data.queries, *data.passages)})


def records(found: dict, data: DataSet, queries: list[int], attack: str, views=VIEWS) -> list[dict]:
    """Per-query metrics -> means over queries: one record a (view, query lang, passage lang).

    A query without a relevant passage in a pool is left out there and counted as `n_left_out`.
    """
    rows, own = [], np.array([data.queries[q].lang for q in queries])
    for query_lang in sorted(set(own)):
        for pool in sorted(found):
            view = "pool" if pool == "*" else "mono" if pool == query_lang else "cross"
            if view not in views:
                continue
            mine = own == query_lang
            valid = mine & ~np.isnan(found[pool]["mAP"])
            row = {"attack": attack, "view": view, "query_lang": query_lang, "passage_lang": pool}
            row |= {"n_queries": int(valid.sum()), "n_left_out": int((mine & ~valid).sum())}
            for name in METRICS:
                values = found[pool][name][valid]
                values = values[~np.isnan(values)]
                row[name] = round(float(values.mean()), 6) if len(values) else None
            rows.append(row)
    return rows


def weights_hash(encoder: Encoder) -> str:
    """SHA-256 of the weights, which name a model better than its path."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What the numbers depend on besides our code."""
    mine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return mine | {"transformers": transformers.__version__}


def evaluate(encoder: Encoder, data: DataSet, split: str = "test", langs: list[str] | None = None,
             views=VIEWS, trec: Path | None = None) -> dict:  # fmt: skip
    """Everything that metrics.json holds, but the names of model and run."""
    encoder.truncated.clear(), encoder.seen.clear()
    langs = langs or all_langs(data)
    queries, passages, q, p = encode_split(encoder, data, split, langs)
    found = rank_queries(q, p, data, queries, passages, split, langs)
    if trec:
        write_trec(trec, q, p, data, queries, passages, split)
    return identity(encoder, data, split, langs) | {
        "n_queries": len(queries), "n_passages": len(passages),
        "ties": TIES, "versions": versions(), "dropped": dict(data.dropped),
        "truncated": cut_texts(encoder), "chance": chance_of_views(data, queries, passages, split),
        "results": records(found, data, queries, "clean", views),
    }  # fmt: skip


def identity(encoder: Encoder, data: DataSet, split: str, langs: list[str] | None) -> dict:
    """What a metrics.json is about: results of anything else do not belong into it."""
    return {
        "model_sha256": weights_hash(encoder), "settings": vars(encoder.settings),
        "data": str(data.folder), "data_sha256": data.sha256, "split": split,
        "langs": sorted(langs or all_langs(data)),
    }  # fmt: skip


def cut_texts(encoder: Encoder) -> dict[str, str]:
    """How many texts lost their end, of how many, by side and language."""
    cut = sorted(encoder.truncated.items())
    return {f"{kind} {lang}": f"{n} of {encoder.seen[kind, lang]}" for (kind, lang), n in cut}


# ---- files ---------------------------------------------------------------------------------------


def write_json(path: Path, content: dict) -> None:
    """Write aside and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def metrics_name(data: DataSet, own: str, split: str) -> str:
    """metrics.json for the test split of the data that a run is about, else a name that says so."""
    if split == "test" and data.folder.resolve() == Path(own).resolve():
        return "metrics.json"
    return f"metrics-{data.folder.resolve().name}-{split}.json"


def check_same(path: Path, new: dict) -> dict:
    """The content of a metrics.json, or {} if there is none.

    *Errors*: ValueError if it is about another model, data set, split, setting or languages.
    """
    if not path.exists():
        return {}
    old = json.loads(path.read_text(encoding="utf-8"))
    for key in ("model_sha256", "data_sha256", "split", "settings", "langs"):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{path}: holds results of another {key} ({old.get(key)}). Give another --out."
            )
    return old


def add_metrics(path: Path, new: dict) -> dict:
    """Write metrics.json, or add to it: records of other attacks, views and languages stay."""
    old = check_same(path, new)
    key = lambda r: (r["attack"], r["view"], r["query_lang"], r["passage_lang"])
    fresh = {key(r) for r in new["results"]}
    new["results"] = [r for r in old.get("results", []) if key(r) not in fresh] + new["results"]
    write_json(path, new)
    return new


def write_trec(folder: Path, q, p, data, queries, passages, split, depth: int = 1000) -> None:
    """Write run.trec (the best `depth` passages, by (-score, id)) and qrels.trec for trec_eval.

    *Shapes*: q (Q, D) of `queries`, p (P, D) of `passages`.
    *Errors*: ValueError for an id with blanks: the format separates by them.
    """
    ids = np.array([data.passages[i].id for i in passages])
    names = [data.queries[i].id for i in queries]
    if bad := [name for name in (*ids, *names) if len(name.split()) != 1]:
        raise ValueError(f"--trec: the id {str(bad[0])!r} holds blanks. Rename it.")
    folder.mkdir(parents=True, exist_ok=True)
    place, wide = np.argsort(np.argsort(ids)), p.double()  # a number that orders like the id
    with open(folder / "run.trec", "w", encoding="utf-8", newline="\n") as run:
        for name, vector in zip(names, q.double(), strict=True):
            scores = (wide @ vector).float().numpy()  # (P, D) @ (D,) -> (P,)
            best = np.lexsort((place, -scores))[:depth]
            lines = (f"{name} Q0 {ids[i]} {k} {scores[i]:.9g} xlt\n" for k, i in enumerate(best, 1))
            run.writelines(lines)
    pool = set(passages)
    with open(folder / "qrels.trec", "w", encoding="utf-8", newline="\n") as out:
        for name, query in zip(names, queries, strict=True):
            found = [(i, s) for i, s in data.qrels[split][query].items() if i in pool]
            out.writelines(f"{name} 0 {data.passages[i].id} {s:g}\n" for i, s in found)


# ---- tables --------------------------------------------------------------------------------------


def summarise(results: list[dict], langs: list[str] | None = None, attack: str = "clean") -> dict:
    """Macro-average over languages (each record counts once): (view, metric) -> value or None.

    `langs` keeps the records whose query language is among them; None keeps all.
    """
    values = defaultdict(list)
    for row in results:
        if row["attack"] == attack and (langs is None or row["query_lang"] in langs):
            for name in METRICS:
                if row.get(name) is not None:
                    values[row["view"], name].append(row[name])
    return {key: sum(v) / len(v) for key, v in values.items()}


def cell(values: list[float], metric: str) -> str:
    """Mean, and the standard deviation if there are several seeds."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    mean, digits = float(np.mean(values)), 0 if metric == "rank_distance" else 3
    text = f"{mean:.{digits}f}" if digits == 0 else f"{mean:.3f}".replace("0.", ".", 1)
    if len(values) == 1:
        return text
    spread = float(np.std(values, ddof=1))
    return f"{text} ±" + (f"{spread:.0f}" if digits == 0 else f"{spread:.3f}".replace("0.", ".", 1))


def table(runs: list[dict]) -> str:
    """A Markdown table: one row a recipe and set of languages, mean over seeds; chance below.

    *Units*: `runs` are metrics.json objects with "recipe", "seed" and, if known, "train_langs".
    """
    head = ["recipe", "n", "languages"] + [
        f"{view} {name.replace('_', ' ')}" for view, name in COLUMNS
    ]
    lines = [head, ["---"] * len(head)]
    groups = defaultdict(list)
    for run in runs:  # runs of one recipe but with other flags are another row
        groups[run["recipe"], run.get("variant", "")].append(run)
    for (recipe, _), members in groups.items():
        seeds = [member["seed"] for member in members]
        if len(set(seeds)) < len(seeds):
            twice = max(seeds, key=seeds.count)
            raise ValueError(f"{recipe}: seed {twice} is given twice. Leave one out.")
        trained = members[0].get("train_langs")
        sets = [("all", None)]
        if trained:
            untrained = [a for a in members[0]["langs"] if a not in trained]
            sets += [("trained", trained)] + ([("untrained", untrained)] if untrained else [])
        for label, langs in sets:
            sums = [summarise(m["results"], langs) for m in members]
            cells = [cell([s.get(c) for s in sums], c[1]) for c in COLUMNS]
            lines.append([recipe, str(len(members)), label, *cells])
    luck = runs[0]["chance"]
    lines.append(["chance", "", "all"] + [cell([luck[v].get(m)], m) for v, m in COLUMNS])
    width = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rows = (
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, width, strict=True)) + " |"
        for line in lines
    )
    return "\n".join(rows)


# ---- the program ---------------------------------------------------------------------------------


def about_run(run: dict) -> dict:
    """What the table needs to know about a run, from its manifest."""
    flags = run["flags"]
    rest = {k: v for k, v in flags.items() if k not in ("seed", "device")}
    seen = ["en"] if flags["batching"] == "en-en" else flags["train_langs"]
    about = {"recipe": run["recipe"], "seed": flags["seed"], "train_langs": seen}
    return about | {"variant": hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:8]}


def open_run(path: Path) -> tuple[Path, dict, str]:
    """A run or a model -> (folder of the weights, what the table needs, the run's own data)."""
    if not (path / "run.json").exists():
        return path, {"recipe": str(path), "seed": None, "train_langs": None}, ""
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    if not run.get("complete"):
        raise ValueError(f"{path}: this run is not complete. Finish it with train.py --resume.")
    return path / "model", about_run(run), run["flags"]["eval_data"] or run["flags"]["data"]


def evaluate_path(path: Path, data: DataSet, args) -> dict:
    """Evaluate one model or run as the flags say; write its metrics.json."""
    folder, about, own = open_run(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = {"context": True} if args.context else {}
    encoder = load_encoder(folder, device if args.device == "auto" else args.device, **changes)
    several = len(args.models) > 1
    home = args.out / path.name if args.out and several else args.out or (path if own else None)
    name = metrics_name(data, own or data.folder, args.split)
    if home:  # before the work, not after it
        check_same(home / name, identity(encoder, data, args.split, args.langs))
    trec = args.trec / path.name if args.trec and several else args.trec
    found = evaluate(encoder, data, args.split, args.langs, args.views, trec)
    found = about | {"model": str(folder)} | found
    return add_metrics(home / name, found) if home else found


def main(argv=None) -> int:
    """Evaluate every model, write metrics.json, print one table. Exit 0 done, 1 failed, 2 usage."""
    args = parse(argv)
    try:
        data = load_data(args.data)
        runs = [evaluate_path(path, data, args) for path in args.models]
        print(table(runs))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    count = f"{runs[0]['n_queries']} queries, {runs[0]['n_passages']} passages"
    print(f"{args.split} of {args.data}: {count}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
