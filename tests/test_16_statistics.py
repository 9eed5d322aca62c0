"""Rung 16: an interval that covers, a p value that is right by chance, a correction for many tests.

Builds: study.py, section "statistics". Before: rung 6. Run: pytest tests/test_16_statistics.py

Shapes: S seeds, Q queries, G groups (a question in all its languages).
"""

import itertools
import math
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

from study import bootstrap, by_group, compare, holm, randomisation_test, widening

NAN = float("nan")


def generator(seed=0):
    """All chance of a test comes from here."""
    return np.random.default_rng(seed)


# ---- groups: the translations of a question are one observation ----------------------------------


def test_groups_are_averaged_and_sorted_by_name():
    """Number: b holds .9 and .3, their mean is .6; a holds .2 alone.

    Catches: groups in their order of appearance (.6 first), sums for means (1.2).
    """
    values = np.array([0.9, 0.2, 0.3])
    means = by_group(values, ["b", "a", "b"])
    assert_allclose(means, [0.2, 0.6])


def test_a_query_without_a_value_is_left_out_of_its_group():
    """Number: a holds .2 and NaN: .2. Catches: NaN counted as 0 (.1), NaN for the whole group."""
    values = np.array([0.2, NAN, 0.6])
    means = by_group(values, ["a", "a", "b"])
    assert_allclose(means, [0.2, 0.6])


def test_a_group_without_any_value_is_nan():
    """Claim: nothing measured is not "measured as 0". Catches: 0, a warning of 0 / 0."""
    values = np.array([NAN, 0.5])
    with np.errstate(all="raise"):
        means = by_group(values, ["a", "b"])
    assert_allclose(means, [NAN, 0.5])


def test_every_seed_is_grouped_for_itself():
    """Number: seed 0 gives (.1 + .3) / 2 and .6, seed 1, where .3 is missing, .5 and .8.

    Catches: a NaN of one seed that takes the query from the other.
    """
    first_seed = [0.1, 0.3, 0.6]
    second_seed = [0.5, NAN, 0.8]
    values = np.array([first_seed, second_seed])  # (S, Q)
    first, second = by_group(values, ["a", "a", "b"])  # (S, G)
    assert_allclose(first, [0.2, 0.6])
    assert_allclose(second, [0.5, 0.8])


def loop_means(values, groups):
    """The mean of each group, in nested loops."""
    means = []
    for group in sorted(set(groups)):
        members = []
        for value, of_group in zip(values, groups, strict=True):
            if of_group == group and not math.isnan(value):
                members.append(value)
        if members:
            means.append(math.fsum(members) / len(members))
        else:
            means.append(NAN)
    return means


@pytest.mark.parametrize("seed", range(10))
def test_groups_agree_with_loops(seed):
    """Claim: uneven groups, a third of the values missing. Number: 1e-7, the default: far above
    the rounding of sums of at most 40 values.

    Catches: a group's sum divided by all its queries, missing ones included.
    """
    rng = generator(seed)
    values = rng.random(40)
    values[rng.random(40) < 0.3] = NAN
    groups = [f"q{number}" for number in rng.integers(9, size=40)]
    expected = loop_means(values.tolist(), groups)
    assert_allclose(by_group(values, groups), expected)


def test_a_query_without_a_group_is_refused():
    """Claim: 4 values and 3 groups name both. Catches: numpy's words about broadcasting."""
    values = np.ones((2, 4))
    message = r"values \(2, 4\), groups \(3,\): give each query a group"
    with pytest.raises(ValueError, match=message):
        by_group(values, ["a", "b", "c"])


# ---- the interval --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "level", "t", "z"),
    [
        (2, 0.95, 12.7062, 1.95996),
        (3, 0.95, 4.3027, 1.95996),
        (5, 0.95, 2.7764, 1.95996),
        (31, 0.95, 2.0423, 1.95996),
        (3, 0.9, 2.9200, 1.64485),
    ],
)
def test_widening_agrees_with_the_printed_table_of_t(n, level, t, z):
    """Number: t at (1 + level) / 2 with n - 1 degrees of freedom, from any table, to four digits.

    Catches: n degrees of freedom (3.18 for 4.30), a one-sided level (2.92), a root left out.
    """
    root = math.sqrt(n / (n - 1))
    assert widening(n, level) == pytest.approx(root * t / z, rel=5e-5)


def differences(rng, seeds, groups, seed_spread, rest_spread):
    """A world where nothing differs, (S, G): an effect a seed, one a group (spread 1), the rest."""
    seed = seed_spread * rng.standard_normal((seeds, 1))
    group = rng.standard_normal((1, groups))
    rest = rest_spread * rng.standard_normal((seeds, groups))
    return seed + group + rest


