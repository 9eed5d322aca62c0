"""Rung 11, part 1 of 5: one step on word embeddings goes uphill, to the border of its ball.

Builds: attacks.project, steepest, gradient, fgm. Before: rung 0. Run: pytest tests/test_11_balls.py
"""

import pytest
import torch
from objectives import BALLS, CUBE, SENTENCE, TOKEN, linear, make_hills, near

from attacks import Ball, fgm, gradient, project, steepest
from xlt import generator

UNIT = Ball(1.0)


# ---- projection ----------------------------------------------------------------------------------


def projected(tokens, ball):
    """The tokens after projection, in a batch whose other sentence lies far outside."""
    far = [(90.0, 90.0)] * len(tokens)
    batch = torch.tensor([tokens, far])
    return project(batch, ball)[0].tolist()


def test_a_point_outside_moves_to_the_border():
    """Claim: its direction stays. Number: (3, 4) has norm 5, so radius 1 leaves a fifth.

    Catches: coordinates cut one by one, (1, 1); the batch projected as one, (0.02, 0.03).
    """
    point = projected([(3.0, 4.0)], UNIT)
    assert point == [near(0.6, 0.8)]


def test_a_point_inside_stays_where_it_is():
    """Number: (0.3, 0.4) has norm 0.5, radius 1. Catches: dividing always, (0.6, 0.8)."""
    point = projected([(0.3, 0.4)], UNIT)
    assert point == [near(0.3, 0.4)]


def test_zero_stays_zero_even_in_a_ball_of_radius_0():
    """Claim: epsilon 0 is a legal attack. Catches: 0 / 0, which is NaN."""
    point = projected([(0.0, 0.0)], Ball(0.0))
    assert point == [[0.0, 0.0]]


def test_each_token_has_a_ball_of_its_own():
    """Number: norms 3 and 4, radius 1. Catches: one ball for the sentence, (0.6, 0), (0, 0.8)."""
    first, second = projected([(3.0, 0.0), (0.0, 4.0)], UNIT)
    assert first == near(1, 0)
    assert second == near(0, 1)


def test_a_sentence_has_one_ball_for_all_its_tokens():
    """Number: sqrt(3^2 + 4^2) = 5, radius 1: a fifth of all. Catches: a ball a token."""
    ball = Ball(1.0, scope="sentence")
    first, second = projected([(3.0, 0.0), (0.0, 4.0)], ball)
    assert first == near(0.6, 0)
    assert second == near(0, 0.8)


def test_a_cube_cuts_each_coordinate():
    """Number: radius 0.5, so 3 becomes 0.5 and -0.2 stays. Catches: scaling, (0.5, -0.03)."""
    point = projected([(3.0, -0.2)], CUBE)
    assert point == [near(0.5, -0.2)]


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("seed", range(5))
def test_projecting_twice_is_projecting_once(ball, seed):
    """Claim: to 1e-6, for points inside and outside. Catches: a projection half of the way."""
    points = torch.randn(6, 4, 3, generator=generator(seed))
    once = project(points, ball)
    twice = project(once, ball)
    assert not torch.equal(once, points), "all points are inside"
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-6)


# ---- one step ------------------------------------------------------------------------------------


def fgm_step(slopes, ball, places):
    """Where fgm goes from tokens (1, 1), as a list of tokens."""
    embeddings = torch.ones(1, len(slopes), 2)
    delta = fgm(linear(*slopes), embeddings, torch.tensor([places]), ball)
    return delta[0].tolist()


def test_a_step_follows_the_gradient_to_the_border():
    """Number: epsilon * g / ||g|| = 0.5 * (3, 4) / 5, a gain of 3 * 0.3 + 4 * 0.4 = 2.5.

    Catches: the sign flipped (gain -2.5), no normalisation (12.5), sign(g), which leaves the ball
    (3.5).
    """
    step = fgm_step([(3.0, 4.0)], TOKEN, [True])
    assert step == [near(0.3, 0.4)]


