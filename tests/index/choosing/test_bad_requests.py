"""What a chooser should not be asked: each is refused by name, and nothing of it is remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError, NoWorkerError, OverloadedError
from tests.index.choosing.small_fleet import SmallFleet, prompt

SURROGATE = "\ud800"
LONG = "x" * 1_000_000


@pytest.mark.parametrize("pods", [(), ("a", "b")])
@pytest.mark.parametrize(
    "token_ids",
    [
        [],
        b"",
        b"abc",
        [1, -1],
        [1 << 32],
        [10**30],
        [None],
        [1.5],
        ["1"],
        [[1]],
        "text",
        {1, 2},
        {1: 2},
        5,
        object(),
        (i for i in range(3)),
        np.array(3),
        np.array([1.5]),
        np.array([-1]),
        np.array([1 << 40]),
        np.array([None]),
        np.zeros((2, 2), np.uint32),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0],  # the same in every process
)
def test_token_ids_that_are_none_are_refused_and_nothing_is_reserved(
    pods: tuple[str, ...], token_ids: Any
) -> None:
    with SmallFleet(pods) as fleet:
        for ask in (fleet.chooser.choose, fleet.chooser.rank):
            with pytest.raises(InputError, match="token"):
                ask(token_ids, model="m")
        assert fleet.chooser.statistics().in_flight == 0
        assert fleet.chooser.statistics().loads["reservations"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", None),
        ("model", 5),
        ("model", SURROGATE),
        ("model", LONG),
        ("request_id", LONG),
        ("request_id", b"x"),
        ("session", LONG),
        ("tenant", LONG),
        ("lora", LONG),
        ("lora", 5),
        ("cache_salt", LONG),
        ("cache_salt", SURROGATE),
        ("labels", [1]),
        ("labels", None),
        ("labels", {"a": 1}),
        ("labels", {"a": LONG}),
        ("labels", {str(i): "x" for i in range(65)}),
        ("near", 5),
        ("near", {1: "a"}),
        ("near", {LONG: "a"}),
        ("pods", "a"),
        ("pods", 5),
        ("pods", [["a"]]),
        ("role", "chief"),
        ("role", []),
        ("reserve", "no"),
        ("reserve", None),
        ("output_tokens", -1),
        ("output_tokens", True),
        ("output_tokens", 1 << 60),
        ("prompt_tokens", 0.5),
        ("features", 5),
        ("features", ["x"]),
        ("features", [("a", -1, 2)]),
        ("nonsense", 1),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_field_that_cannot_be_is_refused_by_its_name(name: str, value: Any) -> None:
    with SmallFleet(("a", "b")) as fleet:
        asked: dict[str, Any] = {"model": "m", name: value}
        with pytest.raises(InputError, match=name if name != "nonsense" else "fields of an Ask") as refused:
            fleet.chooser.choose(prompt(4), **asked)
        assert len(str(refused.value)) < 1000
        assert fleet.chooser.statistics().loads["reservations"] == 0


@pytest.mark.parametrize("given", [{"prompt": 5}, {"prompt": b"x"}, {"messages": 5}, {"messages": "hi"}])
def test_a_text_or_chat_that_is_none_is_refused_also_where_nobody_tokenizes(given: Any) -> None:
    with SmallFleet(("a",)) as fleet, pytest.raises(InputError, match=next(iter(given))):
        fleet.chooser.choose(**given, model="m")


def test_nobody_serves_an_unknown_model_or_pod_and_an_unknown_request_cannot_end() -> None:
    with SmallFleet(("a",)) as fleet:
        asked: dict[str, Any]
        for asked in ({"model": "other"}, {"model": "m", "pods": ["nobody"]}, {"model": "m", "pods": []}):
            with pytest.raises(NoWorkerError):
                fleet.chooser.choose(prompt(4), **asked)
        for name in ("nobody", "", "a\r\nb", SURROGATE, "\0", LONG):
            assert not fleet.chooser.completed(name) and not fleet.chooser.failed(name)
            assert not fleet.chooser.prefill_done(name) and not fleet.chooser.produced(name, 1)
            assert not fleet.chooser.routed(name)
            with pytest.raises(InputError) as refused:
                fleet.chooser.another(name, without=["a"])
            assert len(str(refused.value)) < 500
        assert fleet.chooser.statistics().no_worker == 3
        assert fleet.chooser.statistics().unknown_requests == 36


@pytest.mark.parametrize("told", [-1, 1 << 40, 0.5, True, float("nan"), "5"])
def test_counts_that_are_none_do_not_lose_a_reservation(told: Any) -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="x")
        for wrong in ({"cached_tokens": told}, {"output_tokens": told}):
            with pytest.raises(InputError):
                fleet.chooser.completed("x", **wrong)
        with pytest.raises(InputError):
            fleet.chooser.produced("x", told)
        assert fleet.load("a")[2] == 1
        assert fleet.chooser.completed("x", cached_tokens=10_000_000)  # more than the prompt has
        assert fleet.load("a") == (0, 0, 0)


def test_names_of_any_characters_are_names() -> None:
    with SmallFleet(("a",)) as fleet:
        for name in ("a\r\nb: c", "\0", SURROGATE, "‮" * 1000, '"]}', "'; drop"):
            fleet.chooser.choose(prompt(4), model="m", request_id=name, session=name, tenant=name)
            assert fleet.chooser.receipt(name, tenant=name).request_id == name
            assert fleet.chooser.completed(name)
        assert fleet.load("a") == (0, 0, 0)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("an exception that cannot even be shown")


class Hostile:
    """A policy of somebody's own that goes wrong in a way of choice."""

    name = "hostile"

    def __init__(self, how: str) -> None:
        self._how = how

    def costs(self, view: Any) -> Any:
        wrong: dict[str, Any] = {
            "nothing": None,
            "text": "cheap",
            "short": [0.0],
            "long": np.zeros(1000),
            "nan": np.full(len(view.candidates), np.nan),
            "minus": np.full(len(view.candidates), -np.inf),
            "square": np.zeros((len(view.candidates), 1)),
            "objects": np.array([object()] * len(view.candidates)),
        }
        if self._how == "unprintable":
            raise UnprintableError
        if self._how == "deep":
            return self.costs(view)
        if self._how == "writes":
            view.tier_blocks[:] = 1 << 31
            view.cached_tokens[:] = np.nan
            view.loads.prefill_tokens[:] = np.nan
            raise RuntimeError("after it has scribbled on what it was shown")
        return wrong[self._how]


