"""Classify pairs of sentences, robustly and across languages: PAWS-X, XNLI, the bundled pairs.

    <s> sentence 1 </s> </s> sentence 2 </s>  ->  h (B, D) of the first token  ->  W h + b (B, C)

    loss = (1 - sum w_m) CE(x) + sum [ w_m CE(x_m) + c KL(logits of x_m | logits of x) ]

    standard      both sentences in language L          the diagonal of a matrix of languages
    generalized   sentence 1 in L1, sentence 2 in L2    all the rest; trained on one language alone

x_m is the pair perturbed by the --robust method m: edited sentences, or noise on the word
embeddings. This is the task that Robust-XLT was made for; the encoder, the perturbations and the
training loop are those of the retrieval lecture.
Where to look next: `PairClassifier` is the model, `pair_step` a training step (beside
`training_step` in train.py), `evaluate_pairs` the matrix.
Left out on purpose: a pooler with tanh, ensembles of smoothed predictions at test time (neither is
in Robust-XLT).
Differs from Robust-XLT: its RS-DA trains on ten fixed copies of every pair; here a pair is drawn
anew each step, unless rs-da:rate=1,copies=10,cut=blanks asks for theirs. Batches are of 32 pairs,
as there, but training lasts for steps, and the checkpoint is chosen on dev a few times.

    python pairs.py                                          bundled inference, one seed
    python pairs.py --robust none adv rs-rp rs-da --seed 0 1 2 3 4
    python pairs.py --model data/e5_small --data data/paws_x --lr 2e-5 --steps 300

Shapes: B pairs of a batch, T tokens, D embedding, C labels, L languages, N pairs of a split.
"""

import argparse
import hashlib
import itertools
import math
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

if __name__ == "__main__":  # Ctrl-C while torch is imported: an end without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attacks
import evaluate
import study
import train
import xlt
from attacks import Attack, AttackedQuery, Tables
from study import Comparison
from train import Losses, Perturber, Robust, StepReport, View
from xlt import Encoder, Text

HERE = Path(__file__).parent
SPLITS = ("train", "dev", "test")
HEADER = "sentence1\tsentence2\tlabel"
DROPOUT = 0.1  # before the head, as in BERT's classifiers
QUESTION = "Does robust training help a classifier of sentence pairs across languages?"
GAP = "generalized - standard"
SETTINGS = {  # and how a sentence calls them
    "standard": "the standard setting",
    "generalized": "the generalized setting",
    GAP: "the difference of the two",
}


# ---- pairs of sentences in files -----------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two sentences, each in its language, and the number of their label."""

    first: Text
    second: Text
    label: int


@dataclass(frozen=True)
class Row:
    """A line of a file: both sentences in the file's language."""

    first: str
    second: str
    label: str


def read_rows(path: Path) -> list[Row]:
    """The rows of SPLIT-LANG.tsv.

    *Errors*: ValueError with file, line and remedy for another header, a missing column or an
    empty sentence.
    """
    rows = []
    for number, line in xlt.read_lines(path):
        where = f"{path}:{number}"
        if number == 1:
            if line != HEADER:
                shown = xlt.one_line(repr(line))
                raise ValueError(f"{where}: {shown} is not the header {HEADER!r}. Add it.")
            continue
        cells = line.split("\t")
        shown = xlt.one_line(repr(line))
        if len(cells) != 3:
            raise ValueError(f"{where}: {len(cells)} columns in {shown}. Each row needs {HEADER}.")
        if not (xlt.has_words(cells[0]) and xlt.has_words(cells[1]) and cells[2]):
            raise ValueError(f"{where}: an empty cell in {shown}. Fill it, in all languages.")
        rows.append(Row(*cells))
    if not rows:
        raise ValueError(f"{path}: no rows. Run the folder's prepare.py again.")
    return rows


@dataclass
class PairData:
    """A folder of sentence pairs: line i of a split is the same pair in every language."""

    folder: Path
    rows: dict[str, dict[str, list[Row]]]  # split -> language -> rows
    labels: list[str]  # those of the training split, sorted
    sha256: str

    def pairs(self, split: str, first_lang: str, second_lang: str) -> list[Pair]:
        """The pairs of a split with sentence 1 in one language and sentence 2 in another. (N,)"""
        pairs = []
        both = zip(self.rows[split][first_lang], self.rows[split][second_lang], strict=True)
        for i, (row, other) in enumerate(both):
            pair_id = f"{split}{i}"  # of both sentences: one random stream a pair
            first = Text(pair_id, first_lang, row.first, pair_id)
            second = Text(pair_id, second_lang, other.second, pair_id)
            pairs.append(Pair(first, second, self.labels.index(row.label)))
        return pairs

    def langs(self, split: str) -> list[str]:
        return sorted(self.rows[split])


def check_parallel(paths: dict[str, Path], rows: dict[str, list[Row]], labels: list[str]) -> None:
    """Refuse, with a ValueError, languages of a split that are not the same pairs."""
    first_lang = "en" if "en" in rows else min(rows)
    first_path, first_rows = paths[first_lang], rows[first_lang]
    for lang, own in rows.items():
        if len(own) != len(first_rows):
            counts = f"{len(own)} pairs, {first_path} has {len(first_rows)}"
            raise ValueError(f"{paths[lang]}: {counts}. Line i must be the same pair in both.")
        for number, (row, other) in enumerate(zip(own, first_rows, strict=True), 2):
            where = f"{paths[lang]}:{number}"
            if row.label not in labels:
                known = ", ".join(labels)
                raise ValueError(f"{where}: label {xlt.quoted(row.label)} is none of {known}.")
            if row.label != other.label:
                raise ValueError(
                    f"{where}: label {row.label!r}, but {other.label!r} in {first_path}:{number}. "
                    "Line i must be the same pair in both."
                )


