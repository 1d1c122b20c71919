"""Encrypted sources: who has the keys is heard, who has not is turned away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from kvatlas import Atlas
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.curve import CurveConfig
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from tests.ingest.sockets.subscriber_peers import LOOPBACK, NotingSink
from tests.ingest.zmq_peers import WAIT_S

PROMPT = range(1000, 1100)


class Keys:
    """A key pair."""

    def __init__(self) -> None:
        self.public, self.secret = (key.decode() for key in zmq.curve_keypair())


SERVER, CLIENT, STRANGER = Keys(), Keys(), Keys()


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer("pod-a", "m", block_size=16, blocks=64) as made:
        yield made


def encrypted(server: SimulatedServer) -> SimulatedPublisher:
    curve = CurveConfig(secret_key=SERVER.secret)
    return server.attach(SimulatedPublisher("kv@pod-a@m", curve=curve))


def source_of(publisher: SimulatedPublisher, curve: CurveConfig | None) -> SourceConfig:
    return SourceConfig(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint, curve=curve)


def test_live_batches_and_replay_come_through_an_encrypted_connection(server: SimulatedServer) -> None:
    publisher, atlas = encrypted(server), Atlas()
    server.serve(PROMPT)  # before anybody listens: only the replay socket has it
    with Subscriber(atlas, [source_of(publisher, CurveConfig(server_key=SERVER.public))]) as subscriber:
        publisher.wait_for_subscribers()
        assert subscriber.wait_until(lambda s: s.replay.complete >= 1, WAIT_S)
        server.serve(range(2000, 2100))
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
        for prompt in (PROMPT, range(2000, 2100)):
            assert atlas.score(list(prompt), model="m")["pod-a"] == 6.0


@pytest.mark.parametrize("curve", [None, CurveConfig(server_key=STRANGER.public)])
def test_without_the_servers_key_nothing_is_heard_and_it_is_said(
    server: SimulatedServer, curve: CurveConfig | None
) -> None:
    publisher, sink = encrypted(server), NotingSink()
    with Subscriber(sink, [source_of(publisher, curve)]) as subscriber:
        assert subscriber.wait_until(lambda s: s.handshakes_failed >= 2, WAIT_S), "it goes on trying"
        server.serve(PROMPT)
        (source,) = subscriber.statistics().sources
        assert (source.connections, source.batches) == (0, 0)
        assert "a handshake failed" in source.said[0]
        assert publisher.statistics().subscribers == 0


def test_a_server_that_does_not_know_our_key_refuses_us_until_it_does(server: SimulatedServer) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    doors = ThreadAuthenticator(context)
    doors.start()
    doors.configure_curve_callback("*", Known())
    curve = CurveConfig(secret_key=SERVER.secret)
    publisher = SimulatedPublisher("kv@pod-a@m", curve=curve, context=context)
    try:
        server.attach(publisher)
        ours = CurveConfig(server_key=SERVER.public, public_key=CLIENT.public, secret_key=CLIENT.secret)
        strange = CurveConfig(server_key=SERVER.public)
        with Subscriber(NotingSink(), [source_of(publisher, strange)]) as subscriber:
            assert subscriber.wait_until(lambda s: s.handshakes_failed >= 2, WAIT_S)
            assert "the other end refuses our key" in subscriber.statistics().sources[0].said[0]
        with Subscriber(NotingSink(), [source_of(publisher, ours)]) as subscriber:
            assert subscriber.wait_until(lambda s: s.connections == 1, WAIT_S)
    finally:
        server.close()
        doors.stop()
        context.term()


class Known:
    """Lets in who has the client's key."""

    def callback(self, _domain: str, key: bytes) -> bool:
        return key.decode() == CLIENT.public


def listening(*client_keys: str) -> SourceConfig:
    curve = CurveConfig(secret_key=SERVER.secret, client_keys=client_keys)
    return SourceConfig(endpoint=LOOPBACK, bind=True, curve=curve)


def dialling(endpoint: str, keys: Keys | None) -> SimulatedPublisher:
    curve = None
    if keys is not None:
        curve = CurveConfig(server_key=SERVER.public, public_key=keys.public, secret_key=keys.secret)
    return SimulatedPublisher("kv@pod@m", endpoint=endpoint, replay_endpoint=None, curve=curve)


def test_a_listening_socket_lets_in_known_keys_and_no_others() -> None:
    with Subscriber(NotingSink(), [listening(CLIENT.public)]) as subscriber:
        (endpoint,) = subscriber.endpoints
        with dialling(endpoint, CLIENT) as known, dialling(endpoint, STRANGER), dialling(endpoint, None):
            known.wait_for_subscribers()
            known.publish(b"x")
            assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
            assert subscriber.wait_until(lambda s: s.handshakes_failed >= 2 and s.connections == 1, WAIT_S)
            said = subscriber.statistics().sources[0].said
            assert len(said) == 1


def test_each_listening_socket_has_its_own_list_of_keys() -> None:
    with Subscriber(NotingSink(), [listening(CLIENT.public), listening(STRANGER.public)]) as subscriber:
        first, second = subscriber.endpoints
        with dialling(first, STRANGER), dialling(second, STRANGER) as known:
            known.wait_for_subscribers()
            assert subscriber.wait_until(lambda s: s.handshakes_failed >= 1 and s.connections == 1, WAIT_S)
            assert [one.connections for one in subscriber.statistics().sources] == [0, 1]


def test_a_publisher_is_known_again_after_its_source_was_removed_and_added() -> None:
    with Subscriber(NotingSink(), [listening(CLIENT.public)]) as subscriber:
        (endpoint,) = subscriber.endpoints
        subscriber.remove(endpoint)
        again = SourceConfig(
            endpoint=endpoint,
            bind=True,
            curve=CurveConfig(secret_key=SERVER.secret, client_keys=(CLIENT.public,)),
        )
        subscriber.add(again)
        with dialling(endpoint, CLIENT) as known:
            known.wait_for_subscribers()


def test_encrypting_without_the_keys_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"curve\.secret_key: expected our own"):
        SimulatedPublisher("t", curve=CurveConfig())
    with pytest.raises(ConfigError, match=r"curve\.server_key: expected the server's public key"):
        SimulatedPublisher(
            "t",
            endpoint="tcp://127.0.0.1:1",
            replay_endpoint=None,
            curve=CurveConfig(secret_key=CLIENT.secret),
        )


def test_a_connection_that_is_refused_is_tried_again_and_again() -> None:
    with SimulatedPublisher("t", curve=CurveConfig(secret_key=SERVER.secret)) as publisher:
        source = SourceConfig(endpoint=publisher.endpoint)
        config = SubscriberConfig(reconnect_s_min=0.05, reconnect_s_max=0.1)
        with Subscriber(NotingSink(), [source], config) as subscriber:
            assert subscriber.wait_until(lambda s: s.handshakes_failed >= 5, WAIT_S)
