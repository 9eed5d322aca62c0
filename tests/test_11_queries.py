"""Rung 11, part 5 of 5: noise on the words of real queries, in a real encoder.

Builds: attacks.mean_norm, ball_radius, embedding_chunks, attack_embeddings, control_embeddings.
Before: rung 1, parts 1 to 4. Run: pytest tests/test_11_queries.py
"""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import attacks
from attacks import (
    AttackedQuery,
    Pools,
    attack_queries,
    ball_radius,
    control_queries,
    make_pools,
    margins,
    mean_norm,
    parse_attack,
    random_noise,
)
from xlt import DataSet, Encoder, Text, load_encoder

ROOT = Path(__file__).parents[1]

# Of unequal lengths; the encoder has no piece for the last one's sign, so it holds <unk>
QUERIES = [
    Text("0", "en", "Which city is the capital of France?", ""),
    Text("1", "de", "Wer?", ""),
    Text("2", "de", "Welche Stadt ist die Hauptstadt von Frankreich?", ""),
    Text("3", "th", "เมืองหลวงของฝรั่งเศสคือเมืองใด", ""),
    Text("4", "en", "Where is the highest lake of all in the south of Peru?", ""),
    Text("5", "en", "Who is 🜚?", ""),
]
ATTACKS = [
    "gaussian:epsilon=0.1",
    "uniform:epsilon=0.1,ball=sentence",
    "fgm:epsilon=0.1",
    "fgm:epsilon=0.1,norm=max",
    "pgd:epsilon=0.1,steps=2,ball=sentence",
]


def make_random_pools():
    """Forty random passages in two languages; passage q answers query q, and 20 + q does."""
    p = F.normalize(torch.randn(40, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    passages = [Text("", "de", "", "")] * 20 + [Text("", "en", "", "")] * 20
    qrels = {}
    for query in range(6):
        qrels[query] = {query: 1.0, 20 + query: 1.0}
    data = DataSet(Path(), QUERIES, passages, {"test": qrels})
    return make_pools(p, data, list(range(6)), list(range(40)), "test")


@pytest.fixture(scope="module")
def pools() -> Pools:
    return make_random_pools()


@pytest.fixture(scope="module")
def shared() -> Encoder:
    """The bundled encoder, for tests that do not change it."""
    return load_encoder(ROOT / "data/tiny_xlmr")


def make_items(view="pool"):
    """The queries, not yet attacked."""
    return [AttackedQuery(row, view, text, []) for row, text in enumerate(QUERIES)]


def attacked(encoder, pools, text, items=None, seed=0):
    """The vectors of the queries under an attack (6, D)."""
    if items is None:
        items = make_items()
    return attack_queries(items, encoder, pools, parse_attack(text), seed)


# ---- the unit of epsilon -------------------------------------------------------------------------


@pytest.fixture
def three_words():
    """A fake encoder that is nothing but three word embeddings, of norm 5, 1 and 0."""
    return SimpleNamespace(word_table=torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]))


def test_the_unit_of_epsilon_is_the_mean_norm_of_a_word_embedding(three_words):
    """Number: (5 + 1 + 0) / 3. Catches: the norm of the mean, 1.94; the largest, 5."""
    assert mean_norm(three_words) == pytest.approx(2.0)


def test_the_radius_of_a_ball_is_epsilon_mean_norms(three_words):
    """Number: 0.7 * 2. Catches: epsilon taken for the radius."""
    assert ball_radius(0.7, "l2", three_words) == pytest.approx(1.4)


def test_a_cube_fits_into_the_ball_of_the_same_epsilon(three_words):
    """Number: D = 2, so a corner is sqrt(2) sides away: 1.4 / sqrt(2). Catches: the cube around
    the ball, which lets the L2 norm grow with D.
    """
    assert ball_radius(0.7, "max", three_words) == pytest.approx(1.4 / math.sqrt(2))


# ---- where the noise is --------------------------------------------------------------------------


class Recorder:
    """Stands between an attack and its encoder, and remembers the last embeddings of each batch."""

    def __init__(self, encoder):
        self.forward = encoder.from_embeddings
        self.table = encoder.model.get_input_embeddings().weight.detach()
        self.last = {}  # input ids, as tuples -> embeddings (B, T, D)

    def __call__(self, embeddings, batch):
        key = tuple(map(tuple, batch["input_ids"].tolist()))
        self.last[key] = embeddings.detach()
        return self.forward(embeddings, batch)

    def noises(self):
        """Yield the ids (B, T) and the noise (B, T, D) of each batch."""
        for key, embeddings in self.last.items():
            ids = torch.tensor(key)
            yield ids, embeddings - self.table[ids]


@pytest.fixture(scope="module", params=ATTACKS)
def record(request, shared, pools):
    """What one attack adds to the queries: the attack, its items and its recorder."""
    recorder, items = Recorder(shared), make_items()
    shared.from_embeddings = recorder
    attacked(shared, pools, request.param, items)
    del shared.from_embeddings  # back to the class's own
    return SimpleNamespace(attack=parse_attack(request.param), items=items, recorder=recorder)