@pytest.mark.parametrize(
    "how",
    [
        *("nothing", "text", "short", "long", "nan", "minus", "square", "objects"),
        *("unprintable", "deep", "writes"),
    ],
)
def test_whatever_a_policy_does_wrong_weighted_decides_and_the_reason_says_so(how: str) -> None:
    config = ChoosingConfig(policy=f"{__name__}:Hostile", policy_options={"how": how})
    with SmallFleet(config=config) as fleet:
        fleet.hold("b", 4)
        for n in (1, 2):
            choice = fleet.chooser.choose(prompt(4), model="m")
            assert (choice.pod, choice.policy) == ("b", "weighted")
            assert choice.reason.startswith("policy hostile failed") and choice.is_reserved
            assert fleet.chooser.statistics().policy_failures == n
            assert fleet.chooser.completed(choice.request_id)
        assert fleet.load("b") == (0, 0, 0)


def test_a_policy_that_fails_in_the_shadow_changes_nothing() -> None:
    config = ChoosingConfig(shadow_policy=f"{__name__}:Hostile", policy_options={"how": "unprintable"})
    with SmallFleet(config=config) as fleet:
        choice = fleet.chooser.choose(prompt(4), model="m")
        shadow = fleet.chooser.statistics().shadow
        assert choice.policy == "weighted" and not choice.reason
        assert shadow is not None and shadow.failed == 1


def test_labels_that_never_come_twice_are_not_remembered_without_bound() -> None:
    with SmallFleet(("a", "b")) as fleet:
        for n in range(600):
            with pytest.raises(NoWorkerError):
                fleet.chooser.choose(prompt(1), model="m", labels={"zone": str(n)})
        assert len(fleet.chooser._decider.sets._sets) <= 256
        assert fleet.chooser.choose(prompt(1), model="m").pod in "ab"


def test_what_a_request_brings_along_weighs_in_the_room_of_receipts() -> None:
    config = ChoosingConfig(receipts_bytes_max=1 << 20)
    with SmallFleet(("a",), config) as fleet:
        near = {f"{i}" + "x" * 500: "y" * 512 for i in range(64)}
        for asked in (Ask(model="m", near=near), Ask(model="m", pods=["a"] * 4_000)):
            for _ in range(100):
                fleet.chooser.choose(prompt(1), ask=asked)
            assert 1 <= fleet.chooser.statistics().receipts < 5
            assert fleet.chooser.statistics().receipts_bytes <= 1 << 20