def load_pairs(folder: str | Path) -> PairData:
    """Read pairs/SPLIT-LANG.tsv of a data-set folder.

        sentence1<TAB>sentence2<TAB>label        header, then a pair a line; nothing is quoted

    train, dev and test, each in one language or more. The labels are those that occur in train.
    *Errors*: ValueError with file, line, value and remedy.
    """
    folder = Path(folder)
    rows, paths, digest = {}, {}, hashlib.sha256()
    for path in sorted((folder / "pairs").glob("*.tsv")):
        split, _, code = path.stem.partition("-")
        if split not in SPLITS or not code:
            raise ValueError(f"{path}: is not named train-LANG, dev-LANG or test-LANG. Rename it.")
        lang = xlt.base_language(code)
        rows.setdefault(split, {})[lang] = read_rows(path)
        paths.setdefault(split, {})[lang] = path
        digest.update(path.name.encode() + path.read_bytes())
    for split in SPLITS:
        if split not in rows:
            remedy = "Run the folder's prepare.py, or give another --data."
            raise ValueError(f"{folder}/pairs/{split}-LANG.tsv: no such file. {remedy}")
    labels = sorted({row.label for of_lang in rows["train"].values() for row in of_lang})
    if len(labels) < 2:
        raise ValueError(f"{folder}/pairs: all training labels are {labels}. Two are needed.")
    for split in SPLITS:
        check_parallel(paths[split], rows[split], labels)
    return PairData(folder, rows, labels, digest.hexdigest())


# ---- the classifier ------------------------------------------------------------------------------


class PairClassifier(Encoder):
    """An encoder that reads both sentences at once, with a linear head on its first token.

        logits = W dropout(h) + b        h (B, D) -> (B, C)

    Everything that trains an `Encoder` trains this: its "vectors" are h, and are not normalised.
    """

    def __init__(self, encoder: Encoder, n_labels: int, length: int = 128, seed: int = 0):
        settings = replace(encoder.settings, pooling="cls", query_length=length)
        super().__init__(encoder.model, encoder.tokenizer, settings, encoder.precision)
        self.one_length = encoder.one_length
        self.head = nn.Linear(encoder.model.config.hidden_size, n_labels, device=encoder.device)
        with torch.no_grad():
            size = self.head.weight.shape
            start = torch.randn(size, generator=xlt.generator(seed, "head"))
            self.head.weight.copy_(0.02 * start)
            self.head.bias.zero_()

    def tokenize_pairs(self, pairs: list[Pair]) -> list[dict[str, list[int]]]:
        """Pairs -> unpadded token rows; the longer sentence is cut if both are too long."""
        limit = self.settings.query_length
        self.tokenizer.model_max_length = 10**9  # no warnings: we cut and count by ourselves
        rows = []
        for pair in pairs:
            sentences = pair.first.text, pair.second.text
            key = "pair", sentences
            if self.remembered is None or key not in self.remembered:
                row = self._call_tokenizer(*sentences)
                is_cut = len(row["input_ids"]) > limit
                if is_cut:
                    how = {"truncation": "longest_first", "max_length": limit}
                    row = self._call_tokenizer(*sentences, **how)
                entry = row, is_cut
                if self.remembered is not None:
                    self.remembered[key] = entry
            else:
                entry = self.remembered[key]
            row, is_cut = entry
            self.texts_seen["pair", pair.first.lang] += 1
            if is_cut:
                self.texts_cut["pair", pair.first.lang] += 1
            rows.append(row)
        return rows

    def from_embeddings(self, embeddings: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Word embeddings -> the first token's state. (B, T, D) -> (B, D)"""
        hidden = self.hidden_states(embeddings, batch)  # (B, T, D)
        return hidden[:, 0]  # CHANGED vs Encoder: no pooling, no normalisation

    def logits(self, h: Tensor) -> Tensor:
        """First tokens' states -> scores of the labels. (B, D) -> (B, C)"""
        return self.head(F.dropout(h, DROPOUT, self.training))

    @torch.no_grad()
    def predict(self, pairs: list[Pair], block: int = 2048) -> Tensor:
        """Scores of the labels of many pairs, without dropout. -> (N, C) on the CPU"""
        parts = []
        with xlt.eval_mode(self):
            for start in range(0, len(pairs), block):
                rows = self.tokenize_pairs(pairs[start : start + block])
                parts.append(self.logits(self(rows)).cpu())
        return torch.cat(parts)


def save_classifier(classifier: PairClassifier, labels: list[str], folder: Path) -> None:
    """Write encoder, tokenizer, head and the names of the labels."""
    xlt.save_encoder(classifier, folder)
    weight, bias = classifier.head.weight.tolist(), classifier.head.bias.tolist()
    xlt.write_record(folder / "head.json", {"labels": labels, "weight": weight, "bias": bias})


def load_classifier(folder: Path, device="cpu", precision="fp32") -> tuple[PairClassifier, list]:
    """What `save_classifier` wrote, and the names of its labels."""
    head = xlt.read_record(folder / "head.json", "Give the model/ of a run of pairs.py.")
    encoder = xlt.load_encoder(folder, device, precision)
    length = encoder.settings.query_length
    classifier = PairClassifier(encoder, len(head["labels"]), length)
    with torch.no_grad():
        classifier.head.weight.copy_(torch.tensor(head["weight"]))
        classifier.head.bias.copy_(torch.tensor(head["bias"]))
    return classifier, head["labels"]


# ---- flags ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairFlags:
    """The flags of one run, as run.json holds them; what they mean stands in `parse`."""

    model: str
    data: str
    words: str
    train_lang: str
    robust: str
    batch_size: int
    chunk_size: int
    freeze_words: bool
    steps: int
    choices: int
    lr: float
    weight_decay: float
    warmup: float
    clip: float
    length: int
    seed: int
    device: str
    precision: str

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup * self.steps)

    @property
    def trained(self) -> dict:
        """The flags that training depends on; data and model are known by their hashes."""
        others = ("device", "model", "data", "words")
        return {name: value for name, value in asdict(self).items() if name not in others}

    @property
    def name(self) -> str:
        """Of the run's folder: pairs-none-seed0."""
        return f"pairs-{self.robust.replace(':', '_')}-seed{self.seed}"


# ---- batches, and how a pair is perturbed --------------------------------------------------------


@dataclass(frozen=True)
class PairBatch:
    """Positions of B training pairs. (Named as in xlt.Batch: the loop counts both alike.)"""

    queries: list[int]
    kind: str = "pairs"

    @property
    def passages(self) -> list[int]:
        return self.queries

    def positions(self, tower: str) -> list[int]:
        return self.queries


