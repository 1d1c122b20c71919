"""Servers that die and come back, or were never to be asked: real publishers, real sockets."""

from __future__ import annotations

import pytest

from tests.e2e.publishers.conftest import NewPublisher
from tests.e2e.publishers.link import Network
from tests.e2e.publishers.listener import NEVER, Listener
from tests.e2e.publishers.publisher import Publisher
from tests.e2e.publishers.said import Said, conversation, prompt
from tests.ports import free_ports

# asyncio leaves the transport of a connection that was accepted while the link was cut to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_server_that_restarts_is_emptied_though_it_says_nothing(publisher: Publisher) -> None:
    said = Said()
    with Listener(publisher.endpoint, publisher.replay_endpoint) as listener:
        conversation(publisher, said, "first")
        listener.wait_until_exact(said)
        publisher.kill()
        listener.wait_until(lambda: listener.state == "DEGRADED")
        publisher.start()
        listener.wait_until(lambda: not listener.held)
        assert listener.worker is not None
        assert listener.worker.restarts == 1
        said = Said()
        conversation(publisher, said, "second", batches=3)
        listener.wait_until_exact(said)


@pytest.mark.parametrize("batches", [3, 20, 40], ids=["fewer", "as many", "more"])
def test_a_server_that_restarts_unseen_is_another_one(
    publisher: Publisher, network: Network, batches: int
) -> None:
    """The numbers begin anew: a server that has overtaken the old one looks like one with a gap."""
    said = Said()
    with Listener(network.live.endpoint, network.replay.endpoint) as listener:
        conversation(publisher, said, "first")
        listener.wait_until_exact(said)
        network.cut()
        publisher.kill()
        publisher.start()
        said = Said()
        conversation(publisher, said, "second", batches)
        publisher.wait_until_sent(batches - 1)
        network.mend()
        listener.wait_until_exact(said)
        assert listener.worker is not None
        assert listener.worker.restarts == 1


def test_a_batch_that_could_not_be_sent_is_lost_and_known_to_be(publisher: Publisher) -> None:
    """The publisher gives it a number, fails to encode it, and goes on: no replay has it."""
    said = Said()
    with Listener(publisher.endpoint, publisher.replay_endpoint) as listener:
        conversation(publisher, said, "first", batches=3)
        listener.wait_until_exact(said)
        publisher.publish([{**Said().store(prompt("unsayable", 1)), "block_hashes": [1 << 64]}])
        conversation(publisher, said, "second", batches=3)
        listener.wait_until(lambda: "lost" in listener.reasons and listener.held == said.held())
        assert listener.state == "DEGRADED"
        publisher.publish([said.clear(), said.store(prompt("after the clear", 2))])
        listener.wait_until_exact(said)


def test_without_a_replay_socket_a_late_listener_says_that_it_does_not_know(
    new_publisher: NewPublisher,
) -> None:
    publisher, heard = new_publisher(replay_endpoint=None), Said()
    conversation(publisher, Said(), "before anybody listened")
    with Listener(publisher.endpoint, None, limits=NEVER) as listener:
        listener.publish_until(lambda: listener.has_heard, publisher)
        publisher.publish([heard.store(prompt("heard", 3))])
        listener.wait_until(lambda: listener.held == heard.held())
        assert listener.state == "PARTIAL"
        publisher.publish([heard.clear(), heard.store(prompt("heard", 2))])
        listener.wait_until_exact(heard)


def test_a_server_that_dials_is_heard(new_publisher: NewPublisher) -> None:
    """Its endpoint names the listener; the replay socket is its own all the same."""
    (port,) = free_ports(1)
    publisher, said = new_publisher(dial=f"tcp://127.0.0.1:{port}"), Said()
    conversation(publisher, said, "before anybody listened")
    with Listener(publisher.endpoint, publisher.replay_endpoint, bind=True) as listener:
        listener.publish_until(lambda: listener.has_heard, publisher)
        listener.wait_until_exact(said)


def test_a_server_without_a_name_has_that_of_its_configuration(new_publisher: NewPublisher) -> None:
    publisher, said = new_publisher(topic=""), Said()
    conversation(publisher, said, "first")
    with Listener(publisher.endpoint, publisher.replay_endpoint) as listener:
        listener.publish_until(lambda: listener.has_heard, publisher)
        listener.wait_until_exact(said)


def test_a_rank_speaks_on_ports_of_its_own(new_publisher: NewPublisher) -> None:
    publisher, said = new_publisher(rank=3), Said()
    conversation(publisher, said, "first")
    with Listener(publisher.endpoint, publisher.replay_endpoint, rank=3) as listener:
        listener.wait_until_exact(said)
