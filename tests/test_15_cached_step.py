"""Rung 15: a batch of any size in the memory of a chunk, with the gradient of the whole batch.

Builds: train.py, from `plan_chunks` to `backward_views`, and `make_optimizer` to `update`.
Before: rung 14. Run: pytest tests/test_15_cached_step.py
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from gradients import CASES, gradients_of, make_step
from training_world import write_encoder, write_world

import train
import xlt
from train import PlannedChunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The world of training_world.py, its encoder in model/."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    write_encoder(folder / "model")
    return folder


def largest_difference(first, second):
    """Of two sets of gradients, over the largest gradient of all; NaN if there is any."""
    assert first.keys() == second.keys()
    size = torch.stack([grad.abs().max() for grad in first.values()]).max()
    gaps = torch.stack([(first[name] - second[name]).abs().max() for name in first])
    return float(gaps.max() / size)


# ---- the gradient of the whole batch -------------------------------------------------------------


@pytest.mark.parametrize(("batching", "robust"), CASES)
def test_a_cached_step_has_the_gradient_of_the_plain_one(folder, batching, robust):
    """Claim: with dropout, in every batching and robust method, from the same chunks.

    Number: 3e-6 of the largest gradient; with other dropout in the second pass it is above 0.1.
    Catches: a chunk encoded again without its seed; a view whose gradient is forgotten; noise that
    is forgotten.
    """
    plain = make_step(folder, batching, robust)
    cached = make_step(folder, batching, robust, chunk_size=1000)  # the chunks of the plain step
    losses, again = plain.run().losses, cached.run().losses
    assert torch.equal(losses.loss, again.loss)
    gap = largest_difference(gradients_of(plain.encoder), gradients_of(cached.encoder))
    assert gap < 3e-6


def gradient_of_one_graph(step):
    """Of the plain loss over all chunks in one graph, which is what caching saves the memory of."""
    views = train.clean_views(step.encoder, step.batch, step.perturber)
    chunks = train.plan_chunks(step.encoder, views, step.flags.seed, 3, "clean")
    vectors = torch.zeros(16, 32)
    for chunk in chunks:
        output = train.encode_planned(step.encoder, views, chunk)  # (b, D)
        vectors = vectors.index_put((torch.tensor(chunk.places),), output)
    p, q = vectors[:8], vectors[8:]
    mask = xlt.false_negatives(step.batch.gold, step.batch.passage_group)
    scores = (q @ p.T / step.flags.tau).masked_fill(mask, -math.inf)
    F.cross_entropy(scores, torch.arange(8)).backward()
    return gradients_of(step.encoder)


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_small_chunks_have_the_gradient_of_one_graph(folder, chunk_size):
    """Claim: a query's loss reaches the passages of all chunks.

    Number: by autograd through one graph, with dropout, to 3e-6. Catches: a loss by chunks, whose
    negatives are those of the chunk; the gradient of one column of vectors alone.
    """
    step = make_step(folder, "x-y", "none", chunk_size)
    step.run()
    cached = gradients_of(step.encoder)
    train.zero_gradients(step.encoder)
    assert largest_difference(cached, gradient_of_one_graph(step)) < 3e-6


def test_the_temperature_counts_in_a_cached_step(folder):
    """Claim: another tau, another gradient. Catches: a temperature that caching ignores."""
    first = make_step(folder, "x-y", "none", 2, 0.1, "--tau", "0.05")
    second = make_step(folder, "x-y", "none", 2, 0.1, "--tau", "0.5")
    first.run(), second.run()
    gap = largest_difference(gradients_of(first.encoder), gradients_of(second.encoder))
    assert gap > 0.1


def test_long_texts_share_chunks_of_as_many_tokens(folder):
    """Number: with --chunk-size 2 a chunk holds 128 tokens: two texts of 60, one of 100, one of
    300, which is longer than a chunk.

    Catches: memory that grows with the batch, of which the longest texts are one chunk.
    """
    encoder = xlt.load_encoder(folder / "model")
    rows = [{"input_ids": [5] * n} for n in (60, 100, 300, 60, 100, 60)]
    encoder.chunk_size = 2
    assert encoder.chunks(rows) == [[0], [3, 5], [1], [4], [2]]


@pytest.mark.parametrize("robust", ["none", "adv:how=pgd"])
def test_no_more_texts_than_a_chunk_have_a_graph(folder, monkeypatch, robust):
    """Claim: with --chunk-size 3 nothing with more than three texts goes through the encoder, and
    every text goes through twice: without a graph, then with one.

    Number: 16 texts (and 8 perturbed queries, searched for by fgm and 3 + 1 gradients of pgd).
    Catches: a graph that is kept for all chunks; a search for worst-case noise that takes all texts
    at once, or is made again.
    """
    step = make_step(folder, "x-y", robust, chunk_size=3)
    plain, texts, searched = step.encoder.from_embeddings, {True: 0, False: 0}, []

    def watched(embeddings, batch):
        assert len(embeddings) <= 3
        if step.encoder.training:
            texts[torch.is_grad_enabled()] += len(embeddings)
        else:  # the search, which is in eval mode
            searched.append(len(embeddings))
        return plain(embeddings, batch)

    monkeypatch.setattr(step.encoder, "from_embeddings", watched)
    step.run()
    count = 16 if robust == "none" else 24
    assert texts == {True: count, False: count}
    assert sum(searched) == (0 if robust == "none" else 5 * 8)


def test_a_chunk_has_one_dropout_however_often_it_is_encoded(folder):
    """Claim: and another one in another step, for other texts, under another --seed.

    Catches: the state of torch's generator; a seed that all chunks share.
    """
    step = make_step(folder, "x-y", "none", chunk_size=4)
    views = train.clean_views(step.encoder, step.batch, step.perturber)
    plans = [train.plan_chunks(step.encoder, views, *stream) for stream in [(0, 1), (0, 2), (1, 1)]]
    first = train.encode_planned(step.encoder, views, plans[0][0])
    torch.rand(5)
    assert torch.equal(train.encode_planned(step.encoder, views, plans[0][0]), first)
    for plan in plans[1:]:
        assert plan[0].places == plans[0][0].places
        assert not torch.equal(train.encode_planned(step.encoder, views, plan[0]), first)
    seeds = [chunk.seed for plan in plans for chunk in plan]
    assert len(set(seeds)) == len(seeds)


# ---- chunks over several processes ---------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_chunk_is_encoded_by_one_process(monkeypatch, count):
    """Number: tokens 90, 70, 60, 40, 30, 10, the largest first, each to the process that has least:
    over two 90 + 40 + 30 and 70 + 60 + 10, over three 100 each.

    Catches: every second chunk, which gives 180 and 120; a chunk that two processes encode.
    """
    chunks = [PlannedChunk([i], i, tokens) for i, tokens in enumerate([10, 30, 40, 60, 70, 90])]
    monkeypatch.setattr(train, "n_processes", lambda: count)
    shares = []
    for number in range(count):
        monkeypatch.setattr(train, "process_number", lambda number=number: number)
        shares.append(train.own_chunks(chunks))
    seeds = [chunk.seed for share in shares for chunk in share]
    assert sorted(seeds) == [0, 1, 2, 3, 4, 5]
    tokens = [sum(chunk.tokens for chunk in share) for share in shares]
    assert tokens == {1: [300], 2: [160, 140], 3: [100, 100, 100]}[count]


# ---- word embeddings: most of the weights, few of them in a step ---------------------------------


def test_word_embeddings_have_the_gradient_of_their_own_words(folder):
    """Claim: what autograd gives without any of this, dense: zeros but for the words of the step.

    Catches: rows that are lost when two chunks share a word; a gradient left of the step before.
    """
    step = make_step(folder, "x-y", "none")
    step.run()
    train.zero_gradients(step.encoder)
    step.run()
    sparse = gradients_of(step.encoder)
    dense = make_step(folder, "x-y", "none")
    dense.encoder.model.get_input_embeddings().sparse = False
    dense.encoder.word_table.grad = None
    dense.run()
    assert largest_difference(sparse, gradients_of(dense.encoder)) < 1e-6
    rows = dense.encoder.word_table.grad.abs().sum(1) > 0
    assert 10 < int(rows.sum()) < 200, "of 16,000"


def test_an_update_is_that_of_adamw(folder):
    """Number: two steps of torch's plain AdamW after its clipping, on dense gradients, to 1e-6 of a
    step's 1e-3. Catches: weight decay or momentum that skips words which a step has not met.
    """
    step = make_step(folder, "x-y", "none", 0, 0.1, "--lr", "1e-3")
    other = make_step(folder, "x-y", "none", 0, 0.1)
    optimizer = train.make_optimizer(step.encoder, step.flags)
    plain = torch.optim.AdamW(other.encoder.parameters(), lr=1e-3, weight_decay=1e-2, fused=False)
    pairs = xlt.TrainingPairs(step.perturber.data, ["en", "de"])
    # 16 questions: the second batch has the other eight, so that words of the first have momentum
    for number, batch in enumerate(xlt.batches(pairs, "x-y", 8, 2), 1):
        step.batch = other.batch = batch
        step.run(number), other.run(number)
        norm = train.update(step.encoder, optimizer, clip=0.5)
        expected = torch.nn.utils.clip_grad_norm_(other.encoder.parameters(), 0.5)
        plain.step()
        train.zero_gradients(other.encoder)
        assert norm == pytest.approx(expected.item(), rel=1e-5)
    weights = dict(other.encoder.named_parameters())
    for name, weight in step.encoder.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)


def test_an_update_that_is_not_finite_changes_nothing(folder):
    """Claim: weights stay, the norm tells. Catches: NaN in all weights."""
    step = make_step(folder, "x-y", "none")
    optimizer = train.make_optimizer(step.encoder, step.flags)
    step.run()
    before = step.encoder.word_table.detach().clone()
    step.encoder.word_table.grad[5] = math.nan
    assert not train.update(step.encoder, optimizer, 1.0).isfinite()
    assert torch.equal(step.encoder.word_table, before)


@pytest.mark.parametrize("robust", ["none", "adv"])
def test_frozen_words_stay_and_all_else_has_the_same_gradient(folder, robust):
    """Claim: --freeze-words takes the word embeddings out of training and nothing else.

    Catches: a frozen table that AdamW decays; noise that needs its gradient.
    """
    free, frozen = make_step(folder, "x-y", robust), make_step(folder, "x-y", robust)
    frozen.flags = replace(frozen.flags, freeze_words=True)
    optimizer = train.make_optimizer(frozen.encoder, frozen.flags)
    before = frozen.encoder.word_table.detach().clone()
    free.run(), frozen.run()
    expected = gradients_of(free.encoder)
    (words,) = [name for name in expected if "word_embeddings" in name]
    del expected[words]
    assert largest_difference(gradients_of(frozen.encoder), expected) < 1e-6
    train.update(frozen.encoder, optimizer, 1.0)
    assert torch.equal(frozen.encoder.word_table, before)
    assert frozen.encoder.word_table.grad is None


# ---- tokens --------------------------------------------------------------------------------------


def test_training_tokenizes_a_text_once(folder, monkeypatch):
    """Claim: the second epoch calls the tokenizer for nothing; what was cut is counted each time.

    Catches: tokens without the tower's prefix, of one text in both towers; counts of the first
    epoch alone.
    """
    step = make_step(folder, "x-y", "none", 0, 0.1)
    encoder, texts = step.encoder, step.perturber.data.queries[:3]
    encoder.settings = replace(encoder.settings, query_length=6)
    first = encoder.tokenize(texts, "query")
    assert encoder.texts_cut["query", texts[0].lang] > 0, "no query was too long"
    as_passages = encoder.tokenize(texts, "passage")
    assert as_passages != first

    def refuse(*args, **more):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(encoder, "_call_tokenizer", refuse)
    cut, seen = encoder.texts_cut.total(), encoder.texts_seen.total()
    assert encoder.tokenize(texts, "query") == first
    assert encoder.tokenize(texts, "passage") == as_passages
    assert encoder.texts_seen.total() == 2 * seen == 12
    assert encoder.texts_cut.total() == 2 * cut


def test_a_step_reports_its_tokens(folder):
    """Number: the lengths of all rows, and of each chunk texts times longest. Catches: padding
    counted as tokens, of which a speed would look too high.
    """
    step = make_step(folder, "x-y", "rs-da", chunk_size=5)
    report = step.run()
    views = train.clean_views(step.encoder, step.batch, step.perturber)
    views += train.perturbed_views(step.encoder, step.batch, step.perturber, 3)
    tokens = sum(len(row["input_ids"]) for view in views for row in view.rows)
    assert report.tokens == tokens
    assert tokens < report.padded_tokens < 1.5 * tokens


# ---- the log -------------------------------------------------------------------------------------


def test_the_log_tells_how_fast_training_is():
    """Number: 900 tokens (1,000 with padding) in 3 s are 300 a second; at 2 GFLOP a token 600 of
    1,000 GFLOP/s. Then the next line starts at 0.

    Catches: seconds since the start; padding that counts as work.
    """
    state = train.LoopState(tokens=900, padded_tokens=1000, line_seconds=4.0)
    columns = train.speed_columns(state, 7.0, flops_a_token=2e9, limit=1e12)
    assert columns.pop("peak_gb") > 0.1
    assert columns == {"padding": 0.1, "tokens_per_s": 300, "mfu": 0.6}
    assert (state.tokens, state.padded_tokens, state.line_seconds) == (0, 0, 7.0)


def test_embeddings_are_no_matrix_weights(folder):
    """Number: one layer of 32 and 64: four matrices 32 x 32 and two 32 x 64 with their biases, two
    layer norms, and the one after the embeddings.

    Catches: the 16,000 rows of words, which no token is multiplied with.
    """
    layer = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 64
    encoder = xlt.load_encoder(folder / "model")
    assert train.matrix_weights(encoder) == layer + 64


# ---- out of memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk_size", "remedy"),
    [(0, "Add --chunk-size 32"), (16, "Take --chunk-size 8 and not 16"), (1, "--freeze-words")],
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_flag_to_lower(
    folder, monkeypatch, capsys, error, chunk_size, remedy
):
    """Claim: one line with the flag and its next value. Catches: torch's own advice, which is
    about its allocator.
    """

    def fail(*args):
        raise error

    monkeypatch.setattr(train, "training_step", fail)
    argv = ["--model", folder / "model", "--data", folder, "--out", folder / f"runs{chunk_size}"]
    argv += ["--train-langs", "en", "de", "--batch-size", 8, "--chunk-size", chunk_size]
    argv += ["--overwrite", "--batching", "x-y", "--steps", 2]
    assert train.main([str(word) for word in argv]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("train.py: out of memory")
    assert remedy.replace("32", "4") in last
