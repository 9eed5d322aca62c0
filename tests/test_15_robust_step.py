"""Rung 15: one robust step, views -> vectors -> losses, and a run of such steps.

Builds: train.py, from `clean_views` to `training_step`, and what the loop writes of it.
Before: rung 14. Run: pytest tests/test_15_robust_step.py
"""

import json
import math
import shutil
import signal
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from training_world import hashes, log_lines, run_until_killed, write_encoder, write_world

import evaluate
import train
import xlt
from train import Losses, Method, Robust, View


def near(expected):
    """Hand values have six digits, float32 has seven."""
    return pytest.approx(expected, abs=2e-6)


# ---- the formula, of hand-made vectors -----------------------------------------------------------
# With p the identity the scores are q itself. Tau is 0.5, so with log(1 + e^-2) = 0.126928 and
# log(1 + e^-6) = 0.002476 for two rows:
#     clean   [[2, 1], [0, 3]]    0.126928 and 0.002476        mean 0.064702
#     Q_ONE   [[1, 2], [0, 3]]    0.126928 + 2 and 0.002476    mean 1.064702
#     Q_THREE [[2, 1], [3, 0]]    0.126928 and 0.002476 + 6    mean 3.064702

CLEAN_Q = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
Q_ONE = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
Q_THREE = torch.tensor([[2.0, 1.0], [3.0, 0.0]])
CLEAN_P = torch.eye(2)
CLEAN_VIEWS = [View("passage", []), View("query", [])]
CLEAN_VECTORS = [CLEAN_P, CLEAN_Q]


def run_flags(*argv):
    """The flags of one run."""
    return train.single_runs(train.parse(list(argv)))[0]


def losses_of(robust, views, vectors, mask=None, symmetric=False):
    """step_losses at tau 0.5."""
    flags = replace(run_flags("--tau", "0.5"), symmetric=symmetric)
    return train.step_losses(views, vectors, robust, flags, mask)


def perturbed_query(method, point=0, points=1):
    """The view of queries under a method."""
    return View("query", [], method=method, point=point, points=points)


RS_DA = Method("rs-da", weight=0.3)
WITH_RS_DA = [*CLEAN_VIEWS, perturbed_query(RS_DA)]


def test_without_a_method_the_loss_is_info_nce():
    """Number: 0.064702, as in rung 2. Catches: queries and passages swapped (0.018150)."""
    losses = losses_of(Robust(), CLEAN_VIEWS, CLEAN_VECTORS)
    assert losses.loss.item() == near(0.064702)
    assert losses.clean.item() == near(0.064702)
    assert losses.perturbed is None
    assert losses.consistency is None


def test_a_method_takes_its_share_from_the_clean_loss():
    """Number: 0.7 x 0.064702 + 0.3 x 1.064702 = 0.364702. Catches: the sum 0.384112."""
    losses = losses_of(Robust((RS_DA,)), WITH_RS_DA, [*CLEAN_VECTORS, Q_ONE])
    assert losses.loss.item() == near(0.364702)


def test_the_parts_are_given_without_their_weights():
    """Claim: so that they can be compared in the log. Catches: parts times their shares."""
    losses = losses_of(Robust((RS_DA,)), WITH_RS_DA, [*CLEAN_VECTORS, Q_ONE])
    assert losses.clean.item() == near(0.064702)
    assert losses.perturbed.item() == near(1.064702)


def test_each_method_has_its_weight():
    """Number: 1/4 clean, 1/2 of 1.064702, 1/4 of 3.064702: 0.064702 + 1/2 + 3/4 = 1.314702.

    The log has the mean of the two, 2.064702. Catches: weights swapped (1.814702); a sum for it.
    """
    rs_da, rs_rp = Method("rs-da", weight=0.5), Method("rs-rp", weight=0.25)
    views = [*CLEAN_VIEWS, perturbed_query(rs_da), perturbed_query(rs_rp)]
    losses = losses_of(Robust((rs_da, rs_rp)), views, [*CLEAN_VECTORS, Q_ONE, Q_THREE])
    assert losses.loss.item() == near(1.314702)
    assert losses.perturbed.item() == near(2.064702)


