"""Rung 11, part 3 of 5: random noise has the size that its name promises.

Builds: attacks.random_noise. Before: rung 0. Run: pytest tests/test_11_noise.py

With radius 2 in D = 8 dimensions, of a token or of a sentence of two tokens:

    gaussian   E |x|^2 = 4, deviation of |x|^2 4 * sqrt(2 / 8) = 2
    uniform    E |x| = 2 * 8/9, deviation of |x| 2 * sqrt(8/10 - (8/9)^2) = 0.199
    sphere     |x| = 2

Means over n = 8000 are compared to 5 standard errors: a false alarm in 1.7 million.
"""

import math
from functools import cache

import pytest
import torch
from objectives import streams

from attacks import random_noise

N = 8000
SCOPES = ["token", "sentence"]
KINDS = ["gaussian", "uniform", "sphere"]


@cache
def draw(kind, scope):
    """N draws of radius 2 in 8 dimensions. -> (N, 8)"""
    n_tokens, dim = 1, 8
    if scope == "sentence":
        n_tokens, dim = 2, 4
    places = torch.ones(N, n_tokens, dtype=torch.bool)
    noise = random_noise(places, dim, streams(N), 2.0, kind, scope)
    return noise.flatten(1)  # (N, n_tokens, dim) -> (N, 8)


@pytest.mark.parametrize("scope", SCOPES)
def test_gaussian_noise_has_the_radius_as_its_root_mean_square(scope):
    """Number: see the top. Catches: a deviation of 2 a coordinate, without 1 / sqrt(D): 32; a
    sentence that counts the dimensions of one token: 8.
    """
    squares = draw("gaussian", scope).norm(dim=1) ** 2
    standard_error = 2 / math.sqrt(N)
    assert abs(squares.mean() - 4) < 5 * standard_error


@pytest.mark.parametrize("scope", SCOPES)
def test_uniform_noise_has_the_mean_radius_of_a_ball(scope):
    """Number: see the top. Catches: the radius drawn uniformly, 1.0; a cube, 3.2."""
    radii = draw("uniform", scope).norm(dim=1)
    standard_error = 0.199 / math.sqrt(N)
    assert abs(radii.mean() - 16 / 9) < 5 * standard_error


@pytest.mark.parametrize("scope", SCOPES)
def test_uniform_noise_stays_in_the_ball(scope):
    """Claim: to 1e-6. Catches: a Gaussian of the same size."""
    radii = draw("uniform", scope).norm(dim=1)
    assert radii.max() <= 2 + 1e-6


@pytest.mark.parametrize("scope", SCOPES)
def test_noise_on_the_sphere_has_exactly_the_radius(scope):
    """Claim: to 1e-6. Catches: a sphere for each token where the sentence has one, 2.83."""
    radii = draw("sphere", scope).norm(dim=1)
    assert (radii - 2).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_no_preferred_direction(kind):
    """Number: each of 8 coordinates has mean 0 and a variance of at most 4 / 8. Catches: |x| for x,
    torch.rand for torch.randn.
    """
    means = draw(kind, "token").mean(0)  # (N, 8) -> (8,)
    standard_error = math.sqrt(0.5 / N)
    assert means.abs().max() < 5 * standard_error


@pytest.mark.parametrize("scope", SCOPES)
def test_every_share_of_a_ball_s_volume_gets_its_share_of_the_noise(scope):
    """Claim: (|x| / radius)^D is uniform in [0, 1]. The Dvoretzky-Kiefer-Wolfowitz bound: n draws
    are off that line by more than sqrt(ln(2 / a) / 2n) with probability a at most.

    Number: n = 8000, a = 1e-6: 0.030. Catches: the power 1 / (D + 1), which is off by 0.043; a
    radius for each token where the sentence has one.
    """
    radii = draw("uniform", scope).norm(dim=1).tolist()
    shares = [(radius / 2) ** 8 for radius in radii]
    shares.sort()
    worst = 0.0
    for below, share in enumerate(shares):
        worst = max(worst, abs(share - below / N))
        worst = max(worst, abs(share - (below + 1) / N))
    assert worst < math.sqrt(math.log(2 / 1e-6) / (2 * N))


RAGGED = torch.arange(6) < torch.tensor([[0], [6], [3]])  # rows of 0, 6 and 3 places


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_a_row_depends_on_its_own_stream_alone(kind, scope):
    """Claim: bit for bit the same beside others, in a wider batch. Catches: one draw for the whole
    padded batch.
    """
    alone = random_noise(RAGGED[2:, :3], 4, streams(3)[2:], 1.0, kind, scope)
    among = random_noise(RAGGED, 4, streams(3), 1.0, kind, scope)
    assert torch.equal(among[2, :3], alone[0])
    assert alone.abs().min() > 0, "there is no noise"


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_noise_outside_the_places(kind, scope):
    """Claim: exactly 0, also in a row without any place. Catches: 0 dimensions, 1 / 0."""
    noise = random_noise(RAGGED, 4, streams(3), 1.0, kind, scope)
    assert noise.shape == (3, 6, 4)
    assert noise.dtype == torch.float32
    assert noise[~RAGGED].eq(0).all()
