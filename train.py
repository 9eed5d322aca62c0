"""Fine-tune an encoder for cross-lingual retrieval: flags -> runs/NAME, and a table over all runs.

    for batch in batches(pairs, batching, ...):         which languages meet: the experiment
        q, p = encoder(queries), encoder(passages)      (B, D), (B, D)
        loss = info_nce(q, p, tau, mask)                false negatives masked by gold group
        loss.backward(); clip; step; schedule           AdamW, linear warm-up and decay

Where to look next: `train` is the loop above, `derive` is everything that follows from the flags,
and xlt.py holds batches, encoder and loss. evaluate.py makes the table that is printed at the end.
Left out on purpose: a Trainer class, callbacks, experiment trackers, config files, early stopping.
Differs from the papers: the hybrid-batch paper trains 100 pairs a step at 3e-5 on XLM-R; the
bundled encoder is a thousandth of its size, so its learning rate is larger.

    python train.py                                         hybrid batches, bundled world, one seed
    python train.py --batching x-y hybrid --seed 0 1 2      six runs, one table with mean and spread
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
BATCHINGS = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")  # xlt.BATCHINGS; a test compares them
# The hybrid-batch paper's training languages; el and vi are never trained on: they are the
# zero-shot test
TRAIN_LANGS = ["en", "ar", "zh", "de", "es", "ru", "th", "tr", "hi"]


# ---- flags ---------------------------------------------------------------------------------------

FLAGS = {
    "model and data": {
        "--model": {"default": str(HERE / "data/tiny_xlmr"), "help": "Hugging Face folder or name"},
        "--data": {
            "type": Path,
            "default": HERE / "data/minifacts",
            "help": "data set folder with qrels/train.tsv",
        },
        "--eval-data": {"type": Path, "help": "data set folder of the table (default: --data)"},
        "--eval-split": {
            "default": "test",
            "choices": ["dev", "test"],
            "help": "split of the table; select on dev, report test",
        },
        "--train-langs": {
            "nargs": "+",
            "default": TRAIN_LANGS,
            "metavar": "LANG",
            "help": "training languages; the hybrid-batch paper's: without el and vi",
        },
        "--test-langs": {"nargs": "+", "metavar": "LANG", "help": "of the table (default: all)"},
    },
    "batches and loss": {
        "--batching": {
            "nargs": "+",
            "default": ["hybrid"],
            "choices": BATCHINGS,
            "metavar": "NAME",
            "help": f"which languages meet in a batch, of {', '.join(BATCHINGS)} (LAReQA; Elmahdy)",
        },
        "--alpha": {
            "nargs": "+",
            "type": float,
            "default": [0.5],
            "metavar": "A",
            "help": "hybrid: share of monolingual batches, 0 to 1 (paper: 0.5)",
        },
        "--tau": {"type": float, "default": 0.05, "help": "temperature, > 0; divides the cosine"},
        "--symmetric": {"action": "store_true", "help": "also let each passage pick its query"},
        "--keep-false-negatives": {"action": "store_true", "help": "do not mask them"},
    },
    "optimisation": {
        "--batch-size": {
            "type": int,
            "default": 100,
            "metavar": "B",
            "help": "pairs a step (paper: 100), B - 1 negatives; accumulation adds none",
        },
        "--steps": {"type": int, "default": 150, "metavar": "N", "help": "optimiser steps"},
        "--lr": {"type": float, "default": 1e-3, "help": "peak, of AdamW (paper, XLM-R: 3e-5)"},
        "--weight-decay": {"type": float, "default": 1e-2, "help": "AdamW's (paper: 1e-2)"},
        "--warmup": {"type": float, "default": 0.1, "help": "share of steps, from 0 to below 1"},
        "--clip": {"type": float, "default": 1.0, "help": "largest L2 norm of the gradient"},
        "--seed": {
            "nargs": "+",
            "type": int,
            "default": [0],
            "metavar": "S",
            "help": "of order, languages and dropout",
        },
    },
    "encoder": {
        "--pooling": {"choices": ["mean", "cls"], "help": "default: as saved, else mean"},
        "--query-length": {"type": int, "help": "tokens (default: as saved, else 96; XTREME)"},
        "--passage-length": {"type": int, "help": "tokens (default: as saved, else 256; XTREME)"},
        "--context": {
            "action": "store_true",
            "default": None,
            "help": "encode passages with their paragraph, as LAReQA",
        },
    },
    "machine and files": {
        "--device": {"default": "auto", "help": "torch device; auto: cuda if there is one"},
        "--precision": {
            "choices": ["fp32", "bf16"],
            "default": "fp32",
            "help": "of the forward pass; the loss is fp32",
        },
        "--out": {"type": Path, "default": Path("runs"), "help": "folder of the runs' folders"},
        "--save-every": {"type": int, "default": 50, "help": "steps between checkpoints"},
        "--log-every": {"type": int, "default": 25, "help": "steps between lines of the log"},
        "--resume": {"action": "store_true", "help": "continue interrupted runs, bit for bit"},
        "--overwrite": {"action": "store_true", "help": "start over, also complete runs"},
        "--smoke": {"action": "store_true", "help": "one seed, four small steps: does all work?"},
    },
}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, but for flags that are off or say themselves what happens without."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def parse(argv=None) -> argparse.Namespace:
    """The flags of train.py; --batching, --alpha and --seed take several values."""
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(description=first, allow_abbrev=False, formatter_class=Help)
    for name, flags in FLAGS.items():
        group = parser.add_argument_group(name)
        for flag, how in flags.items():
            group.add_argument(flag, **how)
    args = parser.parse_args(argv)
    for name in ("steps", "batch_size", "lr", "tau", "clip", "save_every", "log_every"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    if not 0 <= args.warmup < 1:
        parser.error(f"--warmup {args.warmup}: a share of the steps, from 0 to below 1")
    if wrong := [alpha for alpha in args.alpha if not 0 <= alpha <= 1]:
        parser.error(f"--alpha {wrong[0]}: the share of monolingual batches is from 0 to 1")
    return args


if __name__ == "__main__":  # before torch is imported: --help answers at once
    parse()

import torch
from tqdm import tqdm

import evaluate
import xlt
from xlt import Encoder, Pairs, batches, false_negatives, info_nce


def single_runs(args: argparse.Namespace) -> list[dict]:
    """The product of --batching, --alpha and --seed: the flags of each run.

    Alpha matters to hybrid alone, so x-y with two alphas is one run.
    """
    several = ("batching", "alpha", "seed")
    machine = (
        "out",
        "resume",
        "overwrite",
        "smoke",
        "save_every",
        "log_every",
    )  # do not change the result
    common = {k: v for k, v in vars(args).items() if k not in (*several, *machine)}
    if args.device == "auto":
        common["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    common |= {k: str(v.resolve()) for k, v in common.items() if isinstance(v, Path)}
    if Path(args.model).exists():  # else a name on the hub
        common["model"] = str(Path(args.model).resolve())
    if args.smoke:
        common |= {"steps": min(args.steps, 4), "batch_size": min(args.batch_size, 8)}
        common["test_langs"] = args.test_langs or args.train_langs[:2]
    runs = []
    seeds = args.seed[:1] if args.smoke else args.seed
    for batching, alpha, seed in itertools.product(args.batching, args.alpha, seeds):
        flags = common | {
            "batching": batching,
            "alpha": alpha if batching == "hybrid" else None,
            "seed": seed,
        }
        if flags not in runs:
            runs.append(flags)
    return runs


def recipe(flags: dict) -> str:
    """What distinguishes a run but its seed: hybrid-none; with another alpha hybrid0.3-none."""
    alpha = "" if flags["alpha"] in (None, 0.5) else f"{flags['alpha']:g}"
    return f"{flags['batching']}{alpha}-none"


def derive(flags: dict, pairs: Pairs, encoder: Encoder) -> dict:
    """Everything that follows from the flags and the data."""
    return {
        "groups": len(pairs.queries), "warmup_steps": round(flags["warmup"] * flags["steps"]),
        "epochs": round(flags["steps"] * flags["batch_size"] / len(pairs.queries), 2),
        # Kept when batchings are compared, or the optimiser is what is measured (2006.11604)
        "lr_per_pair": flags["lr"] / flags["batch_size"],
        "parameters": sum(p.numel() for p in encoder.parameters()),
    }  # fmt: skip


# ---- state: nothing is lost ----------------------------------------------------------------------


def save_checkpoint(folder: Path, modules: dict, state: dict) -> None:
    """Write the resume state aside, flush it to the disk, then rename: never half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    content = state | {name: module.state_dict() for name, module in modules.items()}
    content |= {"random": torch.get_rng_state(), "random_cuda": cuda}  # dropout draws from these
    aside = folder / "state.pt.tmp"
    with open(aside, "wb") as out:
        torch.save(content, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, folder / "state.pt")


