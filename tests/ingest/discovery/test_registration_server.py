"""The HTTP server for registrations: requests good and bad, tokens, bounds."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.discovery.config import HttpWatchConfig
from kvatlas.ingest.discovery.registration.registry import PodRegistry
from kvatlas.ingest.discovery.registration.server import RegistrationServer
from tests.ingest.discovery.told_pods import ToldPods

ENTRY = {"pod": "a", "endpoint": "tcp://10.0.0.1:5557", "replay_endpoint": "tcp://10.0.0.1:5558"}


class Running:
    def __init__(self, server: RegistrationServer, registry: PodRegistry, told: ToldPods) -> None:
        self.server = server
        self.registry = registry
        self.told = told

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        assert said["version"] == 1
        return answer.status, said

    def send(self, content: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        connection.sendall(content)
        return connection

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        return self.told.wait_until(condition)

    def count(self, name: str) -> int:
        return self.server.statistics().counts.get(name, 0)


@contextmanager
def running(pods_max: int = 100, **config: Any) -> Iterator[Running]:
    told = ToldPods()
    registry = PodRegistry(pods_max, time.monotonic)
    registry.start(told)
    server = RegistrationServer(HttpWatchConfig(port=0, **config), registry)
    server.start(told)
    try:
        yield Running(server, registry, told)
    finally:
        server.stop()


def test_a_pod_registers_renews_is_listed_and_ends() -> None:
    with running() as at:
        assert at.ask("POST", "/pods", ENTRY) == (201, {"version": 1, "pod": "a", "expires_in_s": 60.0})
        assert at.ask("POST", "/pods", ENTRY)[0] == 200
        assert at.told.pods["a"].sources[0].replay_endpoint == "tcp://10.0.0.1:5558"
        assert at.told.pods["a"].found_by == "http"
        status, said = at.ask("GET", "/pods")
        assert status == 200
        assert said["pods"][0]["endpoints"] == ["tcp://10.0.0.1:5557"]
        assert 0 < said["pods"][0]["expires_in_s"] <= 60
        assert at.ask("DELETE", "/pods/a")[0] == 200
        assert at.ask("DELETE", "/pods/a")[0] == 404
        assert not at.told.pods


def test_ids_in_a_path_are_unquoted() -> None:
    with running() as at:
        assert at.ask("POST", "/pods", {**ENTRY, "pod": "models/a b"})[0] == 201
        assert at.ask("DELETE", "/pods/models%2Fa%20b")[0] == 200


@pytest.mark.parametrize(("ttl_s", "kept"), [(5, 5), (0, None), (None, 60.0)])
def test_a_registration_may_say_how_long_it_lasts(ttl_s: float | None, kept: float | None) -> None:
    with running() as at:
        entry = ENTRY if ttl_s is None else {**ENTRY, "ttl_s": ttl_s}
        assert at.ask("POST", "/pods", entry)[1]["expires_in_s"] == kept
        assert at.registry.registered()[0].ttl_s == kept


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected a pod as JSON"),
        (b"{", "expected a pod as JSON"),
        (b"[]", "expected a pod as JSON"),
        (b"[" * 100_000, "expected a pod as JSON"),
        (b'"\xff"', "expected a pod as JSON"),
        ({**ENTRY, "colour": "red"}, "unknown field `colour`"),
        ({"pod": "a"}, "expected one of endpoint, sources and url"),
        ({**ENTRY, "url": "http://h"}, "expected one of endpoint, sources and url"),
        ({**ENTRY, "pod": 7}, r"Expected `str`, got `int` - at `\$.pod`"),
        ({**ENTRY, "pod": "a\r\nb"}, "printable"),
        ({**ENTRY, "endpoint": "tcp://h"}, "tcp://HOST:PORT"),
        ({**ENTRY, "ranks": 257}, "ranks: expected 1 to 256"),
        ({**ENTRY, "ranks": 200, "endpoint": "tcp://h:65500"}, "tcp://HOST:PORT"),
        ({**ENTRY, "ttl_s": -1}, "ttl_s: expected"),
        ({**ENTRY, "ttl_s": 1e9}, "ttl_s: expected"),
        ({**ENTRY, "ttl_s": "x"}, "ttl_s: expected"),
        ({**ENTRY, "ttl_s": True}, "ttl_s: expected"),
    ],
)
def test_a_body_that_is_no_pod_is_refused_with_the_reason_and_changes_nothing(
    body: Any, message: str
) -> None:
    with running() as at:
        status, said = at.ask("POST", "/pods", body)
        assert status == 400
        assert re.search(message, said["error"])
        assert not at.told.pods
        assert at.count("refused_requests") == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/pods/a", 404), ("DELETE", "/pods", 404), ("GET", "/pods/../x", 404)],
)
def test_other_paths_are_refused(method: str, path: str, status: int) -> None:
    with running() as at:
        assert at.ask(method, path, ENTRY if method == "POST" else None)[0] == status


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /pods HTTP/1.1\r\n\r\n", b"411"),
        (b"POST /pods HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"411"),
        (b"POST /pods HTTP/1.1\r\nContent-Length: 1025\r\n\r\n", b"413"),
        (b"POST /pods HTTP/1.1\r\nContent-Length: " + b"9" * 300 + b"\r\n\r\n", b"413"),
        (b"PUT /pods HTTP/1.1\r\n\r\n", b"501"),
        (b"nothing\r\n\r\n", b"400"),
        (b"GET /pods HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"p" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
    ],
)
def test_requests_beyond_the_bounds_are_refused(head: bytes, status: bytes) -> None:
    with running(body_bytes_max=1024) as at, at.send(head) as connection:
        assert status in connection.recv(200).split(b"\r\n")[0] + b"400" * (b"nothing" in head)
        assert at.wait_until(lambda: at.count("refused_requests") == 1)


@pytest.mark.parametrize("by_file", [False, True], ids=["token", "token file"])
def test_without_the_token_nothing_is_told_and_nothing_changes(tmp_path: Path, by_file: bool) -> None:
    (tmp_path / "token").write_text("secret\n", encoding="ascii")
    config: dict[str, Any] = {"token_file": str(tmp_path / "token")} if by_file else {"token": "secret"}
    with running(**config) as at:
        for token in (None, "", "wrong", "secret2", "é"):
            given = None if token is None else token.encode("utf-8").decode("latin-1")
            for method, path, body in (
                ("POST", "/pods", ENTRY),
                ("GET", "/pods", None),
                ("DELETE", "/pods/a", None),
            ):
                status, said = at.ask(method, path, body, given)
                assert (status, "pods" in said) == (401, False)
        assert not at.told.pods
        assert at.ask("POST", "/pods", ENTRY, "secret")[0] == 201


def test_a_token_file_is_read_anew_and_one_that_is_missing_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one", encoding="ascii")
    with running(token_file=str(tmp_path / "token")) as at:
        (tmp_path / "token").write_text("two", encoding="ascii")
        assert at.ask("GET", "/pods", None, "one")[0] == 401
        assert at.ask("GET", "/pods", None, "two")[0] == 200
        (tmp_path / "token").write_text("", encoding="ascii")
        assert at.ask("GET", "/pods", None, "")[0] == 503
        (tmp_path / "token").unlink()
        assert at.ask("GET", "/pods", None, "two")[0] == 503


def test_a_storm_of_registrations_is_answered_and_bounded() -> None:
    with running(pods_max=20) as at:
        statuses = [
            at.ask("POST", "/pods", {"pod": f"p{number}", "endpoint": f"tcp://h:{number + 1}"})[0]
            for number in range(60)
        ]
        assert statuses == [201] * 20 + [429] * 40
        assert at.ask("POST", "/pods", {"pod": "p3", "endpoint": "tcp://h:4"})[0] == 200


def test_connections_beyond_the_bound_are_closed_and_slow_ones_make_room() -> None:
    with running(connections_max=2, request_s_max=0.3) as at:
        slow = [at.send(b"POST /pods HTTP/1.1\r\nContent-Length: 100\r\n\r\n{") for _ in range(4)]
        assert at.wait_until(lambda: at.count("connections_refused") == 2)
        assert at.wait_until(lambda: at.count("connections_slow") >= 2)
        for connection in slow:
            with connection:
                try:
                    while connection.recv(1000):
                        pass
                except ConnectionError:
                    pass
        assert at.wait_until(lambda: not at.server._server._open)  # type: ignore[union-attr]
        assert at.ask("POST", "/pods", ENTRY)[0] == 201


def test_a_body_that_ends_early_registers_nothing() -> None:
    with running() as at:
        content = json.dumps(ENTRY).encode()
        with at.send(b"POST /pods HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (len(content) + 1)) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        assert not at.told.pods


def test_a_taken_port_is_a_configuration_error() -> None:
    with running() as at:
        config = HttpWatchConfig(port=at.server.port)
        with pytest.raises(ConfigError, match=f"expected to listen at 127.0.0.1:{at.server.port}"):
            RegistrationServer(config, at.registry).start(at.told)


def test_neither_listings_nor_texts_hold_secrets() -> None:
    key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
    source = {
        "endpoint": "tcp://h:1",
        "curve": {"server_key": key, "secret_key": "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"},
    }
    with running(token="secret") as at:
        assert at.ask("POST", "/pods", {"pod": "a", "sources": [source]}, "secret")[0] == 201
        assert "D:)Q" not in json.dumps(at.ask("GET", "/pods", None, "secret")[1])
        assert "D:)Q" not in repr(at.told.pods["a"])
        assert "secret'" not in repr(at.server.config)


def test_it_listens_at_ipv6() -> None:
    told = ToldPods()
    registry = PodRegistry(10, time.monotonic)
    server = RegistrationServer(HttpWatchConfig(host="::1", port=0), registry)
    server.start(told)
    try:
        connection = http.client.HTTPConnection("::1", server.port, timeout=60)
        connection.request("GET", "/pods")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.stop()
        server.stop()