def coverage(seeds, seed_spread, rest_spread, worlds=600):
    """The share of worlds of 30 groups whose 95 % interval holds the truth, which is 0."""
    rng, hits = generator(), 0
    for _ in range(worlds):
        difference = differences(rng, seeds, 30, seed_spread, rest_spread)
        low, high = bootstrap(difference, rng, resamples=400)
        hits += low <= 0 <= high
    return hits / worlds


# The spread of S seeds at which their mean is as uncertain as that of 30 groups: sqrt(S / 30)
AS_STRONG = math.sqrt(3 / 30)


@pytest.mark.parametrize(
    ("seeds", "seed_spread", "rest_spread", "most"),
    [
        (1, 0.0, 0.5, 0.97),
        (3, 0.0, 0.5, 0.98),
        (3, AS_STRONG, 0.5, 0.99),
        (3, 3 * AS_STRONG, 0.5, 0.98),
        (5, 3 * math.sqrt(5 / 30), 0.5, 0.98),
        (3, 0.0, 3.0, 0.997),  # the rest is counted thrice: too wide, but not as wide as it was
    ],
)
def test_the_interval_covers_the_truth_at_its_nominal_rate(seeds, seed_spread, rest_spread, most):
    """Claim: 95 % intervals miss 1 in 20, or fewer. Number: 600 worlds; a true rate of .95 falls
    below .92 once in 1,500 (standard error .0089); `most` is what the method's excess explains.

    Catches: the plain bootstrap (.82 with three strong seeds), seeds not resampled (.47 with them),
    groups not resampled (0 with one seed), seeds widened by the rest as well (.998, last line).
    """
    assert 0.92 <= coverage(seeds, seed_spread, rest_spread) <= most


def test_the_interval_of_one_seed_is_the_t_interval_at_any_level():
    """Number: 8 groups, level .5: t at .75 with 7 degrees of freedom is .7111, so the width is
    2 * .7111 * s / sqrt(8); 5 % for the draws, and because a mean of 8 is not quite normal.

    Catches: a level that moves the percentiles and not t (14 % wider), or neither.
    """
    difference = np.array([[-3.1, -2.3, -1.7, -0.4, 0.6, 1.2, 2.45, 3.6]])
    error = difference.std(ddof=1) / math.sqrt(8)
    low, high = bootstrap(difference, generator(), 20_000, level=0.5)
    assert high - low == pytest.approx(2 * 0.7111 * error, rel=0.05)


def test_a_constant_difference_has_an_interval_of_no_width():
    """Number: all .25: [.25, .25]. Catches: a division by the seeds' spread, which is 0."""
    difference = np.full((3, 5), 0.25)
    with np.errstate(all="raise"):
        low, high = bootstrap(difference, generator())
    assert low == pytest.approx(0.25, abs=1e-12)
    assert high == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize(
    "difference",
    [
        [[0.1, NAN]],
        [[0.1], [0.2]],
        [0.1, 0.2],
    ],
)
def test_an_interval_from_too_little_is_refused(difference):
    """Claim: NaN, one group, no axis of seeds: the shape that is needed. Catches: (NaN, NaN)."""
    difference = np.array(difference)
    with pytest.raises(ValueError, match="at least 2 groups.*, none of them NaN"):
        bootstrap(difference, generator())


# ---- the p value ---------------------------------------------------------------------------------


def test_the_p_value_of_three_groups_by_hand():
    """Number: the groups' means are 3, 2, -1 and sum to 4. Of the 8 patterns of signs +++ gives 4,
    ++- 6, +-+ 0, +-- 2, and their mirror images the same: 4 of 8 reach 4, so p = .5.

    Catches: one side only (.25), > for >= (.25), a sum over seeds left out (seed 0 alone: .75).
    """
    first_seed = [4.0, 1.0, -1.0]
    second_seed = [2.0, 3.0, -1.0]
    difference = np.array([first_seed, second_seed])
    assert randomisation_test(difference, generator()) == 0.5