def test_the_points_of_freelb_enter_by_their_mean():
    """Number: the mean of 1.064702 and 3.064702 is 2.064702; with 0.6 clean: 0.864702.

    Catches: their sum (1.690583), the last point alone (1.264702).
    """
    adv = Method("adv", weight=0.4, how="freelb")
    views = [*CLEAN_VIEWS, perturbed_query(adv, 0, 2), perturbed_query(adv, 1, 2)]
    losses = losses_of(Robust((adv,)), views, [*CLEAN_VECTORS, Q_ONE, Q_THREE])
    assert losses.loss.item() == near(0.864702)
    assert losses.perturbed.item() == near(2.064702)


def test_a_method_with_the_whole_weight_needs_no_clean_query():
    """Number: 1.064702. Catches: a clean loss without queries."""
    method = Method("rs-da", weight=1)
    views = [View("passage", []), perturbed_query(method)]
    losses = losses_of(Robust((method,)), views, [CLEAN_P, Q_ONE])
    assert losses.loss.item() == near(1.064702)
    assert losses.clean is None


def test_under_both_the_perturbed_passages_are_picked_from():
    """Number: passages swapped turn the scores of Q_ONE into [[2, 1], [3, 0]]: 3.064702.

    Catches: the clean passages, 1.064702.
    """
    method = Method("rs-da", weight=1, perturb="both")
    views = [*CLEAN_VIEWS, perturbed_query(method), View("passage", [], method=method)]
    losses = losses_of(Robust((method,)), views, [*CLEAN_VECTORS, Q_ONE, CLEAN_P.flip(0)])
    assert losses.loss.item() == near(3.064702)


def test_each_point_of_both_towers_has_its_own_passages():
    """Number: point 0 as above, 3.064702; point 1 with straight passages 1.064702; the mean.

    Catches: the passages of point 0 for all points, 3.064702.
    """
    adv = Method("adv", weight=1, perturb="both")
    views = [
        perturbed_query(adv, 0, 2),
        perturbed_query(adv, 1, 2),
        View("passage", [], method=adv, point=0, points=2),
        View("passage", [], method=adv, point=1, points=2),
    ]
    losses = losses_of(Robust((adv,)), views, [Q_ONE, Q_ONE, CLEAN_P.flip(0), CLEAN_P])
    assert losses.loss.item() == near(2.064702)


# softmax of (4, 2) is (0.880797, 0.119203), so with the first query's scores swapped
#     KL = 0.119203 log(0.119203 / 0.880797) + 0.880797 log(0.880797 / 0.119203)
#        = (0.880797 - 0.119203) x 2 = 1.523188, and 0 of the second query: mean 0.761594


def test_self_teaching_adds_the_kl_to_the_clean_loss():
    """Number: 0.064702 + 3 x 0.761594 = 2.349484. Catches: KL times a share, which is 0 here."""
    method = Method("rs-da", weight=0)
    views = [*CLEAN_VIEWS, perturbed_query(method)]
    losses = losses_of(Robust((method,), 3), views, [*CLEAN_VECTORS, Q_ONE])
    assert losses.loss.item() == near(2.349484)
    assert losses.consistency.item() == near(0.761594)


def test_self_teaching_takes_the_mean_over_points():
    """Number: a second point without any change has KL 0: 0.064702 + 3 x 0.380797 = 1.207093.

    Catches: the sum over points, 2.349484.
    """
    adv = Method("adv", weight=0, how="freelb")
    views = [*CLEAN_VIEWS, perturbed_query(adv, 0, 2), perturbed_query(adv, 1, 2)]
    losses = losses_of(Robust((adv,), 3), views, [*CLEAN_VECTORS, Q_ONE, CLEAN_Q])
    assert losses.loss.item() == near(1.207093)
    assert losses.consistency.item() == near(0.380797)


def test_false_negatives_are_masked_in_every_part():
    """Number: without passage 1 the first query has no other: 0, and the second 0.002476.

    So both losses are 0.001238, and the KL of one choice is 0. Catches: a part without the mask.
    """
    mask = torch.tensor([[False, True], [False, False]])
    losses = losses_of(Robust((RS_DA,), 3), WITH_RS_DA, [*CLEAN_VECTORS, Q_ONE], mask)
    assert losses.clean.item() == near(0.001238)
    assert losses.perturbed.item() == near(0.001238)
    assert losses.consistency.item() == near(0)
    assert losses.loss.item() == near(0.001238)


