"""Rung 21: two sentences in one input, a head, and the same perturbations.

Builds: pairs.py. Before: rungs 1, 4, 11, 14, 15. Run: pytest tests/test_21_pairs.py
"""

import json
import math
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import ROOT

import attacks
import pairs
import train
import xlt
from pairs import Pair, PairClassifier, average_precision, load_pairs, macro_means, pair_losses
from train import View
from xlt import Text

LABELS = ["0", "1"]
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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", "1"), ("a", "0")], r"test-de.tsv:3: 2 columns"),
        ([("a", "b", "1"), ("a", "b", "2")], r"test-de.tsv:3: label '2' is none of 0, 1"),
        ([("a", "b", "1"), ("a", "b", "1")], r"test-de.tsv:3: label '1', but '0' in .*test-en"),
        ([("a", "b", "1")], r"test-de.tsv: 1 pairs, .*test-en.tsv has 2"),
        ([("a", "b", "1"), ("a", " ", "0")], r"test-de.tsv:3: an empty cell"),
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
        ("final-de.tsv", pairs.HEADER + "\na\tb\t1\n", r"final-de.tsv: is not named"),
    ],
)
def test_a_file_that_is_none_of_pairs_is_refused(world, name, text, message):
    """Catches: the first pair taken for a header; a split that nobody reads."""
    (world / "pairs" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
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
    assert "dog" in text
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


def test_a_saved_classifier_gives_the_same_logits(encoder, tmp_path):
    """Claim: bit for bit. Catches: a new head; the length or the order of the labels lost."""
    classifier = PairClassifier(encoder, 3, length=40, seed=5)
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

    Catches: KL the other way is the same here, so also (0, 2), whose KL is .760.
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


def make_step(world, robust, chunk_size=0, dropout=0.1):
    """Four pairs, a fresh classifier in training mode, and what perturbs them."""
    argv = ["--data", str(world), "--robust", robust, "--batch-size", "4"]
    (flags,) = pairs.single_runs(pairs.parse([*argv, "--chunk-size", str(chunk_size)]))
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

    Catches: a number a sentence, which makes 9; copies drawn anew.
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
    """Claim: pgd in a larger ball never does less. Catches: noise uphill; noise that is not there;
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


def test_what_an_attack_broke_was_right_before(world, encoder):
    """Number: two pairs a cell, attacked in German and English alone. Catches: a matrix attacked
    that was asked for its diagonal; more broken than right."""
    classifier = PairClassifier(encoder, 2, seed=1)
    data = load_pairs(world)
    attack = attacks.parse_attack("typos-greedy:edits=2")
    cells = [("de", "de"), ("en", "en")]
    matrix = pairs.evaluate_matrix(classifier, pairs.TestPart(data, "test"), cells, attack, {}, 0)
    for record in matrix.records:
        assert record["attack"] == "typos-greedy"
        assert record["n_broken"] <= record["n_right"] <= 2
        right = record["n_right"] - record["n_broken"]
        assert record["accuracy"] == pytest.approx(right / 2), "nothing wrong becomes right here"
    assert [record["first_lang"] for record in matrix.records] == ["de", "en"]


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

    Catches: a matrix without its other half; the last checkpoint instead of the best.
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
    """Catches: hours for a table. Number: no step and no matrix on the second day; another attack
    is evaluated, and still not trained.
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
    metrics = pairs.read_metrics(tmp_path / "out/pairs-none-seed0")
    assert {record["attack"] for record in metrics["results"]} == {"clean", "typos"}


def test_limit_takes_the_first_pairs_of_every_language(world, tmp_path):
    """Number: one pair of two. Catches: a limit on the training pairs, or on one language."""
    assert run(world, tmp_path / "out", "--limit", "1") == 0
    metrics = pairs.read_metrics(tmp_path / "out/pairs-none-seed0")
    assert [record["n"] for record in metrics["results"]] == [1, 1, 1, 1]


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
    generalized one, for either seed: so .5 more there. Seed 2 has no plain run.

    Catches: the difference with its sign turned; seeds paired by their order; the two settings
    exchanged.
    """
    runs = [
        finished("adv", 2, [0, 0, 0, 0], [0, 0, 0, 0]),
        finished("adv", 0, [1, 1, 0, 0], [1, 1, 1, 0]),
        finished("none", 1, [1, 0, 0, 0], [0, 0, 0, 0]),
        finished("none", 0, [1, 0, 0, 0], [0, 0, 0, 0]),
        finished("adv", 1, [1, 1, 0, 0], [1, 1, 1, 0]),
    ]
    found = {c.view: c for c in pairs.compare_recipes(runs)}
    assert {view: c.difference for view, c in found.items()} == {
        "standard": 0.25,
        "generalized": 0.75,
        "generalized - standard": 0.5,
    }
    assert found["standard"].n_seeds == 2
    assert found["standard"].n_groups == 4
    (text,) = pairs.answer(list(found.values()))
    assert text.startswith("Clean: adv ")
    assert "the generalized setting" in text


def test_pairs_that_share_a_sentence_are_one_group():
    """Number: a-b, c-d, e-b share b and are one; f-c joins c-d. Catches: a premise that counts three
    times; only first sentences compared.
    """
    sentences = [("a", "b"), ("c", "d"), ("e", "b"), ("f", "c"), ("g", "h")]
    given = [pair_of(first, second) for first, second in sentences]
    first, second, third, fourth, fifth = pairs.groups_of(given)
    assert first == third
    assert second == fourth
    assert len({first, second, fifth}) == 3


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

    Catches: a plan that starts over; a choice that is lost, or made again with later weights.
    """
    every = ["--save-every", "4"]
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
    choices = []
    for name in ("whole", "stopped"):
        manifest = xlt.read_record(tmp_path / name / "pairs-none-seed0/run.json", "")
        choices.append(manifest["choices"])
    assert choices[0] == choices[1]
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
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(world, tmp_path, capsys, flags, code, message):
    """Catches: a missing table found after an hour."""
    assert run(world, tmp_path / "out", *flags) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