def pair_batches(count: int, flags: PairFlags) -> Iterator[PairBatch]:
    """`steps` batches, every epoch in a new order: a function of the flags alone."""
    rng = xlt.generator(flags.seed, "pairs")
    names = [str(i) for i in range(count)]
    drawn = xlt.endless_groups(names, flags.batch_size, rng)
    for _ in range(flags.steps):
        yield PairBatch([int(name) for name in next(drawn)])


@dataclass
class PairPerturber(Perturber):
    """What the perturbations of one run need; sentence 1 is its query, sentence 2 its passage."""

    labels: Tensor | None = None  # (N,) of the training pairs


def make_pair_perturber(
    flags: PairFlags, pairs: list[Pair], classifier: Encoder | None = None
) -> PairPerturber:
    """Open the tables that --robust needs; without classifier only to see whether all is there.

    *Errors*: ValueError for a missing table, or where no pair has a replaceable word.
    """
    folder = Path(flags.words)
    sentences = xlt.DataSet(
        folder, [pair.first for pair in pairs], [pair.second for pair in pairs], qrels={}
    )
    unit = 1.0
    if classifier is not None:
        unit = attacks.mean_norm(classifier)
    robust = pair_robust(flags.robust)
    perturber = PairPerturber(robust, flags.seed, sentences, unit)
    perturber.labels = torch.tensor([pair.label for pair in pairs])
    sources = {method.source for method in robust.methods} - {"embeddings"}
    if "synonyms" in sources:
        perturber.tables["synonyms"] = attacks.read_synonyms(folder)
    if "dictionary" in sources:
        # All languages: the pairs of the generalized setting meet in the middle of a sentence, too
        perturber.tables["dictionary"] = attacks.read_dictionary(folder / "dictionary.tsv")
    for source in sorted(sources):
        if not any(perturber.slots(source, "query", i) for i in range(len(pairs))):
            raise ValueError(
                f"--robust {flags.robust}: no training pair has a word that {source} could "
                f"replace. Add words to {folder}'s synonyms/ or dictionary.tsv."
            )
    return perturber


def pair_robust(text: str) -> Robust:
    """What --robust says, for pairs: words of both sentences, noise on the one input that they are.

    *Errors*: ValueError as `parse_robust`, and for `perturb`, which has nothing to choose here.
    """
    if "perturb=" in text:
        shown = xlt.one_line(text)
        raise ValueError(f"--robust {shown}: pairs are perturbed in both sentences. Drop perturb.")
    return train.parse_robust(text)


def edited_pair(perturber: PairPerturber, method, step: int, position: int) -> Pair:
    """A training pair with its edits of this step, in both sentences."""
    first = train.edit_text(perturber, method, step, "query", position)
    second = train.edit_text(perturber, method, step, "passage", position)
    return Pair(first, second, int(perturber.labels[position]))


def training_pair(perturber: PairPerturber, position: int) -> Pair:
    """A training pair as it is."""
    first, second = perturber.text("query", position), perturber.text("passage", position)
    return Pair(first, second, int(perturber.labels[position]))


def clean_pair_views(classifier, batch, perturber):
    """The pairs as they are, if a loss or a method looks at them."""
    if not perturber.robust.needs_clean_queries:
        return []
    pairs = [training_pair(perturber, i) for i in batch.queries]
    return [View("query", classifier.tokenize_pairs(pairs))]


def perturbed_pair_views(classifier, batch, perturber, step):
    """The pairs once more for each method; those with noise get it from train.py's `add_noise`."""
    views = []
    for method in perturber.robust.methods:
        if method.source == "embeddings":
            pairs = [training_pair(perturber, i) for i in batch.queries]
        else:
            pairs = [edited_pair(perturber, method, step, i) for i in batch.queries]
        rows = classifier.tokenize_pairs(pairs)
        for point in range(method.n_points):
            views.append(View("query", rows, None, method, point, method.n_points))
    return views


# ---- one training step: views -> first tokens -> logits -> losses -> backward --------------------


@dataclass(frozen=True)
class PairLoss:
    """Cross-entropy of some pairs of the batch, one by one: what worst-case noise maximises."""

    head: nn.Linear
    labels: Tensor  # (B,)

    def __call__(self, h: Tensor, rows: list[int]) -> Tensor:
        """h (b, D), which are `rows` of the batch -> losses (b,)."""
        return F.cross_entropy(self.head(h), self.labels[rows], reduction="none")


def pair_losses(views: list[View], logits: list[Tensor], robust: Robust, labels: Tensor) -> Losses:
    """The formula of this file, a pure function of the logits.

        CE: cross-entropy with the labels;  KL(P_m | P) as in self-teaching, P without gradient

    *Shapes*: logits (B, C), one a view; labels (B,).
    """
    losses = Losses(loss=torch.zeros(()))
    clean = None
    for view, scores in zip(views, logits, strict=True):
        if view.method is None:
            clean = scores
            losses.clean = F.cross_entropy(clean, labels)
            losses.loss = losses.loss + robust.clean_share * losses.clean
    perturbed, kls = [], []
    for view, scores in zip(views, logits, strict=True):
        if view.method is None:
            continue
        perturbed.append(F.cross_entropy(scores, labels) / view.points)
        losses.loss = losses.loss + view.method.weight * perturbed[-1]
        if robust.consistency:
            teacher = clean.detach().log_softmax(1)
            student = scores.log_softmax(1)
            kl = (student.exp() * (student - teacher)).sum(1).mean()  # (B, C) -> ()
            kls.append(kl / view.points)
            losses.loss = losses.loss + robust.consistency * kls[-1]
    if perturbed:
        losses.perturbed = sum(perturbed) / len(robust.methods)
    if kls:
        losses.consistency = sum(kls) / len(robust.methods)
    return losses


