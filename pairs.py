"""Classify pairs of sentences, robustly and across languages: PAWS-X, XNLI, the bundled pairs.

    <s> sentence 1 </s> </s> sentence 2 </s>  ->  h (B, D) of the first token  ->  W h + b (B, C)

    loss = (1 - sum w_m) CE(x) + sum [ w_m CE(x_m) + c KL(logits of x_m | logits of x) ]

    standard      both sentences in language L          the diagonal of a matrix of languages
    generalized   sentence 1 in L1, sentence 2 in L2    all other cells (Robust-XLT: all cells)

Training sees one language alone. x_m is the pair perturbed by the --robust method m: edited
sentences, or noise on the word embeddings; w_m is its share of the loss, c the factor of
self-teaching. This is the task that Robust-XLT was made for; the encoder, the perturbations and the
training loop are those of the retrieval lecture.
Where to look next: `PairClassifier` is the model, `pair_losses` the formula, `pair_step` a training
step (beside `training_step` in train.py), `evaluate_matrix` the matrix, `attack_words` and
`attack_noise` the adversary.
Left out on purpose: the dense layer with tanh before the head, which the transformers classes have
that Robust-XLT trains; ensembles of smoothed predictions at test time (it has none either); random
controls of the worst cases (evaluate.py has them); several processes.
Differs from Robust-XLT: half of the loss stays clean (theirs: none of it); RS-DA finds words in any
case and beside punctuation, spares names and numbers, and draws a pair anew each step (theirs: cut
at blanks, nothing spared, ten fixed copies, on XNLI three: rs-da:weight=1,copies=10,cut=blanks).
Self-teaching, typos and code-switching are not theirs. Batches are of 32 pairs, as there, but
training lasts for steps, with another --lr and --warmup, and dev is looked at a few times.

    python pairs.py                                          bundled inference, one seed
    python pairs.py --robust none adv:epsilon=0.02 rs-rp rs-da --seed 0 1 2 3 4
    python pairs.py --model data/e5_small --data data/paws_x --lr 2e-5 --steps 300

Shapes: B pairs of a batch, b of a chunk, T tokens, D embedding, C labels, N pairs of a split.
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
from dataclasses import asdict, dataclass, field, fields, replace
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
from train import Losses, Method, Perturber, Robust, StepReport, View
from xlt import Encoder, Text

HERE = Path(__file__).parent
SPLITS = ("train", "dev", "test")
HEADER = "sentence1\tsentence2\tlabel"
DROPOUT = 0.1  # before the head, as in BERT's classifiers
QUESTION = "Does robust training help a classifier of sentence pairs across languages?"
GAP = "generalized - standard"  # how much more is right where the two languages differ
SETTINGS = {  # what is compared, and how a sentence calls it
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
    label: int  # place in PairData.labels

    @property
    def lang(self) -> str:
        """The language of sentence 1: `Encoder.tokenize` counts seen and cut texts by language."""
        return self.first.lang


def labels_of(pairs: list[Pair]) -> Tensor:
    """The numbers of their labels. -> (N,)"""
    return torch.tensor([pair.label for pair in pairs])


@dataclass(frozen=True)
class Row:
    """A line of a file: both sentences in the file's language."""

    first: str
    second: str
    label: str  # as it is written there


def read_rows(path: Path) -> list[Row]:
    """The rows of SPLIT-LANG.tsv.

    *Errors*: ValueError with file, line and remedy for another header, a missing column or an
    empty sentence.
    """
    rows = []
    for expected, (number, line) in enumerate(xlt.read_lines(path), 1):
        if number != expected:  # read_lines passes over blank ones; line i is a pair here
            raise ValueError(f"{path}:{expected}: a blank line. Fill it, in all languages.")
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
        first, second, label = cells[0], cells[1], cells[2].strip()
        if not (xlt.has_words(first) and xlt.has_words(second) and label):
            raise ValueError(f"{where}: an empty cell in {shown}. Fill it, in all languages.")
        rows.append(Row(first, second, label))
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
        first_rows, second_rows = self.rows[split][first_lang], self.rows[split][second_lang]
        for i, (row, second_row) in enumerate(zip(first_rows, second_rows, strict=True)):
            # SUBTLE: one id for both sentences, in all languages. It names the random streams: a
            # pair meets the same draws in every cell, and its k-th copies come together
            pair_id = f"{split}{i}"
            first = Text(pair_id, first_lang, row.first, pair_id)
            second = Text(pair_id, second_lang, second_row.second, pair_id)
            pairs.append(Pair(first, second, self.labels.index(row.label)))
        return pairs

    def langs(self, split: str) -> list[str]:
        return sorted(self.rows[split])


def check_parallel(paths: dict[str, Path], rows: dict[str, list[Row]], labels: list[str]) -> None:
    """Refuse languages of a split whose pairs are not those of English, or of the first language.

    *Errors*: ValueError with both files and the line.
    """
    reference_lang = "en" if "en" in rows else min(rows)
    reference_path, reference_rows = paths[reference_lang], rows[reference_lang]
    for lang, lang_rows in rows.items():
        if len(lang_rows) != len(reference_rows):
            counts = f"{len(lang_rows)} pairs, {reference_path} has {len(reference_rows)}"
            raise ValueError(f"{paths[lang]}: {counts}. Line i must be the same pair in both.")
        # The header is line 1
        for number, (row, reference_row) in enumerate(
            zip(lang_rows, reference_rows, strict=True), 2
        ):
            where = f"{paths[lang]}:{number}"
            if row.label not in labels:
                options = ", ".join(labels)
                raise ValueError(f"{where}: label {xlt.quoted(row.label)} is none of {options}.")
            if row.label != reference_row.label:
                raise ValueError(
                    f"{where}: label {row.label!r}, but {reference_row.label!r} in "
                    f"{reference_path}:{number}. Line i must be the same pair in both."
                )


