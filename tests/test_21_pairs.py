"""Rung 21: two sentences in one input, a head, and the same perturbations.

Builds: pairs.py. Before: rungs 1, 4, 11, 14, 15. Run: pytest tests/test_21_pairs.py
"""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import ROOT

import attacks
import pairs
import study
import train
import xlt
from pairs import Pair, PairClassifier, average_precision, load_pairs, macro_means, pair_losses
from train import View
from xlt import Text

LABELS = ["0", "1"]
RS_DA = train.Method("rs-da", weight=0.5)
# The same pairs in two languages; the last word of a sentence tells it apart
SENTENCES = {
    "en": [("The big cat sleeps.", "The large cat sleeps."), ("A dog eats.", "A dog is eaten.")],
    "de": [("Die große Katze schläft.", "Der große Kater schläft."), ("Ein Hund.", "Kein Hund.")],
}


def write_pairs(folder, split, lang, rows):
    """One file as prepare.py writes it; rows are (sentence 1, sentence 2, label)."""
    (folder / "pairs").mkdir(exist_ok=True)
    lines = [pairs.HEADER, *("\t".join(row) for row in rows)]
    path = folder / "pairs" / f"{split}-{lang}.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def labelled(lang):
    """The two pairs of a language: label 1, then label 0."""
    return [(*SENTENCES[lang][0], "1"), (*SENTENCES[lang][1], "0")]


@pytest.fixture
def world(tmp_path):
    """Pairs of two languages, English for training, with a table of synonyms."""
    write_pairs(tmp_path, "train", "en", labelled("en") * 4)
    for split in ("dev", "test"):
        for lang in ("en", "de"):
            write_pairs(tmp_path, split, lang, labelled(lang))
    (tmp_path / "synonyms").mkdir()
    words = {"big": ["huge"], "cat": ["kitten"], "dog": ["hound"]}
    (tmp_path / "synonyms/en.json").write_text(json.dumps(words))
    return tmp_path


def flags_of(world, *argv):
    """The flags of one run on this world."""
    (flags,) = pairs.single_runs(pairs.parse(["--data", str(world), *argv]))
    return flags


@pytest.fixture(scope="module")
def encoder():
    """The bundled encoder; nobody trains it."""
    return xlt.load_encoder(ROOT / "data/tiny_xlmr")


# ---- files ---------------------------------------------------------------------------------------


def test_line_i_is_the_same_pair_in_every_language(world):
    """Claim: the generalized setting joins sentence 1 of one file with sentence 2 of another.

    Number: by eye. Catches: both sentences of one language; languages exchanged; labels by their
    place in the file instead of their names.
    """
    data = load_pairs(world)
    first, second = data.pairs("test", "de", "en")
    assert (first.first.text, first.first.lang) == ("Die große Katze schläft.", "de")
    assert (first.second.text, first.second.lang) == ("The large cat sleeps.", "en")
    assert data.labels == LABELS
    assert [first.label, second.label] == [1, 0]
    assert first.first.id == first.second.id != second.first.id


def test_labels_are_numbered_by_their_names(world):
    """Number: five labels, in the file in another order. Catches: the order of the file, or of a
    set, which is another one in every process."""
    names = ["neutral", "contradiction", "other", "entailment", "alike"]
    for split in ("train", "dev", "test"):
        for path in (world / "pairs").glob(f"{split}-*"):
            path.unlink()
        write_pairs(world, split, "en", [("A dog.", "A cat.", name) for name in names])
    data = load_pairs(world)
    assert data.labels == ["alike", "contradiction", "entailment", "neutral", "other"]
    given = data.pairs("train", "en", "en")
    assert pairs.labels_of(given).tolist() == [3, 1, 4, 2, 0]


