"""Links over sockets: keys, servers that die, pause and come back, peers that say too much."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
import zmq

from kvatlas.actors.link.client import SocketLink, SocketLinks
from kvatlas.actors.link.messages import Address, content, decode_message, fetch, hello
from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import LinkKeys
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.sockets.curve import CurveConfig, encrypt_as_client
from tests.actors.link.link_contract import SETTINGS, LinkContract
from tests.actors.link.link_peers import (
    WAIT_S,
    Echo,
    ServerProcess,
    ask_until_answered,
    error_of,
    key_pair,
    new_keys,
    wait_until,
)
from tests.ports import free_ports

HERE = Address(1, 0, 1)


@pytest.fixture(scope="module")
def keys() -> LinkKeys:
    return new_keys()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.let_go()


@pytest.fixture
def server(keys: LinkKeys, echo: Echo) -> Iterator[LinkServer]:
    with LinkServer(echo.handle, keys, settings=SETTINGS) as made:
        yield made
        echo.let_go()
        assert made.failure is None


@pytest.fixture
def links(keys: LinkKeys) -> Iterator[SocketLinks]:
    made = SocketLinks(keys, SETTINGS)
    yield made
    made.close()


@pytest.fixture
def link(links: SocketLinks, server: LinkServer) -> SocketLink:
    return links.open(server.endpoint)


class TestSocketLink(LinkContract):
    """What every link promises."""

    @pytest.fixture
    def let_go(self, echo: Echo) -> Callable[[], None]:
        return echo.let_go


@pytest.mark.parametrize("wrong", ["no client key", "another client key", "another server key"])
def test_who_has_not_the_keys_is_turned_away(server: LinkServer, keys: LinkKeys, wrong: str) -> None:
    public, secret = key_pair()
    changes = {
        "no client key": {"client_public": "", "client_secret": ""},
        "another client key": {"client_public": public, "client_secret": secret},
        "another server key": {"server_public": public},
    }[wrong]
    strangers = SocketLinks(msgspec.structs.replace(keys, **changes), SETTINGS)
    try:
        stranger = strangers.open(server.endpoint)
        assert "no connection in time" in error_of(stranger.request(b"x", 0.3))
        assert stranger.statistics().connections == 0
        if wrong != "another server key":  # the server hears nothing of those
            assert server.statistics()["strangers"] >= 1
        assert server.statistics()["requests"] == 0
    finally:
        strangers.close()


def test_who_speaks_without_keys_is_turned_away(server: LinkServer) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        plain = context.socket(zmq.DEALER)
        plain.connect(server.endpoint)
        plain.send_multipart([bytes(8), b"x"])
        wait_until(lambda: server.statistics()["handshakes_failed"] >= 1)
        assert server.statistics()["requests"] == 0
    finally:
        context.destroy(linger=0)


@pytest.mark.slow
def test_a_server_that_was_killed_is_asked_again_where_it_was_and_elsewhere(
    keys: LinkKeys, links: SocketLinks
) -> None:
    first = ServerProcess(keys)
    link = links.open(first.endpoint)
    assert ask_until_answered(link, b"1") == b"1"
    held = link.request(b"hold", WAIT_S)
    first.kill()
    assert "the connection broke" in error_of(held), "it is known at once"
    assert "nobody there" in error_of(link.request(b"x", 0.1)) or link.statistics().connections == 0
    again = ServerProcess(keys, first.endpoint)
    assert ask_until_answered(link, b"2") == b"2"
    again.kill()
    other = ServerProcess(keys)
    elsewhere = links.open(other.endpoint)
    assert ask_until_answered(elsewhere, b"3") == b"3"
    other.kill()


@pytest.mark.slow
def test_a_paused_server_costs_time_and_nothing_else(keys: LinkKeys, links: SocketLinks) -> None:
    server = ServerProcess(keys)
    link, witness = links.open(server.endpoint), None
    try:
        assert ask_until_answered(link, b"1") == b"1"
        server.pause()
        assert "no answer in time" in error_of(link.request(b"2", 0.1))
        witness = LinkServer(Echo().handle, keys)
        assert links.open(witness.endpoint).request(b"3", WAIT_S).result(WAIT_S) == b"3", "others go on"
        server.go_on()
        assert ask_until_answered(link, b"4") == b"4"
        wait_until(lambda: link.statistics().late >= 1)
    finally:
        server.kill()
        if witness is not None:
            witness.close()


def test_requests_wait_for_a_server_that_comes_up(keys: LinkKeys, links: SocketLinks) -> None:
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    waiting = links.open(endpoint).request(b"x", WAIT_S)
    with LinkServer(Echo().handle, keys, endpoint):
        assert waiting.result(WAIT_S) == b"x"


def test_what_nobody_waits_for_any_more_is_kept_for_nobody(links: SocketLinks) -> None:
    link, frame = links.open("tcp://127.0.0.1:1"), bytes(1 << 20)
    references = sys.getrefcount(frame)
    for _ in range(20):
        assert "nobody there" in error_of(link.request(frame, 0.01))
    wait_until(lambda: sys.getrefcount(frame) == references)


def test_a_fetch_does_not_wait_for_a_load_nor_does_another_session(keys: LinkKeys) -> None:
    may_go = threading.Event()

    def handle(frame: bytes) -> bytes:
        if decode_message(frame).session == 1:
            may_go.wait(WAIT_S)
        return frame

    load = content(HERE, 1, 1, [1], bytes(SETTINGS.inline_bytes_max))
    with LinkServer(handle, keys, settings=SETTINGS) as server:
        links = SocketLinks(keys, SETTINGS)
        link = links.open(server.endpoint)
        loading, behind = link.request(load, WAIT_S), link.request(hello(HERE, 1), WAIT_S)
        for frame in (fetch(HERE, b""), hello(HERE, 2)):
            assert link.request(frame, WAIT_S).result(WAIT_S) == frame
        assert not loading.done() and not behind.done()
        may_go.set()
        assert loading.result(WAIT_S) == load and behind.result(WAIT_S) == hello(HERE, 1)
        links.close()


def test_writes_beyond_the_queue_are_refused_as_busy(keys: LinkKeys) -> None:
    may_go = threading.Event()

    def handle(frame: bytes) -> bytes:
        may_go.wait(WAIT_S)
        return frame

    settings = msgspec.structs.replace(SETTINGS, queue_max=2, in_flight_max=8)
    with LinkServer(handle, keys, settings=settings) as server:
        links = SocketLinks(keys, settings)
        link = links.open(server.endpoint)
        load = content(HERE, 1, 1, [1], bytes(settings.inline_bytes_max))
        asked = [link.request(load, WAIT_S) for _ in range(4)]
        for one in asked[2:]:
            assert decode_message(one.result(WAIT_S)).text.startswith("busy: ")
        may_go.set()
        assert [one.result(WAIT_S) for one in asked[:2]] == [load, load]
        assert server.statistics()["busy"] == 2
        links.close()


def test_bad_frames_are_counted_and_too_long_ones_end_the_connection(
    server: LinkServer, keys: LinkKeys, link: SocketLink
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        peer = context.socket(zmq.DEALER)
        _connect_as_client(peer, server, keys)
        for frames in ([b"x"], [bytes(8)], [bytes(9), b"x"], [bytes(8), b"x", b"y"], [b""] * 1000):
            peer.send_multipart(frames)
        wait_until(lambda: server.statistics()["bad_frames"] == 5)
        peer.send_multipart([bytes(8), bytes(SETTINGS.message_bytes_max + 1)])
        for _ in range(100):  # what was sent before it noticed is lost
            peer.send_multipart([bytes(8), b"good"])
            if peer.poll(200):
                break
        assert peer.recv_multipart(zmq.NOBLOCK) == [bytes(8), b"good"], "it connects again, and is heard"
    finally:
        context.destroy(linger=0)
    assert link.request(b"x", WAIT_S).result(WAIT_S) == b"x", "others notice nothing"


def test_a_peer_that_does_not_read_its_answers_loses_them_and_nobody_else_notices(
    server: LinkServer, keys: LinkKeys, link: SocketLink
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        peer = context.socket(zmq.DEALER)
        peer.set(zmq.RCVHWM, 1)
        peer.set(zmq.RCVBUF, 1 << 16)
        _connect_as_client(peer, server, keys)
        frame = bytes(SETTINGS.inline_bytes_max)
        for _ in range(400):
            peer.send_multipart([bytes(8), frame])
        wait_until(lambda: server.statistics()["answers_dropped"] > 0)
        assert link.request(b"x", WAIT_S).result(WAIT_S) == b"x"
    finally:
        context.destroy(linger=0)


def _connect_as_client(peer: zmq.Socket[bytes], server: LinkServer, keys: LinkKeys) -> None:
    curve = CurveConfig(
        server_key=keys.server_public, public_key=keys.client_public, secret_key=keys.client_secret
    )
    encrypt_as_client(peer, curve)
    peer.connect(server.endpoint)


def test_a_handler_that_fails_is_an_answer(keys: LinkKeys) -> None:
    def handle(frame: bytes) -> bytes:
        raise ZeroDivisionError

    with LinkServer(handle, keys) as server:
        links = SocketLinks(keys)
        link = links.open(server.endpoint)
        for frame in (b"x", bytes(1 << 20)):
            answer = decode_message(link.request(frame, WAIT_S).result(WAIT_S))
            assert answer.text == "expected an answer, the shard failed with ZeroDivisionError"
        assert server.statistics()["broken"] == 2
        links.close()


def test_what_cannot_be_opened_is_a_config_error(keys: LinkKeys, links: SocketLinks) -> None:
    with pytest.raises(ConfigError, match="expected an endpoint that can be asked, got 'nonsense'"):
        links.open("nonsense")
    with pytest.raises(ConfigError, match=r"expected an address to listen on, got 'tcp://1\.2\.3\.4:1'"):
        LinkServer(Echo().handle, keys, "tcp://1.2.3.4:1")
    links.close()
    links.close()
    with pytest.raises(ConfigError, match="expected some that are open"):
        links.open("tcp://127.0.0.1:1")


@pytest.mark.slow
def test_closed_links_give_their_sockets_back(server: LinkServer, links: SocketLinks) -> None:
    opened = [links.open(server.endpoint) for _ in range(400)]
    for link in opened:
        assert link.request(b"x", WAIT_S).result(WAIT_S) == b"x"
    wait_until(lambda: server.statistics()["connections"] == 400)
    for link in opened:
        link.close()
    wait_until(lambda: server.statistics()["connections"] == 0)


def test_links_that_their_own_thread_collects_are_closed_by_it(keys: LinkKeys) -> None:
    """Garbage is collected in any thread: the last reader of a cluster may go in that of its links."""
    links = SocketLinks(keys, SETTINGS)
    errors: list[Exception] = []
    closed = threading.Event()

    def collect() -> None:
        try:
            links.close()
        except Exception as error:
            errors.append(error)
        closed.set()

    links._do(collect)
    assert closed.wait(WAIT_S)
    links.close()
    assert not errors