def test_multimodal_items_are_not_kept_with_the_receipt() -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="x", features=[("y" * 1000, 0, 5)])
        record = fleet.chooser._tracking._ring.find("x", "")
        assert record is not None and record.ask.features is None


def test_sessions_of_long_names_are_told_apart_and_take_no_more_room() -> None:
    with SmallFleet(("a", "b")) as fleet:
        long, other = "s" * 4000, "s" * 3999 + "t"
        fleet.chooser.choose(prompt(1, 1), model="m", session=long, pods=["a"])
        fleet.chooser.choose(prompt(1, 2), model="m", session=other, pods=["b"])
        for session, pod in ((long, "a"), (other, "b")):
            choice = fleet.chooser.choose(prompt(1, 3), model="m", session=session, reserve=False)
            assert choice.pod == pod
        sessions = fleet.chooser._decider.expectations.sessions
        assert max(len(str(key)) for key in sessions._worker_of) < 200


def test_a_pods_share_is_gone_with_it_and_none_comes_back_under_its_name() -> None:
    with SmallFleet(("a", "b")) as fleet:
        for n in range(5):
            fleet.chooser.choose(prompt(4, n), model="m", request_id=str(n), pods=["a"])
        assert fleet.load("a")[2] == 5
        fleet.atlas.set_serving("a", None)
        fleet.atlas.remove_pod("a")
        for _ in range(12):
            fleet.clock.now_s += 1
            fleet.chooser.tidy()
        assert sum(int(n) for n in fleet.chooser.loads.own()[3]) == 0
        fleet.serve("a")
        assert fleet.load("a") == (0, 0, 0)
        assert fleet.chooser.choose(prompt(4), model="m", request_id="new", pods=["a"]).is_reserved
        for n in range(5):  # they end late: nobody else's load may end with them
            assert fleet.chooser.completed(str(n), cached_tokens=0)
        assert fleet.load("a")[2] == 1
        assert fleet.chooser.completed("new") and fleet.load("a") == (0, 0, 0)


def test_a_clock_that_steps_back_keeps_what_is_alive_and_one_that_leaps_ends_it() -> None:
    with SmallFleet(("a",), ChoosingConfig(reservation_s=10.0)) as fleet:
        fleet.chooser.choose(prompt(4), model="m", request_id="x")
        fleet.clock.now_s -= 500
        fleet.chooser.choose(prompt(4), model="m", request_id="y")
        assert fleet.chooser.prefill_done("x") and fleet.load("a")[2] == 2
        fleet.clock.now_s += 1e9
        fleet.chooser.tidy()
        assert fleet.load("a") == (0, 0, 0) and fleet.chooser.statistics().in_flight == 0
        assert fleet.chooser.statistics().loads["reservations"] == 0


@pytest.mark.slow
def test_ten_thousand_requests_that_nobody_ends_leave_nothing_but_counts() -> None:
    with SmallFleet(("a", "b", "c"), ChoosingConfig(reservation_s=60.0)) as fleet:
        for n in range(10_000):
            fleet.chooser.choose(prompt(2, n % 7), model="m", request_id=f"{n % 100}", reserve=bool(n % 5))
        # An id that waits to be routed is replaced by its next choice.
        assert fleet.chooser.statistics().in_flight == 8_020
        fleet.clock.now_s += 61
        fleet.chooser.tidy()
        statistics = fleet.chooser.statistics()
        assert (statistics.in_flight, statistics.loads["reservations"]) == (0, 0)
        assert statistics.expired == 8_020
        assert all(fleet.load(pod) == (0, 0, 0) for pod in "abc")


def test_saturated_by_those_who_never_end_it_serves_again_when_they_expire() -> None:
    with SmallFleet((), ChoosingConfig(queue_requests_max=0, reservation_s=30.0)) as fleet:
        fleet.serve("a", serving=Serving(requests_max=3))
        for _ in range(3):
            fleet.chooser.choose(prompt(1), model="m")
        with pytest.raises(OverloadedError):
            fleet.chooser.choose(prompt(1), model="m")
        fleet.clock.now_s += 31
        assert fleet.chooser.choose(prompt(1), model="m").pod == "a"