def pair_step(
    classifier: PairClassifier, batch: PairBatch, flags: PairFlags, perturber: PairPerturber,
    step: int = 0,
) -> StepReport:  # fmt: skip
    """One batch: views -> first tokens -> logits -> losses -> gradients.

    Line by line `training_step` of train.py; what differs is the loss and that it needs the head.
    """
    labels = perturber.labels[batch.queries].to(classifier.device)  # (B,)
    views = clean_pair_views(classifier, batch, perturber)
    plan = train.plan_chunks(classifier, views, flags.seed, step, "clean")
    clean = train.encode_views(classifier, views, train.own_chunks(plan))
    row_losses = {"query": PairLoss(classifier.head, labels)}  # CHANGED: not against other rows
    views = perturbed_pair_views(classifier, batch, perturber, step)
    perturbed_plan = train.plan_chunks(classifier, views, flags.seed, step, "perturbed")
    own = train.own_chunks(perturbed_plan)
    train.add_noise(classifier, batch, perturber, step, row_losses, views, own)
    perturbed = train.encode_views(classifier, views, own)

    all_views = clean.views + perturbed.views
    torch.manual_seed(xlt.derive_seed(flags.seed, "head dropout", step))
    logits = [classifier.logits(h) for h in clean.by_view() + perturbed.by_view()]  # CHANGED: head
    losses = pair_losses(all_views, logits, perturber.robust, labels)
    losses.loss.backward()  # as far as the first tokens, and to the head
    for encoded in (clean, perturbed):
        train.backward_views(classifier, encoded)
    if train.process_number() > 0:
        classifier.head.zero_grad()  # all processes have the same one: it counts once

    lengths = [len(row["input_ids"]) for view in all_views for row in view.rows]
    ids = {number for view in all_views for row in view.rows for number in row["input_ids"]}
    train.sum_gradients(classifier, torch.tensor(sorted(ids), device=classifier.device))
    padded = sum(chunk.tokens for chunk in plan + perturbed_plan)
    nothing_masked = torch.zeros(len(labels), 1, dtype=torch.bool)
    return StepReport(losses, nothing_masked, sum(lengths), padded)


# ---- metrics -------------------------------------------------------------------------------------


def average_precision(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Area under the precision-recall curve of two labels, as PAWS-X reports it.

        scores .9 .8 .7, positive yes no yes: (1/1 + 2/3) / 2 = .8333

    Ties go to the negatives, as in retrieval here. *Shapes*: (N,), (N,).
    """
    order = np.lexsort((is_positive, -scores))  # best first; among equals the negatives
    hits = is_positive[order]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def score_pairs(logits: Tensor, pairs: list[Pair]) -> tuple[np.ndarray, dict]:
    """Which pairs are right (N,), and accuracy; with two labels also average precision."""
    logits = logits.numpy()  # (N, C)
    labels = np.array([pair.label for pair in pairs])
    right = logits.argmax(1) == labels
    numbers = {"n": len(pairs), "accuracy": round(float(right.mean()), 6)}
    if logits.shape[1] == 2:
        ap = average_precision(logits[:, 1] - logits[:, 0], labels == 1)
        numbers["AP"] = round(ap, 6)
    return right, numbers


# ---- under attack: either sentence, or noise on both ---------------------------------------------


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Score of the right label minus the best other one: above 0 is right. (N, C), (N,) -> (N,)"""
    of_label = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf)
    return of_label - others.max(1).values


def labels_of(pairs: list[Pair]) -> Tensor:
    """(N,)"""
    return torch.tensor([pair.label for pair in pairs])


def with_text(pair: Pair, side: str, text: str) -> Pair:
    """The pair with another text of its "first" or "second" sentence."""
    return replace(pair, **{side: replace(getattr(pair, side), text=text)})


class SentenceScorer:
    """What `attacks.search_edits` asks for margins of texts in the place of one sentence.

    As `attacks.Scorer`, with one "pool": the labels. No text is scored twice.
    """

    def __init__(self, classifier: PairClassifier, pairs: list[Pair], side: str):
        self.encoder, self.pairs, self.side = classifier, pairs, side
        self.margins = {}  # (pair, text) -> its margin

    def __call__(self, trials: list[tuple[AttackedQuery, str]]) -> tuple[Tensor, Tensor]:
        """(item, text) pairs -> margins (n, 1) and (n,), twice the same."""
        keys = [(item.query, text) for item, text in trials]
        new_keys = [key for key in dict.fromkeys(keys) if key not in self.margins]
        if new_keys:
            changed = [with_text(self.pairs[i], self.side, text) for i, text in new_keys]
            found = margins(self.encoder.predict(changed), labels_of(changed))
            self.margins.update(zip(new_keys, found.tolist(), strict=True))
        for item, text in trials:
            item.asked.add(text)
        values = torch.tensor([self.margins[key] for key in keys])
        return values[:, None], values


def edit_side(classifier, pairs, side, attack, tables, seed):
    """Each pair with the attack's edits in one sentence."""
    items = []
    for i, pair in enumerate(pairs):
        text = getattr(pair, side)
        slots = attacks.slots_of(text, attack, tables.get(text.lang, {}), seed, set())
        items.append(AttackedQuery(i, "pair", text, list(slots)))
    if attack.kind.search == "random":
        attacks.random_edits(items, attack, seed)
    else:
        attacks.search_edits(items, SentenceScorer(classifier, pairs, side), attack)
    return [with_text(pair, side, item.text) for pair, item in zip(pairs, items, strict=True)]


def attack_words(
    classifier: PairClassifier, pairs: list[Pair], attack: Attack, tables: Tables, seed: int
) -> list[Pair]:
    """Each pair with one of its sentences attacked: the one where it hurts more.

    (An attack that draws its edits draws the sentence as well.)
    """
    sides = []
    for side in ("first", "second"):
        sides.append(edit_side(classifier, pairs, side, attack, tables, seed))
    labels = labels_of(pairs)
    if attack.kind.search == "random":
        drawn = torch.rand(len(pairs), generator=xlt.generator(seed, attack.label, "side"))
        takes_second = drawn < 0.5
    else:
        first, second = (margins(classifier.predict(side), labels) for side in sides)
        takes_second = second < first
    return [sides[int(takes)][i] for i, takes in enumerate(takes_second)]


