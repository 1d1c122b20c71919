"""The servers that other tests lean on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.servers.programs import find_program
from tests.servers.redis_server import RedisServer


@pytest.mark.slow
def test_server_takes_another_port_where_its_own_is_taken_before_it_starts(tmp_path: Path) -> None:
    if isinstance(reason := find_program("redis"), str):
        pytest.skip(reason)
    server = RedisServer(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)) as taken:
        server.start()
        try:
            assert server.port != taken.getsockname()[1]
            assert server.command("PING")
        finally:
            server.stop()
    assert not server.is_running


def test_answer_of_another_server_on_its_port_is_not_taken_for_its_own(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if isinstance(reason := find_program("redis"), str):
        pytest.skip(reason)
    first, second = (RedisServer(tmp_path_factory.mktemp("s")) for _ in range(2))
    second.port = first.port
    try:
        first.start()
        second.start()
        assert first.port != second.port
        second.command("SET", "a", 1)
        assert first.command("GET", "a") is None
    finally:
        first.stop()
        second.stop()
