"""Rung 14: an interval that covers, a p value that is right by chance, a sentence that says both.

Builds: evaluate.py, section "statistics". Before: rung 6. Run: pytest tests/test_14_statistics.py

Shapes: S seeds, Q queries, G groups (a question in all its languages).
"""

import itertools
import math

import numpy as np
import pytest

from evaluate import bootstrap, by_group, compare, holm, randomisation_test, sentence, widening

NAN = float("nan")


def simulated(rng, seeds, groups, seed_noise, rest_noise):
    """Differences with truth 0: one effect a seed, one a group (spread 1), and the rest."""
    seed = seed_noise * rng.standard_normal((seeds, 1))
    rest = rest_noise * rng.standard_normal((seeds, groups))
    return seed + rng.standard_normal((1, groups)) + rest, float(seed[0, 0])


def test_groups_are_averaged_by_hand_and_sorted_by_name():
    """Number: b holds .9 and .3 (mean .6), a holds .2 and NaN (.2, not .1), c only NaN.
    Catches: order of appearance (b first), NaN counted as 0, and 0 for a group without a value.
    """
    values, groups = [0.9, 0.2, 0.3, NAN, NAN], ["b", "a", "b", "a", "c"]
    np.testing.assert_allclose(by_group(np.array(values), groups), [0.2, 0.6, NAN], atol=1e-12)
    two = by_group(np.array([values, [1.0, 0.0, 0.5, 0.5, 0.0]]), np.array(groups))
    np.testing.assert_allclose(two, [[0.2, 0.6, NAN], [0.25, 0.75, 0.0]], atol=1e-12)


