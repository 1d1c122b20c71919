"""Prefill and decode on two workers, or on one where that is cheaper."""

from __future__ import annotations

import pytest

from kvatlas.index.choosing.serving import Role, Serving
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import NoWorkerError, OverloadedError
from tests.index.choosing.small_fleet import SmallFleet, prompt

CONFIG = ChoosingConfig(bypass_tokens=64)


def split_fleet(config: ChoosingConfig = CONFIG, **roles: Role) -> SmallFleet:
    fleet = SmallFleet((), config)
    for pod, role in (roles or {"p": "prefill", "q": "prefill", "d": "decode", "e": "decode"}).items():
        fleet.serve(pod, serving=Serving(role=role))
    return fleet


def test_the_prefill_worker_holds_the_prefix_and_the_decode_worker_needs_least_moved() -> None:
    with split_fleet() as fleet:
        fleet.hold("q", 8)
        fleet.hold("e", 4)
        choice = fleet.chooser.choose(prompt(10), model="m", request_id="x", output_tokens=50)
        assert (choice.pod, choice.cached_tokens, choice.policy) == ("q", 128, "prefill")
        assert choice.decode is not None
        assert (choice.decode.pod, choice.decode.cached_tokens, choice.decode.policy) == ("e", 64, "decode")
        assert fleet.load("q") == (33, 0, 1) and fleet.load("e") == (0, 211, 1)
        receipt = fleet.receipt("x")
        assert receipt.decode is not None and receipt.decode.pod == "e" and receipt.pod == "q"
        assert {account.pod for account in receipt.candidates} == {"p", "q"}


def test_the_prefill_worker_is_free_when_its_part_is_done() -> None:
    with split_fleet() as fleet:
        for name, tell in (("x", "prefill_done"), ("y", "produced")):
            choice = fleet.chooser.choose(prompt(10, ord(name)), model="m", request_id=name)
            assert choice.decode is not None and fleet.load(choice.pod)[2] == 1
            told = (
                fleet.chooser.prefill_done(name)
                if tell == "prefill_done"
                else fleet.chooser.produced(name, 1)
            )
            assert told and fleet.load(choice.pod) == (0, 0, 0) and fleet.load(choice.decode.pod)[2] == 1
            assert fleet.chooser.completed(name, output_tokens=9)
            assert fleet.load(choice.decode.pod) == (0, 0, 0)


def test_a_decode_worker_that_holds_nearly_all_does_it_alone() -> None:
    with split_fleet() as fleet:
        fleet.hold("d", 8)
        fleet.hold("p", 10)
        choice = fleet.chooser.choose(prompt(10), model="m", output_tokens=0)
        assert (choice.pod, choice.decode, choice.cached_tokens) == ("d", None, 128)
        assert fleet.load("d") == (33, 161, 1) and fleet.load("p") == (0, 0, 0)
        assert fleet.chooser.completed(choice.request_id) and fleet.load("d") == (0, 0, 0)


def test_a_worker_of_both_roles_does_not_send_to_itself() -> None:
    with split_fleet(a="both", p="prefill") as fleet:
        fleet.hold("a", 4)
        choice = fleet.chooser.choose(prompt(10), model="m")
        assert (choice.pod, choice.decode) == ("a", None) and fleet.load("a")[2] == 1
        assert fleet.load("p") == (0, 0, 0)


def test_where_nobody_prefills_decode_workers_do_and_where_nobody_decodes_it_says_so() -> None:
    with split_fleet(d="decode") as fleet:
        choice = fleet.chooser.choose(prompt(10), model="m", output_tokens=0)
        assert (choice.pod, choice.decode) == ("d", None) and fleet.load("d") == (161, 161, 1)
    with split_fleet(p="prefill") as fleet:
        with pytest.raises(NoWorkerError, match=r"that can decode, got none \(p: its role is prefill\)"):
            fleet.chooser.choose(prompt(10), model="m")
        assert fleet.load("p") == (0, 0, 0)


def test_a_role_that_is_asked_for_means_one_worker() -> None:
    with split_fleet() as fleet:
        for role, pods in (("prefill", "pq"), ("decode", "de"), ("both", "pqde")):
            choice = fleet.chooser.choose(prompt(10), model="m", role=role)  # type: ignore[arg-type]
            assert choice.pod in pods and choice.decode is None


def test_saturated_prefill_workers_leave_no_reservation_with_decode_workers() -> None:
    config = ChoosingConfig(bypass_tokens=64, queue_requests_max=0)
    with SmallFleet((), config) as fleet:
        fleet.serve("p", serving=Serving(role="prefill", requests_max=1))
        fleet.serve("d", serving=Serving(role="decode"))
        assert fleet.chooser.choose(prompt(10), model="m").decode is not None
        with pytest.raises(OverloadedError):
            fleet.chooser.choose(prompt(10, 2), model="m")
        assert fleet.load("d")[2] == 1 and fleet.load("p")[2] == 1


def test_a_split_choice_that_fails_moves_or_is_routed_later_counts_on_both() -> None:
    with split_fleet() as fleet:
        choice = fleet.chooser.choose(prompt(10), model="m", request_id="x")
        moved = fleet.chooser.another("x", without=[choice.pod])
        assert moved.pod != choice.pod and moved.decode is not None
        assert fleet.load(choice.pod) == (0, 0, 0) and fleet.load(moved.pod)[2] == 1
        assert fleet.chooser.failed("x")
        assert all(fleet.load(pod) == (0, 0, 0) for pod in "pqde")
        later = fleet.chooser.choose(prompt(10), model="m", request_id="y", reserve=False)
        assert later.decode is not None and all(fleet.load(pod)[2] == 0 for pod in "pqde")
        assert fleet.chooser.routed("y")
        assert fleet.load(later.pod)[1] == 0 and fleet.load(later.decode.pod)[0] == 0
        assert fleet.load(later.pod)[2] == fleet.load(later.decode.pod)[2] == 1