def test_a_blank_after_a_label_makes_no_label(world):
    """Number: "1 " is 1. Catches: three labels for two, all of them trained on."""
    write_pairs(world, "train", "en", [("A dog.", "A cat.", "0"), ("A dog.", "A dog!", "1 ")])
    assert load_pairs(world).labels == LABELS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", "1"), ("a", "0")], r"test-de.tsv:3: 2 columns"),
        ([("a", "b", "1"), ("a", "b", "2")], r"test-de.tsv:3: label '2' is none of 0, 1"),
        ([("a", "b", "1"), ("a", "b", "1")], r"test-de.tsv:3: label '1', but '0' in .*test-en"),
        ([("a", "b", "1")], r"test-de.tsv: 1 pairs, .*test-en.tsv has 2"),
        ([("a", "b", "1"), ("a", " ", "0")], r"test-de.tsv:3: an empty cell"),
        ([("a", "b", "1"), ("a", "b", " ")], r"test-de.tsv:3: an empty cell"),
        ([("", "", ""), ("a", "b", "1"), ("a", "b", "0")], r"test-de.tsv:2: a blank line"),
    ],
)
def test_broken_pairs_are_refused(world, rows, message):
    """Claim: file, line, value and what should be. Number: one thing broken at a time.

    Catches: zip(), which drops the rest of the longer file; labels of German alone.
    """
    write_pairs(world, "test", "de", rows)
    with pytest.raises(ValueError, match=message):
        load_pairs(world)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("test-de.tsv", "a\tb\t1\n", r"test-de.tsv:1: .* is not the header"),
        ("test-de.tsv", pairs.HEADER + "\n", r"test-de.tsv: no rows"),
        ("test-de.tsv", "\n" + pairs.HEADER + "\na\tb\t1\n", r"test-de.tsv:1: a blank line"),
        ("final-de.tsv", pairs.HEADER + "\na\tb\t1\n", r"final-de.tsv: is not named"),
    ],
)
def test_a_file_that_is_none_of_pairs_is_refused(world, name, text, message):
    """Catches: the first pair taken for a header; a split that nobody reads."""
    (world / "pairs" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_pairs(world)


def test_two_files_of_one_language_are_refused(world):
    """Number: deu is de. Catches: the one that comes last, without a word; a code that is none,
    without its file.
    """
    path = write_pairs(world, "test", "deu", labelled("de"))
    with pytest.raises(ValueError, match=r"test-deu.tsv: .*test-de.tsv is of 'de', too"):
        load_pairs(world)
    path.rename(path.with_name("test-german.tsv"))
    with pytest.raises(ValueError, match="test-german.tsv: unknown language 'german'"):
        load_pairs(world)


def test_a_folder_without_a_split_is_refused(world):
    """Catches: a KeyError after the training."""
    for path in (world / "pairs").glob("dev-*"):
        path.unlink()
    with pytest.raises(ValueError, match="dev-LANG.tsv: no such file"):
        load_pairs(world)


# ---- the classifier ------------------------------------------------------------------------------


def pair_of(first, second, label=0, pair_id="p"):
    """A pair in English."""
    return Pair(Text(pair_id, "en", first, pair_id), Text(pair_id, "en", second, pair_id), label)


def test_both_sentences_are_one_input(encoder):
    """Number: XLM-R parts two sentences by two separators. Catches: a prefix; one sentence lost."""
    classifier = PairClassifier(encoder, 2)
    (row,) = classifier.tokenize_pairs([pair_of("A dog eats.", "A cat sleeps.")])
    tokens = encoder.tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert tokens[0] == "<s>"
    assert tokens[-1] == "</s>"
    assert tokens.count("</s>") == 3
    text = encoder.tokenizer.decode(row["input_ids"], skip_special_tokens=True)
    assert text.startswith("A dog")
    assert "cat" in text


def test_the_longer_sentence_is_cut(encoder):
    """Number: 16 tokens; the second sentence has three words and stays whole.

    Catches: the second sentence cut away; a row longer than the model's room; an uncounted cut.
    """
    classifier = PairClassifier(encoder, 2, length=16)
    (row,) = classifier.tokenize_pairs([pair_of("a dog " * 40, "A cat sleeps.")])
    assert len(row["input_ids"]) == 16
    text = encoder.tokenizer.decode(row["input_ids"], skip_special_tokens=True)
    assert "sleeps" in text
    assert classifier.texts_cut["pair", "en"] == 1


def test_a_length_without_positions_is_refused(encoder):
    """Number: the model's own room and one more. Catches: an IndexError at the first long pair."""
    room = xlt.room_for_tokens(encoder.model)
    PairClassifier(encoder, 2, length=room)
    with pytest.raises(ValueError, match=f"--length {room + 1}: this model reads {room} tokens"):
        PairClassifier(encoder, 2, length=room + 1)


def test_not_all_pairs_of_a_long_training_are_remembered(encoder):
    """Number: `tokenize` lets go of them at 200,000. Catches: memory that grows with every edit."""
    classifier = PairClassifier(encoder, 2)
    classifier.remembered = dict.fromkeys(range(200_001))
    pair = pair_of("A dog eats.", "A cat sleeps.")
    for _ in range(2):
        classifier.tokenize_pairs([pair])
    assert list(classifier.remembered) == [("pair", pair)]
    assert classifier.texts_seen["pair", "en"] == 2


def test_logits_are_the_head_on_the_first_token(encoder):
    """Claim: W h + b, h the first token's state of the library's own forward pass, to 1e-5.

    Number: W and b by hand. Catches: the mean over tokens; a vector of length 1; dropout.
    """
    classifier = PairClassifier(encoder, 2)
    with torch.no_grad():
        classifier.head.weight.copy_(torch.linspace(-1, 1, 256).view(2, 128))
        classifier.head.bias.copy_(torch.tensor([0.5, -0.25]))
    both = [pair_of("A dog eats.", "A cat sleeps."), pair_of("Yes.", "A very long no, it is.")]
    ours = classifier.predict(both)
    for pair, logits in zip(both, ours, strict=True):
        inputs = encoder.tokenizer(pair.first.text, pair.second.text, return_tensors="pt")
        with torch.no_grad():
            h = encoder.model(**inputs).last_hidden_state[0, 0]
        expected = torch.linspace(-1, 1, 256).view(2, 128) @ h + torch.tensor([0.5, -0.25])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_the_head_starts_by_its_seed(encoder):
    """Number: 3 labels of 128 numbers; their deviation is .02, as BERT's, to four errors of .0007.

    Catches: one head for all seeds; a head of 0, which has no gradient for the encoder.
    """
    heads = [PairClassifier(encoder, 3, seed=seed).head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert abs(heads[0].std().item() - 0.02) < 0.003


def test_a_classifier_computes_as_its_encoder(encoder):
    """Number: bf16, chunks of one length. Catches: a flag that gets lost in the new object."""
    other = xlt.Encoder(encoder.model, encoder.tokenizer, encoder.settings, "bf16")
    other.one_length = True
    classifier = PairClassifier(other, 2, length=33)
    assert classifier.precision == "bf16"
    assert classifier.one_length
    assert classifier.settings.pooling == "cls"
    assert classifier.settings.query_length == 33


def test_a_saved_classifier_gives_the_same_logits(encoder, tmp_path):
    """Claim: bit for bit. Number: a third has no end. Catches: a new head; its bias, the length or
    the order of the labels lost."""
    classifier = PairClassifier(encoder, 3, length=40, seed=5)
    with torch.no_grad():
        classifier.head.bias.copy_(torch.tensor([0.1, -0.7, 1 / 3]))
    both = [pair_of("A dog eats.", "A cat sleeps.")]
    pairs.save_classifier(classifier, ["c", "a", "b"], tmp_path)
    again, labels = pairs.load_classifier(tmp_path)
    assert labels == ["c", "a", "b"]
    assert again.settings.query_length == 40
    assert torch.equal(again.predict(both), classifier.predict(both))


# ---- metrics -------------------------------------------------------------------------------------


def test_average_precision_by_hand():
    """Number: positives at ranks 1 and 3: (1/1 + 2/3) / 2. Catches: the worst first; 1/2 + 2/3."""
    scores, positive = np.array([0.7, 0.9, 0.8]), np.array([True, True, False])
    assert average_precision(scores, positive) == pytest.approx(5 / 6)


def test_ties_go_to_the_negatives():
    """Number: one positive among three equal ones stands last: 1/3. Catches: a constant that
    scores 1."""
    assert average_precision(np.zeros(3), np.array([True, False, False])) == pytest.approx(1 / 3)


def test_right_pairs_and_the_positive_label():
    """Number: label 1 leads by .9, .8 and .7, and is right in the first and the third: accuracy
    2/3, AP 5/6. With label 0 as the positive one AP is 1/2.

    Catches: the labels exchanged; an AP of three labels.
    """
    both = [pair_of("a", "b", label) for label in (1, 0, 1)]
    logits = torch.tensor([[0.0, 0.9], [0.0, 0.8], [0.0, 0.7]])
    is_right, numbers = pairs.score_pairs(logits, both)
    assert is_right.tolist() == [True, False, True]
    assert numbers == {"n": 3, "accuracy": 0.666667, "AP": 0.833333}
    three_labels = torch.zeros(3, 3)
    _, numbers = pairs.score_pairs(three_labels, both)
    assert numbers == {"n": 3, "accuracy": 0.333333}


def test_macro_means_are_of_languages_and_not_of_pairs():
    """Number: en en .9, de de .5, en de .4, de en .2. Catches: the diagonal among generalized; the
    trained language among zero-shot."""
    values = {("en", "en"): 0.9, ("de", "de"): 0.5, ("en", "de"): 0.4, ("de", "en"): 0.2}
    records = []
    for (first, second), value in values.items():
        records.append({"first_lang": first, "second_lang": second, "accuracy": value})
    expected = {"trained": 0.9, "standard": 0.7, "zero-shot": 0.5, "generalized": 0.3, "all": 0.5}
    assert macro_means(records, "accuracy", "en") == pytest.approx(expected)


# ---- the step ------------------------------------------------------------------------------------


def test_losses_are_cross_entropy_and_kl():
    """Number: logits (1, 0) for label 0: log(1 + e^-1) = .313262; perturbed (0, 1): 1.313262. With
    weight .5: .813262. KL of P' = (.268941, .731059) from P = (.731059, .268941):
    .268941 * -1 + .731059 * 1 = .462117, times c = 2.

    Catches: KL the other way is the same here, so also (0, 2), whose KL is .829.
    """
    clean, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    method = train.Method("typos", weight=0.5)
    views = [View("query", [{}]), View("query", [{}], None, method)]
    robust = train.Robust((method,), consistency=2.0)
    losses = pair_losses(views, [clean, other], robust, torch.tensor([0]))
    assert losses.clean.item() == pytest.approx(0.313262, abs=1e-6)
    assert losses.perturbed.item() == pytest.approx(1.313262, abs=1e-6)
    assert losses.consistency.item() == pytest.approx(0.462117, abs=1e-6)
    assert losses.loss.item() == pytest.approx(0.813262 + 2 * 0.462117, abs=1e-6)
    p, student = 1 / (1 + math.e), 1 / (1 + math.e**2)
    teacher = [1 - p, p]
    kl = student * math.log(student / teacher[0])
    kl += (1 - student) * math.log((1 - student) / teacher[1])
    losses = pair_losses(views, [clean, 2 * other], robust, torch.tensor([0]))
    assert losses.consistency.item() == pytest.approx(kl, abs=1e-6)


def test_the_points_of_a_method_enter_by_their_mean():
    """Number: FreeLB with two points, (0, 0) and (0, 1) for label 0: log 2 and 1.313262, mean
    1.003205; weight 1 and no clean loss. KL of (.5, .5) from (.731059, .268941):
    .5 (log .5 - log .731059) + .5 (log .5 - log .268941) = .120115; of (0, 1): .462117; mean
    .291116.

    Catches: a sum over points; a clean loss that nobody asked for.
    """
    method = train.Method("adv", weight=1.0, how="freelb", steps=2)
    clean = torch.tensor([[1.0, 0.0]])
    of_points = [torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    points = [View("query", [{}], None, method, point, 2) for point in range(2)]
    label = torch.tensor([0])
    losses = pair_losses(points, of_points, train.Robust((method,)), label)
    assert losses.loss.item() == pytest.approx(1.003205, abs=1e-6)
    assert losses.clean is None
    taught = train.Robust((method,), consistency=1.0)
    views = [View("query", [{}]), *points]
    losses = pair_losses(views, [clean, *of_points], taught, label)
    assert losses.consistency.item() == pytest.approx(0.291116, abs=1e-6)


def test_the_log_says_the_mean_over_methods():
    """Number: typos (0, 1) and rs-da (0, 0) for label 0: 1.313262 and .693147, mean 1.003205; KL
    .462117 and .120115, mean .291116. Their weights .25 and .5 count in the loss alone.

    Catches: sums, which would grow with every method.
    """
    typos, synonyms = train.Method("typos", weight=0.25), train.Method("rs-da", weight=0.5)
    views = [View("query", [{}])]
    for method in (typos, synonyms):
        views.append(View("query", [{}], None, method))
    logits = [
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.0, 1.0]]),
        torch.tensor([[0.0, 0.0]]),
    ]
    robust = train.Robust((typos, synonyms), consistency=1.0)
    losses = pair_losses(views, logits, robust, torch.tensor([0]))
    assert losses.perturbed.item() == pytest.approx(1.003205, abs=1e-6)
    assert losses.consistency.item() == pytest.approx(0.291116, abs=1e-6)
    supervised = 0.25 * 0.313262 + 0.25 * 1.313262 + 0.5 * 0.693147
    assert losses.loss.item() == pytest.approx(supervised + 0.582232, abs=2e-6)


