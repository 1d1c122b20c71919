"""Connections by TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.index.remote.connection.failures import ServerError
from tests.index.remote.connection.asking import command, connect
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.fixtures import ServerFactory
from tests.servers.redis_server import RedisServer


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_server_of_a_known_authority_is_believed(
    start_server: ServerFactory, certificates: Certificates, kind: str
) -> None:
    server = start_server(kind=kind, certificates=certificates, password="word")
    with connect(f"{server.url}?ca={certificates.authority}") as connection:
        assert (
            connection.run([command("SET", b"a", b"x" * 100_000), command("GET", b"a")])[1] == b"x" * 100_000
        )
        # What a server says of its own accord after a handshake does not make the connection look broken.
        assert all(connection.run([command("PING")]) == [b"PONG"] for _ in range(3))
        assert connection.status().counts.connects == 1
        server.pause()
        with pytest.raises(ServerError) as caught:
            connection.run([command("PING")], timeout_s=0.05)
        assert caught.value.reason == "timeout"
        server.resume()


def test_server_of_another_authority_is_refused_unless_any_will_do(
    start_server: ServerFactory, certificates: Certificates, tmp_path: Path
) -> None:
    server = start_server(certificates=certificates)
    other = make_certificates(tmp_path, "other")
    with connect(f"{server.url}?ca={other.authority}") as connection:
        with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            connection.run([command("PING")])
        assert caught.value.reason == "tls" and not caught.value.is_sent
    with connect(f"{server.url}?verify=false") as connection:
        assert connection.run([command("PING")]) == [b"PONG"]


def test_server_may_ask_for_a_certificate_of_ours(
    start_server: ServerFactory, certificates: Certificates
) -> None:
    server = start_server(certificates=certificates, options={"tls-auth-clients": "yes"})
    url = f"{server.url}?ca={certificates.authority}"
    with connect(url) as connection, pytest.raises(ServerError) as caught:
        connection.run([command("PING")])
    assert caught.value.reason == "tls"
    with connect(f"{url}&certificate={certificates.certificate}&key={certificates.key}") as connection:
        assert connection.run([command("PING")]) == [b"PONG"]


def test_tls_and_plain_ports_that_are_mixed_up_fail_soon(
    start_server: ServerFactory, certificates: Certificates, redis_server: RedisServer
) -> None:
    tls = start_server(certificates=certificates)
    with connect(
        f"rediss://127.0.0.1:{redis_server.port}?verify=false", connect_timeout_ms=200
    ) as connection:
        with pytest.raises(ServerError) as caught:
            connection.run([command("PING")])
        assert caught.value.reason in ("tls", "timeout")  # Redis waits for the end of a line
    with connect(f"redis://127.0.0.1:{tls.port}") as connection:
        with pytest.raises(ServerError) as caught:
            connection.run([command("PING")])
        assert caught.value.reason in ("down", "garbled")


def test_file_that_is_no_certificate_is_an_error_of_tls(
    start_server: ServerFactory, certificates: Certificates, tmp_path: Path
) -> None:
    server = start_server(certificates=certificates)
    (tmp_path / "ca.pem").write_text("nothing")
    with (
        connect(f"{server.url}?ca={tmp_path / 'ca.pem'}") as connection,
        pytest.raises(ServerError) as caught,
    ):
        connection.run([command("PING")])
    assert caught.value.reason == "tls"