def test_the_symmetric_loss_is_that_of_every_part():
    """Number: clean (0.064702 + 0.018150) / 2 = 0.041426, as in rung 2. The columns of Q_ONE give
    0.126928 twice: (1.064702 + 0.126928) / 2 = 0.595815. Catches: --symmetric for one part.
    """
    vectors = [*CLEAN_VECTORS, Q_ONE]
    losses = losses_of(Robust((RS_DA,)), WITH_RS_DA, vectors, symmetric=True)
    assert losses.clean.item() == near(0.041426)
    assert losses.perturbed.item() == near(0.595815)


# ---- self-teaching -------------------------------------------------------------------------------


def scores(*rows):
    """Vectors whose scores with the identity, over tau 0.5, have these rows as softmax."""
    logs = [[0.5 * math.log(p) for p in row] for row in rows]
    return torch.tensor(logs, requires_grad=True)


def test_self_teaching_goes_from_the_perturbed_to_the_clean_scores():
    """Number: P' = (4/5, 1/5), P = (1/4, 3/4): 4/5 ln(16/5) + 1/5 ln(4/15) = 0.666169.

    Catches: the other direction, 0.700529; tau forgotten for the student, 0.383576, or the teacher,
    0.394789.
    """
    student, teacher = scores((4 / 5, 1 / 5)), scores((1 / 4, 3 / 4))
    loss = train.self_teaching(student, torch.eye(2), teacher, torch.eye(2), 0.5)
    assert loss.item() == near(0.666169)


def test_self_teaching_is_the_mean_over_queries():
    """Number: a second query with equal scores halves it, 0.333085. Catches: the sum; 1 / B^2."""
    student = scores((4 / 5, 1 / 5), (1 / 3, 2 / 3))
    teacher = scores((1 / 4, 3 / 4), (1 / 3, 2 / 3))
    loss = train.self_teaching(student, torch.eye(2), teacher, torch.eye(2), 0.5)
    assert loss.item() == near(0.333085)


def test_self_teaching_leaves_false_negatives_out():
    """Number: the third passage is masked, whatever its scores: 0.666169. Catches: NaN of -inf."""
    student, teacher = scores((4 / 5, 1 / 5, 9)), scores((1 / 4, 3 / 4, 2))
    mask = torch.tensor([[False, False, True]])
    loss = train.self_teaching(student, torch.eye(3), teacher, torch.eye(3), 0.5, mask)
    loss.backward()
    assert loss.item() == near(0.666169)
    assert student.grad[0, 2] == 0


def test_the_student_learns_and_the_teacher_does_not():
    """Claim: the clean scores stay as they are. Catches: a clean query pulled to the perturbed."""
    student, teacher = scores((1 / 2, 1 / 2)), scores((1 / 4, 3 / 4))
    p2, p = torch.eye(2).requires_grad_(), torch.eye(2).requires_grad_()
    train.self_teaching(student, p2, teacher, p, 0.5).backward()
    assert student.grad.abs().max() > 0
    assert p2.grad.abs().max() > 0
    assert teacher.grad is None
    assert p.grad is None


def test_equal_scores_teach_nothing():
    """Claim: KL 0 and no slope, up to float32. Catches: cross-entropy, whose value is not 0."""
    student = scores((1 / 4, 3 / 4), (1 / 3, 2 / 3))
    loss = train.self_teaching(student, torch.eye(2), student, torch.eye(2), 0.5)
    loss.backward()
    assert loss.item() == near(0)
    assert student.grad.abs().max().item() == near(0)


# ---- what worst-case noise raises ----------------------------------------------------------------


def test_noise_on_a_query_raises_the_loss_of_its_row():
    """Number: the two rows of the clean loss. Catches: the mean over the batch."""
    row_losses = train.worst_case_losses(CLEAN_VIEWS, CLEAN_VECTORS, 0.5, None)
    assert row_losses["query"](CLEAN_Q, [0, 1]).tolist() == near([0.126928, 0.002476])


def test_noise_on_a_passage_raises_the_loss_of_passages_that_pick_queries():
    """Number: the columns 2, 0 and 1, 3 over 0.5 give log(1 + e^-4) = 0.018150 twice.

    Passage 1 answers query 0 too, so the mask leaves it nothing to confuse: 0. Catches: a mask that
    is not transposed, which would leave 0 for passage 0.
    """
    mask = torch.tensor([[False, True], [False, False]])
    row_losses = train.worst_case_losses(CLEAN_VIEWS, CLEAN_VECTORS, 0.5, mask)
    assert row_losses["passage"](CLEAN_P, [0, 1]).tolist() == near([0.018150, 0])