def test_no_noise_touches_padding_or_special_tokens(record):
    """Number: XLM-R's <s>, <pad>, </s> are the ids 0, 1 and 2. Catches: noise wherever the
    attention mask is 1, noise on padding.
    """
    padded = False
    for ids, noise in record.recorder.noises():
        assert noise[ids <= 2].eq(0).all()
        padded |= bool(ids.eq(1).any())
    assert padded, "no batch was padded"


def test_every_word_gets_noise_even_an_unknown_one(record):
    """Number: <unk> is the id 3. Catches: all of the tokenizer's special ids, <unk> among them."""
    unknown = False
    for ids, noise in record.recorder.noises():
        assert noise.ne(0).any(-1)[ids > 2].all()
        unknown |= bool(ids.eq(3).any())
    assert unknown, "no query holds an unknown word"


def radius_of(table):
    """Epsilon 0.1 in mean norms of the embeddings (V, D), by hand."""
    norms = torch.sqrt((table.double() ** 2).sum(1))
    return 0.1 * norms.mean().item()


@pytest.mark.parametrize("record", ATTACKS[1:], indirect=True)
def test_the_noise_fills_the_ball_and_does_not_leave_it(record):
    """Claim: the largest token or sentence is 0.5 to 1 radii long, to 1e-5 (float32); fgm's tokens
    are all one radius long, in the cube, too, where each coordinate has the radius / sqrt(128). A
    Gaussian has no largest length.

    Catches: epsilon not in units of the embeddings' norm; a ball of the wrong scope, in which the
    longest of four tokens still has 0.5 radii.
    """
    largest, shortest = 0.0, math.inf
    for ids, noise in record.recorder.noises():
        if record.attack.norm == "max":
            sizes = noise.abs() * math.sqrt(128)
        elif record.attack.ball == "token":
            sizes = noise.norm(dim=-1)
        else:
            sizes = noise.norm(dim=(1, 2))
        largest = max(largest, sizes.max().item())
        shortest = min(shortest, noise.norm(dim=-1)[ids > 2].min().item())
    radius = radius_of(record.recorder.table)
    assert 0.5 < largest / radius <= 1 + 1e-5
    if record.attack.name == "fgm":
        assert shortest == pytest.approx(radius, rel=1e-4)


def test_an_item_knows_the_mean_norm_of_its_noise(record):
    """Claim: the mean over its words, in mean norms of an embedding, to 1e-5 (float32).

    Catches: a mean over padding and special tokens too; the norm of the whole sentence.
    """
    unit = radius_of(record.recorder.table) / 0.1
    expected = []
    for ids, noise in record.recorder.noises():
        lengths = noise.norm(dim=-1).sum(1)  # (B, T, D) -> (B,)
        n_words = (ids > 2).sum(1)
        expected += (lengths / n_words / unit).tolist()
    norms = [item.norm for item in record.items]
    assert sorted(norms) == pytest.approx(sorted(expected), abs=1e-5)


# ---- the encoder stays as it was -----------------------------------------------------------------


@pytest.mark.parametrize("attack", ["gaussian", "fgm", "pgd:steps=2"])
def test_an_attack_leaves_the_weights_alone(encoder, pools, attack):
    """Claim: bit for bit, and they still train. Catches: noise added to the embedding table; a
    requires_grad_(False) that nobody takes back.
    """
    before = [weight.detach().clone() for weight in encoder.parameters()]
    attacked(encoder, pools, attack)
    for weight, old in zip(encoder.parameters(), before, strict=True):
        assert torch.equal(weight, old)
        assert weight.requires_grad


@pytest.mark.parametrize("attack", ["fgm", "pgd:steps=2"])
def test_an_attack_leaves_the_gradients_of_the_weights_alone(encoder, pools, attack):
    """Claim: no .grad appears, one that is there stays. Catches: loss.backward(), which fills the
    .grad of every weight.
    """
    first, *others = encoder.parameters()
    first.grad = torch.ones_like(first)
    attacked(encoder, pools, attack)
    assert first.grad.eq(1).all()
    assert all(weight.grad is None for weight in others)


@pytest.mark.parametrize("attack", ["gaussian", "pgd:steps=2"])
def test_dropout_plays_no_part_in_an_attack(encoder, shared, pools, attack):
    """Claim: in training mode with half of all units dropped, the vectors are the same bits.

    Catches: a search in training mode.
    """
    encoder.train()
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    assert torch.equal(attacked(encoder, pools, attack), attacked(shared, pools, attack))


def test_an_attack_gives_the_training_mode_back(encoder, pools):
    """Claim: as Encoder.encode does. Catches: training on without dropout after an attack."""
    encoder.train()
    attacked(encoder, pools, "fgm")
    assert encoder.training