def test_the_teacher_gets_no_gradient():
    """Number: clean loss of share 0, so that only the KL could reach the clean logits.

    Catches: a teacher that comes to meet its student.
    """
    method = train.Method("typos", weight=1.0)
    clean = torch.tensor([[1.0, 0.0]], requires_grad=True)
    student = torch.tensor([[0.0, 1.0]], requires_grad=True)
    views = [View("query", [{}]), View("query", [{}], None, method)]
    robust = train.Robust((method,), consistency=2.0)
    losses = pair_losses(views, [clean, student], robust, torch.tensor([0]))
    losses.loss.backward()
    assert clean.grad.abs().max() == 0
    assert student.grad.abs().max() > 0.1


def make_step(world, robust, chunk_size=0, dropout=0.1):
    """Four pairs, a fresh classifier in training mode, and what perturbs them."""
    argv = ["--robust", robust, "--batch-size", "4", "--chunk-size", str(chunk_size)]
    flags = flags_of(world, *argv)
    encoder = xlt.load_encoder(ROOT / "data/tiny_xlmr")
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    data = load_pairs(world)
    training = data.pairs("train", "en", "en")
    classifier = PairClassifier(encoder, 2)
    train.make_optimizer(classifier, flags)
    perturber = pairs.make_pair_perturber(flags, training, classifier)
    batch = next(pairs.pair_batches(len(training), flags))
    return SimpleNamespace(
        classifier=classifier.train(), batch=batch, flags=flags, perturber=perturber
    )


def gradients(step):
    """Of every weight, after one step."""
    report = pairs.pair_step(step.classifier, step.batch, step.flags, step.perturber, 3)
    grads = {}
    for name, weight in step.classifier.named_parameters():
        if weight.grad is not None:
            grads[name] = weight.grad.clone()
    return grads, report


@pytest.mark.parametrize("robust", ["none", "rs-rp", "adv:how=pgd", "rs-da+self-teaching"])
def test_gradient_caching_changes_nothing(world, robust):
    """Claim: the gradient of every weight, the head's too, with dropout on, to 3e-6 of the largest.

    Number: chunks of one text against all at once have other dropout, so both go in chunks of 2;
    one keeps its graph. Catches: a head whose gradient comes twice; dropout drawn anew.
    """
    cached, plain = make_step(world, robust, chunk_size=2), make_step(world, robust, chunk_size=2)
    ours, report = gradients(cached)
    with torch.enable_grad():
        plain.classifier.chunk_size = 0  # the graph is kept...
        chunks = plain.classifier.chunks

        def same_chunks(rows, max_tokens=8192):
            """...and the chunks are the cached step's."""
            plain.classifier.chunk_size = 2
            cut = chunks(rows, max_tokens)
            plain.classifier.chunk_size = 0
            return cut

        plain.classifier.chunks = same_chunks
        theirs, other_report = gradients(plain)
    assert report.losses.loss.item() == pytest.approx(other_report.losses.loss.item(), abs=2e-6)
    assert ours.keys() == theirs.keys() >= {"head.weight", "head.bias"}
    largest = max(grad.abs().max().item() for grad in theirs.values())
    for name, grad in theirs.items():
        assert (ours[name] - grad).abs().max().item() < 3e-6 * largest, name


def test_the_head_drops_others_in_every_step_and_the_same_ones_again(world):
    """Number: dropout in the head alone; steps 3, 3 and 4, then 3 in chunks of one text.

    Catches: a stream without the step; one that goes on where the last chunk's ended.
    """
    losses = []
    for number, chunk_size in [(3, 0), (3, 0), (4, 0), (3, 1)]:
        step = make_step(world, "none", chunk_size, dropout=0.0)
        report = pairs.pair_step(step.classifier, step.batch, step.flags, step.perturber, number)
        losses.append(report.losses.loss.item())
    first, again, later, in_chunks = losses
    assert first == again
    assert abs(first - later) > 1e-4
    assert in_chunks == pytest.approx(first, abs=1e-5)


def test_the_gradient_is_that_of_the_formula(world, monkeypatch):
    """Claim: of every weight, to 1e-5 of the largest, by autograd through one plain forward pass.

    Number: .5 CE of four pairs + .5 CE of their edited twins, without dropout.
    Catches: perturbed pairs that are not edited, or that never reach the weights; a pair whose
    sentence 2 is sentence 1.
    """
    monkeypatch.setattr(pairs, "DROPOUT", 0.0)
    step = make_step(world, "rs-da:rate=1,weight=.5", chunk_size=2, dropout=0.0)
    grads, report = gradients(step)
    train.zero_gradients(step.classifier)
    clean, edited = [], []
    given = load_pairs(world).pairs("train", "en", "en")
    for position in step.batch.queries:
        clean.append(given[position])
        edited.append(pairs.edited_pair(step.perturber, RS_DA, 3, position))
    assert clean != edited, "nothing was edited"
    labels = pairs.labels_of(clean)
    loss = torch.zeros(())
    for members in (clean, edited):
        h = step.classifier(step.classifier.tokenize_pairs(members))
        scores = step.classifier.head(h)
        loss = loss + 0.5 * torch.nn.functional.cross_entropy(scores, labels)
    loss.backward()
    assert report.losses.loss.item() == pytest.approx(loss.item(), abs=1e-5)
    weights = dict(step.classifier.named_parameters())
    largest = max(grad.abs().max().item() for grad in grads.values())
    for name, grad in grads.items():
        assert (weights[name].grad - grad).abs().max().item() < 1e-5 * largest, name


def test_freelb_trains_on_all_its_points(world):
    """Number: 3 points of 4 pairs each, beside the clean ones: the views of a step, by method.

    Catches: one view for all points; a clean view where nothing looks at it.
    """
    for robust, numbers in [("adv:how=freelb", [None, 0, 1, 2]), ("adv:weight=1", [0])]:
        step = make_step(world, robust)
        views = pairs.clean_pair_views(step.classifier, step.batch, step.perturber)
        views += pairs.perturbed_pair_views(step.classifier, step.batch, step.perturber, 3)
        points = [None if view.method is None else view.point for view in views]
        assert points == numbers
        assert all(len(view.rows) == 4 for view in views)