def attack_noise(
    classifier: PairClassifier, pairs: list[Pair], attack: Attack, seed: int
) -> Tensor:
    """Scores of the labels under noise on the word embeddings of both sentences. -> (N, C)"""
    labels = labels_of(pairs).to(classifier.device)
    radius = attacks.ball_radius(attack.epsilon, attack.norm, classifier)
    ball = attacks.Ball(radius, attack.norm, attack.ball)
    climb = attacks.Climb(attack.steps, attack.step_size, attack.restarts)
    logits = torch.empty(len(pairs), classifier.head.out_features)
    pair_loss = PairLoss(classifier.head, labels)
    with xlt.eval_mode(classifier):
        for chunk in attacks.embedding_chunks(classifier, classifier.tokenize_pairs(pairs)):

            def objective(embeddings, chunk=chunk):  # this chunk, also when the loop has moved on
                return pair_loss(classifier.from_embeddings(embeddings, chunk.batch), chunk.rows)

            rngs = [xlt.generator(seed, attack.label, pairs[i].first.id) for i in chunk.rows]
            if attack.name == "fgm":
                delta = attacks.fgm(objective, chunk.embeddings, chunk.places, ball)
            elif attack.name == "pgd":
                delta = attacks.pgd(objective, chunk.embeddings, chunk.places, ball, climb, rngs)
            else:  # gaussian, uniform
                dim, name = chunk.embeddings.shape[-1], attack.name
                delta = attacks.random_noise(chunk.places, dim, rngs, radius, name, attack.ball)
            with torch.no_grad():
                h = classifier.from_embeddings(chunk.embeddings + delta, chunk.batch)
                logits[chunk.rows] = classifier.logits(h).cpu()
    return logits


def attacked_logits(classifier, pairs, attack, tables, seed):
    """Scores of the labels (N, C) under an attack, and how many pairs it changed."""
    if attack.kind.source == "embeddings":
        return attack_noise(classifier, pairs, attack, seed), len(pairs)
    changed = attack_words(classifier, pairs, attack, tables.get(attack.kind.source, {}), seed)
    n_changed = sum(new != old for new, old in zip(changed, pairs, strict=True))
    return classifier.predict(changed), n_changed


def open_tables(attack_list: list[Attack], folder: Path) -> dict[str, Tables]:
    """source -> lang -> table, of the attacks.

    *Errors*: ValueError for a table that is missing, and for an attack that pairs do not have.
    """
    tables = {}
    for attack in attack_list:
        if attack.kind.search in ("vote", "exact") or attack.order == "gradient":
            raise ValueError(f"--attacks {attack.label}: not for pairs. Take greedy or beam.")
        if attack.kind.source == "synonyms":
            tables["synonyms"] = attacks.read_synonyms(folder)
        if attack.kind.source == "dictionary":
            tables["dictionary"] = attacks.read_dictionary(folder / "dictionary.tsv")
    return tables


# ---- a matrix of languages -----------------------------------------------------------------------


@dataclass
class Matrix:
    """What was found under one condition, for every pair of languages."""

    records: list[dict]
    right: dict[tuple[str, str], np.ndarray]  # (language 1, language 2) -> (N,)

    def mean_right(self, generalized: bool) -> np.ndarray:
        """Of each pair, the share of the settings' language pairs in which it is right. (N,)"""
        rows = [r for (a, b), r in self.right.items() if (a != b) == generalized]
        return np.mean(rows, axis=0)


@dataclass(frozen=True)
class TestPart:
    """What is evaluated: the first `limit` pairs of a split, in any two languages; None for all."""

    data: PairData
    split: str
    limit: int | None = None

    def pairs(self, first_lang: str, second_lang: str) -> list[Pair]:
        return self.data.pairs(self.split, first_lang, second_lang)[: self.limit]


def evaluate_matrix(
    classifier: PairClassifier, part: TestPart, cells: list[tuple[str, str]],
    attack: Attack | None = None, tables: dict[str, Tables] | None = None, seed: int = 0,
) -> Matrix:  # fmt: skip
    """Pairs of a split, sentence 1 in one language and sentence 2 in another, clean or attacked.

    n_broken: of those that were right before the attack.
    """
    matrix, condition = Matrix([], {}), evaluate.CLEAN
    if attack is not None:
        condition = evaluate.Condition(attack.name, tuple(attack.settings.items()))
    for first_lang, second_lang in cells:
        pairs = part.pairs(first_lang, second_lang)
        clean = classifier.predict(pairs)
        record = {"first_lang": first_lang, "second_lang": second_lang}
        right, numbers = score_pairs(clean, pairs)
        if attack is not None:
            before = right
            logits, n_changed = attacked_logits(classifier, pairs, attack, tables, seed)
            right, numbers = score_pairs(logits, pairs)
            broken = int((before & ~right).sum())
            numbers |= {"n_right": int(before.sum()), "n_broken": broken, "n_changed": n_changed}
        matrix.right[first_lang, second_lang] = right
        matrix.records.append(condition.fields() | record | numbers)
    return matrix


def groups_of(pairs: list[Pair]) -> np.ndarray:
    """Numbers of groups: pairs that share a sentence are one, and its members are no chance apart.

    A premise of XNLI stands with all three labels. *Shapes*: (N,).
    """
    groups = np.arange(len(pairs))
    first_with = {}  # sentence -> the first pair that has it
    for i, pair in enumerate(pairs):
        for text in (pair.first.text, pair.second.text):
            other = first_with.setdefault(text, i)
            groups[groups == groups[i]] = groups[other]
    return groups


def macro_means(records: list[dict], metric: str, trained: str) -> dict[str, float]:
    """Means over language pairs, of the records of one condition.

    standard: the diagonal, all languages; zero-shot: without the trained one; generalized: two
    languages; all: the whole matrix, as Robust-XLT averages it.
    """
    values = {}
    for record in records:
        pair = record["first_lang"], record["second_lang"]
        values[pair] = record[metric]
    standard = {a: value for (a, b), value in values.items() if a == b}
    means = {
        "trained": [value for lang, value in standard.items() if lang == trained],
        "standard": list(standard.values()),
        "zero-shot": [value for lang, value in standard.items() if lang != trained],
        "generalized": [value for (a, b), value in values.items() if a != b],
        "all": list(values.values()),
    }
    return {name: sum(column) / len(column) for name, column in means.items() if column}


# ---- one run -------------------------------------------------------------------------------------


def run_folder(flags: PairFlags, args) -> Path:
    """Where a run is written: OUT/pairs-none-seed0."""
    if args.smoke:
        return args.out / f"{flags.name}-smoke"
    return args.out / flags.name


def choice_steps(flags: PairFlags) -> list[int]:
    """After which steps dev is looked at: 100 steps, 4 choices -> 25, 50, 75, 100."""
    count = min(flags.choices, flags.steps)
    return [round(flags.steps * (i + 1) / count) for i in range(count)]


