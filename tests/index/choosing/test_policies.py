"""Policies by name, policies of one's own, policies that fail, and the shadow."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index._native import Terms
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.policies.policy import PolicyView
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import ConfigError, InputError, OverloadedError
from tests.index.choosing.small_fleet import SmallFleet, prompt

HERE = "tests.index.choosing.test_policies"


class LastByName:
    """The last pod of the alphabet; with `skips`, never that one."""

    name = "last_by_name"

    def __init__(self, skips: str = "") -> None:
        self.skips = skips

    def costs(self, view: PolicyView) -> npt.NDArray[np.float64]:
        assert view.tier_blocks.shape == (len(view.candidates), 5)
        assert len(view.loads.prefill_tokens) == len(view.cached_tokens) == len(view.candidates)
        return np.array(
            [np.inf if worker.pod == self.skips else -ord(worker.pod[0]) for worker in view.candidates]
        )


class Overlapping:
    """As longest prefix, in Python."""

    name = "overlapping"

    def costs(self, view: PolicyView) -> npt.NDArray[np.float64]:
        return view.prompt_tokens - view.cached_tokens


class Raises:
    name = "raises"

    def costs(self, view: PolicyView) -> npt.NDArray[np.float64]:
        raise InputError("of its own doing")


class Nonsense:
    name = "nonsense"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def costs(self, view: PolicyView) -> npt.NDArray[np.float64]:
        n = len(view.candidates)
        answers: dict[str, object] = {
            "nan": np.full(n, np.nan),
            "minus": np.full(n, -np.inf),
            "short": np.zeros(n - 1),
            "deep": np.zeros((n, 2)),
            "text": ["x"] * n,
            "none": None,
        }
        return answers[self.kind]  # type: ignore[return-value]


class BadTerms:
    name = "bad_terms"

    def terms(self, config: ChoosingConfig) -> Terms:
        raise RuntimeError("no terms today")


class Unmakeable:
    name = "unmakeable"

    def __init__(self) -> None:
        raise RuntimeError("not today")


class NoPolicy:
    pass


def chosen(policy: str, **options: str | int) -> list[str]:
    """Whom a policy takes of three, of which one holds the prompt and is busy."""
    with SmallFleet(config=ChoosingConfig(policy=policy, policy_options=dict(options))) as fleet:
        fleet.hold("a", 8)
        fleet.chooser.adopt("x", "a", 0, model="m", prompt_tokens=100_000)
        return [fleet.chooser.choose(prompt(8), model="m", reserve=False).pod for _ in range(60)]


def test_each_policy_takes_whom_its_name_says() -> None:
    assert set(chosen("weighted")) == {"b", "c"} == set(chosen("least_loaded"))
    assert set(chosen("longest_prefix")) == {"a"}
    assert Counter(chosen("round_robin")) == dict.fromkeys("abc", 20)
    assert set(chosen("random")) == {"a", "b", "c"}


def test_a_policy_of_ones_own_decides_by_its_costs() -> None:
    assert set(chosen(f"{HERE}:LastByName")) == {"c"}
    assert set(chosen(f"{HERE}:LastByName", skips="c")) == {"b"}
    assert set(chosen(f"{HERE}:Overlapping")) == {"a"}


def test_a_policy_that_wants_nobody_means_overloaded() -> None:
    config = ChoosingConfig(policy=f"{HERE}:LastByName", policy_options={"skips": "a"})
    with SmallFleet(("a",), config) as fleet, pytest.raises(OverloadedError):
        fleet.chooser.choose(prompt(8), model="m")


@pytest.mark.parametrize("kind", ["raises", "nan", "minus", "short", "deep", "text", "none"])
def test_where_a_policy_fails_weighted_decides_and_says_so_once(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = (
        ChoosingConfig(policy=f"{HERE}:Raises")
        if kind == "raises"
        else ChoosingConfig(policy=f"{HERE}:Nonsense", policy_options={"kind": kind})
    )
    with SmallFleet(config=config) as fleet, caplog.at_level(logging.WARNING):
        fleet.hold("b", 8)
        for _ in range(3):
            choice = fleet.chooser.choose(prompt(8), model="m", reserve=False)
            assert choice.pod == "b" and choice.policy == "weighted"
            assert choice.reason.startswith(f"policy {config.policy.rpartition(':')[2].lower()} failed")
        statistics = fleet.chooser.statistics()
        assert statistics.policy_failures == 3 == statistics.without_whole_scores
        assert len([r for r in caplog.records if "weighted decides instead" in r.message]) == 1


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("wieghted", "choosing.policy: expected weighted, longest_prefix"),
        ("no.such.module:X", "cannot be made: ModuleNotFoundError"),
        (f"{HERE}:Missing", "cannot be made: AttributeError"),
        (f"{HERE}:Unmakeable", "not today"),
        (f"{HERE}:NoPolicy", "to have a name, and terms or costs"),
        (f"{HERE}:BadTerms", "no terms today"),
    ],
)
def test_a_policy_that_cannot_be_loaded_is_a_mistake_of_the_configuration(policy: str, says: str) -> None:
    with SmallFleet() as fleet:
        with pytest.raises(ConfigError, match=says):
            Chooser(fleet.atlas, ChoosingConfig(policy=policy))
        with pytest.raises(ConfigError, match=says.replace("choosing.policy", "choosing.shadow_policy")):
            Chooser(fleet.atlas, ChoosingConfig(shadow_policy=policy))


def test_a_shadow_policy_is_counted_and_not_followed() -> None:
    config = ChoosingConfig(policy="least_loaded", shadow_policy="longest_prefix")
    with SmallFleet(("a", "b"), config) as fleet:
        fleet.hold("a", 8)
        fleet.chooser.adopt("x", "a", 0, model="m", prompt_tokens=100_000)
        choice = fleet.chooser.choose(prompt(8), model="m")
        assert choice.pod == "b"
        shadow = fleet.receipt(choice.request_id).shadow
        assert shadow is not None and (shadow.policy, shadow.pod) == ("longest_prefix", "a")
        assert shadow.predicted_cached_tokens == 128
        fleet.chooser.completed(choice.request_id)
        fleet.chooser.completed("x")
        fleet.chooser.adopt("y", "b", 0, model="m", prompt_tokens=100_000)
        assert fleet.chooser.choose(prompt(8), model="m").pod == "a"
        counted = fleet.chooser.statistics().shadow
        assert counted is not None
        assert (counted.choices, counted.agreed, counted.refused, counted.failed) == (2, 1, 0, 0)
        assert (counted.predicted_tokens, counted.shadow_predicted_tokens) == (128, 256)
        assert fleet.load("a")[2] + fleet.load("b")[2] == 2


def test_a_shadow_policy_that_fails_disturbs_nobody() -> None:
    with SmallFleet(config=ChoosingConfig(shadow_policy=f"{HERE}:Raises")) as fleet:
        choice = fleet.chooser.choose(prompt(8), model="m")
        assert choice.reason == "" and fleet.receipt(choice.request_id).shadow is None
        counted = fleet.chooser.statistics().shadow
        assert counted is not None and (counted.choices, counted.failed) == (0, 1)