def test_each_row_of_a_chunk_has_its_own_label():
    """Number: identity head, h = (1, 0): label 0 costs .313262, label 1 costs 1.313262; rows 2 and
    0 of the batch have labels 1 and 0.

    Catches: the labels of rows 0 and 1; a mean over the chunk.
    """
    head = torch.nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
        head.bias.zero_()
    loss = pairs.PairLoss(head, torch.tensor([0, 0, 1]))
    values = loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [2, 0])
    assert values.tolist() == pytest.approx([1.313262, 0.313262], abs=1e-6)


def test_warm_up_is_a_share_of_the_steps(world):
    """Number: .1 of 30 steps. Catches: none at all."""
    flags = flags_of(world, "--steps", "30", "--warmup", "0.1")
    assert flags.warmup_steps == 3


def test_a_step_counts_tokens_of_all_views(world):
    """Number: by the tokenizer, four pairs clean and once more under noise.

    Catches: one view's tokens; padding among them.
    """
    step = make_step(world, "rs-rp:weight=.5")
    _, report = gradients(step)
    tokens = 0
    given = load_pairs(world).pairs("train", "en", "en")
    for position in step.batch.queries:
        pair = given[position]
        ids = step.classifier.tokenizer(pair.first.text, pair.second.text)["input_ids"]
        tokens += 2 * len(ids)
    assert report.tokens == tokens <= report.padded_tokens
    assert report.wrong_negatives.shape == (4, 1)
    assert not report.wrong_negatives.any()


def test_a_batch_is_drawn_from_all_pairs_by_the_seed(world):
    """Number: 8 pairs, batches of 4: two are an epoch. Catches: an order without the seed; pairs
    that never come."""
    orders = []
    for seed in ("0", "0", "1"):
        flags = flags_of(world, "--batch-size", "4", "--steps", "2", "--seed", seed)
        orders.append([batch.queries for batch in pairs.pair_batches(8, flags)])
        first, second = orders[-1]
        assert sorted(first + second) == list(range(8))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("robust", ["rs-da", "rs-da:cut=blanks"])
def test_a_word_in_sentence_2_alone_can_be_replaced(world, robust):
    """Number: "large" stands in second sentences only. Catches: a refusal after sentence 1."""
    (world / "synonyms/en.json").write_text('{"large": ["huge"]}')
    step = make_step(world, robust)
    assert step.perturber.labels.tolist() == [1, 0] * 4


def test_a_word_that_the_method_does_not_cut_out_is_none(world):
    """Number: "sleeps." has a full stop, so it stands between blanks as another word.

    Catches: a training that changes nothing and says so nowhere.
    """
    (world / "synonyms/en.json").write_text('{"sleeps": ["naps"]}')
    make_step(world, "rs-da")
    with pytest.raises(ValueError, match="no training pair has a word that synonyms"):
        make_step(world, "rs-da:cut=blanks")


def test_worst_case_noise_raises_the_loss(world):
    """Catches: noise downhill; noise that is none. Number: .3 mean norms, without dropout."""
    step = make_step(world, "adv:epsilon=0.3,how=pgd", dropout=0.0)
    pairs.DROPOUT, kept = 0.0, pairs.DROPOUT
    try:
        _, report = gradients(step)
    finally:
        pairs.DROPOUT = kept
    assert report.losses.perturbed > report.losses.clean + 1e-3, "the attack did nothing"


def test_both_sentences_are_edited(world):
    """Number: "big", "cat" and "dog" have replacements; at rate 1 nearly every pair changes on both
    sides in 40 draws. Catches: sentence 1 alone, as a query is."""
    step = make_step(world, "rs-da:rate=1")
    (method,) = step.perturber.robust.methods
    changed = [set(), set()]
    for number in range(40):
        pair = pairs.edited_pair(step.perturber, method, number, 0)
        changed[0].add(pair.first.text)
        changed[1].add(pair.second.text)
    assert "The huge kitten sleeps." in changed[0]
    assert "The large kitten sleeps." in changed[1]


def test_code_switching_takes_words_of_the_dictionary(world):
    """Number: "big" is "groß", every word switched. Catches: the synonyms' table; none."""
    (world / "dictionary.tsv").write_text("en\tde\tbig\tgroß\n", encoding="utf-8")
    step = make_step(world, "code-switch:words=1")
    (method,) = step.perturber.robust.methods
    pair = pairs.edited_pair(step.perturber, method, 0, 0)
    assert pair.first.text == "The groß cat sleeps."
    assert pair.second.text == "The large cat sleeps."


def test_noise_is_in_units_of_the_mean_norm(world, monkeypatch):
    """Number: of the word embeddings, by a loop; epsilon .5. Catches: absolute numbers."""
    step = make_step(world, "rs-rp")
    table = step.classifier.model.get_input_embeddings().weight.tolist()
    unit = sum(math.hypot(*row) for row in table) / len(table)
    assert step.perturber.unit == pytest.approx(unit, rel=1e-5)
    radii = []

    def no_noise(objective, chunk, attack, radius, rngs):
        """Keep the radius."""
        radii.append(radius)
        return torch.zeros_like(chunk.embeddings)

    monkeypatch.setattr(attacks, "find_noise", no_noise)
    attack = attacks.parse_attack("fgm:epsilon=0.5")
    pairs.attack_noise(step.classifier, [pair_of("A dog eats.", "Yes.")], attack)
    assert radii == pytest.approx([0.5 * unit], rel=1e-5)


# ---- Robust-XLT's RS-DA, as coded ----------------------------------------------------------------


def test_words_are_cut_at_blanks_with_case_and_punctuation():
    """Claim: Robust-XLT's rule. Number: "Film" has a capital, "film," a comma: neither is in the
    table; between two blanks stands an empty word. By eye.

    Catches: find_words, which finds all three films; places that forget a blank.
    """
    text = "Film  film, film"
    slots = attacks.blank_slots(text, {"film": ["movie"], "empty": []})
    assert [(slot.start, slot.end, slot.options) for slot in slots] == [(12, 16, ("movie",))]
    assert text[12:16] == "film"


def test_a_word_with_n_neighbours_changes_n_times_in_n_plus_one():
    """Number: 3 neighbours and the word itself, .75 of 4,000 draws; a deviation of .0068, four of
    them. Catches: the word left out of the draw (1.0); a coin before it."""
    slots = attacks.blank_slots("a film", {"film": ["movie", "cinema", "picture"]})
    rng = xlt.generator(0, "test")
    draws = [attacks.draw_freely(slots, rng) for _ in range(4000)]
    assert abs(sum(bool(edits) for edits in draws) / 4000 - 0.75) < 0.028


def test_the_kth_copy_goes_with_the_kth_copy(world):
    """Claim: both sentences of a pair show copies of one number; what is drawn in them is not
    tied. Number: 3 copies, 60 steps: at most 3 different pairs.

    Catches: a number a sentence, which makes more; copies drawn anew.
    """
    step = make_step(world, "rs-da:rate=1,copies=3,cut=blanks")
    (method,) = step.perturber.robust.methods
    seen = set()
    for number in range(60):
        pair = pairs.edited_pair(step.perturber, method, number, 0)
        seen.add((pair.first.text, pair.second.text))
    assert 1 < len(seen) <= 3


# ---- under attack --------------------------------------------------------------------------------


def test_the_margin_is_that_of_the_right_label():
    """Number: scores 2, 5, 1: label 1 leads by 3, label 0 is 3 behind, label 2 is 4 behind.

    Catches: the best minus the second best, which is never negative.
    """
    logits = torch.tensor([[2.0, 5.0, 1.0]] * 3)
    margins = pairs.margins(logits, torch.tensor([1, 0, 2]))
    assert margins.tolist() == [3.0, -3.0, -4.0]


def test_margins_that_differ_by_rounding_are_equal():
    """Number: 1e-7 apart. Catches: an edit that changes nothing kept for the noise of a batch."""
    logits = torch.tensor([[0.1, 0.2], [0.1, 0.2 + 1e-7]], dtype=torch.float64)
    first, second = pairs.margins(logits, torch.tensor([1, 1])).tolist()
    assert first == second