def load_checkpoint(folder: Path, modules: dict) -> dict:
    """Put everything back as it was, if there is a checkpoint; return the loop's own state."""
    state = {"step": 0, "counts": Counter(), "logged": 0, "seconds": 0.0}
    state |= {"truncated": Counter(), "seen": Counter()}
    if not (folder / "state.pt").exists():
        return state
    content = torch.load(folder / "state.pt", weights_only=False, map_location="cpu")
    for name, module in modules.items():
        module.load_state_dict(content[name])
    torch.set_rng_state(content["random"])
    if content["random_cuda"]:
        torch.cuda.set_rng_state_all(content["random_cuda"])
    return {name: content[name] for name in state}


def prepare_folder(folder: Path, manifest: dict, args: argparse.Namespace) -> str:
    """Look at what is in a run's folder: "done", "resume" or "new".

    *Errors*: ValueError for a folder of other flags, data or starting weights, an interrupted run
    without --resume, or a folder that is no run.
    """
    remedy = "Give another --out, or --overwrite to start over."
    if args.overwrite and folder.exists():
        shutil.rmtree(folder)
    if not (folder / "run.json").exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder}: not empty, and no run (no run.json). {remedy}")
        return "new"
    old = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name, value in manifest["flags"].items():
        if name != "device" and old["flags"].get(name) != value:
            flag, was = name.replace("_", "-"), old["flags"].get(name)
            raise ValueError(f"{folder} was made with --{flag} {was}, not {value}. {remedy}")
    for name in ("data_sha256", "eval_data_sha256", "init_sha256"):
        if old.get(name) != manifest[name]:
            raise ValueError(f"{folder} was made with another {name}: files have changed. {remedy}")
    if old.get("complete"):
        return "done"
    if not args.resume:
        raise ValueError(f"{folder} is not complete. Continue it with --resume, or --overwrite it.")
    return "resume" if (folder / "ckpt/state.pt").exists() else "new"


