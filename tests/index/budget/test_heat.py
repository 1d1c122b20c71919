"""Which segments are least in use: native heat beside a plain model of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index._native import Heat
from kvatlas.index.errors import InputError
from tests.models.heat import Content, NaiveHeat, bytes_of

pytestmark = pytest.mark.native

BUDGET = 4 << 20
ONE_LEVEL = 1.035
"""Levels of coldness are this far apart."""

tags = st.sampled_from([0, 1, 1 << 20, 3 << 20, 0x8000_0000, 0xFFFF_FFFF])
steps = st.one_of(
    st.tuples(st.just("apply"), st.integers(0, 3_000_000)),
    st.tuples(st.just("added"), tags),
    st.tuples(st.just("looked_up"), tags),
)


@given(st.lists(steps, max_size=60), st.sampled_from([BUDGET, 5 << 20, 1 << 26, 1 << 30]))
def test_uses_age_and_lookups_are_halved_as_in_the_model(done: list[tuple[str, int]], budget: int) -> None:
    heat, model = Heat(budget), NaiveHeat(budget)
    assert heat.n_buckets == 1 << model.bucket_bits
    for what, value in done:
        getattr(heat, what)(value)
        if what == "apply":
            model.keys_applied += value
        else:
            model.use(model.bucket_of(value), int(what == "looked_up"))
        for tag in (0, 1 << 20, 0xFFFF_FFFF):
            assert heat.bucket_of(tag) == model.bucket_of(tag)
            assert heat.use_of(tag) == model.use_of(model.bucket_of(tag))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step", [1, 777, 1 << 20])
def test_what_is_left_behind_is_colder_than_what_stays_and_just_enough(seed: int, step: int) -> None:
    random = np.random.default_rng(seed)
    heat, model = Heat(BUDGET), NaiveHeat(BUDGET)
    contents = {
        int(b): Content(int(random.integers(1, 200)), int(random.integers(0, 3000) * (random.random() < 0.2)))
        for b in random.choice(heat.n_buckets, 1_500, replace=False)
    }
    for bucket in random.choice(list(contents), 6_000):
        tag, looked_up = int(bucket) << 19, bool(random.random() < 0.5)
        heat.apply(300)
        model.keys_applied += 300
        (heat.looked_up if looked_up else heat.added)(tag)
        model.use(int(bucket), int(looked_up))
    entry_bytes, unit_bytes = 21.3, 40.0
    costs = bytes_of(contents, entry_bytes, unit_bytes)
    wanted = sum(costs.values()) * float(random.uniform(0.05, 0.6))
    asked = [(b, c.entries, c.set_units) for b, c in contents.items()]
    cold = set(heat.coldest(asked, entry_bytes, unit_bytes, wanted, step))
    assert cold <= set(contents)
    dropped = sum(costs[b] for b in cold)
    assert wanted <= dropped <= wanted * 1.1 + max(costs.values())
    coldness = {b: model.coldness(b, c, entry_bytes, unit_bytes) for b, c in contents.items()}
    assert min(coldness[b] for b in cold) * ONE_LEVEL >= max(coldness[b] for b in contents.keys() - cold)


def test_of_segments_equally_cold_only_so_many_go_as_must() -> None:
    heat = Heat(BUDGET)
    contents = [(bucket, 128, 0) for bucket in range(heat.n_buckets)]
    cold = heat.coldest(contents, 20.0, 0.0, 20.0 * 128 * 400, 4096)
    assert 400 <= len(cold) <= 400 + heat.n_buckets / 24


def test_nothing_goes_where_nothing_must_and_all_where_all_must() -> None:
    heat = Heat(BUDGET)
    contents = [(7, 10, 0), (9, 10, 1)]
    assert heat.coldest(contents, 20.0, 1.0, 0.0, 100) == []
    assert heat.coldest(contents, 20.0, 1.0, 1e12, 100) == [7, 9]
    assert heat.coldest([], 20.0, 1.0, 1e12, 100) == []


def test_of_two_as_old_the_one_whose_sets_cost_more_goes() -> None:
    heat = Heat(BUDGET)
    assert heat.coldest([(1, 100, 0), (2, 100, 500)], 20.0, 16.0, 100.0, 100) == [2]


def test_a_bucket_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"contents: expected \(bucket, entries, set units\)"):
        Heat(BUDGET).coldest([(8192, 1, 0)], 20.0, 1.0, 1.0, 100)


def test_a_segment_unused_for_longer_than_the_clock_counts_stays_old() -> None:
    heat = Heat(BUDGET)
    heat.looked_up(0)
    for _ in range(10):
        heat.apply(128 << 25)
        heat.coldest([(0, 1, 0)], 20.0, 1.0, 0.0, 1 << 20)
    assert heat.use_of(0)[0] >= 1 << 24
    heat.looked_up(1 << 19)
    assert heat.coldest([(0, 1, 0), (1, 1, 0)], 20.0, 1.0, 1.0, 1 << 20) == [0]