@pytest.mark.parametrize("seed", range(40))
def test_small_samples_agree_with_enumeration(seed):
    """Claim: 1 to 8 groups, values in tenths, so that many means tie. Number: exact; whole numbers
    in the oracle.

    Catches: ties lost by rounding (.1 + .2 > .3), patterns drawn where all can be counted.
    """
    rng = generator(seed)
    groups = rng.integers(1, 9)
    tenths = rng.integers(-4, 5, groups).tolist()
    hits = 0
    for signs in itertools.product((1, -1), repeat=groups):
        total = 0
        for sign, value in zip(signs, tenths, strict=True):
            total += sign * value
        hits += abs(total) >= abs(sum(tenths))
    difference = np.array([tenths]) / 10
    assert randomisation_test(difference, rng) == hits / 2**groups


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.3, 0.4, 0.6])
def test_drawn_patterns_agree_with_all_patterns(shift):
    """Claim: 10 groups, 20,000 rounds against all 1,024. Number: the standard error is at most
    .5 / sqrt(20000) = .0035; four of them are .014, a false alarm in 16,000.

    Catches: one sign for all groups (p = 1), signs of which seven in ten are +.
    """
    rng = generator(2)
    difference = rng.standard_normal((1, 10)) + shift
    counted = randomisation_test(difference, rng)
    drawn = randomisation_test(difference, rng, 20_000, exact=0)
    assert drawn != counted, "the patterns were counted, not drawn"
    assert drawn == pytest.approx(counted, abs=0.014)


def test_a_drawn_p_value_is_never_zero():
    """Number: 40 equal differences, 99 rounds: no pattern drawn reaches them, p = 1 / 100.

    Catches: hits / rounds, which is 0: a certainty that 99 rounds cannot give.
    """
    difference = np.ones((1, 40))
    assert randomisation_test(difference, generator(), rounds=99) == 0.01


@pytest.mark.parametrize("groups", [4, 40])
def test_equal_recipes_give_p_one(groups):
    """Claim: no difference, no evidence, counted or drawn. Catches: > for >= (0, or .01)."""
    difference = np.zeros((3, groups))
    assert randomisation_test(difference, generator(), rounds=99) == 1.0


@pytest.mark.parametrize("groups", [11, 30])
def test_false_alarms_are_as_rare_as_promised(groups):
    """Claim: if nothing differs, p <= .05 in 1 of 20. Number: 800 worlds; a true rate of .05 leaves
    [.025, .075] once in 970 (standard error .0077). The groups' effect is common to three seeds.

    Catches: a sign for each seed and group (.25 and more), one-sided hits (.10).
    """
    rng, alarms = generator(3), 0
    for _ in range(800):
        difference = differences(rng, 3, groups, 0.0, 0.3)
        p = randomisation_test(difference, rng, rounds=199)
        alarms += p <= 0.05
    assert 0.025 <= alarms / 800 <= 0.075


# ---- many tests at once --------------------------------------------------------------------------


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
def test_holm_agrees_with_hand_examples(p_values, expected):
    """Number: beside each case. Catches: Bonferroni (.12 for .04), no running maximum (.04), no
    cut at 1, sorted in place of the given order.
    """
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)


def rejected_by_holm(p_values, level):
    """Which tests Holm's procedure rejects, told as he tells it: step by step."""
    left = dict(enumerate(p_values))
    rejected = set()
    while left:
        smallest = min(left, key=left.get)
        if left[smallest] > level / len(left):
            break  # it stays, and with it all larger ones
        rejected.add(smallest)
        del left[smallest]
    return rejected


@pytest.mark.parametrize("seed", range(20))
def test_holm_rejects_what_the_procedure_rejects_step_by_step(seed):
    """Claim: adjusted p <= level exactly where Holm's procedure rejects, at 19 levels.

    Catches: one test left too many or too few at each step.
    """
    rng = generator(seed)
    tests = rng.integers(2, 9)
    p_values = (rng.random(tests) ** 2).tolist()
    adjusted = holm(p_values)
    for level in np.arange(1, 20) / 20:
        below = {i for i, p in enumerate(adjusted) if p <= level}
        assert below == rejected_by_holm(p_values, level)


@pytest.mark.parametrize("p", [-0.1, 1.1, NAN])
def test_what_is_no_probability_is_refused_by_holm(p):
    """Claim: only our own code can break this: an assertion. Catches: NaN, sorted to the end."""
    with pytest.raises(AssertionError):
        holm([0.01, p])


# ---- two recipes ---------------------------------------------------------------------------------


def test_a_comparison_is_a_minus_b_and_leaves_out_what_has_no_value():
    """Number: q1 differs by .4 and .2: .3; q2 by .1, its second query is NaN in b. Mean .2.

    Catches: b - a, NaN for all, a mean over queries (.233), b's mean of all against a's of half.
    """
    a = np.array([[0.9, 0.5, 0.6, 0.8]])
    b = np.array([[0.5, 0.3, 0.5, NAN]])
    groups = ["q1", "q1", "q2", "q2"]
    result = compare(a, b, groups, generator())
    assert result.difference == pytest.approx(0.2, abs=1e-12)
    assert result.n_groups == 2