def test_the_search_moves_no_vector_of_the_other_tower():
    """Claim: they are constants. Catches: a gradient that runs into the clean pass."""
    vectors = [v.clone().requires_grad_() for v in CLEAN_VECTORS]
    row_losses = train.worst_case_losses(CLEAN_VIEWS, vectors, 0.5, None)
    assert not row_losses["query"].others.requires_grad
    assert not row_losses["passage"].others.requires_grad


# ---- one step of a real encoder ------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder that holds the data set of training_world.py, and the encoder in model/."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    write_encoder(folder / "model")
    return folder


@dataclass
class Scene:
    """What one training step needs."""

    encoder: xlt.Encoder
    data: xlt.DataSet
    batch: xlt.Batch
    flags: train.RunFlags
    perturber: train.Perturber

    def step(self, number=1):
        """The losses of one step."""
        report = train.training_step(self.encoder, self.batch, self.flags, self.perturber, number)
        return report.losses


@pytest.fixture(scope="module")
def loaded(world):
    """The encoder and the data of the world, opened once."""
    return xlt.load_encoder(world / "model"), xlt.load_data(world)


@pytest.fixture
def scene(loaded):
    """robust, more flags -> a scene; without dropout, so that two passes are equal."""
    encoder, data = loaded
    encoder.eval().zero_grad()
    encoder.precision = "fp32"
    pairs = xlt.TrainingPairs(data, ["en", "de"])
    batch = next(xlt.batches(pairs, "x-y", 8, 1))

    def set_scene(robust, *more):
        flags = run_flags("--train-langs", "en", "de", "--robust", robust, *more)
        perturber = train.make_perturber(flags, data, encoder)
        return Scene(encoder, data, batch, flags, perturber)

    return set_scene


@dataclass
class Seen:
    """What step_losses was given."""

    views: list
    vectors: list
    mask: torch.Tensor | None


def watch_step(scene, monkeypatch):
    """One step -> (its losses, what step_losses was given)."""
    calls = []

    def step_losses(views, vectors, robust, flags, mask):
        calls.append(Seen(views, vectors, mask))
        return plain(views, vectors, robust, flags, mask)

    plain = train.step_losses
    with monkeypatch.context() as patch:
        patch.setattr(train, "step_losses", step_losses)
        losses = scene.step()
    (seen,) = calls
    return losses, seen


VIEWS = [
    ("none", ["passage", "query"]),
    ("rs-rp", ["passage", "query", "query rs-rp"]),
    ("rs-rp:weight=1", ["passage", "query rs-rp"]),
    ("rs-da:weight=1,perturb=both", ["query rs-da", "passage rs-da"]),
    ("typos+self-teaching", ["passage", "query", "query typos"]),
    ("rs-rp+rs-da", ["passage", "query", "query rs-rp", "query rs-da"]),
    ("adv:how=freelb,steps=2", ["passage", "query", "query adv", "query adv 1"]),
]


def name_of(view):
    """ "query", "query rs-rp", "query adv 1"."""
    name = view.tower
    if view.method:
        name += f" {view.method.name}"
    if view.point:
        name += f" {view.point}"
    return name


@pytest.mark.parametrize(("robust", "names"), VIEWS)
def test_a_step_encodes_what_its_losses_need(scene, monkeypatch, robust, names):
    """Claim: no pass too many, none too few. Catches: clean queries that nobody looks at."""
    _, seen = watch_step(scene(robust), monkeypatch)
    assert [name_of(view) for view in seen.views] == names


@pytest.mark.parametrize("robust", ["rs-rp:perturb=both", "rs-da+adv:how=freelb"])
def test_the_vectors_are_those_of_the_views(scene, monkeypatch, robust):
    """Claim: each view is encoded with its rows and its noise. Catches: lists out of step, noise
    that is searched for and then forgotten.
    """
    stage = scene(robust)
    _, seen = watch_step(stage, monkeypatch)
    for view, v in zip(seen.views, seen.vectors, strict=True):
        expected = stage.encoder(view.rows, view.noise)
        torch.testing.assert_close(v, expected, rtol=0, atol=1e-6)
        assert v.requires_grad