def train_pairs(
    flags: PairFlags, args, data: PairData, classifier: PairClassifier,
    perturber: PairPerturber, folder: Path, manifest: dict,
) -> None:  # fmt: skip
    """Train one run; model/ holds the best of its choices by dev in the trained language.

    *Source*: Robust-XLT chooses the checkpoint on English dev.
    """
    dev = data.pairs("dev", flags.train_lang, flags.train_lang)
    inputs = [manifest[name] for name in ("data_sha256", "init_sha256", "tables_sha256")]
    run_id = xlt.content_hash([flags.trained, inputs])
    every = args.log_every, args.save_every
    choices = manifest["choices"]  # those that an interrupted run has made already
    best = max((choice["accuracy"] for choice in choices), default=-1.0)
    for until in choice_steps(flags):
        if any(choice["step"] == until for choice in choices):
            continue
        plan = pair_batches(len(perturber.labels), flags)
        loop = train.training_loop(
            classifier, plan, flags, perturber, folder, *every, run_id, until, pair_step
        )
        _, numbers = score_pairs(classifier.predict(dev), dev)
        choices.append({"step": until} | numbers)
        print(f"{folder.name} step {until}: dev {numbers['accuracy']:.3f}", file=sys.stderr)
        if numbers["accuracy"] > best:
            best = numbers["accuracy"]
            save_classifier(classifier, data.labels, folder / "model")
        manifest["seconds_training"] = round(loop.seconds, 1)
        xlt.write_record(folder / "run.json", manifest)
    manifest |= {"truncated": xlt.truncated_texts(classifier), "complete": True}
    xlt.write_record(folder / "run.json", manifest)


def read_metrics(folder: Path) -> dict:
    """What `evaluate_run` writes: metrics.json, with metrics.npz as its "arrays"."""
    metrics = xlt.read_record(folder / "metrics.json", "Run the same command again.")
    with np.load(folder / "metrics.npz") as arrays:
        return metrics | {"arrays": dict(arrays)}


def evaluate_run(
    best: PairClassifier, data: PairData, flags: PairFlags, args, folder: Path
) -> dict:
    """Clean and attacked; writes metrics.json and metrics.npz. -> what `read_metrics` reads

    metrics.npz: of each test pair its group, and the share of a setting's language pairs in which
    it is right. What is there already, made with the same flags and tables, is not made again.
    """
    attack_list = evaluate.parse_attacks(args.attacks)
    tables = open_tables(attack_list, Path(flags.words))
    names = ("test_langs", "attacks", "attack_cells", "limit")
    options = {name: getattr(args, name) for name in names}
    options["tables_sha256"] = xlt.content_hash(tables)
    if (folder / "metrics.json").exists():
        metrics = read_metrics(folder)
        if metrics["options"] == options:
            return metrics
    langs = args.test_langs or data.langs("test")
    cells = list(itertools.product(langs, langs))
    attacked_cells = cells
    if args.attack_cells == "standard":
        attacked_cells = [(lang, lang) for lang in langs]
    part = TestPart(data, "test", args.limit or None)
    matrices = {"clean": evaluate_matrix(best, part, cells)}
    for attack in attack_list:
        matrix = evaluate_matrix(best, part, attacked_cells, attack, tables, flags.seed)
        matrices[attack.label] = matrix
    records, arrays = [], {"group": groups_of(part.pairs(langs[0], langs[0]))}
    for label, matrix in matrices.items():
        records += matrix.records
        arrays[f"{label}|standard"] = matrix.mean_right(generalized=False)
        if any(first != second for first, second in matrix.right):
            arrays[f"{label}|generalized"] = matrix.mean_right(generalized=True)
    metrics = {
        "robust": flags.robust,
        "seed": flags.seed,
        "train_lang": flags.train_lang,
        "langs": langs,
        "n_pairs": records[0]["n"],
        "options": options,
        "results": records,
    }
    np.savez(folder / "metrics.npz", **arrays)
    xlt.write_record(folder / "metrics.json", metrics)
    return read_metrics(folder)


def train_and_evaluate(flags: PairFlags, args, data: PairData) -> dict:
    """Train one run unless it is complete; evaluate it. -> what `read_metrics` reads"""
    folder = run_folder(flags, args)
    encoder = xlt.load_encoder(flags.model, flags.device, flags.precision, hub=True)
    classifier = PairClassifier(encoder, len(data.labels), flags.length, flags.seed).to(
        flags.device
    )
    training = data.pairs("train", flags.train_lang, flags.train_lang)
    perturber = make_pair_perturber(flags, training, classifier)
    manifest = {
        "flags": asdict(flags),
        "complete": False,
        "commit": train.commit(),
        "data_sha256": data.sha256,
        "init_sha256": xlt.weights_hash(encoder),
        "tables_sha256": xlt.content_hash(perturber.tables),
        "versions": xlt.versions(),
        "threads": torch.get_num_threads(),
        "choices": [],  # looks at dev, with their accuracy
    }
    with xlt.locked(folder):
        file = folder / "run.json"
        old = {}
        if file.exists() and not args.overwrite:
            old = xlt.read_record(file, "Give another --out, or --overwrite.")
            for name in ("flags", "data_sha256", "init_sha256", "tables_sha256"):
                if old[name] != manifest[name]:
                    remedy = "Give another --out, or --overwrite to start over."
                    raise ValueError(f"{folder} was made with another {name}. {remedy}")
        if not old.get("complete"):
            manifest["choices"] = old.get("choices", [])
            if not old:
                shutil.rmtree(folder / "ckpt", ignore_errors=True)
                (folder / "log.jsonl").unlink(missing_ok=True)
            (folder / "metrics.json").unlink(missing_ok=True)
            xlt.write_record(file, manifest)
            train_pairs(flags, args, data, classifier, perturber, folder, manifest)
            shutil.rmtree(folder / "ckpt", ignore_errors=True)
        best, _ = load_classifier(folder / "model", flags.device)
        return evaluate_run(best, data, flags, args, folder)


# ---- many runs: means, differences with intervals, the page --------------------------------------