def test_noise_of_no_size_changes_no_pair(encoder):
    """Catches: a hundred pairs "changed" by nothing."""
    classifier = PairClassifier(encoder, 2, seed=1)
    for epsilon, n_changed in ((0, 0), (0.1, 1)):
        attack = attacks.parse_attack(f"gaussian:epsilon={epsilon}")
        both = [pair_of("A dog eats.", "A cat sleeps.", 1)]
        assert pairs.attacked_logits(classifier, both, attack, {})[1] == n_changed


def test_a_classifier_opens_whatever_the_prefix_of_its_encoder(encoder, tmp_path):
    """Number: a prefix of 20 words, 16 tokens for a pair. Catches: a model that does not open."""
    settings = replace(encoder.settings, query_prefix="a " * 20)
    other = xlt.Encoder(encoder.model, encoder.tokenizer, settings)
    pairs.save_classifier(PairClassifier(other, 2, length=16), LABELS, tmp_path)
    opened, labels = pairs.load_classifier(tmp_path)
    assert labels == LABELS
    assert opened.settings.query_length == 16


class WordCounter:
    """A classifier that says 1 as long as a "good" stands in either sentence."""

    settings = SimpleNamespace(query_length=128)

    def predict(self, both):
        """Scores (N, 2): as many as there are good words."""
        rows = []
        for pair in both:
            words = f"{pair.first.text} {pair.second.text}".split()
            rows.append([0.5, float(words.count("good") - words.count("bad"))])
        return torch.tensor(rows)


GREEDY = attacks.parse_attack("greedy")
TABLE = {"en": {"good": ["fine", "bad"], "day": ["evening"]}}


def test_an_adversary_takes_the_sentence_where_it_hurts_more():
    """Number: "good day" and "good good": the second one's two words can become two "bad" ones
    with two edits, the first one's only one.

    Catches: always sentence 1; the milder one; the mild synonym "fine".
    """
    attack = attacks.parse_attack("greedy:edits=2")
    (changed,) = pairs.attack_words(
        WordCounter(), [pair_of("good day", "good good", 1)], attack, TABLE, 0
    )
    assert (changed.first.text, changed.second.text) == ("good day", "bad bad")


def test_each_sentence_is_edited_in_its_own_language():
    """Number: "gut" and "good" are worth nothing and something to this classifier; with German
    words in English sentences nothing could be replaced.

    Catches: one table for both; that of the other sentence.
    """
    german = Text("p", "de", "Tag gut", "p")
    pair = Pair(german, Text("p", "en", "good day", "p"), 1)
    tables = {"en": {"good": ["bad"]}, "de": {"gut": ["bad"], "good": ["worse"]}}
    (first,) = pairs.edit_side(WordCounter(), [pair], "first", GREEDY, tables, 0)
    assert first.first.text == "Tag bad"
    assert first.second.text == "good day"
    (second,) = pairs.edit_side(WordCounter(), [pair], "second", GREEDY, tables, 0)
    assert second.first.text == "Tag gut"
    assert second.second.text == "bad day"
    assert second.second.lang == "en"


def test_an_attack_has_the_words_of_its_own_table():
    """Number: synonyms say "fine", the dictionary "bon": code-switch takes the second.

    Catches: one table for all sources; logits of the pairs before the attack.
    """
    both = [pair_of("good day", "evening", 1)]
    tables = {
        "synonyms": {"en": {"good": ["bad"]}},
        "dictionary": {"en": {"good": ["bon"]}},
    }
    attack = attacks.parse_attack("code-switch:edits=1")
    logits, n_changed = pairs.attacked_logits(WordCounter(), both * 20, attack, tables)
    assert n_changed < 20, "the second sentence has no word of the table"
    assert set(logits[:, 1].tolist()) == {0.0, 1.0}
    logits, n_changed = pairs.attacked_logits(WordCounter(), both, GREEDY, tables)
    assert logits.tolist() == [[0.5, -1.0]]
    assert n_changed == 1


def test_random_edits_draw_the_sentence():
    """Number: 200 pairs: both sentences are met, never both in one pair. Catches: sentence 1 alone;
    twice the edits of a search."""
    attack = attacks.parse_attack("random:edits=1")
    both = [pair_of("good day", "good day", 1, f"p{i}") for i in range(200)]
    changed = pairs.attack_words(WordCounter(), both, attack, TABLE, 0)
    first = sum(pair.first.text != "good day" for pair in changed)
    second = sum(pair.second.text != "good day" for pair in changed)
    assert first + second == 200
    assert 70 < first < 130, "half, give or take four deviations of 7"


def test_noise_lowers_the_margins_of_a_real_classifier(encoder):
    """Claim: here a larger ball does no less. Catches: noise uphill; noise that is not there;
    rows of a chunk exchanged."""
    classifier = PairClassifier(encoder, 2, seed=3)
    both = [
        pair_of("A dog eats.", "A cat sleeps.", 1, "a"),
        pair_of("Yes.", "A very long no, it is not so.", 0, "b"),
    ]
    labels = torch.tensor([1, 0])
    clean = pairs.margins(classifier.predict(both), labels)
    last = clean
    for epsilon in (0.0, 0.05, 0.5):
        attack = attacks.parse_attack(f"pgd:epsilon={epsilon},steps=3")
        attacked = pairs.margins(pairs.attack_noise(classifier, both, attack, 0), labels)
        assert (attacked <= last + 1e-5).all()
        if epsilon == 0:
            torch.testing.assert_close(attacked, clean, atol=1e-5, rtol=1e-5)
        last = attacked
    assert (last < clean - 1e-3).all(), "the attack did nothing"


def test_a_pair_has_its_own_noise_wherever_it_stands(encoder):
    """Claim: to 1e-5, which is the padding's. Number: two pairs in either order, and one alone.

    Catches: a stream by position; dropout under attack; rows put back in a chunk's order.
    """
    classifier = PairClassifier(encoder, 2, seed=3)
    short = pair_of("Yes.", "No.", 1, "a")
    long = pair_of("A dog eats its food.", "A very long no, it is not so.", 0, "b")
    attack = attacks.parse_attack("gaussian:epsilon=0.5")
    logits = pairs.attack_noise(classifier, [long, short], attack)
    for order in ([short, long], [long]):
        again = pairs.attack_noise(classifier, order, attack)
        torch.testing.assert_close(again[-1], logits[0], atol=1e-5, rtol=1e-5)
    other = pairs.attack_noise(classifier, [long], attack, seed=1)
    assert not torch.allclose(other[0], logits[0], atol=1e-4)


class Listener:
    """A classifier that says 1 where sentence 1 is German, whatever else there is."""

    def predict(self, both):
        """Scores (N, 2)."""
        rows = []
        for pair in both:
            is_german = pair.first.lang == "de"
            rows.append([0.0, 1.0 if is_german else -1.0])
        return torch.tensor(rows)


def test_a_matrix_knows_sentence_1_and_sentence_2(world):
    """Number: labels 1 and 0: right on the first pair with German first, else on the second.
    So standard is (.5, .5), of en-en and de-de; of the generalized cells de-en alone: (1, 0).

    Catches: languages exchanged; the settings exchanged; a mean over pairs.
    """
    test = pairs.TestPairs(load_pairs(world))
    cells = [("de", "de"), ("de", "en"), ("en", "en")]
    matrix = pairs.evaluate_matrix(Listener(), test, cells)
    places = [(record["first_lang"], record["second_lang"]) for record in matrix.records]
    assert places == cells
    assert matrix.right["de", "de"].tolist() == [True, False]
    assert matrix.right["de", "en"].tolist() == [True, False]
    assert matrix.right["en", "en"].tolist() == [False, True]
    shares = matrix.setting_shares()
    assert shares["standard"].tolist() == [0.5, 0.5]
    assert shares["generalized"].tolist() == [1.0, 0.0]