def test_each_token_goes_its_whole_radius():
    """Number: norms 3 and 4; each token goes 0.5. Catches: one ball a sentence, (0.3, 0)."""
    slopes = [(3.0, 0.0), (0.0, 4.0)]
    first, second = fgm_step(slopes, TOKEN, [True, True])
    assert first == near(0.5, 0)
    assert second == near(0, 0.5)


def test_the_tokens_of_a_sentence_share_its_radius():
    """Number: 0.5 * (3, 0, 0, 4) / 5. Catches: a ball a token, which goes 0.707 in all."""
    slopes = [(3.0, 0.0), (0.0, 4.0)]
    first, second = fgm_step(slopes, SENTENCE, [True, True])
    assert first == near(0.3, 0)
    assert second == near(0, 0.4)


def test_a_step_in_a_cube_is_the_sign_of_the_gradient():
    """Number: 0.5 * sign(3, -4), a gain of 3.5: a corner. Catches: the L2 step, (0.3, -0.4)."""
    step = fgm_step([(3.0, -4.0)], CUBE, [True])
    assert step == [near(0.5, -0.5)]


def test_a_token_outside_the_places_gets_nothing_and_takes_nothing():
    """Number: the second token is steeper, (5, 5), and left out: the first goes as if alone.

    Catches: the places put on the step, not on the gradient: 0.5 * (3, 4) / sqrt(75).
    """
    slopes = [(3.0, 4.0), (5.0, 5.0)]
    first, second = fgm_step(slopes, SENTENCE, [True, False])
    assert first == near(0.3, 0.4)
    assert second == [0.0, 0.0]


@pytest.mark.parametrize("ball", BALLS)
def test_without_a_gradient_there_is_no_step(ball):
    """Claim: a flat objective leaves the embeddings alone. Catches: 0 / 0, which is NaN."""
    direction = steepest(torch.zeros(1, 1, 2), ball)
    assert direction.tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("ball", BALLS)
def test_a_step_has_the_shape_and_dtype_of_the_embeddings(ball):
    """Number: (4, 5, 3), all different. Catches: a step in float64."""
    objective, embeddings, places = make_hills(0)
    step = fgm(objective, embeddings, places, ball)
    assert step.shape == (4, 5, 3)
    assert step.dtype == torch.float32


# ---- the gradient, on an objective with hills ----------------------------------------------------


def test_the_value_is_taken_where_the_noise_is():
    """Claim: the objective at embeddings + delta. Catches: its value at the clean embeddings."""
    objective, embeddings, places = make_hills(3)
    delta = torch.full((4, 5, 3), 0.3)
    value, _ = gradient(objective, embeddings, delta, places)
    torch.testing.assert_close(value, objective(embeddings + 0.3))


def test_the_gradient_agrees_with_finite_differences():
    """Number: (f(x + h) - f(x - h)) / 2h in float64, h = 1e-6: an error of h^2, so 1e-6 is wide.

    Catches: the gradient at the clean embeddings; a gradient averaged over the batch.
    """
    objective, embeddings, places = make_hills(3)
    embeddings = embeddings.double()
    delta = torch.full((4, 5, 3), 0.3, dtype=torch.float64)
    _, grad = gradient(objective, embeddings, delta, places)
    here = embeddings + delta
    for b, t in places.nonzero().tolist():
        for d in range(3):
            step = torch.zeros_like(delta)
            step[b, t, d] = 1e-6
            rise = objective(here + step) - objective(here - step)  # (B,)
            slope = rise[b].item() / 2e-6
            assert grad[b, t, d].item() == pytest.approx(slope, abs=1e-6)


def test_the_gradient_is_zero_outside_the_places():
    """Claim: exactly, though the objective slopes there. Catches: noise on padding."""
    objective, embeddings, places = make_hills(3)
    delta = torch.zeros(4, 5, 3)
    _, everywhere = gradient(objective, embeddings, delta, torch.ones_like(places))
    _, grad = gradient(objective, embeddings, delta, places)
    assert everywhere[~places].abs().min() > 0, "the objective is flat there"
    assert grad[~places].eq(0).all()