def test_groups_agree_with_loops_on_random_sizes():
    """Claim: 50 tables with uneven groups and NaN. Number: 1e-12, sums of at most 40 values."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = np.where(rng.random((3, 40)) < 0.3, NAN, rng.random((3, 40)))
        groups = [f"q{rng.integers(9)}" for _ in range(40)]
        found = by_group(values, groups)
        for s, (j, name) in itertools.product(range(3), enumerate(sorted(set(groups)))):
            own = [v for v, g in zip(values[s].tolist(), groups) if g == name and not math.isnan(v)]
            expected = math.fsum(own) / len(own) if own else NAN
            np.testing.assert_allclose(found[s, j], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "level", "t", "z"),
    [(2, 0.95, 12.7062, 1.95996), (3, 0.95, 4.3027, 1.95996), (5, 0.95, 2.7764, 1.95996),
     (31, 0.95, 2.0423, 1.95996), (3, 0.9, 2.9200, 1.64485)],
)  # fmt: skip
def test_widening_agrees_with_the_printed_table_of_t(n, level, t, z):
    """Number: t at (1 + level) / 2 with n - 1 degrees of freedom, from any table, to four digits.
    Catches: n for n - 1 degrees of freedom (3.18 for 4.30), a one-sided level (2.92).
    """
    assert widening(n, level) == pytest.approx(math.sqrt(n / (n - 1)) * t / z, rel=5e-5)


@pytest.mark.parametrize(
    ("seeds", "seed_noise", "rest_noise", "highest"),
    [
        (1, 0.0, 0.5, 0.97),  # truth: the mean of this one seed
        (3, 0.0, 0.5, 0.98),
        (3, math.sqrt(3 / 30), 0.5, 0.99),  # the seeds add as much as the groups
        (3, 3 * math.sqrt(3 / 30), 0.5, 0.98),
        (5, 3 * math.sqrt(5 / 30), 0.5, 0.98),
        (3, 0.0, 3.0, 0.997),  # the rest is counted thrice: too wide, but not as wide as it was
    ],
)
def test_the_interval_covers_the_truth_at_its_nominal_rate(seeds, seed_noise, rest_noise, highest):
    """Claim: 95% intervals miss 1 in 20, or fewer. Number: 600 worlds of 30 groups; a true rate of
    .95 falls below .92 once in 1,500 (standard error .0089).
    Catches: the plain bootstrap (.82 with three strong seeds), seeds not resampled (.54), groups
    not resampled (0 to .3), seeds widened by the rest as well (.998 in the last line).
    """
    rng, hits = np.random.default_rng(0), 0
    for _ in range(600):
        difference, own = simulated(rng, seeds, 30, seed_noise, rest_noise)
        low, high = bootstrap(difference, rng, resamples=400)
        hits += low <= (own if seeds == 1 else 0.0) <= high
    assert 0.92 <= hits / 600 <= highest


def test_the_interval_of_one_seed_is_the_t_interval_at_any_level():
    """Number: 8 groups, level .5: t at .75 with 7 degrees of freedom is .7111, so the width is
    2 * .7111 * s / sqrt(8); 5% for the draws, and because a mean of 8 is not quite normal.
    Catches: a level that moves the percentiles and not t (14% wider), or neither.
    """
    d = np.array([[-3.1, -2.3, -1.7, -0.4, 0.6, 1.2, 2.45, 3.6]])
    low, high = bootstrap(d, np.random.default_rng(0), resamples=20_000, level=0.5)
    assert high - low == pytest.approx(2 * 0.7111 * d.std(ddof=1) / math.sqrt(8), rel=0.05)


def test_groups_are_resampled_and_not_queries():
    """Claim: 11 equal translations tell as much as one. Number: by queries the interval would be
    sqrt(11) = 3.32 times narrower; times 1.045 for our widening at 40 groups: 3.46. 10%: the draws.
    Catches: one group a query (ratio 1.01).
    """
    rng = np.random.default_rng(0)
    b, names = np.zeros((1, 440)), np.repeat([f"q{i:02}" for i in range(40)], 11)
    a = np.repeat(rng.standard_normal((1, 40)), 11, axis=1)
    found = compare(a, b, names, rng)
    means = [rng.choice(a[0], 440).mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found["n_groups"] == 40
    assert (found["high"] - found["low"]) / (high - low) == pytest.approx(3.46, rel=0.1)


def test_pairing_by_question_and_seed_finds_what_an_unpaired_comparison_misses():
    """Claim: a is .02 above b for every question and seed, with noise .01; questions differ by .3,
    seeds by .1. Number: paired, the interval is .016 to .026; unpaired it is .021 +- .104.
    Catches: recipes resampled apart; seeds or queries of b in another order.
    """
    rng, groups = np.random.default_rng(0), np.arange(40)
    level = 0.3 * rng.standard_normal((1, 40)) + np.array([[-0.1], [0.0], [0.1]])  # (S, G)
    a, b = (level + shift + 0.01 * rng.standard_normal((3, 40)) for shift in (0.02, 0.0))
    found = compare(a, b, groups, rng)
    assert 0.01 < found["low"] < found["high"] < 0.03 and found["p"] < 0.001
    apart = math.sqrt(a.mean(0).var(ddof=1) / 40 + b.mean(0).var(ddof=1) / 40)  # no seeds even
    assert found["difference"] - 1.96 * apart < 0 and 2 * 1.96 * apart > 0.1, "nothing to miss"


def test_a_constant_difference_has_an_interval_of_no_width():
    """Number: all .25: [.25, .25]. Catches: a division by the seeds' spread, which is 0."""
    with np.errstate(all="raise"):
        low, high = bootstrap(np.full((3, 5), 0.25), np.random.default_rng(0))
    assert (low, high) == (pytest.approx(0.25, abs=1e-12), pytest.approx(0.25, abs=1e-12))


def test_the_p_value_of_three_groups_by_hand():
    """Number: group means 3, 2, -1 sum to 4. Of 8 patterns, |sum| is 6 (++-flipped), 4, 2 or 0:
    +++ 4, ++- 6, +-+ 0, +-- 2 and their mirror images: 4 of 8 reach 4, so p = .5.
    Catches: one side only (.25), > for >= (.25), the seeds' mean left out.
    """
    difference = np.array([[4.0, 1.0, -1.0], [2.0, 3.0, -1.0]])
    assert randomisation_test(difference, np.random.default_rng(0)) == 0.5


