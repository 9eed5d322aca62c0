"""Rung 11, part 4 of 5: several steps on word embeddings; the best point, or all of them.

Builds: attacks.pgd, freelb. Before: parts 1 and 3 (balls, noise). Run: pytest tests/test_11_pgd.py
"""

import math
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import pytest
import torch
from objectives import BALLS, CUBE, SENTENCE, TOKEN, linear, make_hills, near, streams

from attacks import Ball, Climb, fgm, freelb, pgd, random_start

# ---- pgd by hand ---------------------------------------------------------------------------------


def pgd_on_a_linear_objective(ball):
    """Where 7 steps of 0.6 radii lead two tokens of slopes (3, 0) and (0, 4)."""
    objective = linear((3.0, 0.0), (0.0, 4.0))
    embeddings = torch.ones(1, 2, 2)
    places = torch.tensor([[True, True]])
    delta = pgd(objective, embeddings, places, ball, Climb(7, 0.6), streams(1))
    return delta[0].tolist()


def test_each_token_climbs_to_the_border_of_its_ball():
    """Number: as fgm, 0.5 each. Catches: no projection: 5.2 radii away after 7 steps."""
    first, second = pgd_on_a_linear_objective(TOKEN)
    assert first == near(0.5, 0)
    assert second == near(0, 0.5)


def test_a_sentence_climbs_to_the_border_of_its_ball():
    """Number: as fgm, 0.5 * (3, 0, 0, 4) / 5. Catches: projection token by token."""
    first, second = pgd_on_a_linear_objective(SENTENCE)
    assert first == near(0.3, 0)
    assert second == near(0, 0.4)


def test_a_cube_is_climbed_to_its_border():
    """Number: 0.5 where there is a slope, 0 where there is none. Catches: no projection."""
    first, second = pgd_on_a_linear_objective(CUBE)
    assert first == near(0.5, 0)
    assert second == near(0, 0.5)


def pgd_on_a_line(objective, rows, climb):
    """Where pgd goes from 0 in [-1, 1], for each row."""
    start = torch.zeros(rows, 1, 1)
    places = torch.ones(rows, 1, dtype=torch.bool)
    delta = pgd(objective, start, places, Ball(1.0), climb, streams(rows))
    return delta.flatten().tolist()


def parabolas(embeddings):
    """One a row, with summits at 0.3 and 0.9. (2, 1, 1) -> (2,)"""
    x = embeddings.flatten()
    return -((x - torch.tensor([0.3, 0.9])) ** 2)


def test_the_best_point_of_each_row_is_kept():
    """Number: from fgm's 1 in steps of 0.5, row 0 goes 1, 0.5, 0; row 1 goes 1, 0.5, 1. The
    points nearest to their summits, 0.3 and 0.9, are 0.5 and 1.

    Catches: the last point; the batch's best step for all rows: both are (0, 1).
    """
    assert pgd_on_a_line(parabolas, 2, Climb(2, 0.5)) == [0.5, 1.0]


def test_the_point_after_the_last_step_counts():
    """Number: one step leads row 0 from 1 to 0.5. Catches: a step that nobody looks at, (1, 1)."""
    assert pgd_on_a_line(parabolas, 2, Climb(1, 0.5)) == [0.5, 1.0]


def two_hills(embeddings):
    """Uphill from 0 leads to the lower summit: f(1) = 1, but f(-1) = 3. (B, 1, 1) -> (B,)"""
    x = embeddings.flatten()
    return torch.where(x < 0, -3 * x, x)


def test_the_first_start_is_where_the_gradient_leads():
    """Number: the slope at 0 is +1. Catches: a first start at random: half would end at -1."""
    assert pgd_on_a_line(two_hills, 4, Climb(4, 0.25)) == [1.0] * 4


def test_more_starts_find_the_higher_hill():
    """Number: half of the random starts lie left of 0, from where 4 steps lead to -1. All 8 of a
    row lie right with a chance of 1 / 256; the seed is fixed.

    Catches: every restart at fgm's point; a restart that forgets the best one so far.
    """
    assert pgd_on_a_line(two_hills, 4, Climb(4, 0.25, restarts=9)) == [-1.0] * 4


