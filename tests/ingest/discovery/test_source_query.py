"""Asking a server for its sources: what it may say, and what it may do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from kvatlas.index.errors import InputError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.discovery.source_query import ToldSource, ask_sources, told_pod

VLLM = {  # as vLLM 0.32 answers, two data-parallel ranks
    "0": {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://*:5557",
        "replay_endpoint": "tcp://*:5657",
        "buffer_steps": 10000,
        "hwm": 100000,
        "max_queue_size": 100000,
        "topic": "",
    },
    "1": {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://*:5558",
        "replay_endpoint": "tcp://*:5658",
        "buffer_steps": 10000,
        "hwm": 100000,
        "max_queue_size": 100000,
        "topic": "",
    },
}


@contextmanager
def server(serve: Callable[[socket.socket, bytes], None], family: int = socket.AF_INET) -> Iterator[str]:
    """Accepts one connection after the other and has `serve` answer its request; gives the URL."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    listening = socket.socket(family)
    listening.bind((host, 0))
    listening.listen()

    def run() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                serve(connection, connection.recv(65536))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield (
            f"http://[{host}]:{listening.getsockname()[1]}"
            if ":" in host
            else (f"http://{host}:{listening.getsockname()[1]}")
        )
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def says(body: Any, head: str = "HTTP/1.1 200 OK\r\n") -> Callable[[socket.socket, bytes], None]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def serve(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    return serve


def ask(body: Any, family: int = socket.AF_INET, head: str = "HTTP/1.1 200 OK\r\n") -> tuple[ToldSource, ...]:
    with server(says(body, head), family) as url:
        return ask_sources(url, 5.0, 1 << 20)


def test_wildcards_become_the_host_of_the_url_for_each_rank() -> None:
    assert ask(VLLM) == (
        ToldSource(0, "tcp://127.0.0.1:5557", "tcp://127.0.0.1:5657", None),
        ToldSource(1, "tcp://127.0.0.1:5558", "tcp://127.0.0.1:5658", None),
    )


@pytest.mark.parametrize("wild", ["tcp://*:5557", "tcp://[::]:5557", "tcp://:::5557", "tcp://0.0.0.0:5557"])
def test_every_wildcard_is_known_and_ipv6_hosts_are_bracketed(wild: str) -> None:
    told = ask({"0": {"endpoint": wild}}, socket.AF_INET6)
    assert told == (ToldSource(0, "tcp://[::1]:5557", None, None),)


def test_what_a_server_listens_at_by_its_own_address_is_taken_as_it_is() -> None:
    own = {"endpoint": "tcp://10.0.0.9:40001", "replay_endpoint": "tcp://10.0.0.9:40002"}
    assert ask({"0": own}) == (ToldSource(0, "tcp://10.0.0.9:40001", "tcp://10.0.0.9:40002", None),)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"0": {"endpoint": "tcp://10.0.0.9:5557"}}, "which it dials"),
        ({"0": {"endpoint": "tcp://127.0.0.1:5557"}}, "which it dials"),
        ({"0": {"endpoint": "inproc://x"}}, "which it dials"),
        ({"0": {"endpoint": "tcp://*:0"}}, "expected tcp://HOST:PORT"),
        ({"0": {"endpoint": "tcp://*:99999"}}, "expected tcp://HOST:PORT"),
        ({"0": {"endpoint": "tcp://*:5557", "replay_endpoint": "*"}}, "replay_endpoint: expected"),
        ({"0": {"publisher": "null", "endpoint": None}}, "publisher over zmq"),
        ({}, "expected 1 to 256 ranks that publish"),
        ({"0": {"enable_kv_cache_events": False}}, "expected 1 to 256 ranks that publish"),
        ({str(rank): {"endpoint": "tcp://*:1"} for rank in range(257)}, "expected 1 to 256 ranks"),
        ({"-1": {"endpoint": "tcp://*:5557"}}, "rank: expected"),
        ({"x": {"endpoint": "tcp://*:5557"}}, "expected an answer"),
        ([], "expected an answer"),
        (b"", "expected an answer"),
        (b"\xff", "expected an answer"),
        (b"{" * 100_000, "expected an answer"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(told: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(told)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oh", "302 Found\r\nLocation: http://127.0.0.1:1/"])
def test_another_status_is_no_answer_and_redirects_are_not_followed(status: str) -> None:
    with pytest.raises(InputError, match=f"got status {status[:3]}"):
        ask(VLLM, head=f"HTTP/1.1 {status}\r\n")


def test_an_answer_in_chunks_is_read() -> None:
    content = json.dumps(VLLM).encode()

    def serve(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(content), 50):
            part = content[start : start + 50]
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        connection.sendall(b"0\r\n\r\n")

    with server(serve) as url:
        assert len(ask_sources(url, 5.0, 1 << 20)) == 2


def test_the_path_of_the_url_stays_before_ours() -> None:
    requests = []

    def serve(connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        says(VLLM)(connection, request)

    with server(serve) as url:
        ask_sources(url + "/prefix/", 5.0, 1 << 20)
    assert requests[0].startswith(b"GET /prefix/kv_event_sources HTTP/1.1\r\nHost: 127.0.0.1:")


def test_an_endless_answer_is_cut_by_its_size() -> None:
    def serve(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with server(serve) as url, pytest.raises(InputError, match="more than 100000 bytes"):
        ask_sources(url, 5.0, 100_000)


def test_a_trickle_is_cut_by_the_time_of_the_whole_answer() -> None:
    stopped = threading.Event()

    def serve(connection: socket.socket, _request: bytes) -> None:
        while not stopped.wait(0.02):
            connection.sendall(b"H")

    with server(serve) as url:
        began_s = time.monotonic()
        with pytest.raises(InputError, match="timed out"):
            ask_sources(url, 0.3, 1 << 20)
        stopped.set()
        assert time.monotonic() - began_s < 10


def test_nobody_at_the_port_is_an_error_with_the_url() -> None:
    with server(says(VLLM)) as url:
        pass
    with pytest.raises(InputError, match=f"{url}: expected an answer"):
        ask_sources(url, 5.0, 1 << 20)


def test_what_was_known_of_a_pod_goes_before_what_its_server_says() -> None:
    pod = DiscoveredPod(pod="a", url="http://h:1", settings=PodConfig(model="m"), block_size_tokens=16)
    told = told_pod(pod, (ToldSource(0, "tcp://h:1", None, 32),))
    assert (told.block_size_tokens, told.sources[0].model, told.sources[0].rank) == (16, "m", None)
    two = (ToldSource(0, "tcp://h:1", None, 32), ToldSource(1, "tcp://h:2", None, 32))
    pod = DiscoveredPod(pod="a", url="http://h:1")
    assert told_pod(pod, two).block_size_tokens == 32
    assert [source.rank for source in told_pod(pod, two).sources] == [0, 1]