def test_broken_are_right_pairs_that_are_wrong_under_attack(world, monkeypatch):
    """Number: before, two pairs of label 1 are right; the attack says 0 to all: two broken, one of
    label 0 mended.

    Catches: the mended among the broken (3); right ones counted after the attack (1).
    """
    for lang in ("de", "en"):
        rows = [(*SENTENCES[lang][0], label) for label in ("1", "0", "1")]
        write_pairs(world, "test", lang, rows)
    test = pairs.TestPairs(load_pairs(world))

    def turned(*given):
        """Label 0 for all pairs."""
        return torch.tensor([[1.0, 0.0]] * 3), 3

    monkeypatch.setattr(pairs, "attacked_logits", turned)
    matrix = pairs.attack_matrix(Listener(), test, [("de", "en")], GREEDY, {})
    (record,) = matrix.records
    assert record["n_right"] == 2
    assert record["n_broken"] == 2
    assert record["accuracy"] == 0.333333


def test_what_an_attack_broke_was_right_before(world, encoder):
    """Number: two pairs a cell, attacked in German and English alone. Catches: a matrix attacked
    that was asked for its diagonal; more broken than right."""
    classifier = PairClassifier(encoder, 2, seed=1)
    data = load_pairs(world)
    attack = attacks.parse_attack("typos-greedy:edits=2")
    cells = [("de", "de"), ("en", "en")]
    matrix = pairs.attack_matrix(classifier, pairs.TestPairs(data), cells, attack, {})
    for record in matrix.records:
        assert record["attack"] == "typos-greedy"
        assert record["n_broken"] <= record["n_right"] <= 2
        right = record["n_right"] - record["n_broken"]
        assert record["accuracy"] == pytest.approx(right / 2), "nothing wrong becomes right here"
        assert record["n_changed"] > 0, "the attack did nothing"
    assert [record["first_lang"] for record in matrix.records] == ["de", "en"]
    assert sum(record["n_broken"] for record in matrix.records) > 0, "nothing broke"


@pytest.mark.parametrize("name", ["exact", "hotflip", "smoothed"])
def test_attacks_that_pairs_do_not_have_are_refused(world, tmp_path, capsys, name):
    """Catches: a certificate of a ranking told of a label."""
    assert run(world, tmp_path / "out", "--attacks", name) == 1
    assert "not for pairs" in capsys.readouterr().err


# ---- the program ---------------------------------------------------------------------------------


def run(world, out, *flags):
    """pairs.py on the little world; its exit code."""
    small = ["--steps", "6", "--choices", "2", "--batch-size", "4", "--log-every", "2"]
    return pairs.main(["--data", str(world), "--out", str(out), *small, *flags])


def test_a_run_leaves_model_manifest_and_metrics(world, tmp_path, capsys):
    """Number: two languages are a matrix of four records; two looks at dev.

    Catches: a matrix without its other half.
    """
    assert run(world, tmp_path / "out", "--robust", "none", "rs-rp") == 0
    folder = tmp_path / "out/pairs-none-seed0"
    metrics = xlt.read_record(folder / "metrics.json", "")
    cells = [(record["first_lang"], record["second_lang"]) for record in metrics["results"]]
    assert sorted(cells) == [("de", "de"), ("de", "en"), ("en", "de"), ("en", "en")]
    manifest = xlt.read_record(folder / "run.json", "")
    assert manifest["complete"]
    assert [choice["step"] for choice in manifest["choices"]] == [3, 6]
    printed = capsys.readouterr().out
    assert "- Clean: rs-rp " in printed
    assert "plain training" in printed
    assert not (folder / "ckpt").exists()


def test_the_same_command_gives_the_same_model(world, tmp_path):
    """Claim: byte by byte. Catches: a stream that is not a function of the seed."""
    for name in ("a", "b"):
        assert run(world, tmp_path / name, "--robust", "rs-da") == 0
    file = "pairs-rs-da-seed0/model/model.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_finished_run_is_not_trained_again(world, tmp_path, monkeypatch):
    """Catches: hours for a table; seconds and cut pairs that a later start forgets. Number: no step
    and no matrix on the second day; another attack is evaluated, and still not trained.
    """
    assert run(world, tmp_path / "out") == 0

    def nothing(*args):
        """Nobody should ask for it."""
        raise AssertionError("done again")

    monkeypatch.setattr(pairs, "pair_step", nothing)
    plain_matrix = pairs.evaluate_matrix
    monkeypatch.setattr(pairs, "evaluate_matrix", nothing)
    assert run(world, tmp_path / "out") == 0
    monkeypatch.setattr(pairs, "evaluate_matrix", plain_matrix)
    assert run(world, tmp_path / "out", "--attacks", "clean", "typos") == 0
    folder = tmp_path / "out/pairs-none-seed0"
    metrics = pairs.read_metrics(folder)
    assert {record["attack"] for record in metrics["results"]} == {"clean", "typos"}
    # Killed after the last look at dev, before it says that it is complete
    content = xlt.read_record(folder / "run.json", "")
    xlt.write_record(folder / "run.json", content | {"complete": False})
    assert run(world, tmp_path / "out", "--attacks", "clean", "typos") == 0
    assert xlt.read_record(folder / "run.json", "") == content


def test_limit_takes_the_first_pairs_of_every_language(world, tmp_path):
    """Number: one pair of two. Catches: a limit on one language."""
    assert run(world, tmp_path / "out", "--limit", "1") == 0
    metrics = pairs.read_metrics(tmp_path / "out/pairs-none-seed0")
    assert [record["n"] for record in metrics["results"]] == [1, 1, 1, 1]


def evaluated(world, folder, *argv):
    """`evaluate_run` with a classifier that is none."""
    args = pairs.parse(["--data", str(world), *argv])
    flags = flags_of(world, *argv)
    folder.mkdir(exist_ok=True)
    return pairs.evaluate_run(Listener(), load_pairs(world), flags, args, folder)


def test_half_an_evaluation_is_none(world, tmp_path, monkeypatch):
    """Number: killed while metrics.npz is written for another --limit.

    Catches: metrics.json of one evaluation beside metrics.npz of another.
    """
    folder = tmp_path / "run"
    assert evaluated(world, folder)["n_pairs"] == 2

    def killed(*args, **arrays):
        """Ctrl-C."""
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluated(world, folder, "--limit", "1")
    monkeypatch.undo()
    assert not (folder / "metrics.json").exists()
    assert evaluated(world, folder, "--limit", "1")["n_pairs"] == 1


