"""A subscriber before the real publishers of many releases: late, cut off, restarted, overrun.

In the end the atlas holds what the server said, block by block, or says why it does not know.
"""

from __future__ import annotations

import pytest

from tests.e2e.publishers.conftest import NewPublisher
from tests.e2e.publishers.link import Link, Network
from tests.e2e.publishers.listener import NEVER, Listener
from tests.e2e.publishers.publisher import Publisher
from tests.e2e.publishers.releases import Release
from tests.e2e.publishers.said import Said, conversation, prompt

# As in test_restarted_publishers.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_late_listener_sees_all_of_a_silent_server(release: Release, publisher: Publisher) -> None:
    said = Said()
    conversation(publisher, said, "first")
    publisher.wait_until_sent(19)
    names = {"pod": None, "model": None} if release.replies_have_topic else {}
    with Listener(publisher.endpoint, publisher.replay_endpoint, limits=NEVER, **names) as listener:
        listener.wait_until_exact(said)
        assert len(said.held()) == 20
        assert not listener.has_heard


def test_a_listener_that_joins_busy_traffic_misses_nothing(publisher: Publisher) -> None:
    said = Said()
    for part in range(5):
        conversation(publisher, said, f"before {part}", batches=100)
    with Listener(publisher.endpoint, publisher.replay_endpoint) as listener:
        for part in range(5):
            conversation(publisher, said, f"after {part}", batches=100)
        listener.wait_until_exact(said)


def test_what_a_full_buffer_has_dropped_is_known_to_be_missing(new_publisher: NewPublisher) -> None:
    publisher, said = new_publisher(buffer_steps=5), Said()
    conversation(publisher, said, "first")
    publisher.wait_until_sent(19)
    with Listener(publisher.endpoint, publisher.replay_endpoint, limits=NEVER) as listener:
        listener.wait_until(lambda: listener.state == "PARTIAL")
        assert "missed" in listener.reasons
        assert listener.held.items() <= said.held().items()
        publisher.publish([said.clear()])
        conversation(publisher, said, "second")
        listener.wait_until_exact(said)


def test_batches_lost_on_a_cut_line_are_asked_for(publisher: Publisher, network: Network) -> None:
    said = Said()
    with Listener(network.live.endpoint, network.replay.endpoint) as listener:
        chat = conversation(publisher, said, "first")
        listener.wait_until_exact(said)
        network.cut()
        listener.wait_until(lambda: listener.state == "DEGRADED")
        publisher.publish([said.remove(chat, 19)], [said.remove(chat, 18)])
        conversation(publisher, said, "second")
        publisher.wait_until_sent(41)
        network.mend()
        listener.wait_until_exact(said)


def test_a_tail_dropped_at_the_high_water_mark_is_found_in_the_silence(new_publisher: NewPublisher) -> None:
    publisher, said = new_publisher(hwm=2), Said()
    with (
        Link(publisher.endpoint) as link,
        Listener(link.endpoint, publisher.replay_endpoint) as listener,
    ):
        conversation(publisher, said, "first")
        listener.wait_until_exact(said)
        link.hold()
        flood(publisher, said)
        link.flow()
        listener.wait_until_exact(said)


def test_batches_dropped_at_the_high_water_mark_are_asked_for_when_the_next_one_comes(
    new_publisher: NewPublisher,
) -> None:
    publisher, said = new_publisher(hwm=2), Said()
    with (
        Link(publisher.endpoint) as link,
        Listener(link.endpoint, publisher.replay_endpoint, limits=NEVER) as listener,
    ):
        listener.publish_until(lambda: listener.has_heard, publisher)
        link.hold()
        flood(publisher, said)
        link.flow()
        listener.publish_until(lambda: listener.is_exact(said), publisher)
        assert listener.worker is not None
        assert listener.worker.gaps > 0


def flood(publisher: Publisher, said: Said) -> None:
    """More than the sockets between two programs take: copies of a long prompt, of which one stays."""
    flooding = prompt("flood", 2000)
    copies = 100
    publisher.publish([said.store(flooding, 0, 1), said.store(flooding, 1)])
    publisher.publish([said.store(flooding, 1)], times=copies)
    publisher.publish([said.remove(flooding, block) for block in range(1999, 0, -1)], times=copies)
    publisher.publish([said.store(prompt("after the flood", 1))])