def test_small_samples_agree_with_enumeration():
    """Claim: 60 tables of 1 to 8 groups, values in tenths so that means tie, exactly.
    Number: exact, whole numbers in the oracle. Catches: ties lost by rounding (.1 + .2 > .3).
    """
    rng = np.random.default_rng(1)
    for _ in range(60):
        tenths = rng.integers(-4, 5, rng.integers(1, 9)).tolist()
        signs = list(itertools.product((1, -1), repeat=len(tenths)))
        sums = [abs(sum(s * d for s, d in zip(sign, tenths))) for sign in signs]
        expected = sum(x >= abs(sum(tenths)) for x in sums) / len(sums)
        assert randomisation_test(np.array([tenths]) / 10, rng) == expected


def test_drawn_patterns_agree_with_all_patterns():
    """Claim: 10 groups, 20,000 rounds against all 1,024. Number: the standard error is at most
    .5 / sqrt(20000) = .0035; four of them are .014, false alarm 1 in 16,000 for each of 5 tables.
    Catches: one sign for all groups (p = 1).
    """
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.2, 0.3, 0.4, 0.6):
        difference = rng.standard_normal((1, 10)) + shift
        exact = randomisation_test(difference, rng)
        drawn = randomisation_test(difference, rng, rounds=20_000, exact=0)
        assert drawn != exact and abs(drawn - exact) < 0.014


def test_a_drawn_p_value_is_never_zero():
    """Number: 40 equal differences, 99 rounds: no pattern drawn reaches them, p = 1 / 100."""
    assert randomisation_test(np.ones((1, 40)), np.random.default_rng(0), rounds=99) == 0.01


@pytest.mark.parametrize("groups", [4, 40])
def test_equal_recipes_give_p_one(groups):
    """Claim: no difference, no evidence. Catches: > for >= (p = 0, or .01 if drawn)."""
    assert randomisation_test(np.zeros((3, groups)), np.random.default_rng(0), rounds=99) == 1.0


@pytest.mark.parametrize("groups", [11, 30])
def test_false_alarms_are_as_rare_as_promised(groups):
    """Claim: if nothing differs, p <= .05 in 1 of 20. Number: 800 worlds; a true rate of .05 leaves
    [.025, .075] once in 850 (standard error .0077). The groups' effect is common to three seeds.
    Catches: a sign for each cell (.25 and more), one-sided hits (.10).
    """
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(800):
        difference, _ = simulated(rng, 3, groups, 0.0, 0.3)
        alarms += randomisation_test(difference, rng, rounds=199) <= 0.05
    assert 0.025 <= alarms / 800 <= 0.075


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),  # .01 * 3, .03 * 2, then .04 rises to .06
        ([0.01, 0.02, 0.022, 0.3], [0.04, 0.06, 0.06, 0.3]),  # .022 * 2 = .044 rises to .06
        ([0.9, 0.4, 0.8], [1.0, 1.0, 1.0]),  # .4 * 3 = 1.2 is cut
        ([0.5, 0.001, 0.001], [0.5, 0.003, 0.003]),  # ties: the second is .002, raised
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, expected):
    """Number: beside each case. Catches: Bonferroni (.12 for .04), no running maximum (.04), no
    cut at 1, sorted in place of the given order.
    """
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)


def test_holm_agrees_with_rejecting_step_by_step():
    """Claim: adjusted p <= level exactly where Holm's procedure rejects: the smallest p against
    level / m, the next against level / (m - 1), stop at the first failure. 200 lists, 19 levels.
    """
    rng = np.random.default_rng(4)
    for _ in range(200):
        p_values = (rng.random(rng.integers(1, 9)) ** 2).tolist()
        adjusted = holm(p_values)
        for level in np.arange(1, 20) / 20:
            rejected, left = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
            while left and p_values[left[0]] <= level / len(left):
                rejected.add(left.pop(0))
            assert rejected == {i for i, p in enumerate(adjusted) if p <= level}