def test_clean_views_hold_the_texts_of_the_batch(scene, monkeypatch):
    """Claim: in the batch's order, each tower with its prefix. Catches: towers swapped."""
    stage = scene("none")
    _, seen = watch_step(stage, monkeypatch)
    passages, queries = seen.views
    texts = [stage.data.queries[i] for i in stage.batch.queries]
    assert queries.rows == stage.encoder.tokenize(texts, "query")
    texts = [stage.data.passages[i] for i in stage.batch.passages]
    assert passages.rows == stage.encoder.tokenize(texts, "passage")


def slow_mask(stage):
    """[i][j]: does passage j answer query i as well? By the groups of its qrels."""
    mask = []
    for i, query in enumerate(stage.batch.queries):
        groups = {stage.data.passages[p].group for p in stage.data.qrels["train"][query]}
        row = [stage.data.passages[p].group in groups for p in stage.batch.passages]
        row[i] = False
        mask.append(row)
    return mask


def test_a_step_masks_the_false_negatives_of_its_batch(scene, monkeypatch):
    """Number: by the qrels; the mask is asymmetric. Catches: its transpose, none at all."""
    stage = scene("none")
    _, seen = watch_step(stage, monkeypatch)
    assert not torch.equal(seen.mask, seen.mask.T)
    assert seen.mask.tolist() == slow_mask(stage)


def test_false_negatives_can_be_kept(scene, monkeypatch):
    """Claim: then nothing is masked, but they are counted. Catches: a flag without effect."""
    stage = scene("none", "--keep-false-negatives")
    _, seen = watch_step(stage, monkeypatch)
    assert seen.mask is None
    report = train.training_step(stage.encoder, stage.batch, stage.flags, stage.perturber)
    assert report.wrong_negatives.any()


BESIDE_CLEAN = ["rs-rp:weight=0.5", "rs-da:weight=0.5", "adv", "adv:how=freelb"]


@pytest.mark.parametrize("robust", [*BESIDE_CLEAN, "typos+self-teaching"])
def test_a_plain_and_a_robust_step_agree_on_the_clean_loss(scene, robust):
    """Claim: to the last bit, with dropout.

    So what robust training changes is the perturbed part alone. Catches: perturbed views that share
    chunks with clean ones, of which other units are dropped then.
    """
    plain, stage = scene("none"), scene(robust)
    stage.encoder.train()
    expected = plain.step()
    losses = stage.step()
    assert torch.equal(losses.clean, expected.loss)
    assert not torch.equal(losses.loss, expected.loss)


@pytest.mark.parametrize("search", ["fgm", "pgd", "freelb"])
def test_training_meets_a_worst_case_and_not_noise(scene, search):
    """Claim: the loss at adv's noise is above the clean one, and above that at random noise.

    Number: epsilon and sigma 0.3; by 0.1 at least, ten times what random noise adds. Catches:
    descent; random noise where the worst case was asked for.
    """
    worst = scene(f"adv:how={search},epsilon=0.3").step()
    random = scene("rs-rp:weight=0.5,sigma=0.3").step()
    assert worst.perturbed > worst.clean + 0.1
    assert worst.perturbed > random.perturbed + 0.1


def test_noise_on_both_towers_is_a_worse_case(scene):
    """Claim: the passages are moved against their queries. Catches: passages that stay, or help."""
    query = scene("adv:epsilon=0.3").step()
    both = scene("adv:epsilon=0.3,perturb=both").step()
    assert both.perturbed > query.perturbed + 0.1


def watch_embeddings(encoder, monkeypatch):
    """A list that (word embeddings with noise, ids) of every forward pass will be added to."""
    passes, plain = [], encoder.from_embeddings

    def from_embeddings(embeddings, batch):
        passes.append((embeddings.detach(), batch["input_ids"]))
        return plain(embeddings, batch)

    monkeypatch.setattr(encoder, "from_embeddings", from_embeddings)
    return passes


NOISY = ["rs-rp", "rs-rp:noise=uniform", "adv", "adv:how=pgd,ball=sentence", "adv:how=freelb"]