# ---- training ------------------------------------------------------------------------------------


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: linear up over `warmup` steps, linear down to 0."""
    return min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup), 1.0)


def batch_loss(encoder: Encoder, data, batch, flags: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch -> (loss, mask of false negatives). The formula of this file."""
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=flags["precision"] == "bf16"):
        queries = [data.queries[i] for i in batch.queries]
        passages = [data.passages[i] for i in batch.passages]
        q = encoder(encoder.tokenize(queries, "query"))  # (B, D)
        p = encoder(encoder.tokenize(passages, "passage"))  # (B, D)
    mask = false_negatives(batch.gold, batch.group).to(q.device)  # (B, B)
    used = None if flags["keep_false_negatives"] else mask
    return info_nce(q, p, flags["tau"], used, flags["symmetric"]), mask


def count_batch(counts: Counter, batch, mask: torch.Tensor, data) -> None:
    """Add one batch to the counts: rows by language pair, batches by kind, rows that are masked."""
    rows = zip(batch.queries, batch.passages, strict=True)
    counts.update(f"{data.queries[a].lang}>{data.passages[b].lang}" for a, b in rows)
    counts.update({f"{batch.kind} batches": 1, "rows": len(batch.queries)})
    counts.update({"masked rows": int(mask.any(1).sum())})


def report(log, name: str, steps: int, line: dict) -> None:
    """One line of the log: as JSON into the file, aligned on the screen, the same values."""
    log.write(json.dumps(line) + "\n")
    log.flush()
    eta = line["seconds"] / line["step"] * (steps - line["step"])
    tqdm.write(
        f"{name} step {line['step']:5d}/{steps}  loss {line['loss']:7.4f}  {line['kind']:5}  "
        f"grad {line['grad_norm']:6.2f}  lr {line['lr']:.1e}  {line['seconds']:5.0f} s  "
        f"ETA {eta:4.0f} s",
        file=sys.stderr,
    )


def train(
    encoder: Encoder, data: xlt.DataSet, plan, flags: dict, folder: Path, args: argparse.Namespace
) -> dict:
    """Run the training loop; return counts. Checkpoints go to ckpt/, lines to log.jsonl.

    *Errors*: FloatingPointError for a loss that is not finite; the last checkpoint stays.
    """
    steps, warmup = flags["steps"], round(flags["warmup"] * flags["steps"])
    how = {"lr": flags["lr"], "weight_decay": flags["weight_decay"]}
    optimizer = torch.optim.AdamW(encoder.parameters(), **how)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, warmup))
    torch.manual_seed(xlt.derive_seed(flags["seed"], "dropout"))
    modules = {"model": encoder, "optimizer": optimizer, "schedule": schedule}
    state = load_checkpoint(folder / "ckpt", modules)
    encoder.truncated, encoder.seen = state["truncated"], state["seen"]
    encoder.train()
    start = time.time() - state["seconds"]
    show = {"desc": folder.name, "disable": None, "leave": False}  # a bar on a terminal only
    with (
        open(folder / "log.jsonl", "a", encoding="utf-8") as log,
        tqdm(total=steps, initial=state["step"], **show) as bar,
    ):
        log.truncate(state["logged"])  # lines after the checkpoint will be written again
        log.seek(0, os.SEEK_END)
        for step, batch in enumerate(plan, 1):
            if step <= state["step"]:
                continue  # replay: which batch comes when is a function of the seed alone
            loss, mask = batch_loss(encoder, data, batch, flags)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(encoder.parameters(), flags["clip"])
            if not (loss.isfinite() and norm.isfinite()):
                raise FloatingPointError(
                    f"{folder}: the loss is {loss.item()}, its gradient {norm.item()}, at step "
                    f"{step}. The last checkpoint stays; try an --lr below {flags['lr']:g}."
                )
            line = {"step": step, "loss": round(loss.item(), 4), "kind": batch.kind}
            line |= {"grad_norm": round(norm.item(), 3), "lr": schedule.get_last_lr()[0]}
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            count_batch(state["counts"], batch, mask, data)
            bar.update()
            if step % args.log_every == 0 or step == steps:
                report(log, folder.name, steps, line | {"seconds": round(time.time() - start, 1)})
            if step % args.save_every == 0 and step < steps:
                state |= {"step": step, "logged": log.tell(), "seconds": time.time() - start}
                save_checkpoint(folder / "ckpt", modules, state)
    counts = dict(sorted(state["counts"].items()))
    return {"seconds_training": round(time.time() - start, 1), "counts": counts}