def test_a_comparison_leaves_out_what_has_no_value():
    """Number: q1 differs by .4 and .2 (mean .3), q2's second query is NaN in b: .1 remains; q3 is
    NaN for one seed and leaves. Mean of .3 and .1 is .2. Catches: NaN for all, or b's mean of both.
    """
    a = np.array([[0.9, 0.5, 0.6, 0.8, 0.7]] * 2)
    b = np.array([[0.5, 0.3, 0.5, NAN, 0.1], [0.5, 0.3, 0.5, NAN, NAN]])
    found = compare(a, b, ["q1", "q1", "q2", "q2", "q3"], np.random.default_rng(0))
    assert found["difference"] == pytest.approx(0.2, abs=1e-12)
    assert (found["n_seeds"], found["n_groups"], found["p"]) == (2, 2, 0.5)
    assert list(found) == ["difference", "low", "high", "p", "n_seeds", "n_groups"]


def test_the_same_seed_gives_the_same_numbers():
    """Claim: all chance comes from rng. Guard: another seed gives another interval and p."""
    a, b = np.random.default_rng(0).random((2, 3, 30))
    runs = [compare(a, b, range(30), np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert runs[0] == runs[1]
    assert all(runs[0][key] != runs[2][key] for key in ("low", "high", "p"))


def cell(where, difference, low, high, significant=True):
    found = {"where": where, "difference": difference, "low": low, "high": high}
    return found | {"significant": significant}


UP, DOWN = cell("mono", 0.021, 0.012, 0.03), cell("cross", -0.0104, -0.016, -0.004)
OPEN, UP_TOO = cell("pool", 0.001, -0.004, 0.006, False), cell("pool", 0.3, 0.1, 0.5)
WORSE = cell("mono", -0.2, -0.5, 0.1, False)
TINY, NONE = cell("mono", -0.0001, -0.0003, 0.0002, False), cell("cross", 0.0, 0.0, 0.0)
M, C = "0.021 [0.012, 0.030] in mono", "0.010 [0.004, 0.016] in cross"  # of UP, of DOWN
P = "the pool (+0.001 [-0.004, 0.006])"  # of OPEN
ELSE, NOT = "; no significant difference in", "does not differ significantly from x-y in"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([UP], f"is above x-y by {M}."),
        ([DOWN], f"is below x-y by {C}."),
        ([UP, DOWN, OPEN], f"is above x-y by {M} and below it by {C}{ELSE} {P}."),
        (
            [UP_TOO, DOWN, UP],
            f"is above x-y by 0.300 [0.100, 0.500] in the pool and {M}, and below it by {C}.",
        ),
        ([DOWN, OPEN, TINY], f"is below x-y by {C}{ELSE} {P} or mono (+0.000 [0.000, 0.000])."),
        ([OPEN], f"{NOT} {P}."),
        (
            [OPEN, WORSE, NONE],
            f"{NOT} {P}, mono (-0.200 [-0.500, 0.100]) or cross (+0.000 [0.000, 0.000]).",
        ),
    ],
)
def test_the_sentence_says_better_worse_and_undecided(cells, expected):
    """Claim: exact strings. Catches: signed bounds for "below" ([-0.016, -0.004]), -0.000, "the
    pool" as "pool", a name said twice, an undecided cell told as a win.
    """
    assert sentence("hybrid", "x-y", cells) == f"hybrid {expected}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: compare(np.ones((3, 4)), np.ones((2, 4)), range(4), rng), "same seeds"),
        (lambda rng: compare(np.ones((1, 4)), np.ones((3, 4)), range(4), rng), "same seeds"),
        (lambda rng: compare(np.ones(4), np.ones(4), range(4), rng), r"\(S, Q\)"),
        (lambda rng: compare(np.ones((2, 4)), np.ones((2, 4)), range(3), rng), "query a group"),
        (lambda rng: compare(np.ones((2, 4)), np.ones((2, 4)), [0] * 4, rng), "at least 2 groups"),
        (lambda rng: bootstrap(np.array([[0.1, NAN]]), rng), "none of them NaN"),
    ],
)
def test_wrong_input_is_refused_with_the_fix(call, message):
    """Claim: ValueError, and what to do. Catches: shapes that numpy would broadcast: one seed
    against three passes silently."""
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
