"""Following model servers that announce their blocks on real sockets."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from kvatlas.cluster.following.arrivals import Arrival
from kvatlas.cluster.following.watch import NothingAnnouncedError, Watch, WatchConfig, WatchSummary
from kvatlas.cluster.following.watch_screen import described, watch_view
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.server import SimulatedServer

PROMPT = tuple(range(1000, 1100))
WAIT_S = 60.0


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer("pod-a", "some/model", block_size=16, blocks=32) as server:
        yield server


def follow_until(watch: Watch, batches: int) -> WatchSummary:
    """Follows until so many batches have come, and interrupts as a user does."""

    def look(watch: Watch) -> None:
        if watch.summary().batches >= batches:
            raise KeyboardInterrupt

    summary = watch.follow(look)
    assert summary.batches == batches
    return summary


def test_blocks_and_the_score_of_a_prompt_appear_and_go(server: SimulatedServer) -> None:
    publisher = server.listen()
    with Watch(WatchConfig(endpoints=(publisher.endpoint,), prompt=PROMPT, seconds=WAIT_S)) as watch:
        publisher.wait_for_subscribers()
        server.serve(PROMPT)
        summary = follow_until(watch, 1)
        assert summary.pods["pod-a"].blocks == {"gpu": 6}
        assert summary.scores == {"pod-a": 6.0}
        assert (summary.connections, summary.events) == (1, 1)

        assert server.reset()
        server.step()
        summary = follow_until(watch, 2)
        assert summary.pods["pod-a"].blocks == {"gpu": 0}
        assert summary.scores == {}


def test_a_server_that_names_no_pod_is_given_the_configured_name(server: SimulatedServer) -> None:
    publisher = server.attach(SimulatedPublisher(""))
    config = WatchConfig(
        endpoints=(publisher.endpoint,),
        pod_ids=("my-pod",),
        model="my/model",
        prompt=PROMPT,
        seconds=WAIT_S,
    )
    with Watch(config) as watch:
        publisher.wait_for_subscribers()
        server.serve(PROMPT)
        assert follow_until(watch, 1).scores == {"my-pod": 6.0}


def test_without_a_configured_name_it_is_known_by_its_address(server: SimulatedServer) -> None:
    publisher = server.attach(SimulatedPublisher(""))
    with Watch(WatchConfig(endpoints=(publisher.endpoint,), prompt=PROMPT, seconds=WAIT_S)) as watch:
        publisher.wait_for_subscribers()
        server.serve(PROMPT)
        assert list(follow_until(watch, 1).scores) == [publisher.endpoint.removeprefix("tcp://")]


def test_a_late_join_says_that_blocks_wait_for_what_was_announced_before(server: SimulatedServer) -> None:
    publisher = server.listen()
    server.serve(PROMPT)
    with Watch(WatchConfig(endpoints=(publisher.endpoint,), seconds=WAIT_S)) as watch:
        publisher.wait_for_subscribers()
        server.serve((*PROMPT, *range(64)))
        summary = follow_until(watch, 1)
        assert (summary.orphans, summary.pods["pod-a"].blocks) == (1, {"gpu": 0})
        console = Console(file=io.StringIO(), width=120, record=True)
        console.print(watch_view(watch))
        assert "1 store waits for a parent block" in console.export_text()


def test_servers_that_dial_are_listened_for(server: SimulatedServer) -> None:
    with Watch(WatchConfig(listen="tcp://127.0.0.1:*", prompt=PROMPT, seconds=WAIT_S)) as watch:
        (endpoint,) = watch.endpoints
        publisher = server.listen(endpoint=endpoint, replay_endpoint=None)  # without `*` it dials
        publisher.wait_for_subscribers()
        server.serve(PROMPT)
        assert follow_until(watch, 1).scores == {"pod-a": 6.0}


def test_the_view_shows_blocks_scores_and_the_last_batches(server: SimulatedServer) -> None:
    publisher = server.listen()
    with Watch(WatchConfig(endpoints=(publisher.endpoint,), prompt=PROMPT, seconds=WAIT_S)) as watch:
        publisher.wait_for_subscribers()
        server.serve(PROMPT)
        follow_until(watch, 1)
        console = Console(file=io.StringIO(), width=120, record=True)
        console.print(watch_view(watch))
        view = console.export_text()
    assert "1 connected" in view
    assert "score of the prompt (100 tokens)" in view
    assert "pod-a #0: 6 stored on GPU" in view


def test_a_payload_that_is_no_batch_is_described_as_such() -> None:
    said = described(Arrival(b"kv@pod-a@some/model", 7, b"\xc1"))
    assert said.startswith("pod-a #7: not a batch (")


@pytest.mark.slow
def test_silence_says_whether_anybody_was_there(server: SimulatedServer) -> None:
    publisher = server.listen()
    with Watch(WatchConfig(endpoints=(publisher.endpoint,), seconds=2)) as watch:
        publisher.wait_for_subscribers()
        with pytest.raises(NothingAnnouncedError, match="connected, but nothing announced in 2"):
            watch.follow(lambda _: None)
    server.close()
    absent = Watch(WatchConfig(endpoints=(publisher.endpoint,), seconds=0.1))
    with absent, pytest.raises(NothingAnnouncedError, match=r"nobody there in 0\.1 s"):
        absent.follow(lambda _: None)


@pytest.mark.parametrize(
    "endpoint",
    ["", "10.0.0.9:5557", "tcp://10.0.0.9", "tcp://10.0.0.9:0", "tcp://10.0.0.9:99999", "http://10.0.0.9:80"],
)
def test_an_endpoint_that_is_none_is_refused_before_anything_is_opened(endpoint: str) -> None:
    with (
        pytest.raises(ConfigError, match="expected tcp://HOST:PORT, got"),
        Watch(WatchConfig(endpoints=(endpoint,))),
    ):
        pass


def test_pod_ids_that_fit_no_endpoint_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most one for each of 1 endpoints, got 2"):
        Watch(WatchConfig(endpoints=("tcp://127.0.0.1:1",), pod_ids=("a", "b")))
    config = WatchConfig(endpoints=("tcp://127.0.0.1:1",), pod_ids=("a@b",))
    with pytest.raises(ConfigError, match="expected a name without '@'"), Watch(config):
        pass