@pytest.mark.parametrize("robust", NOISY)
def test_noise_touches_no_padding_and_no_special_token_in_training(scene, monkeypatch, robust):
    """Claim: in no pass of the step, neither tower's. Number: <s>, <pad>, </s> are 0, 1, 2.

    Catches: noise on all of a padded batch; the attention mask for the places, which lets noise on
    <s> and </s>.
    """
    both = f"{robust},perturb=both" if ":" in robust else f"{robust}:perturb=both"
    stage = scene(both)
    passes = watch_embeddings(stage.encoder, monkeypatch)
    stage.step()
    noisy_passes, padded_passes = 0, 0
    for embeddings, ids in passes:
        noise = (embeddings - stage.encoder.word_embeddings(ids)).abs().sum(-1)
        assert noise[ids <= 2].max() == 0
        noisy_passes += bool(noise[ids > 2].min() > 0)
        padded_passes += bool((ids == 1).any())
    assert noisy_passes >= 2, "there was no noise"
    assert padded_passes >= 2, "no batch was padded"


# ---- FreeLB --------------------------------------------------------------------------------------


def freelb_scene(scene, ball="token", steps=3):
    """FreeLB with the whole weight; at tau 0.5 every row has a gradient that is no rounding."""
    robust = f"adv:how=freelb,epsilon=0.3,weight=1,steps={steps},step_size=0.5,ball={ball}"
    return scene(robust, "--tau", "0.5")


def gradient_of(encoder):
    """The gradients of all weights as one vector."""
    return torch.cat([weight.grad.flatten() for weight in encoder.parameters()])


@pytest.mark.parametrize("steps", [1, 3])
def test_freelb_takes_the_mean_gradient_over_its_points(scene, monkeypatch, steps):
    """Claim: as if the weights had been trained on each point by itself, divided by their number.

    Number: to 1e-5 of the largest gradient. Catches: a sum; the last point alone; a point whose
    graph is cut.
    """
    stage = freelb_scene(scene, steps=steps)
    _, seen = watch_step(stage, monkeypatch)
    gradient = gradient_of(stage.encoder)
    stage.encoder.zero_grad()
    passages, *points = seen.views
    assert len(points) == steps
    for view in points:
        q, p = stage.encoder(view.rows, view.noise), stage.encoder(passages.rows)
        masked = (q @ p.T / 0.5).masked_fill(seen.mask, -math.inf)
        loss = F.cross_entropy(masked, torch.arange(8))
        (loss / steps).backward()  # adds up in .grad
    expected = gradient_of(stage.encoder)
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()


def row_gradient(stage, seen, view, i):
    """The gradient (t, D) of the loss of query i with respect to its noise, encoded by itself."""
    noise = view.noise[i].clone().requires_grad_()
    q = stage.encoder([view.rows[i]], [noise])
    p = stage.encoder(seen.views[0].rows).detach()
    masked = (q @ p.T / 0.5).masked_fill(seen.mask[i : i + 1], -math.inf)
    F.cross_entropy(masked, torch.tensor([i])).backward()
    return noise.grad


def length(noise, ball):
    """The norm of each token's noise (t, 1), or of all of it."""
    if ball == "token":
        return noise.norm(dim=1, keepdim=True)
    return noise.norm()


@pytest.mark.parametrize("ball", ["token", "sentence"])
def test_each_point_of_freelb_lies_uphill_of_the_one_before(scene, monkeypatch, ball):
    """Claim: half a radius along the gradient of the text's row alone, then back into the ball.

    Number: to 1e-4 of the radius, as the gradient is that of one text and not of a padded batch.
    Catches: descent; another row; a row without its mask; a ball that is not kept.
    """
    stage = freelb_scene(scene, ball)
    _, seen = watch_step(stage, monkeypatch)
    radius = 0.3 * stage.encoder.model.embeddings.word_embeddings.weight.norm(dim=1).mean().item()
    points = seen.views[1:]
    for before, after in pairwise(points):
        for i, noise in enumerate(before.noise):
            is_word = torch.tensor(before.rows[i]["input_ids"]) > 2
            slope = row_gradient(stage, seen, before, i) * is_word[:, None]
            moved = noise + 0.5 * radius * slope / length(slope, ball).clamp(min=1e-12)
            inside = moved * (radius / length(moved, ball).clamp(min=1e-12)).clamp(max=1)
            torch.testing.assert_close(after.noise[i], inside, rtol=0, atol=1e-4 * radius)


# ---- precision -----------------------------------------------------------------------------------


