"""Rung 2: InfoNCE, with false negatives masked.

Builds: xlt.info_nce, xlt.false_negatives. Before: rung 0. Run: pytest tests/test_02_loss.py
"""

import math

import pytest
import torch

from xlt import false_negatives, info_nce

# With p the identity, the scores are q itself: [[2, 1], [0, 3]]
Q = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
EYE = torch.eye(2)


def oracle(scores, tau, mask=None, symmetric=False):
    """InfoNCE in nested loops with math alone."""

    def one_way(at, masked):
        total, n = 0.0, len(scores)
        for i in range(n):
            below = sum(math.exp(at(i, j) / tau) for j in range(n) if not masked(i, j))
            total += math.log(below) - at(i, i) / tau
        return total / n

    hidden = lambda i, j: mask is not None and bool(mask[i][j])
    there = one_way(lambda i, j: scores[i][j], hidden)
    if not symmetric:
        return there
    return (there + one_way(lambda i, j: scores[j][i], lambda i, j: hidden(j, i))) / 2


def test_the_loss_is_a_scalar_in_fp32_also_for_bf16_vectors():
    """Claim: -inf and log-sum-exp are taken in fp32. Catches: a loss rounded to 8 bits."""
    loss = info_nce(Q.bfloat16(), EYE.bfloat16(), tau=0.5)
    assert loss.shape == () and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.064702, abs=1e-6)


def test_the_loss_of_a_hand_example():
    """Number: rows give log(1 + e^-2) = 0.126928 and log(1 + e^-6) = 0.002476; their mean 0.064702.

    Catches: a forgotten tau (0.180925), the wrong axis (0.018150), a sum for a mean (0.129404).
    """
    assert info_nce(Q, EYE, tau=0.5).item() == pytest.approx(0.064702, abs=1e-6)


def test_the_symmetric_loss_of_a_hand_example():
    """Number: the columns give log(1 + e^-4) twice = 0.018150; with the rows (0.064702 + 0.018150) / 2."""
    loss = info_nce(Q, EYE, tau=0.5, symmetric=True)
    assert loss.item() == pytest.approx(0.041426, abs=1e-6)


def test_a_masked_column_leaves_the_sum_and_no_other_row():
    """Number: with [0, 1] masked row 0 gives 0, so the mean is 0.002476 / 2 = 0.001238.

    Catches: the mask transposed, which would leave 0.126928 / 2 = 0.063464.
    """
    mask = torch.tensor([[False, True], [False, False]])
    assert info_nce(Q, EYE, tau=0.5, mask=mask).item() == pytest.approx(0.001238, abs=1e-6)


def test_a_row_without_negatives_adds_zero_loss_and_zero_gradient():
    """Claim: 0, not NaN. Catches: log of an empty sum."""
    q = Q.clone().requires_grad_()
    loss = info_nce(q, EYE, tau=0.5, mask=~torch.eye(2, dtype=torch.bool), symmetric=True)
    loss.backward()
    assert loss.item() == 0.0 and q.grad.abs().max().item() == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_agrees_with_nested_loops(seed):
    """Claim: agreement over sizes 1 to 7, temperatures and masks, both ways, to 1e-5."""
    rng = torch.Generator().manual_seed(seed)
    size, tau = int(torch.randint(1, 8, (), generator=rng)), 0.05 + float(torch.rand((), generator=rng))
    q, p = (torch.nn.functional.normalize(torch.randn(size, 5, generator=rng), dim=1) for _ in "qp")
    mask = (torch.rand(size, size, generator=rng) < 0.3).fill_diagonal_(False)
    for symmetric in (False, True):
        expected = oracle((q @ p.T).tolist(), tau, mask.tolist(), symmetric)
        assert info_nce(q, p, tau, mask, symmetric).item() == pytest.approx(expected, abs=1e-5)


def test_false_negatives_are_the_passages_whose_group_answers_the_query():
    """Claim: row 0 is answered by groups 4 and 9, column 2 is of group 9. Number: by eye.

    Catches: comparing query groups, which cannot see two questions that share a gold sentence.
    """
    gold = torch.tensor([[4, 9], [5, -1], [9, -1]])
    group = torch.tensor([4, 5, 9])
    expected = [[False, False, True], [False, False, False], [False, False, False]]
    assert false_negatives(gold, group).tolist() == expected


def test_the_diagonal_is_never_masked_and_padding_matches_nothing():
    """Claim: the positive stays. Catches: -1 == -1, and a mask that removes the positive."""
    gold = torch.tensor([[1, -1], [1, -1]])
    group = torch.tensor([1, 1])
    assert false_negatives(gold, group).tolist() == [[False, True], [True, False]]


def test_a_temperature_that_is_not_above_zero_is_refused():
    """Claim: 0 and -1 name the value and the remedy. Catches: tau taken for a scale."""
    for tau in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            info_nce(Q, EYE, tau)