def test_single_pairs_that_are_damaged_are_refused(world, tmp_path):
    """Catches: a BadZipFile with its traceback. Number: a file cut in half."""
    folder = tmp_path / "run"
    evaluated(world, folder)
    content = (folder / "metrics.npz").read_bytes()
    (folder / "metrics.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="metrics.npz: does not open"):
        evaluated(world, folder)


def test_groups_are_those_of_the_trained_language(world, tmp_path):
    """Number: the German sentences 1 are one, the English ones two.

    Catches: other groups for another order of --test-langs.
    """
    rows = [("Ein Hund.", "Kein Hund.", "1"), ("Ein Hund.", "Eine Katze.", "0")]
    write_pairs(world, "test", "de", rows)
    for order in (["de", "en"], ["en", "de"]):
        metrics = evaluated(world, tmp_path / "run", "--test-langs", *order)
        assert metrics["langs"] == order
        assert metrics["arrays"]["group"].tolist() == [0, 1]
    alone = evaluated(world, tmp_path / "run", "--test-langs", "de", "--train-lang", "de")
    assert alone["arrays"]["group"].tolist() == [0, 0]


def test_other_words_are_another_evaluation(world, tmp_path, monkeypatch):
    """Number: one word more, then the same words again. Catches: numbers of yesterday's table."""
    sizes = []
    plain_measure = pairs.measure

    def counting(classifier, test, langs, attack_list, tables, attack_cells):
        """Keep how many words the table has."""
        sizes.append(len(tables["synonyms"]["en"]))
        return plain_measure(classifier, test, langs, attack_list, tables, attack_cells)

    monkeypatch.setattr(pairs, "measure", counting)
    attack = ["--attacks", "clean", "random"]
    evaluated(world, tmp_path / "run", *attack)
    words = {"big": ["huge"], "cat": ["kitten"], "dog": ["hound"], "eats": ["devours"]}
    (world / "synonyms/en.json").write_text(json.dumps(words))
    evaluated(world, tmp_path / "run", *attack)
    evaluated(world, tmp_path / "run", *attack)
    assert sizes == [3, 4]


def test_all_runs_meet_the_attack_of_the_record(world, tmp_path, monkeypatch):
    """Number: the record says attack seed 0, the run has seed 3.

    Catches: an attack that differs from run to run, of which the record says nothing.
    """
    seeds = set()
    plain_edits = attacks.random_edits

    def listening(items, attack, seed):
        """Keep the seed."""
        seeds.add(seed)
        return plain_edits(items, attack, seed)

    monkeypatch.setattr(attacks, "random_edits", listening)
    flags = ["--seed", "3", "--attacks", "typos", "--attack-cells", "all"]
    metrics = evaluated(world, tmp_path / "run", *flags)
    assert seeds == {record["attack_seed"] for record in metrics["results"]} == {0}
    assert len(metrics["results"]) == 8


@pytest.mark.parametrize(("which", "n_attacked"), [("standard", 2), ("all", 4)])
def test_the_diagonal_is_attacked_or_the_matrix(world, tmp_path, which, n_attacked):
    """Number: two languages. Catches: hours for cells that nobody asked for."""
    flags = ["--attacks", "clean", "typos", "--attack-cells", which]
    metrics = evaluated(world, tmp_path / "run", *flags)
    attacked = [r for r in metrics["results"] if r["attack"] == "typos"]
    assert len(attacked) == n_attacked
    assert len(metrics["results"]) == 4 + n_attacked
    assert ("typos|generalized" in metrics["arrays"]) == (which == "all")


def test_the_first_pairs_are_taken(world):
    """Number: one of two, and all. Catches: the last ones; a limit in one language."""
    data = load_pairs(world)
    both = data.pairs("test", "de", "en")
    assert pairs.TestPairs(data, 1).pairs("de", "en") == both[:1]
    assert pairs.TestPairs(data).pairs("de", "en") == both


def manifest(**changes):
    """run.json of a run, as far as it is compared."""
    flags = {"lr": 0.001, "data": "here", "device": "cpu"}
    hashes = dict.fromkeys((*pairs.INPUTS, "tokenizer_sha256", "config_sha256"), "a")
    return {"flags": flags} | hashes | changes


def test_a_run_is_the_same_wherever_its_data_lie(tmp_path):
    """Number: data and device differ. Catches: a run that cannot be moved to another machine; an
    older run.json, without the last two hashes."""
    moved = {"lr": 0.001, "data": "there", "device": "cuda"}
    pairs.check_same_run(tmp_path, manifest(flags=moved), manifest())
    older = manifest()
    del older["tokenizer_sha256"], older["config_sha256"]
    pairs.check_same_run(tmp_path, older, manifest())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flags": {"lr": 0.1, "data": "here"}}, "made with --lr 0.1, not 0.001"),
        ({"data_sha256": "b"}, "another data_sha256"),
        ({"init_sha256": "b"}, "another init_sha256"),
        ({"tables_sha256": "b"}, "another tables_sha256"),
        ({"tokenizer_sha256": "b"}, "another tokenizer_sha256"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path, changes, message):
    """Number: one thing at a time. Catches: a model of other data under this run's name."""
    with pytest.raises(ValueError, match=message):
        pairs.check_same_run(tmp_path, manifest(**changes), manifest())


def test_a_new_start_takes_away_the_old_one(tmp_path):
    """Catches: a checkpoint of an older run, refused at the first look. Number: both leftovers."""
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt/state.pt").write_text("old")
    (tmp_path / "log.jsonl").write_text("old")
    pairs.start_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def fake_training(monkeypatch, accuracies):
    """No training: at each look dev has the next of these accuracies."""
    looks = iter(accuracies)

    def no_loop(*args):
        """It took a second."""
        return SimpleNamespace(seconds=1.0)

    def next_look(logits, both):
        """Nobody asks which pairs are right."""
        return None, {"n": 2, "accuracy": next(looks)}

    monkeypatch.setattr(train, "training_loop", no_loop)
    monkeypatch.setattr(pairs, "score_pairs", next_look)


def looks_at_dev(world, tmp_path, monkeypatch, choices):
    """`train_pairs`, four looks, after those that were had already. -> steps saved, run.json"""
    argv = ["--steps", "8", "--choices", "4"]
    args = pairs.parse(["--out", str(tmp_path), *argv])
    flags = flags_of(world, *argv)
    folder = tmp_path / "pairs-none-seed0"
    folder.mkdir()
    saved = []

    def save(classifier, labels, where):
        """Keep when."""
        assert (labels, where) == (LABELS, folder / "model")
        saved.append(len(run_json["choices"]))

    monkeypatch.setattr(pairs, "save_classifier", save)
    classifier = Listener()
    classifier.texts_cut = {}
    run_json = dict.fromkeys(pairs.INPUTS, "a") | {"choices": choices}
    perturber = SimpleNamespace(labels=torch.zeros(8))
    pairs.train_pairs(flags, args, load_pairs(world), classifier, perturber, run_json)
    return saved, xlt.read_record(folder / "run.json", "")


def test_the_best_look_at_dev_is_kept(world, tmp_path, monkeypatch):
    """Number: dev .5 .7 .7 .6: the second is saved, and no later one.

    Catches: the last one; the later one at a tie; the worst.
    """
    fake_training(monkeypatch, [0.5, 0.7, 0.7, 0.6])
    saved, run_json = looks_at_dev(world, tmp_path, monkeypatch, [])
    assert saved == [1, 2]
    assert [choice["step"] for choice in run_json["choices"]] == [2, 4, 6, 8]
    assert run_json["complete"]


def test_looks_that_were_had_count_after_an_interruption(world, tmp_path, monkeypatch):
    """Number: .7 at step 4 before; .6 and .7 after it are no better. Catches: a best that starts at
    nothing; looks that are had twice."""
    before = [
        {"step": 2, "n": 2, "accuracy": 0.5},
        {"step": 4, "n": 2, "accuracy": 0.7},
    ]
    fake_training(monkeypatch, [0.6, 0.7])
    saved, run_json = looks_at_dev(world, tmp_path, monkeypatch, before)
    assert saved == []
    assert [choice["step"] for choice in run_json["choices"]] == [2, 4, 6, 8]


# ---- many runs -----------------------------------------------------------------------------------


def finished(robust, seed, standard, generalized):
    """What `compare_recipes` reads of a run: of four pairs the shares that are right."""
    clean = {"attack": "clean", "settings": {}, "control": False, "attack_seed": 0, "lir": 0}
    records = []
    for first, second, accuracy in (("de", "de", 0.5), ("de", "en", seed / 10)):
        langs = {"first_lang": first, "second_lang": second}
        records.append(clean | langs | {"accuracy": accuracy})
        if first != second:
            records.append(clean | {"first_lang": second, "second_lang": first, "accuracy": 1.0})
    records.append(clean | {"first_lang": "en", "second_lang": "en", "accuracy": 0.25})
    arrays = {
        "group": np.array([0, 1, 2, 3]),
        "clean|standard": np.array(standard, dtype=float),
        "clean|generalized": np.array(generalized, dtype=float),
    }
    return {"robust": robust, "seed": seed, "results": records, "arrays": arrays}


def test_robust_training_is_compared_with_plain_training_by_seed_and_pair():
    """Number: right in .25 of four pairs more in the standard setting, in .75 more in the
    generalized one, for either seed: so .5 more there. Seed 0 has no plain run.

    Catches: the difference with its sign turned; seeds paired by their order; the two settings
    exchanged.
    """
    runs = [
        finished("adv", 0, [0, 0, 0, 0], [0, 0, 0, 0]),
        finished("adv", 2, [1, 1, 0, 0], [1, 1, 1, 0]),
        finished("none", 1, [1, 0, 0, 0], [0, 0, 0, 0]),
        finished("none", 2, [1, 0, 0, 0], [0, 0, 0, 0]),
        finished("adv", 1, [1, 1, 0, 0], [1, 1, 1, 0]),
    ]
    found = {c.view: c for c in pairs.compare_recipes(runs)}
    assert {view: c.difference for view, c in found.items()} == {
        "standard": 0.25,
        "generalized": 0.75,
        "generalized - standard": 0.5,
    }
    smallest = min(c.p for c in found.values())
    assert 0 < 3 * smallest < 1
    assert min(c.holm for c in found.values()) == pytest.approx(3 * smallest), "three tests"
    assert found["standard"].n_seeds == 2
    assert found["standard"].n_groups == 4
    (text,) = pairs.answer(list(found.values()))
    assert text.startswith("Clean: adv ")
    assert "the generalized setting" in text
    one_seed = pairs.compare_recipes([run for run in runs if run["seed"] == 1])
    assert pairs.answer(one_seed)[-1] == study.ONE_SEED


def test_one_group_of_pairs_is_not_compared():
    """Number: four pairs of one premise. Catches: an error after hours, instead of the table."""
    right, wrong = [1] * 4, [0] * 4
    runs = [
        finished("adv", 0, right, right),
        finished("none", 0, wrong, wrong),
    ]
    for run in runs:
        run["arrays"]["group"] = np.zeros(4, dtype=int)
    assert pairs.compare_recipes(runs) == []
    assert pairs.answer([]) == []


def test_a_row_is_a_recipe_and_condition():
    """Number: seeds 0 and 4 of `finished`: de-en is right in 0 and .4, en-de in 1: generalized
    (.5 + .7) / 2 = .6, standard (.5 + .25) / 2 = .375. The second recipe has one seed.

    Catches: seeds of two recipes in one mean; means of the trained language in another column.
    """
    runs = [finished("none", 0, [0], [0]), finished("none", 4, [0], [0])]
    runs.append(finished("adv", 4, [0], [0]))
    for run in runs:
        run["train_lang"] = "en"
    attacked = [record | {"attack": "typos", "accuracy": 0.0} for record in runs[2]["results"]]
    runs[2]["results"] = runs[2]["results"] + attacked
    head, none, adv, typos = pairs.results_rows(runs)
    assert head[:4] == ["robust", "condition", "n", "trained"]
    assert none == [
        "none",
        "clean",
        "2",
        ".250 ±.000",
        ".375 ±.000",
        ".500 ±.000",
        ".600 ±.141",
        ".487 ±.071",
    ]
    assert adv[:3] == ["adv", "clean", "1"]
    assert adv[6] == ".700"
    assert typos[:3] == ["adv", "typos", "1"]
    assert typos[6] == ".000"


def test_pairs_that_share_a_sentence_are_one_group():
    """Number: a-b, c-d, e-b share b and are one; f-c joins c-d. Catches: a premise counted three
    times; only first sentences compared.
    """
    sentences = [("a", "b"), ("c", "d"), ("e", "b"), ("f", "c"), ("g", "h")]
    given = [pair_of(first, second) for first, second in sentences]
    first, second, third, fourth, fifth = pairs.groups_of(given)
    assert first == third
    assert second == fourth
    assert len({first, second, fifth}) == 3


def test_a_pair_joins_two_groups():
    """Number: b-d joins a-b, e-b with c-d, f-c: five pairs are one group, g-h another. Catches: the
    last pair moved alone, and the others left behind.
    """
    sentences = [("a", "b"), ("c", "d"), ("e", "b"), ("f", "c"), ("g", "h"), ("b", "d")]
    groups = pairs.groups_of([pair_of(first, second) for first, second in sentences])
    assert len(set(groups)) == 2
    assert (groups == groups[0]).tolist() == [True, True, True, True, False, True]


def test_a_matrix_is_the_mean_over_seeds():
    """Number: sentence 1 in German and 2 in English is right in 0 and .4 of the pairs: .2; the
    other way round always. Catches: rows and columns exchanged.
    """
    runs = [finished("none", 0, [0], [0]), finished("none", 4, [0], [0])]
    (matrix,) = pairs.mean_matrices(runs)
    assert matrix["langs"] == ["de", "en"]
    assert matrix["values"] == [[0.5, 0.2], [1.0, 0.25]]
    assert matrix["n"] == 2


def test_the_page_holds_table_comparisons_matrices_and_runs(world, tmp_path):
    """Claim: it is XML that a parser reads, with every part, and no link to outside.

    Catches: a part without its place; a page written before the runs are done.
    """
    report = tmp_path / "report.html"
    flags = ["--robust", "none", "rs-rp", "--seed", "0", "1", "--report", str(report)]
    assert run(world, tmp_path / "out", *flags) == 0
    text = report.read_text(encoding="utf-8")
    page = ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))
    sections = [part.get("id") for part in page.iter("section")]
    assert sections == ["answer", "table", "comparisons", "matrices", "runs"]
    assert "rs-rp minus none" in "".join(page.itertext())
    assert "http" not in text


