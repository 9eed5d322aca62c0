"""Objectives for rung 11: functions (B, T, D) -> (B,) that an attack on embeddings raises."""

import pytest
import torch

from attacks import Ball
from xlt import generator

TOKEN = Ball(0.5)
SENTENCE = Ball(0.5, scope="sentence")
CUBE = Ball(0.5, norm="max")
BALLS = [TOKEN, SENTENCE, CUBE]


def streams(n):
    """One generator a row."""
    return [generator(0, "noise", row) for row in range(n)]


def near(*coordinates):
    """A token, to 1e-6: float32 by hand."""
    return pytest.approx(coordinates, abs=1e-6)


def linear(*slopes):
    """An objective whose slope at token t is slopes[t]."""
    g = torch.tensor(slopes)

    def objective(embeddings):
        products = embeddings * g
        return products.sum((1, 2))  # (B, T, D) -> (B,)

    return objective


def make_hills(seed):
    """An objective with many hills, embeddings (4, 5, 3), and places: the rows have padding."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(15, 16, generator=rng)
    b = torch.randn(16, generator=rng)
    embeddings = torch.randn(4, 5, 3, generator=rng)
    lengths = torch.tensor([[5], [3], [4], [1]])
    places = torch.arange(5) < lengths  # (T,) < (B, 1) -> (B, T)

    def objective(x):
        flat = x.flatten(1)  # (B, T, D) -> (B, 15)
        waves = torch.sin(flat @ a.to(x))  # (B, 15) @ (15, 16) -> (B, 16)
        return waves @ b.to(x)  # (B, 16) @ (16,) -> (B,)

    return objective, embeddings, places