def load_pairs(folder: str | Path) -> PairData:
    """Read pairs/SPLIT-LANG.tsv of a data-set folder.

        sentence1<TAB>sentence2<TAB>label        header, then a pair a line; nothing is quoted

    train, dev and test, each in one language or more. The labels are those that occur in train.
    *Errors*: ValueError with file, line, value and remedy.
    """
    folder = Path(folder)
    files, digest = {split: [] for split in SPLITS}, hashlib.sha256()
    for path in sorted((folder / "pairs").glob("*.tsv")):
        split, _, code = path.stem.partition("-")
        if split not in SPLITS or not code:
            raise ValueError(f"{path}: is not named train-LANG, dev-LANG or test-LANG. Rename it.")
        files[split].append((code, path))
        digest.update(path.name.encode() + path.read_bytes())
    rows, paths = {}, {}  # split -> language -> rows, path
    for split in SPLITS:
        if not files[split]:
            remedy = "Run the folder's prepare.py, or give another --data."
            raise ValueError(f"{folder}/pairs/{split}-LANG.tsv: no such file. {remedy}")
        paths[split] = attacks.one_file_a_language(files[split])
        rows[split] = {lang: read_rows(path) for lang, path in paths[split].items()}
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
        room = xlt.room_for_tokens(encoder.model)
        if room is not None and length > room:
            raise ValueError(f"--length {length}: this model reads {room} tokens. Take fewer.")
        # No prefix: none is read, and one longer than `length` would keep the folder from opening
        settings = replace(encoder.settings, pooling="cls", query_length=length, query_prefix="")
        super().__init__(encoder.model, encoder.tokenizer, settings, encoder.precision)
        self.one_length = encoder.one_length
        self.head = nn.Linear(encoder.model.config.hidden_size, n_labels, device=encoder.device)
        with torch.no_grad():
            size = self.head.weight.shape
            start = torch.randn(size, generator=xlt.generator(seed, "head"))
            self.head.weight.copy_(0.02 * start)  # as BERT's weights start
            self.head.bias.zero_()

    def tokenize_pairs(self, pairs: list[Pair]) -> list[dict[str, list[int]]]:
        """Pairs -> unpadded token rows; cut pairs are counted, rows remembered, as texts' are."""
        return self.tokenize(pairs, "pair")

    def _token_rows(self, pairs, tower):
        """The token row of each pair, and whether it was cut.

        CHANGED vs Encoder: no prefix; of two sentences the longer is cut to the other, then both.
        """
        firsts = [pair.first.text for pair in pairs]
        seconds = [pair.second.text for pair in pairs]
        limit = self.settings.query_length
        self.tokenizer.model_max_length = 10**9  # no warnings: we cut and count by ourselves
        columns = self._call_tokenizer(firsts, seconds)
        rows = []
        for i, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
            row = {name: column[i] for name, column in columns.items()}
            is_cut = len(row["input_ids"]) > limit
            if is_cut:
                row = self._call_tokenizer(
                    first, second, truncation="longest_first", max_length=limit
                )
            rows.append((row, is_cut))
        return rows

    def from_embeddings(self, embeddings: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Word embeddings -> the first token's state. (B, T, D) -> (B, D)"""
        hidden = self.hidden_states(embeddings, batch)  # (B, T, D)
        return hidden[:, 0]  # CHANGED vs Encoder: no pooling, no normalisation

    def logits(self, h: Tensor) -> Tensor:
        """First tokens' states -> scores of the labels, with dropout in training.

        (B, D) -> (B, C)
        """
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
    """Write encoder, tokenizer and, as head.json, the head and the names of the labels."""
    xlt.save_encoder(classifier, folder)
    weight, bias = classifier.head.weight.tolist(), classifier.head.bias.tolist()
    xlt.write_record(folder / "head.json", {"labels": labels, "weight": weight, "bias": bias})


def load_classifier(
    folder: Path, device: str = "cpu", precision: str = "fp32"
) -> tuple[PairClassifier, list[str]]:
    """What `save_classifier` wrote, and the names of its labels.

    *Errors*: ValueError for a folder without head.json, or what `load_encoder` refuses.
    """
    head = xlt.read_record(folder / "head.json", "Give the model/ of a run of pairs.py.")
    encoder = xlt.load_encoder(folder, device, precision)
    length = encoder.settings.query_length  # where the run's --length was saved
    classifier = PairClassifier(encoder, len(head["labels"]), length)
    with torch.no_grad():  # JSON's numbers are read back to the last bit
        classifier.head.weight.copy_(torch.tensor(head["weight"]))
        classifier.head.bias.copy_(torch.tensor(head["bias"]))
    return classifier, head["labels"]


# ---- flags ---------------------------------------------------------------------------------------


# Flags that may change when a run goes on: the device does not matter; model, data and tables of
# words are compared by their hashes, wherever they lie
NOT_TRAINED = ("device", "model", "data", "words")
# Keys of run.json with those hashes. `check_same_run` compares two more, which older runs lack
INPUTS = ("data_sha256", "init_sha256", "tables_sha256")


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
        return {name: value for name, value in asdict(self).items() if name not in NOT_TRAINED}

    @property
    def name(self) -> str:
        """Of the run's folder: pairs-none-seed0."""
        return f"pairs-{self.robust.replace(':', '_')}-seed{self.seed}"


# ---- batches, and how a pair is perturbed --------------------------------------------------------


@dataclass(frozen=True)
class PairBatch:
    """Positions of B training pairs, under the names that `add_noise`, `BatchCounts.add` read."""

    queries: list[int]
    kind: str = "pairs"

    @property
    def passages(self) -> list[int]:
        return self.queries

    def positions(self, tower: str) -> list[int]:
        return self.queries


def pair_batches(count: int, flags: PairFlags) -> Iterator[PairBatch]:
    """`steps` batches, every epoch in a new order; drawn from `count` pairs and the flags alone."""
    rng = xlt.generator(flags.seed, "pairs")
    drawn = xlt.endless_groups(list(range(count)), flags.batch_size, rng)
    for _ in range(flags.steps):
        yield PairBatch(next(drawn))


def pair_robust(text: str) -> Robust:
    """What --robust says, for pairs: words of both sentences, noise on the one input that they are.

    *Errors*: ValueError as `parse_robust`, and for `perturb`, which has nothing to choose here.
    """
    if "perturb=" in text:
        shown = xlt.one_line(text)
        raise ValueError(f"--robust {shown}: pairs are perturbed in both sentences. Drop perturb.")
    return train.parse_robust(text)


@dataclass
class PairPerturber(Perturber):
    """What the perturbations of one run need; sentence 1 is its query, sentence 2 its passage."""

    labels: Tensor | None = None  # (N,) of the training pairs


def check_replaceable(perturber: PairPerturber, flags: PairFlags) -> None:
    """Refuse, with a ValueError, a method that finds no word in any sentence of any pair."""
    positions = range(len(perturber.labels))
    places = list(itertools.product(positions, ("query", "passage")))
    for method in perturber.robust.methods:
        if method.source == "embeddings":
            continue
        if not any(perturber.slots(method.source, tower, i, method.cut) for i, tower in places):
            raise ValueError(
                f"--robust {flags.robust}: no training pair has a word that {method.source} could "
                f"replace. Add words to {flags.words}'s synonyms/ or dictionary.tsv."
            )


def make_pair_perturber(
    flags: PairFlags, pairs: list[Pair], classifier: PairClassifier | None = None
) -> PairPerturber:
    """Open the tables that --robust needs; without classifier only to see whether all is there.

    *Errors*: ValueError for a missing table, or where no pair has a replaceable word.
    """
    folder = Path(flags.words)
    firsts, seconds = [pair.first for pair in pairs], [pair.second for pair in pairs]
    sentences = xlt.DataSet(folder, firsts, seconds, qrels={})
    unit = 1.0
    if classifier is not None:
        unit = attacks.mean_norm(classifier)
    robust = pair_robust(flags.robust)
    perturber = PairPerturber(robust, flags.seed, sentences, unit, labels=labels_of(pairs))
    sources = {method.source for method in robust.methods}
    if "synonyms" in sources:
        perturber.tables["synonyms"] = attacks.read_synonyms(folder)
    if "dictionary" in sources:
        # CHANGED vs make_perturber: words of all languages, the tested ones too, so that training
        # meets two languages in one input. "zero-shot" then means: no whole sentence was seen
        perturber.tables["dictionary"] = attacks.read_dictionary(folder / "dictionary.tsv")
    check_replaceable(perturber, flags)
    return perturber


def training_pair(perturber: PairPerturber, position: int) -> Pair:
    """A training pair as it is."""
    first, second = perturber.text("query", position), perturber.text("passage", position)
    return Pair(first, second, int(perturber.labels[position]))


def edited_pair(perturber: PairPerturber, method: Method, step: int, position: int) -> Pair:
    """A training pair with its edits of this step, in both sentences."""
    first = train.edit_text(perturber, method, step, "query", position)
    second = train.edit_text(perturber, method, step, "passage", position)
    return Pair(first, second, int(perturber.labels[position]))


def clean_pair_views(classifier, batch, perturber):
    """The pairs as they are, if the clean loss or the KL needs them: one view, or none."""
    if not perturber.robust.needs_clean_queries:
        return []
    pairs = [training_pair(perturber, i) for i in batch.queries]
    return [View("query", classifier.tokenize_pairs(pairs))]  # a pair is one text of one tower


def perturbed_pair_views(classifier, batch, perturber, step):
    """The pairs once more for each method; FreeLB's once for each point.

    Edited pairs are complete, noise comes with `add_noise` of train.py.
    """
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
    """Cross-entropy of some pairs of the batch, one by one: what worst-case noise maximises.

    (Without the dropout of `PairClassifier.logits`: the search draws nothing.)
    """

    head: nn.Linear
    labels: Tensor  # (B,)

    def __call__(self, h: Tensor, rows: list[int]) -> Tensor:
        """h (b, D), which are `rows` of the batch -> losses (b,)."""
        return F.cross_entropy(self.head(h), self.labels[rows], reduction="none")


def pair_kl(perturbed: Tensor, clean: Tensor) -> Tensor:
    """KL between perturbed scores (the student) and clean ones (the teacher, without gradient).

        KL(P' | P) = sum_j P'_j (log P'_j - log P_j)        P', P: softmax over the labels

    Mean over pairs. *Shapes*: (B, C), (B, C) -> scalar >= 0.
    *Source*: as `self_teaching` of train.py, there over the passages of the batch.
    """
    student, teacher = perturbed.log_softmax(1), clean.detach().log_softmax(1)
    return (student.exp() * (student - teacher)).sum(1).mean()  # (B, C) -> (B,) -> ()


def pair_losses(views: list[View], logits: list[Tensor], robust: Robust, labels: Tensor) -> Losses:
    """The formula of this file, a pure function of the logits.

        loss = (1 - sum_m w_m) CE(x) + sum_m [ w_m CE(x_m) + c KL(logits of x_m | logits of x) ]

    A method with several points enters by their mean. Beside `step_losses` of train.py: CE for
    InfoNCE, and a pair is one text.
    *Shapes*: logits (B, C), one a view; labels (B,).
    """
    clean = train.vectors_of(views, logits, "query")  # None if nothing looks at the clean pairs
    losses = Losses(loss=0.0)
    if clean is not None:
        losses.clean = F.cross_entropy(clean, labels)
        losses.loss = robust.clean_share * losses.clean
    perturbed, kls = [], []
    for view, scores in zip(views, logits, strict=True):
        if view.method is None:
            continue
        perturbed.append(F.cross_entropy(scores, labels) / view.points)
        losses.loss = losses.loss + view.method.weight * perturbed[-1]
        if robust.consistency:
            kls.append(pair_kl(scores, clean) / view.points)
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

    Line by line `training_step` of train.py; what differs is the loss, and that it needs the head.
    (`own_chunks` are all of them here: pairs.py runs in one process.)
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
    # CHANGED: the head. SUBTLE: its dropout has a seed of its own, or it would be drawn from
    # wherever the last chunk's stream ended, which --chunk-size moves
    torch.manual_seed(xlt.derive_seed(flags.seed, "head dropout", step))
    logits = [classifier.logits(h) for h in clean.by_view() + perturbed.by_view()]  # (B, C) each
    losses = pair_losses(all_views, logits, perturber.robust, labels)
    losses.loss.backward()  # as far as the first tokens, and to the head
    for encoded in (clean, perturbed):
        train.backward_views(classifier, encoded)

    tokens = sum(len(row["input_ids"]) for view in all_views for row in view.rows)
    padded_tokens = sum(chunk.tokens for chunk in plan + perturbed_plan)
    # `BatchCounts` counts rows with a false negative; pairs do not meet each other and have none
    no_false_negatives = torch.zeros(len(labels), 1, dtype=torch.bool)  # (B, 1)
    return StepReport(losses, no_false_negatives, tokens, padded_tokens)


# ---- metrics -------------------------------------------------------------------------------------


def average_precision(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """Area under the precision-recall curve of two labels, as PAWS-X reports it.

        scores .9 .8 .7, positive yes no yes: (1/1 + 2/3) / 2 = .8333

    Ties go to the negatives, as in retrieval here. *Shapes*: (N,), (N,) -> in [0, 1], NaN without a
    positive.
    """
    order = np.lexsort((is_positive, -scores))  # best first; among equals the negatives
    hits = is_positive[order]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def score_pairs(logits: Tensor, pairs: list[Pair]) -> tuple[np.ndarray, dict]:
    """Which pairs are right (N,), and n, accuracy and, with two labels, AP as a record holds them.

    *Shapes*: logits (N, C). *Units*: in [0, 1]. The positive label of AP is the second one: "1".
    """
    logits, labels = logits.numpy(), labels_of(pairs).numpy()
    is_right = logits.argmax(1) == labels
    numbers = {"n": len(pairs), "accuracy": round(float(is_right.mean()), 6)}
    if logits.shape[1] == 2:
        ap = average_precision(logits[:, 1] - logits[:, 0], labels == 1)
        numbers["AP"] = round(ap, 6)
    return is_right, numbers


def macro_means(records: list[dict], metric: str, trained: str) -> dict[str, float]:
    """Means over language pairs, of the records of one condition.

        trained       both sentences in the trained language
        standard      the diagonal, all languages
        zero-shot     the diagonal without the trained language
        generalized   two languages
        all           the whole matrix, as Robust-XLT averages it

    Each language pair counts once, however many pairs of sentences it has. No mean of nothing.
    """
    values = {}
    for record in records:
        langs = record["first_lang"], record["second_lang"]
        values[langs] = record[metric]
    standard = {a: value for (a, b), value in values.items() if a == b}
    columns = {
        "trained": [value for lang, value in standard.items() if lang == trained],
        "standard": list(standard.values()),
        "zero-shot": [value for lang, value in standard.items() if lang != trained],
        "generalized": [value for (a, b), value in values.items() if a != b],
        "all": list(values.values()),
    }
    return {name: sum(column) / len(column) for name, column in columns.items() if column}


# ---- under attack: words of either sentence, or noise on both ------------------------------------
# The searches are those of attacks.py. There the goal is a query's margin in a ranking, here a
# pair's margin between labels; there one text can be changed, here either of two.


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Score of the right label minus the best other one: above 0 is right. (N, C), (N,) -> (N,)

    *Units*: of logits, rounded to 1e-6: most differences by rounding alone become ties (fp32 logits
    may differ by more from one shape of a batch to another; a margin below 5e-7 counts as 0).
    """
    of_label = logits.gather(1, labels[:, None])[:, 0]  # (N, 1) -> (N,)
    others = logits.scatter(1, labels[:, None], -math.inf)  # (N, C) without the right label
    exact = of_label - others.max(1).values
    return (exact * 1e6).round() / 1e6


def with_text(pair: Pair, side: str, text: str) -> Pair:
    """The pair with another text of its "first" or "second" sentence."""
    return replace(pair, **{side: replace(getattr(pair, side), text=text)})


class SentenceScorer:
    """Scores texts in the place of one sentence of a pair; `attacks.search_edits` calls it.

    `attacks.Scorer` returns each text's margins in all pools of passages, and its margin in the
    pool under attack. A pair has one margin, that between its labels, so both tensors hold it.
    No text is scored twice.
    """

    def __init__(self, classifier: PairClassifier, pairs: list[Pair], side: str):
        self.classifier, self.pairs, self.side = classifier, pairs, side
        self.margins = {}  # (pair, text) -> its margin

    def __call__(self, trials: list[tuple[AttackedQuery, str]]) -> tuple[Tensor, Tensor]:
        """(item, text) of each trial -> its margin, as (n, 1) and as (n,)."""
        keys = [(item.query, text) for item, text in trials]
        new_keys = [key for key in dict.fromkeys(keys) if key not in self.margins]
        if new_keys:
            changed = [with_text(self.pairs[i], self.side, text) for i, text in new_keys]
            new_margins = margins(self.classifier.predict(changed), labels_of(changed))
            self.margins.update(zip(new_keys, new_margins.tolist(), strict=True))
        for item, text in trials:
            item.asked.add(text)
        values = torch.tensor([self.margins[key] for key in keys])
        return values[:, None], values


def edit_side(classifier, pairs, side, attack, tables, seed):
    """Each pair with the attack's edits in one sentence, with words of that sentence's language."""
    items = []
    for i, pair in enumerate(pairs):
        text = getattr(pair, side)
        table = tables.get(text.lang, {})
        slots = attacks.slots_of(text, attack, table, seed, fixed=set())
        items.append(AttackedQuery(i, "pair", text, slots))
    if attack.kind.search == "random":
        attacks.random_edits(items, attack, seed)
    else:
        attacks.search_edits(items, SentenceScorer(classifier, pairs, side), attack)
    return [with_text(pair, side, item.text) for pair, item in zip(pairs, items, strict=True)]


def attack_words(
    classifier: PairClassifier, pairs: list[Pair], attack: Attack, tables: Tables, seed: int = 0
) -> list[Pair]:
    """Each pair with one of its sentences attacked: the one where it hurts more.

    Random edits draw the sentence, by a fair coin. `edits` bounds the words changed in the pair,
    not in each sentence; but a search may spend its `budget` of texts on each of them.
    *Shapes*: tables: lang -> table, of the attack's source.
    """
    first_changed = edit_side(classifier, pairs, "first", attack, tables, seed)
    second_changed = edit_side(classifier, pairs, "second", attack, tables, seed)
    if attack.kind.search == "random":
        drawn = torch.rand(len(pairs), generator=xlt.generator(seed, attack.label, "side"))
        takes_second = drawn < 0.5  # (N,)
    else:
        labels = labels_of(pairs)
        first_margins = margins(classifier.predict(first_changed), labels)  # (N,)
        second_margins = margins(classifier.predict(second_changed), labels)
        takes_second = second_margins < first_margins
    changed = []
    for i, is_second in enumerate(takes_second.tolist()):
        changed.append(second_changed[i] if is_second else first_changed[i])
    return changed


def attack_noise(
    classifier: PairClassifier, pairs: list[Pair], attack: Attack, seed: int = 0
) -> Tensor:
    """Scores of the labels under noise on the word embeddings of both sentences. -> (N, C)

    Beside `attack_embeddings` of attacks.py: the loss goes up where there a margin goes down.
    """
    labels = labels_of(pairs).to(classifier.device)
    radius = attacks.ball_radius(attack.epsilon, attack.norm, classifier)
    pair_loss = PairLoss(classifier.head, labels)
    logits = torch.empty(len(pairs), classifier.head.out_features)
    with xlt.eval_mode(classifier):
        for chunk in attacks.embedding_chunks(classifier, classifier.tokenize_pairs(pairs)):

            def objective(embeddings, chunk=chunk):  # bound now: the loop moves on
                h = classifier.from_embeddings(embeddings, chunk.batch)  # (b, T, D) -> (b, D)
                return pair_loss(h, chunk.rows)

            rngs = [xlt.generator(seed, attack.label, pairs[i].first.id) for i in chunk.rows]
            delta = attacks.find_noise(objective, chunk, attack, radius, rngs)
            with torch.no_grad():
                h = classifier.from_embeddings(chunk.embeddings + delta, chunk.batch)
                logits[chunk.rows] = classifier.logits(h).cpu()
    return logits


def attacked_logits(classifier, pairs, attack, tables):
    """Scores of the labels (N, C) under an attack, and how many pairs it changed.

    tables: source -> lang -> table.
    """
    if attack.kind.source == "embeddings":
        n_changed = len(pairs) if attack.epsilon > 0 else 0
        return attack_noise(classifier, pairs, attack), n_changed
    changed = attack_words(classifier, pairs, attack, tables.get(attack.kind.source, {}))
    n_changed = sum(new != old for new, old in zip(changed, pairs, strict=True))
    return classifier.predict(changed), n_changed


def open_tables(attack_list: list[Attack], folder: Path) -> dict[str, Tables]:
    """source -> lang -> table, of the attacks.

    *Errors*: ValueError for a table that is missing, and for an attack that pairs do not have.
    """
    tables = {}
    for attack in attack_list:
        # A vote and an exhaustive search certify a ranking; HotFlip's gradient is a ranking's
        if attack.kind.search in ("vote", "exact") or attack.order == "gradient":
            raise ValueError(f"--attacks {attack.label}: not for pairs. Take greedy or beam.")
        if attack.kind.source == "synonyms":
            tables["synonyms"] = attacks.read_synonyms(folder)
        if attack.kind.source == "dictionary":
            tables["dictionary"] = attacks.read_dictionary(folder / "dictionary.tsv")
    return tables


# ---- a matrix of languages -----------------------------------------------------------------------


@dataclass(frozen=True)
class TestPairs:
    """What is evaluated: the first `limit` test pairs, in any two languages; None for all."""

    data: PairData
    limit: int | None = None

    def pairs(self, first_lang: str, second_lang: str) -> list[Pair]:
        return self.data.pairs("test", first_lang, second_lang)[: self.limit]


@dataclass
class Matrix:
    """What was found under one condition, for every pair of languages."""

    condition: evaluate.Condition
    records: list[dict] = field(default_factory=list)
    right: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # languages -> (N,)

    def add(self, langs: tuple[str, str], is_right: np.ndarray, numbers: dict) -> None:
        first_lang, second_lang = langs
        place = {"first_lang": first_lang, "second_lang": second_lang}
        self.records.append(self.condition.fields() | place | numbers)
        self.right[langs] = is_right

    def setting_shares(self) -> dict[str, np.ndarray]:
        """Setting -> of each pair, the share of its language pairs in which it is right. (N,)"""
        columns = {
            "standard": [right for (a, b), right in self.right.items() if a == b],
            "generalized": [right for (a, b), right in self.right.items() if a != b],
        }
        return {name: np.mean(column, axis=0) for name, column in columns.items() if column}


def evaluate_matrix(
    classifier: PairClassifier, test: TestPairs, cells: list[tuple[str, str]]
) -> Matrix:
    """The test pairs as they are; cells: (language of sentence 1, language of sentence 2)."""
    matrix = Matrix(evaluate.CLEAN)
    for langs in cells:
        pairs = test.pairs(*langs)
        matrix.add(langs, *score_pairs(classifier.predict(pairs), pairs))
    return matrix


def attack_matrix(
    classifier: PairClassifier, test: TestPairs, cells: list[tuple[str, str]],
    attack: Attack, tables: dict[str, Tables],
) -> Matrix:  # fmt: skip
    """The test pairs under attack; tables: source -> lang -> table.

    n_right: right before the attack, also where it found nothing to change; n_broken: of those,
    wrong under it. A run's seed is not the attack's: all runs meet the same one.
    """
    matrix = Matrix(evaluate.Condition(attack.name, tuple(attack.settings.items())))
    for langs in cells:
        pairs = test.pairs(*langs)
        was_right, _ = score_pairs(classifier.predict(pairs), pairs)
        logits, n_changed = attacked_logits(classifier, pairs, attack, tables)
        is_right, numbers = score_pairs(logits, pairs)
        n_broken = int((was_right & ~is_right).sum())
        numbers |= {"n_right": int(was_right.sum()), "n_broken": n_broken, "n_changed": n_changed}
        matrix.add(langs, is_right, numbers)
    return matrix


def groups_of(pairs: list[Pair]) -> np.ndarray:
    """Numbers of groups: pairs that share a sentence, also by way of others, are one observation.

        a-b, c-d, e-b -> [0, 1, 0]        a-b, c-d, b-c -> [1, 1, 1]

    A premise of XNLI stands with all three labels. *Shapes*: -> (N,).
    """
    groups = np.arange(len(pairs))
    first_with = {}  # sentence -> the first pair that has it
    for i, pair in enumerate(pairs):
        for text in (pair.first.text, pair.second.text):
            other = first_with.setdefault(text, i)
            groups[groups == groups[i]] = groups[other]  # all of this pair's group join the other's
    return groups


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
    flags: PairFlags, args, data: PairData, classifier: PairClassifier, perturber: PairPerturber,
    manifest: dict,
) -> None:  # fmt: skip
    """Train one run, or go on with it; model/ holds the best of its looks at dev.

    manifest is what run.json holds; its "choices", the looks at dev with their accuracy, are those
    that an interrupted run has had already.
    *Source*: Robust-XLT chooses the checkpoint on English dev.
    """
    folder = run_folder(flags, args)
    dev = data.pairs("dev", flags.train_lang, flags.train_lang)
    run_id = xlt.content_hash([flags.trained, [manifest[name] for name in INPUTS]])
    every = args.log_every, args.save_every
    choices = manifest["choices"]
    best = max((choice["accuracy"] for choice in choices), default=-1.0)
    for until in choice_steps(flags):
        if any(choice["step"] == until for choice in choices):
            continue
        plan = pair_batches(len(perturber.labels), flags)
        # From the second look on it opens the checkpoint that it left at the one before: the same
        # weights, and the counts of cut pairs as they were without dev
        loop = train.training_loop(
            classifier, plan, flags, perturber, folder, *every, run_id, until, pair_step
        )
        manifest["seconds_training"] = round(loop.seconds, 1)
        manifest["truncated"] = xlt.truncated_texts(classifier)  # before dev is counted, too
        _, numbers = score_pairs(classifier.predict(dev), dev)
        choices.append({"step": until} | numbers)
        print(f"{folder.name} step {until}: dev {numbers['accuracy']:.3f}", file=sys.stderr)
        if numbers["accuracy"] > best:  # at a tie the earlier one stays
            best = numbers["accuracy"]
            save_classifier(classifier, data.labels, folder / "model")
        # SUBTLE: after the model. Killed between the two, this look is had again, not forgotten
        xlt.write_record(folder / "run.json", manifest)
    manifest["complete"] = True
    xlt.write_record(folder / "run.json", manifest)


def read_metrics(folder: Path) -> dict:
    """What `evaluate_run` writes: metrics.json, with metrics.npz as its "arrays".

    *Errors*: ValueError for files that are missing or damaged.
    """
    metrics = xlt.read_record(folder / "metrics.json", "Run the same command again.")
    return metrics | {"arrays": evaluate.read_arrays(folder / "metrics.npz")}


def measure(
    classifier: PairClassifier, test: TestPairs, langs: list[str], attack_list: list[Attack],
    tables: dict[str, Tables], attack_cells: str,
) -> list[Matrix]:  # fmt: skip
    """A matrix clean, and one under each attack: of two sentences of one language, or of "all"."""
    cells = list(itertools.product(langs, langs))
    attacked_cells = cells
    if attack_cells == "standard":
        attacked_cells = [(lang, lang) for lang in langs]
    matrices = [evaluate_matrix(classifier, test, cells)]
    for attack in attack_list:
        matrices.append(attack_matrix(classifier, test, attacked_cells, attack, tables))
    return matrices


def evaluate_run(
    classifier: PairClassifier, data: PairData, flags: PairFlags, args, folder: Path
) -> dict:
    """Clean and attacked; writes metrics.json and metrics.npz. -> what `read_metrics` reads

    metrics.npz: "group", of each test pair its group, and "clean|standard", the share of a
    setting's language pairs in which it is right. (N,) each. What is there already, made with the
    same options and tables, is not made again.
    """
    attack_list = evaluate.parse_attacks(args.attacks)
    tables = open_tables(attack_list, Path(flags.words))
    names = ("test_langs", "attacks", "attack_cells", "limit")
    options = {name: getattr(args, name) for name in names}
    options["tables_sha256"] = xlt.content_hash(tables)
    file = folder / "metrics.json"
    if file.exists():
        metrics = read_metrics(folder)
        if metrics["options"] == options:
            return metrics
    langs = args.test_langs or data.langs("test")
    test = TestPairs(data, args.limit or None)
    matrices = measure(classifier, test, langs, attack_list, tables, args.attack_cells)
    group_lang = langs[0]
    if flags.train_lang in data.rows["test"]:  # whatever --test-langs: runs share their groups
        group_lang = flags.train_lang
    arrays = {"group": groups_of(test.pairs(group_lang, group_lang))}
    for matrix in matrices:
        for setting, shares in matrix.setting_shares().items():
            arrays[f"{matrix.condition.label}|{setting}"] = shares
    records = [record for matrix in matrices for record in matrix.records]
    metrics = {
        "robust": flags.robust,
        "seed": flags.seed,
        "train_lang": flags.train_lang,
        "langs": langs,
        "n_pairs": records[0]["n"],
        "options": options,
        "results": records,
    }
    file.unlink(missing_ok=True)  # killed between the two files, neither counts
    np.savez(folder / "metrics.npz", **arrays)
    xlt.write_record(file, metrics)
    return read_metrics(folder)


def make_manifest(flags: PairFlags, data: PairData, encoder: Encoder, perturber) -> dict:
    """run.json of a run that begins."""
    return {
        "flags": asdict(flags),
        "complete": False,
        "commit": train.commit(),
        "data_sha256": data.sha256,
        "init_sha256": xlt.weights_hash(encoder),
        "tables_sha256": xlt.content_hash(perturber.tables),
        **xlt.encoder_hashes(encoder),
        "versions": xlt.versions(),
        "threads": torch.get_num_threads(),
        "choices": [],  # looks at dev, with their accuracy
    }


def check_same_run(folder: Path, old: dict, manifest: dict) -> None:
    """Refuse, with a ValueError, to go on with a run of other flags, data, tables or weights."""
    remedy = "Give another --out, or --overwrite to start over."
    for name, value in manifest["flags"].items():
        was = old["flags"].get(name)
        if name not in NOT_TRAINED and was != value:
            flag = name.replace("_", "-")
            raise ValueError(f"{folder} was made with --{flag} {was}, not {value}. {remedy}")
    for name in (*INPUTS, "tokenizer_sha256", "config_sha256"):
        if old.get(name, manifest[name]) != manifest[name]:  # older runs do not say the last two
            raise ValueError(f"{folder} was made with another {name}: files have changed. {remedy}")


def start_folder(folder: Path) -> None:
    """Take away what an earlier run left."""
    shutil.rmtree(folder / "ckpt", ignore_errors=True)
    (folder / "log.jsonl").unlink(missing_ok=True)


def train_and_evaluate(flags: PairFlags, args, data: PairData) -> dict:
    """Train one run unless it is complete; evaluate it. -> what `read_metrics` reads"""
    folder = run_folder(flags, args)
    encoder = xlt.load_encoder(flags.model, flags.device, flags.precision, hub=True)
    classifier = PairClassifier(encoder, len(data.labels), flags.length, flags.seed)
    training = data.pairs("train", flags.train_lang, flags.train_lang)
    perturber = make_pair_perturber(flags, training, classifier)
    xlt.check_known(encoder, perturber.data.queries)
    manifest = make_manifest(flags, data, encoder, perturber)
    with xlt.locked(folder):
        old = {}
        if (folder / "run.json").exists() and not args.overwrite:
            old = xlt.read_record(folder / "run.json", "Give another --out, or --overwrite.")
            check_same_run(folder, old, manifest)
        if not old.get("complete"):
            for name in ("choices", "seconds_training", "truncated"):  # where it was interrupted
                if name in old:
                    manifest[name] = old[name]
            if not old:
                start_folder(folder)
            (folder / "metrics.json").unlink(missing_ok=True)
            xlt.write_record(folder / "run.json", manifest)
            train_pairs(flags, args, data, classifier, perturber, manifest)
            shutil.rmtree(folder / "ckpt", ignore_errors=True)
        # The best one; evaluated in fp32, as by evaluate.py
        best, _ = load_classifier(folder / "model", flags.device)
        return evaluate_run(best, data, flags, args, folder)


# ---- many runs: means, differences with intervals, the page --------------------------------------


def condition_means(run: dict) -> dict[evaluate.Condition, dict[str, float]]:
    """Condition -> the run's `macro_means` of accuracy."""
    means = {}
    for condition in evaluate.conditions_of(run["results"]):
        records = [r for r in run["results"] if evaluate.condition_of(r) == condition]
        means[condition] = macro_means(records, "accuracy", run["train_lang"])
    return means


def results_rows(runs: list[dict]) -> list[list[str]]:
    """A row a recipe and condition, head first: accuracy, means and spread over n seeds."""
    names = ("trained", "standard", "zero-shot", "generalized", "all")
    rows = [["robust", "condition", "n", *names]]
    for robust in dict.fromkeys(run["robust"] for run in runs):
        by_condition = {}  # condition -> means of each run
        for run in runs:
            if run["robust"] == robust:
                for condition, means in condition_means(run).items():
                    by_condition.setdefault(condition, []).append(means)
        for condition, means_of_runs in by_condition.items():
            row = [robust, condition.label, str(len(means_of_runs))]
            for name in names:
                values = [means[name] for means in means_of_runs if name in means]
                row.append(study.pair_text(study.mean_sd(values)))
            rows.append(row)
    return rows


def shares_right(run: dict, condition: evaluate.Condition, setting: str) -> np.ndarray | None:
    """Of each pair, the share of the setting's language pairs in which it is right. (N,)

    GAP: generalized minus standard. None where it was not measured.
    """
    if setting != GAP:
        return run["arrays"].get(f"{condition.label}|{setting}")
    generalized = shares_right(run, condition, "generalized")
    standard = shares_right(run, condition, "standard")
    if generalized is None or standard is None:
        return None
    return generalized - standard


def compare_recipes(runs: list[dict]) -> list[Comparison]:
    """Each robust training minus none, paired by pair and seed, as study.py does it.

    In each setting, and in GAP: Robust-XLT gains more where the two sentences' languages differ.
    Nothing is compared with fewer than two groups of test pairs.
    """
    groups = runs[0]["arrays"]["group"]
    if len(np.unique(groups)) < 2:
        return []
    by_recipe = {}  # robust -> seed -> run
    for run in runs:
        by_recipe.setdefault(run["robust"], {})[run["seed"]] = run
    plain = by_recipe.pop("none", {})
    plan, differences = [], []
    rng = np.random.default_rng(0)
    conditions = evaluate.conditions_of(runs[0]["results"])
    for robust, of_seed in by_recipe.items():
        seeds = sorted(set(of_seed) & set(plain))
        for condition, setting in itertools.product(conditions, SETTINGS):
            ours = [shares_right(of_seed[seed], condition, setting) for seed in seeds]
            theirs = [shares_right(plain[seed], condition, setting) for seed in seeds]
            if not seeds or any(shares is None for shares in ours + theirs):
                continue
            plan.append(Comparison("robust", robust, "none", "", condition, setting, "accuracy"))
            # (S, N) each
            differences.append(study.compare(np.stack(ours), np.stack(theirs), groups, rng))
    return study.judged(plan, differences)


def answer(comparisons: list[Comparison]) -> list[str]:
    """A sentence a robust training and condition."""
    by_setting = {}  # (robust, condition) -> setting, as a sentence calls it -> comparison
    for comparison in comparisons:
        key = comparison.a, comparison.condition
        by_setting.setdefault(key, {})[SETTINGS[comparison.view]] = comparison
    sentences = []
    for (robust, condition), of_settings in by_setting.items():
        text = study.sentence(robust, "plain training", of_settings)
        start = "Clean" if condition == evaluate.CLEAN else f"Under {condition.label}"
        sentences.append(f"{start}: {text}")
    if any(comparison.n_seeds == 1 for comparison in comparisons):
        sentences.append(study.ONE_SEED)
    return sentences


def mean_matrices(runs: list[dict]) -> list[dict]:
    """Accuracy of each language of sentence 1 (down) and sentence 2 (across), mean over seeds.

    As study.py's page draws them; only of conditions that met all the language pairs.
    """
    cells, seeds = {}, {}  # (robust, condition) -> (lang, lang) -> accuracies; its seeds
    for run in runs:
        for record in run["results"]:
            key = run["robust"], evaluate.condition_of(record)
            langs = record["first_lang"], record["second_lang"]
            cells.setdefault(key, {}).setdefault(langs, []).append(record["accuracy"])
            seeds.setdefault(key, set()).add(run["seed"])
    matrices = []
    for (robust, condition), of_langs in cells.items():
        langs = sorted({first for first, _ in of_langs})
        if len(langs) < 2 or len(of_langs) < len(langs) ** 2:
            continue
        values = []
        for first in langs:
            values.append([study.mean(of_langs[first, second]) for second in langs])
        matrix = {"recipe": robust, "n": len(seeds[robust, condition]), "metric": "accuracy"}
        matrices.append(condition.fields() | matrix | {"langs": langs, "values": values})
    return matrices


def write_page(path: Path, runs: list[dict], folders: list[Path], data: PairData) -> None:
    """The page of `--report`: study.py's parts, in the prose of data/report/pairs.html."""
    comparisons = compare_recipes(runs)
    manifests = [study.manifest_of(evaluate.Evaluated({}, run=folder)) for folder in folders]
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
    body = study.FRAME.with_name("pairs.html").read_text(encoding="utf-8")
    page = study.render_page(QUESTION, body, parts)
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

    add = parser.add_argument_group("adversary").add_argument
    add("--attacks", nargs="+", default=["clean"], metavar="NAME[:KEY=VALUE,...]",
        help="on either sentence, e.g. clean greedy:edits=2 typos pgd; as evaluate.py's")
    add("--attack-cells", choices=("standard", "all"), default="standard",
        help="language pairs that are attacked: two sentences of one language, or the matrix")
    add("--limit", type=int, default=0, metavar="N", help="only the first N test pairs; 0 for all")

    add = parser.add_argument_group("robust training").add_argument
    add("--robust", nargs="+", default=["none"], metavar="NAME[:KEY=VALUE,...][+NAME]",
        help="as train.py's, on both sentences; Robust-XLT's RS-DA: rs-da:weight=1,copies=10,"
             "cut=blanks. With adv:epsilon=0.05 or more the bundled pairs are not learned at all")

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
    add("--smoke", action="store_true", help="one seed, four small steps, 12 test pairs")
    # fmt: on
    args = parser.parse_args(argv)
    for name in ("steps", "choices", "batch_size", "lr", "clip", "save_every", "log_every"):
        if not 0 < getattr(args, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    if args.smoke and not args.limit:
        args.limit = 12
    for name in ("chunk_size", "weight_decay", "limit"):
        if not 0 <= getattr(args, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 0")
    if not 0 <= args.warmup < 1:
        parser.error(f"--warmup {args.warmup}: a share of the steps, from 0 to below 1")
    xlt.refuse_twice(parser, "test_langs", args.test_langs)
    if args.length < 8:
        parser.error(f"--length {args.length}: at least 8 tokens for two sentences")
    return args


def single_runs(args: argparse.Namespace) -> list[PairFlags]:
    """The product of --robust and --seed, seeds outermost.

    *Errors*: ValueError for an unknown or impossible --robust.
    """
    common = {entry.name: getattr(args, entry.name) for entry in fields(PairFlags)}
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
    """Refuse, with a ValueError, a language that the folder does not have."""
    wanted = {"train": [args.train_lang], "dev": [args.train_lang], "test": args.test_langs or []}
    for split, langs in wanted.items():
        for lang in langs:
            if lang not in data.rows[split]:
                options = ", ".join(data.langs(split))
                raise ValueError(f"{data.folder}/pairs: no {split}-{lang}.tsv. There is {options}.")


def check_before(runs: list[PairFlags], args, data: PairData) -> None:
    """What a run will miss is said now, not hours later.

    *Errors*: ValueError for a language, a table or a replaceable word that is not there.
    """
    check_languages(data, args)
    open_tables(evaluate.parse_attacks(args.attacks), Path(runs[0].words))
    pairs = data.pairs("train", args.train_lang, args.train_lang)
    for flags in runs:
        if flags.seed == runs[0].seed:  # what is missing does not depend on the seed
            make_pair_perturber(flags, pairs)


def run_all(runs: list[PairFlags], args) -> None:
    """Train and evaluate run after run; print the table, then the answer; write the page."""
    data = load_pairs(args.data)
    check_before(runs, args, data)
    results = [train_and_evaluate(flags, args, data) for flags in runs]
    print(evaluate.markdown_table(results_rows(results)))
    for text in answer(compare_recipes(results)):
        print(f"- {text}")
    if args.report:
        folders = [run_folder(flags, args) for flags in runs]
        write_page(args.report, results, folders, data)
        print(f"wrote {args.report}", file=sys.stderr)
    print(f"done: {len(runs)} runs in {args.out}, test of {data.folder}")


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
        run_all(runs, args)
    except (ValueError, FloatingPointError, OSError, RuntimeError, MemoryError) as error:
        print(f"pairs.py: {train.explain(error, runs[0])}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("pairs.py: interrupted. Without --overwrite it goes on.", file=sys.stderr)
        sys.exit(130)