def test_the_parts_are_fp32_when_the_encoder_runs_in_bf16(scene, monkeypatch):
    """Claim: each part is that of the step's own vectors, computed in fp32 by torch alone.

    Number: to 1e-5; scores of 8 bits are off by up to 0.04 at tau 0.05. Catches: autocast around
    the losses, or the KL taken of vectors in bf16.
    """
    stage = scene("rs-da:weight=0.5,rate=1+self-teaching", "--tau", "0.05")
    stage.encoder.precision = "bf16"
    losses, seen = watch_step(stage, monkeypatch)
    p, q, q2 = seen.vectors
    masked = [(v @ p.T / 0.05).masked_fill(seen.mask, -1e9) for v in (q, q2)]
    target = torch.arange(8)
    clean, perturbed = F.cross_entropy(masked[0], target), F.cross_entropy(masked[1], target)
    teacher, student = masked[0].log_softmax(1), masked[1].log_softmax(1)
    kl = F.kl_div(teacher, student, log_target=True, reduction="batchmean")
    torch.testing.assert_close(losses.clean, clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(losses.perturbed, perturbed, rtol=0, atol=1e-5)
    torch.testing.assert_close(losses.consistency, kl, rtol=0, atol=1e-5)
    assert losses.loss.item() == pytest.approx((clean + perturbed + kl).item() / 2, abs=1e-5)


# ---- what a line of the log holds ----------------------------------------------------------------


def test_a_line_holds_the_parts_that_there_are():
    """Claim: of a method without a clean share no "clean". Catches: an error, a None in the log."""
    losses = Losses(torch.tensor(1.5), perturbed=torch.tensor(1.23456))
    line = train.log_line(3, "mono", losses, 2.0, 0.001)
    assert line == {
        "step": 3,
        "loss": 1.5,
        "kind": "mono",
        "grad_norm": 2.0,
        "lr": 0.001,
        "perturbed": 1.2346,
    }


def test_a_plain_line_has_its_loss_once():
    """Claim: without a method "clean" says what "loss" says. Catches: a column of repeats."""
    losses = Losses(torch.tensor(1.5), clean=torch.tensor(1.5))
    assert "clean" not in train.log_line(3, "mono", losses, 2.0, 0.001)


def test_a_line_says_how_strong_the_noise_was(scene):
    """Number: Gaussian noise of norm 0.1 on 50 words or more: 0.0992 +- 0.009, 5 standard errors.

    Catches: special tokens in the mean; the norm of embeddings for the unit.
    """
    stage = scene("rs-rp:sigma=0.1,perturb=both")
    stage.step()
    assert stage.perturber.counts.tokens > 50
    columns = train.edit_columns(stage.perturber.counts)
    assert {*columns} == {"norm"}
    assert columns["norm"] == pytest.approx(0.0992, abs=0.009)


def test_a_line_says_how_many_texts_were_edited(scene):
    """Number: rate 1 of typos edits each of 8 texts in one word. Catches: edits a character."""
    stage = scene("typos:rate=1")
    stage.step()
    assert train.edit_columns(stage.perturber.counts) == {"edited": 1, "edits": 1}


# ---- a run ---------------------------------------------------------------------------------------

ROBUST = (
    "rs-da:weight=0.3+rs-rp:weight=0.2,sigma=0.1"
    "+adv:weight=0.2,how=freelb,steps=2,perturb=both+self-teaching"
)


def command(world, out, robust, *more):
    """The flags of a small run: lines after steps 3 and 6, checkpoints after 2 and 4."""
    flags = ["--data", str(world), "--model", str(world / "model"), "--out", str(out)]
    flags += ["--train-langs", "en", "de", "--attacks", "clean", "--robust", robust]
    flags += ["--batch-size", "8", "--steps", "6", "--save-every", "2", "--log-every", "3"]
    return [*flags, *more]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A robust run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    assert train.main(command(world, out, ROBUST)) == 0
    (run,) = out.iterdir()
    return run


@pytest.fixture(scope="module")
def plain_run(world, tmp_path_factory):
    """The same run without a method."""
    out = tmp_path_factory.mktemp("plain")
    assert train.main(command(world, out, "none")) == 0
    (run,) = out.iterdir()
    return run


def manifest_of(run):
    """run.json without the seconds."""
    manifest = evaluate.read_manifest(run)
    del manifest["seconds_training"]
    return manifest


def test_a_robust_run_logs_what_it_does(whole):
    """Claim: with edits, noise and self-teaching a line has all columns. Catches: one left out."""
    for line in log_lines(whole):
        for name in ("clean", "perturbed", "consistency", "edited", "edits", "norm"):
            assert line[name] > 0
        assert line["edited"] <= 1


def test_a_plain_run_logs_nothing_of_it(plain_run):
    """Claim: its lines have the columns of rung 4. Catches: zeros that mean nothing."""
    for line in log_lines(plain_run):
        assert {*line} == {"step", "loss", "kind", "grad_norm", "lr", "padding"}


def test_a_robust_run_trains_on_the_batches_of_a_plain_one(whole, plain_run):
    """Claim: so that the two can be compared; but not to the same weights.

    Catches: perturbations that draw from the stream of the batches.
    """
    assert manifest_of(whole)["counts"] == manifest_of(plain_run)["counts"]
    name = "model/model.safetensors"
    assert hashes(whole)[name] != hashes(plain_run)[name]


def test_the_manifest_tells_the_methods_and_what_they_edited(whole):
    """Number: rs-da draws each text; one with a word of one synonym and a word of two changes in
    1 - 1/2 x 1/3 = 5/6. Of 20 texts or more a language these are 0.83 +- 0.42, 5 standard errors.

    Catches: the methods without their settings; the share of the last lines of the log.
    """
    manifest = manifest_of(whole)
    methods = manifest["derived"]["robust"]
    assert [method["name"] for method in methods] == ["rs-da", "rs-rp", "adv"]
    assert [method["weight"] for method in methods] == [0.3, 0.2, 0.2]
    assert manifest["derived"]["self_teaching"] == 0.5
    assert {*manifest["edited_share"]} == {"en", "de"}
    for share in manifest["edited_share"].values():
        assert share == pytest.approx(5 / 6, abs=0.42)
    pairs, (first, last) = manifest["counts"]["pairs"], log_lines(whole)
    edited = 0.0
    for lang, share in manifest["edited_share"].items():
        edited += share * sum(pairs[lang].values())
    # Of the whole run: the mean of two lines of 24 texts each, all rounded to .001
    assert first["edited"] != last["edited"], "the lines tell nothing apart"
    assert edited / 48 == pytest.approx((first["edited"] + last["edited"]) / 2, abs=0.0011)


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory):
    """The robust run with SIGKILL at the begin of step 4: after checkpoint 2 and the line of 3."""
    out = tmp_path_factory.mktemp("killed")
    assert run_until_killed(4, command(world, out, ROBUST)) == -signal.SIGKILL
    (run,) = out.iterdir()
    return run