def results_rows(runs: list[dict]) -> list[list[str]]:
    """A row a recipe and condition, head first: accuracy, means and spread over seeds."""
    names = ("trained", "standard", "zero-shot", "generalized", "all")
    rows = [["robust", "condition", "n", *names]]
    for robust in dict.fromkeys(run["robust"] for run in runs):
        by_condition = {}  # condition -> means of each run
        for run in runs:
            if run["robust"] != robust:
                continue
            for condition in evaluate.conditions_of(run["results"]):
                records = [r for r in run["results"] if evaluate.condition_of(r) == condition]
                means = macro_means(records, "accuracy", run["train_lang"])
                by_condition.setdefault(condition, []).append(means)
        for condition, means in by_condition.items():
            row = [robust, condition.label, str(len(means))]
            for name in names:
                values = [of_run[name] for of_run in means if name in of_run]
                row.append(study.pair_text(study.mean_sd(values)))
            rows.append(row)
    return rows


def shares_right(run: dict, condition: evaluate.Condition, setting: str) -> np.ndarray | None:
    """Of each pair, the share of the setting's language pairs in which it is right. (N,)

    GAP: generalized minus standard. None where it was not measured.
    """
    if setting != GAP:
        return run["arrays"].get(f"{condition.label}|{setting}")
    both = [shares_right(run, condition, name) for name in ("generalized", "standard")]
    if any(shares is None for shares in both):
        return None
    return both[0] - both[1]


def compare_recipes(runs: list[dict]) -> list[Comparison]:
    """Each robust training minus none, paired by pair and seed, as study.py does it.

    In each setting, and in GAP: Robust-XLT gains more where the two sentences' languages differ.
    """
    by_recipe = {}  # robust -> seed -> run
    for run in runs:
        by_recipe.setdefault(run["robust"], {})[run["seed"]] = run
    plain = by_recipe.pop("none", {})
    plan, differences = [], []
    rng = np.random.default_rng(0)
    for robust, of_seed in by_recipe.items():
        seeds = sorted(set(of_seed) & set(plain))
        for condition in evaluate.conditions_of(runs[0]["results"]):
            for setting in SETTINGS:
                ours = [shares_right(of_seed[seed], condition, setting) for seed in seeds]
                theirs = [shares_right(plain[seed], condition, setting) for seed in seeds]
                if not seeds or any(shares is None for shares in ours + theirs):
                    continue
                groups = runs[0]["arrays"]["group"]
                difference = study.compare(np.stack(ours), np.stack(theirs), groups, rng)
                what = Comparison("robust", robust, "none", "", condition, setting, "accuracy")
                plan.append(what)
                differences.append(difference)
    return study.judged(plan, differences)


def answer(comparisons: list[Comparison]) -> list[str]:
    """A sentence a robust training and condition."""
    places = {}  # (robust, condition) -> setting -> comparison
    for comparison in comparisons:
        place = comparison.a, comparison.condition
        places.setdefault(place, {})[SETTINGS[comparison.view]] = comparison
    sentences = []
    for (robust, condition), found in places.items():
        text = study.sentence(robust, "plain training", found)
        start = "Clean" if condition == evaluate.CLEAN else f"Under {condition.label}"
        sentences.append(f"{start}: {text}")
    return sentences


def mean_matrices(runs: list[dict]) -> list[dict]:
    """Accuracy of each language of sentence 1 (down) and sentence 2 (across), mean over seeds.

    As study.py's page draws them; only of conditions that met all the language pairs.
    """
    cells, seeds = {}, {}  # (robust, condition) -> (lang, lang) -> accuracies; its seeds
    for run in runs:
        for record in run["results"]:
            place = run["robust"], evaluate.condition_of(record)
            langs = record["first_lang"], record["second_lang"]
            cells.setdefault(place, {}).setdefault(langs, []).append(record["accuracy"])
            seeds.setdefault(place, set()).add(run["seed"])
    matrices = []
    for (robust, condition), of_cell in cells.items():
        langs = sorted({first for first, _ in of_cell})
        if len(langs) < 2 or len(of_cell) < len(langs) ** 2:
            continue
        lines = [[study.mean(of_cell[a, b]) for b in langs] for a in langs]
        about = {"recipe": robust, "n": len(seeds[robust, condition]), "metric": "accuracy"}
        matrices.append(condition.fields() | about | {"langs": langs, "values": lines})
    return matrices


def manifest_of(folder: Path) -> dict:
    """What the page says of a run, from its run.json."""
    manifest = xlt.read_record(folder / "run.json", "Run the same command again.")
    flags = manifest["flags"]
    about = {name: manifest[name] for name in ("flags", "commit", "data_sha256")}
    about |= {"name": folder.name, "seed": flags["seed"], "device": flags["device"]}
    return about | {"seconds": manifest["seconds_training"]}


def write_page(path: Path, runs: list[dict], folders: list[Path], data: PairData) -> None:
    """The page of `--report`: study.py's parts, in the frame data/report/pairs.html."""
    comparisons = compare_recipes(runs)
    manifests = [manifest_of(folder) for folder in folders]
    command = shlex.join(["python", *sys.argv])
    langs = " ".join(runs[0]["langs"])
    facts = [data.folder.name, f"{runs[0]['n_pairs']:,} pairs", f"languages {langs}"]
    facts += [f"{name} {version}" for name, version in xlt.versions().items()]
    sentences = "".join(f"<p>{study.safe(text)}</p>" for text in answer(comparisons))
    note = f'<p class="note">{study.safe(", ".join(facts))}</p>'
    parts = {
        "answer": f'<div class="answer">{sentences}</div>{note}',
        "table": study.text_grid("<b>Accuracy</b>", results_rows(runs), "w2"),
        "comparisons": study.forests([comparison.record() for comparison in comparisons]),
        "matrices": study.part_matrices({"matrices": mean_matrices(runs)}),
        "runs": study.part_runs({"runs": manifests, "commands": [command]}),
    }
    frame = study.FRAME.with_name("pairs.html").read_text(encoding="utf-8")
    page = study.fill_frame(frame, QUESTION, parts)
    xlt.write_file(path, f"{page}<!-- {study.SIGNATURE} -->\n")


# ---- the program ---------------------------------------------------------------------------------