def test_a_group_that_one_seed_has_not_leaves_all_seeds():
    """Number: q3 is NaN for seed 1. q1 .1 and .3, q2 .3 and .5: mean .3; q3's .9 would raise it.

    Catches: NaN for all, seeds with means of different questions.
    """
    first_seed = [0.1, 0.3, 0.9]
    second_seed = [0.3, 0.5, NAN]
    a = np.array([first_seed, second_seed])
    b = np.zeros((2, 3))
    result = compare(a, b, ["q1", "q2", "q3"], generator())
    assert result.difference == pytest.approx(0.3, abs=1e-12)
    assert result.n_groups == 2
    assert result.n_seeds == 2


def test_groups_are_resampled_and_not_queries():
    """Claim: 11 equal translations tell as much as one. Number: by queries the interval would be
    sqrt(11) = 3.32 times narrower; times 1.045, our widening at 40 groups: 3.46. 10 %: the draws.

    Catches: each query a group of its own (ratio 1.01).
    """
    rng = generator()
    of_questions = rng.standard_normal((1, 40))
    a = np.repeat(of_questions, 11, axis=1)  # (1, 440)
    b = np.zeros((1, 440))
    groups = np.repeat(np.arange(40), 11)
    result = compare(a, b, groups, rng)
    means = [rng.choice(a[0], 440).mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert (result.high - result.low) / (high - low) == pytest.approx(3.46, rel=0.1)


def questions_and_seeds():
    """Two recipes (S, Q): a is .02 above b with noise .01; questions differ by .3, seeds by .1."""
    rng = generator()
    seed = np.array([[-0.1], [0.0], [0.1]])
    question = 0.3 * rng.standard_normal((1, 40))
    noise_a = 0.01 * rng.standard_normal((3, 40))
    noise_b = 0.01 * rng.standard_normal((3, 40))
    b = seed + question + noise_b
    a = seed + question + noise_a + 0.02
    return a, b


def test_an_unpaired_comparison_would_miss_the_difference():
    """Claim: the world of the next test is hard. Number: 1.96 standard errors of two means of 40
    questions are 1.96 * .3 * sqrt(2 / 40) = .13, against a difference of .02.
    """
    a, b = questions_and_seeds()
    spread_a = a.mean(0).std(ddof=1)
    spread_b = b.mean(0).std(ddof=1)
    error = math.hypot(spread_a, spread_b) / math.sqrt(40)
    assert 1.96 * error > 4 * (a - b).mean()


def test_pairing_by_question_and_seed_finds_it():
    """Number: the noise of a pair is .014, of a mean of 120 pairs .0013: .02 is far from 0.

    Catches: seeds or questions of b in another order, recipes resampled apart.
    """
    a, b = questions_and_seeds()
    result = compare(a, b, range(40), generator())
    assert 0.01 < result.low < result.difference < result.high < 0.03
    assert result.p < 0.001


def test_the_same_generator_gives_the_same_numbers():
    """Claim: all chance comes from rng. Catches: numpy's global state, a seed from the clock."""
    a, b = generator().random((2, 3, 30))
    first = compare(a, b, range(30), generator(5))
    second = compare(a, b, range(30), generator(5))
    assert first == second


def test_another_generator_gives_other_numbers():
    """Claim: the test above sees chance at work. Catches: a generator that is not looked at."""
    a, b = generator().random((2, 3, 30))
    first = compare(a, b, range(30), generator(5))
    second = compare(a, b, range(30), generator(6))
    assert first.low != second.low
    assert first.p != second.p


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((3, 4), (2, 4)),
        ((1, 4), (3, 4)),
        ((3, 4), (3, 5)),
        ((4,), (4,)),
    ],
)
def test_recipes_with_other_seeds_or_queries_are_refused(shape_a, shape_b):
    """Claim: both shapes are named. Catches: one seed against three, which numpy broadcasts."""
    a = np.ones(shape_a)
    b = np.ones(shape_b)
    shapes = re.escape(f"{shape_a} and {shape_b}: give both the same seeds and queries, (S, Q)")
    with pytest.raises(ValueError, match=shapes):
        compare(a, b, range(4), generator())


def test_a_comparison_of_one_question_is_refused():
    """Claim: an interval over questions needs two. Catches: [NaN, NaN], or a width of 0."""
    a = np.ones((2, 4))
    b = np.zeros((2, 4))
    with pytest.raises(ValueError, match="at least 2 groups"):
        compare(a, b, ["q1"] * 4, generator())