# ---- what is refused -----------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_stopped(world, tmp_path, monkeypatch):
    """Claim: to the same bytes. Number: stopped in step 5 of 6, after the look at dev at 3 and a
    checkpoint at 4.

    Catches: a plan that starts over; a choice that is lost, or made again with later weights; cut
    pairs that are counted once more at each look at dev.
    """
    every = ["--save-every", "4", "--length", "11"]  # so short that pairs are cut
    assert run(world, tmp_path / "whole", *every) == 0
    plain_step = pairs.pair_step

    def step_or_stop(*args):
        """Ctrl-C in step 5."""
        if args[-1] == 5:
            raise KeyboardInterrupt
        return plain_step(*args)

    monkeypatch.setattr(pairs, "pair_step", step_or_stop)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "stopped", *every)
    monkeypatch.setattr(pairs, "pair_step", plain_step)
    assert run(world, tmp_path / "stopped", *every) == 0
    whole = xlt.read_record(tmp_path / "whole/pairs-none-seed0/run.json", "")
    stopped = xlt.read_record(tmp_path / "stopped/pairs-none-seed0/run.json", "")
    assert whole["choices"] == stopped["choices"]
    (cut,) = whole["truncated"]
    assert whole["truncated"] == stopped["truncated"]
    assert cut["tower"] == "pair"
    assert cut["of"] == 24, "6 steps of 4 pairs"
    assert 0 < cut["cut"] <= 24
    for file in ("model/model.safetensors", "model/head.json", "metrics.json"):
        name = f"pairs-none-seed0/{file}"
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "stopped" / name
        ).read_bytes()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--robust", "nonsense"], 2, "nonsense"),
        (["--robust", "rs-da:perturb=query"], 2, "perturbed in both sentences"),
        (["--train-lang", "fr"], 1, "no train-fr.tsv. There is en"),
        (["--test-langs", "fr"], 1, "no test-fr.tsv. There is de, en"),
        (["--robust", "code-switch"], 1, "dictionary.tsv: no such dictionary"),
        (["--robust", "rs-da", "--words", "/nowhere"], 1, "/nowhere/synonyms"),
        (["--attacks", "greedy", "--words", "/nowhere"], 1, "/nowhere/synonyms"),
        (["--attacks", "nonsense"], 2, "nonsense"),
        (["--report", "page.txt"], 1, "page.txt"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(world, tmp_path, capsys, flags, code, message):
    """Catches: a missing table found after an hour."""
    assert run(world, tmp_path / "out", *flags) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "--limit -1",
        "--chunk-size -1",
        "--weight-decay -1",
        "--choices 0",
        "--test-langs de de",
        "--length 7",
        "--warmup 1",
        "--lr nan",
    ],
)
def test_a_value_that_cannot_be_meant_is_wrong_usage(capsys, text):
    """Catches: --limit -1, which left out the last pair; a language that counts twice."""
    flag, *values = text.split()
    with pytest.raises(SystemExit, match="2"):
        pairs.parse([flag, *values])
    assert f"error: {flag}" in capsys.readouterr().err
