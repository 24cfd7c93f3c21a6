"""Paired differences against scipy's paired t-test, and in cases known in closed form."""

import random

import pytest
from scipy import stats

from samix.compare.paired import paired_difference


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_interval_is_that_of_the_paired_t_test(n):
    draw = random.Random(n)
    own, base = ({seed: draw.gauss(mean, 1.0) for seed in range(n)} for mean in (1.0, 0.0))
    found = paired_difference(own, base)
    test = stats.ttest_rel(list(own.values()), list(base.values()))
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.significant == bool(test.pvalue < 0.05)


def test_only_common_seeds_count_and_their_common_part_cancels():
    base = {0: 10.0, 1: 50.0, 2: 90.0}
    found = paired_difference({seed: value + 2.0 for seed, value in base.items()} | {7: 0.0}, base)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((2.0, 2.0, 2.0, 3))


def test_one_seed_has_no_interval_and_no_seed_no_difference():
    found = paired_difference({0: 3.0}, {0: 1.0, 1: 2.0})
    assert (found.mean, found.low, found.n, found.significant) == (2.0, None, 1, False)
    assert paired_difference({0: 3.0}, {1: 2.0}) is None
