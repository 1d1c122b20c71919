"""A real Serve that routes by kvatlas: replicas with real caches and events, but no model."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve
from ray.exceptions import RayActorError

from kvatlas.cluster import launch
from kvatlas.cluster.config.actors_config import ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.serve.sharing import fleets_here, routers_here
from kvatlas.ingest.discovery.config import DiscoveryConfig, DiscoveryLimits
from tests.cluster.living_fleet import wait_until
from tests.cluster.serve.fake_engines import MODEL, Asking, engines, new_gate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

N_REPLICAS = 4
_random = random.Random(11)


def prompt(blocks: int = 32) -> list[int]:
    return [_random.randrange(50_000) for _ in range(blocks * 16)]


@pytest.fixture(scope="module", autouse=True)
def _serve(shared_ray: None) -> Iterator[None]:
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def handle() -> Any:
    """Of four engines."""
    handle = serve.run(engines(num_replicas=N_REPLICAS), name="four", route_prefix=None)
    wait_followed(handle, N_REPLICAS)
    return handle


@pytest.fixture(scope="module")
def one_gate() -> Any:
    return new_gate()


@pytest.fixture
def gate(one_gate: Any) -> Any:
    """A closed one."""
    ray.get(one_gate.close.remote())
    return one_gate


def wait_followed(handle: Any, n_pods: int, deployment: str = "four#engines") -> None:
    """Until this process follows so many replicas."""
    handle.state.remote().result()
    wait_until(
        lambda: fleets_here()[deployment].statistics().followed == n_pods,
        30,
        lambda: {name: fleet.statistics() for name, fleet in fleets_here().items()},
    )


def counts(deployment: str = "engines") -> Counter[str]:
    return sum(
        (Counter(one.statistics().counts) for one in routers_here() if one.name == deployment), Counter()
    )


def in_flight(deployment: str = "engines") -> int:
    return sum(one.statistics().in_flight for one in routers_here() if one.name == deployment)


def ask(handle: Any, ids: list[int], **more: Any) -> tuple[str, int]:
    """The answer, when the router knows as well that the call has ended."""
    answer: tuple[str, int] = handle.generate.remote(ids, **more).result(timeout_s=60)
    name = handle.deployment_name
    wait_until(lambda: in_flight(name) == 0, 60, lambda: counts(name))
    return answer


def ask_only(handle: Any, ids: list[int]) -> str:
    """The replica; other calls may be under way."""
    replica: str = handle.generate.remote(ids).result(timeout_s=60)[0]
    return replica


def waiting(gate: Any) -> dict[str, int]:
    at: dict[str, int] = ray.get(gate.waiting.remote(), timeout=60)
    return at


def reusable(fleet: Any, ids: list[int]) -> dict[str, int]:
    """What the index says, by pod."""
    scores = fleet.atlas.score(ids, model=MODEL)
    return {match.pod: match.cached_tokens for match in scores.matches if match.cached_tokens}


def ask_at_once(handle: Any, prompts: list[list[int]], **more: Any) -> list[Any]:
    return [handle.generate.remote(ids, **more) for ids in prompts]


def test_a_prompt_that_is_repeated_goes_where_it_was_and_is_reused(handle: Any) -> None:
    for _ in range(5):
        ids = prompt()
        replica, reused = ask(handle, ids)
        assert reused == 0
        for _ in range(3):
            assert ask(handle, ids) == (replica, len(ids) - 16)


def test_new_prompts_spread_over_all_replicas(handle: Any) -> None:
    went = Counter(ask(handle, prompt(2))[0] for _ in range(60))
    assert len(went) == N_REPLICAS


def test_a_burst_of_new_prompts_is_spread_evenly_though_serve_routes_them_in_one_go(handle: Any) -> None:
    answers = ask_at_once(handle, [prompt() for _ in range(40)])
    went = Counter(answer.result(timeout_s=60)[0] for answer in answers)
    assert len(went) == N_REPLICAS
    assert max(went.values()) <= 1.3 * 40 / N_REPLICAS


def test_calls_that_one_request_makes_at_once_all_return(handle: Any) -> None:
    in_a_process: Any = serve.deployment(Asking, name="asking", ray_actor_options={"num_cpus": 0})
    asking = serve.run(in_a_process.bind(handle), name="asking", route_prefix=None)
    answers = asking.ask.remote([prompt(4) for _ in range(20)]).result(timeout_s=60)
    assert len(answers) == 20
    wait_until(lambda: asking.followed.remote().result() == N_REPLICAS, 60)
    ids = prompt()
    replica, _ = ask(handle, ids)
    again = asking.ask_in_turn.remote([ids]).result(timeout_s=60)
    assert again == [(replica, len(ids) - 16)]


def test_calls_that_cannot_be_scored_go_to_the_least_loaded_and_say_why(handle: Any) -> None:
    before = counts()
    answers = [handle.state.remote() for _ in range(40)]  # at once: none has ended when the next is sent
    went = Counter(answer.result(timeout_s=60)["name"] for answer in answers)
    chooser = fleets_here()["four#engines"].chooser
    assert chooser is not None
    assert len(went) == N_REPLICAS, chooser.receipts("", 1)
    assert counts()["no_prompt"] - before["no_prompt"] == 40


def test_what_calls_leave_is_nothing(handle: Any) -> None:
    for answer in ask_at_once(handle, [prompt(2) for _ in range(50)]):
        answer.result(timeout_s=60)
    wait_until(lambda: in_flight() == 0, 60, in_flight)
    chooser = fleets_here()["four#engines"].chooser
    assert chooser is not None
    assert not chooser.statistics().in_flight


def test_a_receipt_says_why_a_call_went_where_it_went(handle: Any) -> None:
    ids = prompt()
    pod = f"four#engines#{ask(handle, ids)[0]}"
    fleet = fleets_here()["four#engines"]
    wait_until(lambda: reusable(fleet, ids) == {pod: len(ids) - 16}, 60, lambda: reusable(fleet, ids))
    ask(handle, ids)
    assert fleet.chooser is not None
    (receipt,) = fleet.chooser.receipts("", 1)
    (account,) = [one for one in receipt.candidates if one.pod == pod]
    assert (account.truth, account.matched_tokens) == ("EXACT", len(ids) - 16)
    assert (receipt.pod, receipt.rank, receipt.reason) == (pod, 0, "")
    assert receipt.n_candidates == N_REPLICAS


def test_the_time_of_every_hook_is_known(handle: Any) -> None:
    ids = prompt(512)
    for _ in range(10):
        for answer in ask_at_once(handle, [ids] * 20):
            answer.result(timeout_s=60)
    wait_until(lambda: in_flight() == 0, 60, in_flight)
    (hooks,) = (one.statistics().hooks for one in routers_here() if one.name == "engines")
    assert set(hooks) == {"choose", "routed", "completed"}
    assert all(0 < hook.p50_us <= hook.p99_us and hook.calls >= 200 for hook in hooks.values())


def test_full_replicas_are_asked_again_with_pauses_and_all_calls_end(gate: Any) -> None:
    handle = serve.run(
        engines("small", num_replicas=2, max_ongoing_requests=2), name="full", route_prefix=None
    )
    wait_followed(handle, 2, "full#small")
    answers = ask_at_once(handle, [prompt(2) for _ in range(9)], gate=gate)
    wait_until(lambda: sorted(waiting(gate).values()) == [2, 2], 60, lambda: waiting(gate))
    names = set(waiting(gate))
    before = counts("small")["asked_again"]
    began_s = time.monotonic()
    wait_until(lambda: counts("small")["asked_again"] > before + 10, 60, lambda: counts("small"))
    assert time.monotonic() - began_s > 0.05  # a loop without pauses asks thousands of times in it
    ray.get(gate.open.remote())
    went = Counter(answer.result(timeout_s=60)[0] for answer in answers)
    assert set(went) == names
    wait_until(lambda: in_flight("small") == 0, 60, lambda: counts("small"))
    serve.delete("full")


def test_a_call_whose_prompt_is_computed_does_not_drive_its_siblings_away(handle: Any, gate: Any) -> None:
    ids = prompt()
    watch = fleets_here()["four#engines"].prefills
    assert watch is not None
    seen = watch.statistics().seen
    running = handle.generate.remote(ids, gate=gate)
    wait_until(lambda: watch.statistics().seen > seen, 60, watch.statistics)
    wait_until(lambda: len(waiting(gate)) == 1, 60, lambda: waiting(gate))
    (replica,) = waiting(gate)
    assert [ask_only(handle, ids) for _ in range(3)] == [replica] * 3
    ray.get(gate.open.remote())
    assert running.result(timeout_s=60) == (replica, 0)


def test_calls_that_are_given_up_count_no_longer(handle: Any, gate: Any) -> None:
    wait_until(lambda: in_flight() == 0, 60, in_flight)  # those of the tests before have been counted down
    answers = ask_at_once(handle, [prompt(2) for _ in range(8)], gate=gate)
    wait_until(lambda: sum(waiting(gate).values()) == 8, 60, lambda: waiting(gate))
    assert in_flight() == 8
    for answer in answers:
        answer.cancel()
    wait_until(lambda: in_flight() == 0, 60, counts)


def test_a_replica_that_is_killed_is_left_and_its_successor_is_followed(handle: Any) -> None:
    ids = prompt()
    replica, _ = ask(handle, ids)
    (victim,) = [one for one in handle.broadcast("state").results(timeout_s=60) if one["name"] == replica]
    os.kill(victim["pid"], signal.SIGKILL)
    answered = 0
    while answered < 20:
        try:
            went, _ = ask(handle, ids)
        except RayActorError:
            continue  # Serve hands on the death of the one that had the call
        assert went != replica
        answered += 1
    fleet = fleets_here()["four#engines"]
    wait_until(lambda: fleet.statistics().followed == N_REPLICAS, 60, fleet.statistics)
    wait_until(lambda: len(handle.broadcast("state").results(timeout_s=60)) == N_REPLICAS, 60)


def test_replicas_that_come_and_go_with_the_load_become_pods_and_leave(gate: Any) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 1,
        "upscale_delay_s": 0.1,
        "downscale_delay_s": 0.5,
        "metrics_interval_s": 0.1,
        "look_back_period_s": 0.5,
    }
    handle = serve.run(engines("elastic", autoscaling_config=scaling), name="elastic", route_prefix=None)
    wait_followed(handle, 1, "elastic#elastic")
    fleet = fleets_here()["elastic#elastic"]
    answers = ask_at_once(handle, [prompt(2) for _ in range(12)], gate=gate)
    wait_until(lambda: fleet.statistics().followed == 3, 60, fleet.statistics)
    (busy,) = waiting(gate)
    went = {ask_only(handle, prompt(2)) for _ in range(30)}
    assert len(went) == 2
    assert busy not in went
    ray.get(gate.open.remote())
    for answer in answers:
        answer.result(timeout_s=60)
    wait_until(lambda: fleet.statistics().followed == 1, 60, fleet.statistics)
    assert ask(handle, prompt(2))[1] == 0
    serve.delete("elastic")
    # Nor is the last one followed, of an app that is deleted.
    wait_until(lambda: fleet.statistics().followed == 0, 60, fleet.statistics)


def test_replicas_that_advertise_nothing_are_chosen_by_what_they_were_sent() -> None:
    handle = serve.run(
        engines("silent", advertises=False, num_replicas=2, router={"model": "some/model"}),
        name="silent",
        route_prefix=None,
    )
    ids = prompt()
    went = {ask(handle, ids)[0] for _ in range(10)}
    assert len(went) == 1
    serve.delete("silent")


def test_settings_that_are_wrong_are_said_and_calls_go_by_load() -> None:
    handle = serve.run(
        engines("wrong", num_replicas=2, router={"colour": "blue"}), name="wrong", route_prefix=None
    )
    assert len({ask(handle, prompt(2))[0] for _ in range(30)}) == 2
    (router,) = [one for one in routers_here() if one.name == "wrong"]
    assert "colour" in router.statistics().said["not_ready"]
    serve.delete("wrong")


def test_one_router_takes_part_in_an_event_loop_of_ones_own(handle: Any) -> None:
    async def calls() -> list[Any]:
        return list(await asyncio.gather(*(handle.generate.remote(prompt(2)) for _ in range(20))))

    assert len(asyncio.run(calls())) == 20


def test_routers_of_all_processes_read_one_cluster_where_it_is_named() -> None:
    config = ClusterConfig(
        name="routing",
        discovery=DiscoveryConfig(limits=DiscoveryLimits(grace_s=1.0)),
        shards=ShardsConfig(count=1, table_bytes_max=16 << 20),
    )
    with launch.start(config) as client:
        handle = serve.run(
            engines("shared", num_replicas=3, router={"cluster": "routing"}), name="shared", route_prefix=None
        )
        in_a_process: Any = serve.deployment(Asking, name="asking", ray_actor_options={"num_cpus": 0})
        asking = serve.run(in_a_process.bind(handle), name="asking_shared", route_prefix=None)
        wait_followed(handle, 3, "shared#shared")
        wait_until(lambda: len(client.serving_pods()) == 3, 60, client.serving_pods)
        asking.ask_in_turn.remote([prompt(2)]).result(timeout_s=60)  # its router is made with its first call
        wait_until(lambda: asking.followed.remote().result() == 3, 60)
        wait_until(lambda: asking.counted.remote().result() == 0, 60)

        def is_found_by_the_other() -> bool:
            """A new prompt each time: its process may learn of the shards a moment after this one."""
            ids = prompt()
            replica, _ = ask(handle, ids)
            wait_until(lambda: bool(client.score(ids, model=MODEL).matches), 60, client.status)
            found = asking.ask_in_turn.remote([ids]).result(timeout_s=60)
            return bool(found == [(replica, len(ids) - 16)])

        wait_until(is_found_by_the_other, 60)
        serve.delete("shared")
        wait_until(lambda: not client.serving_pods(), 60, client.serving_pods)
        serve.delete("asking_shared")
        launch.down("routing")