# ---- what an attack does -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian", "uniform", "fgm", "pgd"])
def test_epsilon_0_gives_the_clean_vectors(shared, pools, name):
    """Claim: bit for bit. Catches: another way to batch the queries, a step that is too long."""
    clean = shared.encode(QUERIES, "query")
    assert torch.equal(attacked(shared, pools, f"{name}:epsilon=0"), clean)


@pytest.mark.parametrize("name", ["gaussian", "uniform", "pgd:steps=2"])
def test_a_query_gets_the_same_vector_alone_and_in_a_batch(shared, pools, name):
    """Claim: to 1e-5, as float32 sums of other shapes agree. Catches: streams that are named by the
    position in the batch; noise drawn for the padded batch; vectors given to other queries.
    """
    clean = shared.encode(QUERIES, "query")
    text = f"{name},epsilon=0.5" if ":" in name else f"{name}:epsilon=0.5"
    together = attacked(shared, pools, text)
    assert (together - clean).norm(dim=1).min() > 0.01, "the attack did nothing"
    for row in range(6):
        one = make_items()[row : row + 1]
        alone = attacked(shared, pools, text, one)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_all_views_of_a_query_see_the_same_noise(shared, pools):
    """Claim: so that views can be compared. Catches: the view in the name of the stream."""
    mono = attacked(shared, pools, "uniform", make_items("mono"))
    pool = attacked(shared, pools, "uniform", make_items("pool"))
    assert torch.equal(mono, pool)


def test_queries_and_seeds_have_noise_of_their_own(shared, pools):
    """Claim: equal texts of two ids differ, and so do two seeds. Catches: one stream for all."""
    twins = []
    for name in ("a", "b"):
        twins.append(AttackedQuery(0, "pool", Text(name, "en", "Who is that?", ""), []))
    first, second = attacked(shared, pools, "gaussian", twins)
    again, _ = attacked(shared, pools, "gaussian", twins, seed=1)
    assert not torch.equal(first, second)
    assert not torch.equal(first, again)


# ---- a worst case against its control ------------------------------------------------------------


@pytest.fixture(scope="module")
def duel(shared, pools):
    """Margins in the pool under fgm, pgd and pgd's control, and the norms of the last two."""
    rows, pgd_text = torch.arange(6), "pgd:steps=2,epsilon=0.3"
    fgm = attacked(shared, pools, "fgm:epsilon=0.3")
    items, twins = make_items(), make_items()
    pgd = attacked(shared, pools, pgd_text, items)
    control = control_queries(twins, items, shared, parse_attack(pgd_text), 0)
    return SimpleNamespace(
        fgm=margins(pools, fgm, rows)[:, -1],
        pgd=margins(pools, pgd, rows)[:, -1],
        control=margins(pools, control, rows)[:, -1],
        pgd_norms=[item.norm for item in items],
        control_norms=[item.norm for item in twins],
    )


def test_the_control_of_a_worst_case_has_noise_of_the_same_norm(duel):
    """Claim: query by query, to 1e-5 (float32). Catches: epsilon for all; the norm of another query
    when the queries are sorted by length.
    """
    assert duel.control_norms == pytest.approx(duel.pgd_norms, abs=1e-5)
    assert max(duel.pgd_norms) - min(duel.pgd_norms) > 1e-3, "all norms are equal"


def test_a_control_draws_from_a_stream_of_its_own(shared, pools, monkeypatch):
    """Claim: its noise differs from uniform noise in direction, token by token. Number: the cosine
    of two directions in 128 dimensions has a deviation of .09: .9 is ten of them.

    Catches: the stream of the attack, whose random start the control would then share.
    """
    drawn = []

    def keep_noise(places, dim, rngs, *args):
        drawn.append(random_noise(places, dim, rngs, *args))
        return drawn[-1]

    monkeypatch.setattr(attacks, "random_noise", keep_noise)
    items, twins, attack = make_items(), make_items(), parse_attack("uniform")
    attack_queries(items, shared, pools, attack, 0)
    control_queries(twins, items, shared, attack, 0)
    half = len(drawn) // 2  # as many chunks of queries for the attack as for the control
    assert half > 0, "no noise was seen"
    for start, control in zip(drawn[:half], drawn[half:], strict=True):
        assert start.any(), "no noise was drawn"
        assert F.cosine_similarity(start, control, dim=-1).abs().max() < 0.9


def test_smoothed_is_no_attack(shared, pools):
    """Catches: a beam search in the name of a retriever that changes no query."""
    with pytest.raises(AssertionError, match="smoothed changes no query"):
        attacked(shared, pools, "smoothed")


def test_a_worst_case_hurts_more_than_noise_of_its_norm(duel):
    """Claim: for every query the margin is 0.01 lower. Catches: a step to a higher margin."""
    assert (duel.fgm < duel.control - 0.01).all()


def test_more_steps_hurt_at_least_as_much_as_one(duel):
    """Claim: pgd's margin is never above fgm's. Catches: the last point instead of the best."""
    assert (duel.pgd <= duel.fgm).all()