@pytest.fixture(scope="module")
def resumed(world, killed, tmp_path_factory):
    """The killed run, continued to its end."""
    out = tmp_path_factory.mktemp("resumed")
    shutil.copytree(killed, out / killed.name)
    assert train.main(command(world, out, ROBUST, "--resume")) == 0
    return out / killed.name


def test_a_killed_robust_run_resumes_to_the_same_bytes(whole, resumed):
    """Claim: edits, noise and searches of a step are those of the step.

    Catches: streams that are carried on from step to step.
    """
    assert hashes(resumed) == hashes(whole)


def test_a_resumed_robust_run_writes_the_same_log(whole, killed, resumed):
    """Number: the line of step 3 stood there already, and comes again: it counts steps 1 to 3.

    Catches: the edits of steps 1 and 2 lost.
    """
    assert [line["step"] for line in log_lines(killed)] == [3]
    assert log_lines(resumed) == log_lines(whole)


def test_a_resumed_robust_run_tells_the_same_of_itself(whole, resumed):
    """Claim: run.json, with the share of edited texts. Catches: texts of the steps 3 to 6 alone."""
    assert manifest_of(resumed) == manifest_of(whole)


def test_code_switched_english_says_which_languages_it_showed(world, tmp_path):
    """Claim: metrics.json of an English run with German words names both languages.

    Catches: German as a zero-shot language of the table.
    """
    more = ["--batching", "en-en", "--steps", "1"]
    assert train.main(command(world, tmp_path, "code-switch", *more)) == 0
    metrics = json.loads((tmp_path / "en-en-code-switch-seed0/metrics.json").read_text())
    assert metrics["train_langs"] == ["en", "de"]