def parse(argv=None) -> argparse.Namespace:
    """The flags of pairs.py; --robust and --seed take several values."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=xlt.Help
    )
    # fmt: off
    add = parser.add_argument_group("model and data").add_argument
    add("--model", default=str(HERE / "data/tiny_xlmr"), help="Hugging Face folder or name")
    add("--data", type=Path, default=HERE / "data/minifacts",
        help="folder with pairs/SPLIT-LANG.tsv (its format: load_pairs)")
    add("--words", type=Path, metavar="DIR",
        help="folder with synonyms/ and dictionary.tsv (default: --data)")
    add("--train-lang", default="en", type=xlt.language_flag, metavar="LANG",
        help="the one language of training and of the choice on dev")
    add("--test-langs", nargs="+", type=xlt.language_flag, metavar="LANG",
        help="of the matrix (default: all)")
    add("--length", type=int, default=128, help="tokens of both sentences (Robust-XLT: 128)")

    add("--attacks", nargs="+", default=["clean"], metavar="NAME[:KEY=VALUE,...]",
        help="on either sentence, e.g. clean greedy:edits=2 typos pgd; as evaluate.py's")
    add("--attack-cells", choices=("standard", "all"), default="standard",
        help="language pairs that are attacked: two sentences of one language, or the matrix")
    add("--limit", type=int, default=0, metavar="N", help="only the first N test pairs; 0 for all")

    add = parser.add_argument_group("robust training").add_argument
    add("--robust", nargs="+", default=["none"], metavar="NAME[:KEY=VALUE,...][+NAME]",
        help="as train.py's, on both sentences; Robust-XLT's RS-DA: rs-da:rate=1,copies=10,"
             "cut=blanks")

    add = parser.add_argument_group("optimisation").add_argument
    add("--batch-size", type=int, default=32, metavar="B", help="pairs a step (Robust-XLT: 32)")
    add("--chunk-size", type=int, default=0, metavar="C", help="as train.py's; 0: all")
    add("--freeze-words", action="store_true", help="do not train the word embeddings")
    add("--steps", type=int, default=1200, metavar="N", help="optimiser steps")
    add("--choices", type=int, default=8, metavar="N", help="looks at dev; the best is kept")
    add("--lr", type=float, default=5e-4, help="peak, of AdamW (Robust-XLT: 2e-5)")
    add("--weight-decay", type=float, default=0.0, help="AdamW's")
    add("--warmup", type=float, default=0.1, help="share of steps (Robust-XLT: 0)")
    add("--clip", type=float, default=1.0, help="largest L2 norm of the gradient")
    add("--seed", nargs="+", type=int, default=[0], metavar="S", help="of all that is drawn")

    add = parser.add_argument_group("machine and files").add_argument
    add("--device", default="auto", help="torch device; auto: cuda if there is one")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="as train.py's")
    add("--out", type=xlt.output_folder, default=Path("runs"), help="folder of the runs' folders")
    add("--save-every", type=int, default=200, help="steps between checkpoints")
    add("--log-every", type=int, default=50, help="steps between lines of the log")
    add("--overwrite", action="store_true", help="start over, also complete runs")
    add("--report", type=Path, metavar="FILE.html", help="write a page: matrices, comparisons")
    add("--smoke", action="store_true", help="one seed, four small steps: does it work?")
    # fmt: on
    args = parser.parse_args(argv)
    for name in ("steps", "choices", "batch_size", "lr", "clip", "save_every", "log_every"):
        if not 0 < getattr(args, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    if not 0 <= args.warmup < 1:
        parser.error(f"--warmup {args.warmup}: a share of the steps, from 0 to below 1")
    if args.length < 8:
        parser.error(f"--length {args.length}: at least 8 tokens for two sentences")
    return args


def single_runs(args: argparse.Namespace) -> list[PairFlags]:
    """The product of --robust and --seed, seeds outermost.

    *Errors*: ValueError for an unknown or impossible --robust.
    """
    common = {flag.name: getattr(args, flag.name) for flag in fields(PairFlags)}
    common["device"] = evaluate.pick_device(args.device)
    common["data"] = str(args.data)
    common["words"] = str(args.words or args.data)
    seeds = args.seed
    if args.smoke:
        seeds = args.seed[:1]
        common |= {"steps": min(args.steps, 4), "batch_size": min(args.batch_size, 8)}
        common["choices"] = min(args.choices, 2)
    runs = []
    for seed in dict.fromkeys(seeds):
        for robust in dict.fromkeys(args.robust):
            pair_robust(robust)
            runs.append(PairFlags(**(common | {"seed": seed, "robust": robust})))
    return runs


def check_languages(data: PairData, args) -> None:
    """Refuse, with a ValueError, a language that the folder has not."""
    wanted = {"train": [args.train_lang], "dev": [args.train_lang], "test": args.test_langs or []}
    for split, langs in wanted.items():
        for lang in langs:
            if lang not in data.rows[split]:
                there = ", ".join(data.langs(split))
                raise ValueError(f"{data.folder}/pairs: no {split}-{lang}.tsv. There is {there}.")


def main(argv=None) -> int:
    """Train and evaluate all that the flags ask for. Exit 0 done, 1 failed, 2 wrong usage."""
    args = parse(argv)
    xlt.escape_what_cannot_be_shown()
    try:
        runs = single_runs(args)
        evaluate.parse_attacks(args.attacks)
    except ValueError as error:
        print(f"pairs.py: {error}", file=sys.stderr)
        return 2
    try:
        evaluate.check_device(runs[0].device)
        evaluate.check_precision(runs[0].device, runs[0].precision)
        if args.report:
            study.check_report(args.report)
        data = load_pairs(args.data)
        check_languages(data, args)
        open_tables(evaluate.parse_attacks(args.attacks), Path(runs[0].words))
        for flags in runs:  # what a run will miss is said now, not hours later
            pairs = data.pairs("train", flags.train_lang, flags.train_lang)
            make_pair_perturber(flags, pairs)
        results = [train_and_evaluate(flags, args, data) for flags in runs]
    except (ValueError, FloatingPointError, OSError, RuntimeError, MemoryError) as error:
        print(f"pairs.py: {train.explain(error, runs[0])}", file=sys.stderr)
        return 1
    print(evaluate.markdown_table(results_rows(results)))
    for text in answer(compare_recipes(results)):
        print(f"- {text}")
    if args.report:
        folders = [run_folder(flags, args) for flags in runs]
        write_page(args.report, results, folders, data)
        print(f"wrote {args.report}", file=sys.stderr)
    print(f"done: {len(runs)} runs in {args.out}, test of {data.folder}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("pairs.py: interrupted. The same command goes on.", file=sys.stderr)
        sys.exit(130)
