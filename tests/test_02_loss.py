"""Rung 2: InfoNCE, with false negatives masked.

Builds: xlt.info_nce, xlt.false_negatives. Before: rung 0. Run: pytest tests/test_02_loss.py
"""

import math

import pytest
import torch
import torch.nn.functional as F

from xlt import false_negatives, info_nce

# With p the identity, the scores are q itself: [[2, 1], [0, 3]]
Q = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
EYE = torch.eye(2)


def queries_pick_passages(scores, mask, tau):
    """InfoNCE in nested loops with math alone: the mean over rows of log sum exp minus s_ii."""
    total = 0.0
    for i in range(len(scores)):
        below = 0.0
        for j in range(len(scores)):
            if not mask[i][j]:
                below += math.exp(scores[i][j] / tau)
        total += math.log(below) - scores[i][i] / tau
    return total / len(scores)


def transpose(table):
    """Rows become columns."""
    return list(zip(*table, strict=True))


def both_pick(scores, mask, tau):
    """The symmetric loss: passages pick queries from the transposed tables."""
    there = queries_pick_passages(scores, mask, tau)
    back = queries_pick_passages(transpose(scores), transpose(mask), tau)
    return (there + back) / 2


def near(value):
    """Equal to 1e-6: what fp32 leaves of hand-computed numbers below 1."""
    return pytest.approx(value, abs=1e-6)


# ---- by hand -------------------------------------------------------------------------------------


def test_the_loss_is_a_scalar_in_fp32_also_for_bf16_vectors():
    """Claim: -inf and log-sum-exp are taken in fp32.

    Number: 2, 1, 0, 3 are exact in bf16, so the loss is that of the next test.
    Catches: a loss rounded to 8 bits (0.0649).
    """
    loss = info_nce(Q.bfloat16(), EYE.bfloat16(), tau=0.5)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.item() == near(0.064702)


def test_the_loss_of_a_hand_example():
    """Claim: the mean over queries of -log softmax on the diagonal.

    Number: rows give log(1 + e^-2) = 0.126928 and log(1 + e^-6) = 0.002476; their mean 0.064702.
    Catches: a forgotten tau (0.180925), the wrong axis (0.018150), a sum for a mean (0.129404).
    """
    loss = info_nce(Q, EYE, tau=0.5)
    assert loss.item() == near(0.064702)


def test_the_symmetric_loss_of_a_hand_example():
    """Claim: half of it is the loss of passages picking queries.

    Number: columns give log(1 + e^-4) twice = 0.018150; with the rows (0.064702 + 0.018150) / 2.
    Catches: the sum of both (0.082852), and one direction twice (0.064702).
    """
    loss = info_nce(Q, EYE, tau=0.5, symmetric=True)
    assert loss.item() == near(0.041426)


def test_a_masked_column_leaves_the_sum_and_no_other_row():
    """Claim: mask[i, j] takes passage j from the choice of query i.

    Number: with [0, 1] masked row 0 gives 0, so the mean is 0.002476 / 2 = 0.001238.
    Catches: the mask transposed, which would leave 0.126928 / 2 = 0.063464.
    """
    mask = torch.zeros(2, 2, dtype=torch.bool)
    mask[0, 1] = True
    loss = info_nce(Q, EYE, tau=0.5, mask=mask)
    assert loss.item() == near(0.001238)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_row_without_negatives_adds_zero_loss_and_zero_gradient(symmetric):
    """Claim: 0, not NaN.

    Number: the diagonal alone is left, and -log softmax of one number is 0.
    Catches: a masked diagonal, of which log gives -inf.
    """
    q = Q.clone().requires_grad_()
    mask = ~torch.eye(2, dtype=torch.bool)
    loss = info_nce(q, EYE, tau=0.5, mask=mask, symmetric=symmetric)
    loss.backward()
    assert loss.item() == 0.0
    assert q.grad.abs().max().item() == 0.0


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(tau):
    """Claim: 0, -1 and "not a number" name the value and the remedy.

    Catches: `tau <= 0`, which lets NaN pass.
    """
    with pytest.raises(ValueError, match=f"tau is {tau}; .* must be above 0"):
        info_nce(Q, EYE, tau)


# ---- against nested loops ------------------------------------------------------------------------


def random_batch(seed):
    """Unit vectors q, p (B, 5), a mask without its diagonal, a temperature; B is 1 to 7."""
    rng = torch.Generator().manual_seed(seed)
    size = int(torch.randint(1, 8, (), generator=rng))
    q = F.normalize(torch.randn(size, 5, generator=rng), dim=1)
    p = F.normalize(torch.randn(size, 5, generator=rng), dim=1)
    mask = (torch.rand(size, size, generator=rng) < 0.3).fill_diagonal_(False)
    tau = 0.05 + float(torch.rand((), generator=rng))
    return q, p, mask, tau


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_agrees_with_nested_loops(seed):
    """Claim: agreement over sizes 1 to 7, temperatures and masks.

    Number: 1e-5, since scores / 0.05 are up to 20 and fp32 has seven digits.
    Catches: all of the above, on numbers that nobody chose.
    """
    q, p, mask, tau = random_batch(seed)
    scores = (q @ p.T).tolist()
    expected = queries_pick_passages(scores, mask.tolist(), tau)
    loss = info_nce(q, p, tau, mask)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_the_symmetric_loss_agrees_with_nested_loops(seed):
    """Claim: as above, both ways, each with the mask turned its way.

    Number: 1e-5, as above.
    Catches: the mask laid untransposed over the transposed scores.
    """
    q, p, mask, tau = random_batch(seed)
    scores = (q @ p.T).tolist()
    expected = both_pick(scores, mask.tolist(), tau)
    loss = info_nce(q, p, tau, mask, symmetric=True)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


# ---- which negatives are false -------------------------------------------------------------------


def test_false_negatives_are_the_passages_whose_group_answers_the_query():
    """Claim: row 0 is answered by groups 4 and 9, and column 2 is of group 9.

    Number: by eye; row 2 is answered by 9 alone, its own passage, so the table is not symmetric.
    Catches: the table transposed; comparing the first gold group only.
    """
    gold = torch.tensor([[4, 9], [5, -1], [9, -1]])
    passage_group = torch.tensor([4, 5, 9])
    assert false_negatives(gold, passage_group).tolist() == [
        [False, False, True],
        [False, False, False],
        [False, False, False],
    ]


def test_the_positive_is_never_masked():
    """Claim: the diagonal is False, though each passage there answers its query.

    Number: two rows of one group, each the other's false negative.
    Catches: a mask that removes the positive, of which the loss is infinite.
    """
    gold = torch.tensor([[1, -1], [1, -1]])
    passage_group = torch.tensor([1, 1])
    assert false_negatives(gold, passage_group).tolist() == [
        [False, True],
        [True, False],
    ]