def test_random_starts_fill_the_cube_and_not_the_ball_in_it():
    """Number: D = 8; the cube's corners are sqrt(8) radii away, and 1.6 % of its volume lies in the
    ball of one radius. Catches: starts from the L2 ball, all of them within one radius.
    """
    places = torch.ones(1, 1000, dtype=torch.bool)
    starts = random_start(places, 8, CUBE, streams(1))
    outside_ball = starts.norm(dim=-1) > 0.5  # (1, 1000, 8) -> (1, 1000)
    assert starts.abs().max() <= 0.5
    assert outside_ball.float().mean() > 0.9


def test_a_cube_is_as_full_when_the_ball_is_the_sentences():
    """Claim: the max norm knows no scope. Catches: a ball of the whole sentence inside the cube,
    whose points come nowhere near the corners of a sentence of 1,000 tokens.
    """
    places = torch.ones(1, 1000, dtype=torch.bool)
    starts = random_start(places, 8, replace(CUBE, scope="sentence"), streams(1))
    assert torch.equal(starts, random_start(places, 8, CUBE, streams(1)))


# ---- pgd on objectives with hills ----------------------------------------------------------------


@dataclass
class Climbs:
    """What fgm and pgd did on 40 objectives with hills, all in one ball."""

    ball: Ball
    places: torch.Tensor  # (4, 5), the same for all
    gains: list[float]  # of pgd over fgm, one a row of each objective
    deltas: list[torch.Tensor]  # 80 times (4, 5, 3)


@pytest.fixture(scope="module", params=BALLS, ids=["token", "sentence", "cube"])
def climbs(request):
    """Both attacks, with steps so long that they overshoot."""
    ball = request.param
    gains, deltas = [], []
    for seed in range(40):
        objective, embeddings, places = make_hills(seed)
        step = fgm(objective, embeddings, places, ball)
        best = pgd(objective, embeddings, places, ball, Climb(6, 1.5, 2), streams(4))
        gain = objective(embeddings + best) - objective(embeddings + step)  # (B,)
        gains += gain.tolist()
        deltas += [step, best]
    return Climbs(ball, places, gains, deltas)


def test_pgd_never_does_less_than_fgm(climbs):
    """Claim: on none of 160 rows, to 1e-6. Catches: random starts only; the last point."""
    assert min(climbs.gains) >= -1e-6


def test_pgd_mostly_does_more_than_fgm(climbs):
    """Claim: half of the rows gain 0.01 by more steps. Catches: a pgd that never leaves fgm's
    point.
    """
    median = sorted(climbs.gains)[80]
    assert median > 0.01


def largest(delta, ball):
    """What a ball bounds: the largest coordinate, or the length of a token or sentence."""
    sizes = []
    for sentence in delta.tolist():
        if ball.norm == "max":
            sizes += [abs(x) for x in chain(*sentence)]
        elif ball.scope == "token":
            sizes += [math.hypot(*token) for token in sentence]
        else:
            sizes.append(math.hypot(*chain(*sentence)))
    return max(sizes)


def test_no_step_leaves_the_ball(climbs):
    """Claim: to 1e-6, and some reach the border. Catches: a step without projection."""
    sizes = [largest(delta, climbs.ball) for delta in climbs.deltas]
    assert max(sizes) <= 0.5 + 1e-6
    assert max(sizes) > 0.5 - 1e-6, "nothing came near the border"


def test_no_step_touches_padding(climbs):
    """Claim: exactly 0 outside the places. Catches: a random start on all tokens."""
    for delta in climbs.deltas:
        assert delta[~climbs.places].eq(0).all()
        assert delta[climbs.places].ne(0).all(), "a word got nothing"


# ---- freelb: all points on the way ---------------------------------------------------------------


def freelb_points(slopes, ball, steps, places=(True, True)):
    """FreeLB's points on a linear objective of two tokens, each as [x1, y1, x2, y2]."""
    objective = linear(*slopes)
    embeddings = torch.ones(1, 2, 2)
    where = torch.tensor([places])
    points = freelb(objective, embeddings, where, ball, Climb(steps, 0.5), streams(1))
    return [point.flatten().tolist() for point in points]