# ---- one run, all runs ---------------------------------------------------------------------------


def commit() -> str:
    """The commit of this code, or "unknown" outside a checkout."""
    found = subprocess.run(
        ["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def run(flags: dict, args: argparse.Namespace, data, eval_data) -> dict:
    """Train and evaluate one run, or read it if it is complete; return its metrics.json."""
    name = f"{recipe(flags)}-seed{flags['seed']}" + ("-smoke" if args.smoke else "")
    folder = args.out / name
    keys = ("pooling", "query_length", "passage_length", "context")
    changes = {k: flags[k] for k in keys if flags[k] is not None}
    encoder = xlt.load_encoder(flags["model"], flags["device"], **changes)
    manifest = {"flags": flags, "recipe": recipe(flags), "complete": False, "commit": commit()}
    manifest |= {"data_sha256": data.sha256, "eval_data_sha256": eval_data.sha256}
    manifest |= {"init_sha256": evaluate.weights_hash(encoder), "versions": evaluate.versions()}
    state = prepare_folder(folder, manifest, args)
    own = flags["eval_data"] or flags["data"]
    metrics = folder / evaluate.metrics_name(eval_data, own, flags["eval_split"])
    if state == "done":
        print(f"{folder}: complete, skipped (--overwrite starts over)", file=sys.stderr)
        return json.loads(metrics.read_text(encoding="utf-8"))
    pairs = Pairs(data, flags["train_langs"])
    plan = batches(pairs, *(flags[k] for k in ("batching", "batch_size", "steps")),
                   flags["alpha"] or 0.0, flags["seed"])  # fmt: skip
    manifest |= {"derived": derive(flags, pairs, encoder), "settings": vars(encoder.settings)}
    manifest |= {"threads": torch.get_num_threads()}
    if state == "new":
        shutil.rmtree(folder, ignore_errors=True)
        evaluate.write_json(folder / "run.json", manifest)
    print(json.dumps({name: manifest}, default=str), file=sys.stderr)
    manifest |= train(encoder, data, plan, flags, folder, args)
    counts = manifest["counts"]
    manifest["false_negative_rate"] = round(counts["masked rows"] / counts["rows"], 4)
    manifest["truncated"] = evaluate.cut_texts(encoder)
    xlt.save_encoder(encoder, folder / "model")
    start = time.time()
    found = evaluate.evaluate(encoder, eval_data, flags["eval_split"], flags["test_langs"])
    found = evaluate.about_run(manifest) | {"model": "model"} | found
    evaluate.write_json(metrics, found)
    manifest |= {"seconds_evaluating": round(time.time() - start, 1), "complete": True}
    evaluate.write_json(folder / "run.json", manifest)
    shutil.rmtree(folder / "ckpt", ignore_errors=True)  # the run is complete: nothing to resume
    print(
        f"{name}: {manifest['seconds_training']} s training, "
        f"{manifest['seconds_evaluating']} s evaluating, "
        f"{100 * manifest['false_negative_rate']:.1f} % of the rows held a false negative",
        file=sys.stderr,
    )
    return found


def main(argv=None) -> int:
    """Run everything that the flags ask for, print one table.

    Exit 0 done, 1 failed, 2 wrong usage.
    """
    args = parse(argv)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads: loading {args.data}",
        file=sys.stderr,
        flush=True,
    )
    try:
        data = xlt.load_data(args.data)
        eval_data = xlt.load_data(args.eval_data) if args.eval_data else data
        found = [run(flags, args, data, eval_data) for flags in single_runs(args)]
    except (ValueError, FloatingPointError, OSError, RuntimeError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    print(evaluate.table(found))
    print(f"done: {len(found)} runs in {args.out}, {args.eval_split} of {eval_data.folder}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("train.py: interrupted. Continue with --resume.", file=sys.stderr)
        sys.exit(130)