def test_there_is_one_point_a_step_and_all_differ():
    """Claim: K steps, K points. Catches: K + 1 points; the same tensor K times."""
    slopes = [(3.0, 0.0), (0.0, 4.0)]
    points = freelb_points(slopes, SENTENCE, steps=3)
    assert len(points) == 3
    assert points[0] != points[1] != points[2] != points[0]


def test_one_step_is_random_noise_and_asks_for_no_gradient():
    """Claim: K = 1 never calls the objective. Catches: a pass forward and back in vain."""

    def forbidden(embeddings):
        raise AssertionError("a gradient was asked for")

    embeddings = torch.ones(1, 2, 2)
    places = torch.tensor([[True, True]])
    points = freelb(forbidden, embeddings, places, TOKEN, Climb(1, 0.5), streams(1))
    assert len(points) == 1
    assert points[0].ne(0).all()


def test_the_first_point_lies_anywhere_in_the_ball():
    """Number: uniform in a disc of radius 0.5, the mean radius is 2/3 of it and the deviation
    sqrt(1/2 - 4/9) = 0.236 of it. n = 2000, 5 standard errors: a false alarm of 6e-7.

    Catches: starts on the border (mean 1), a Gaussian (beyond the border).
    """
    embeddings = torch.zeros(2000, 1, 2)
    places = torch.ones(2000, 1, dtype=torch.bool)
    points = freelb(None, embeddings, places, TOKEN, Climb(1, 0.5), streams(2000))
    radii = points[0].norm(dim=-1) / 0.5
    assert radii.max() <= 1 + 1e-6
    assert abs(radii.mean() - 2 / 3) < 5 * 0.236 / 2000**0.5


def walk(start, direction):
    """Half a radius along the direction, then back into the circle of radius 0.5."""
    moved = []
    for x, slope in zip(start, direction, strict=True):
        moved.append(x + 0.25 * slope)
    size = max(math.hypot(*moved), 0.5)
    return [x / size * 0.5 for x in moved]


def test_the_points_walk_uphill_and_are_put_back_into_the_ball():
    """Number: direction (3, 4) / 5. Catches: downhill; no projection; each step from the start."""
    slopes = [(3.0, 4.0), (5.0, 5.0)]
    points = freelb_points(slopes, TOKEN, steps=4)
    for before, after in pairwise(points):
        assert after[:2] == near(*walk(before[:2], [0.6, 0.8]))


def test_a_token_that_is_left_out_stays_on_all_points():
    """Claim: exactly 0, though it is the steeper one. Catches: a start on all tokens."""
    slopes = [(3.0, 4.0), (5.0, 5.0)]
    points = freelb_points(slopes, TOKEN, steps=4, places=(True, False))
    for point in points:
        assert point[2:] == [0.0, 0.0]


def test_the_points_walk_in_one_ball_a_sentence():
    """Number: direction (3, 0, 0, 4) / 5 for both tokens together. Catches: a ball a token."""
    slopes = [(3.0, 0.0), (0.0, 4.0)]
    points = freelb_points(slopes, SENTENCE, steps=4)
    for before, after in pairwise(points):
        assert after == near(*walk(before, [0.6, 0, 0, 0.8]))


def test_the_points_walk_in_a_cube():
    """Number: each coordinate goes 0.25 by its slope's sign, to 0.5 or -0.5 at most. Catches: the
    L2 direction, as if there were one step for all slopes.
    """
    slopes = [(3.0, 1.0), (-2.0, -4.0)]
    points = freelb_points(slopes, CUBE, steps=4)
    for before, after in pairwise(points):
        up = [min(x + 0.25, 0.5) for x in before[:2]]
        down = [max(x - 0.25, -0.5) for x in before[2:]]
        assert after == near(*up, *down)


@pytest.mark.parametrize("ball", BALLS)
def test_all_points_have_the_shape_and_dtype_of_the_embeddings(ball):
    """Number: (4, 5, 3), all different. Catches: points in float64."""
    objective, embeddings, places = make_hills(0)
    climb = Climb(2, 0.5, 2)
    points = freelb(objective, embeddings, places, ball, climb, streams(4))
    points.append(pgd(objective, embeddings, places, ball, climb, streams(4)))
    for point in points:
        assert point.shape == (4, 5, 3)
        assert point.dtype == torch.float32
