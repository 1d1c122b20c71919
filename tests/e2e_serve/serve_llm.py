"""Ray Serve LLM as a process of its own, driven from a test, and asked over HTTP."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
REQUEST_S_MAX = 120.0
STOP_S_MAX = 60.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Reply:
    """One answer over HTTP."""

    status: int
    body: dict[str, Any]
    text: str

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, what the engine took from its cache, as it says itself."""
        return (self.body["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    @property
    def prompt_tokens(self) -> int:
        tokens: int = self.body["usage"]["prompt_tokens"]
        return tokens


class ServeLlm:
    """A Ray of its own with Serve on a free port. Use it as a context manager; one application at a time."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.times = folder / "times"
        self.times.mkdir()
        self.log_path = folder / "serve.log"
        self._model = model
        (self._port,) = free_ports(1)
        self._lock = threading.Lock()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e_serve.serve_program"],
                cwd=ROOT,
                env=_environment(self.times),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def deploy(self, router: str, *, blocks: int, **kwargs: Any) -> float:
        """Two replicas with empty caches behind this router; takes minutes. Seconds it took."""
        ports = _port_bases()
        options = {
            "router": router,
            "model": str(self._model),
            "port": self._port,
            "events_port": ports[0],
            "tokens_port": ports[1],
            "blocks": blocks,
            "kwargs": kwargs,
        }
        took_s: float = self.command("deploy", options)["deploy_s"]
        return took_s

    def command(self, *words: Any) -> Any:
        """Raises RuntimeError with what the program says where it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        answer = json.loads(line or '{"error": "it has ended"}')
        if "error" in answer:
            raise RuntimeError(f"{words[0]}: {answer['error']}\n{self.log_tail()}")
        return answer["answer"]

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Reply:
        """POSTs JSON. Errors of HTTP are replies too; `headers` in Python's spelling, x_request_id."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            data=json.dumps({"model": "tiny", "temperature": 0, **body}).encode(),
            headers={
                "Content-Type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        try:
            with _OPENER.open(request, timeout=REQUEST_S_MAX) as response:
                return _reply(response.status, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _reply(error.code, error.read())

    def chat(self, messages: list[dict[str, str]], max_tokens: int = 4, **fields: Any) -> Reply:
        body = {"messages": messages, "max_tokens": max_tokens, "ignore_eos": True, **fields}
        return self.post("/v1/chat/completions", body)

    def complete(self, prompt: Any, max_tokens: int = 4, x_request_id: str = "", **fields: Any) -> Reply:
        body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, **fields}
        headers = {"x_request_id": x_request_id} if x_request_id else {}
        return self.post("/v1/completions", body, **headers)

    @contextmanager
    def hanging(self, prompt: str, max_tokens: int) -> Iterator[None]:
        """Asks for a long answer, and hangs up at the end of the block."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
        sent = json.dumps({**body, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sent)}\r\n"
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + sent)
            yield

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ends the program and all that it started."""
        with suppress(OSError, subprocess.TimeoutExpired):
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(STOP_S_MAX)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_S_MAX)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> ServeLlm:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _reply(status: int, content: bytes) -> Reply:
    text = content.decode(errors="replace")
    try:
        body = json.loads(text)
    except ValueError:
        body = {}
    return Reply(status, body if isinstance(body, dict) else {}, text)


def _environment(times: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KVATLAS_TEST_TIMES": str(times),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }


def _port_bases() -> tuple[int, int]:
    """Of events and of token ids: each replica takes the base plus its rank, replays 1000 above."""
    while True:
        base = random.randrange(20_000, 30_000, 10)
        tokens = base + 100
        try:
            for port in (base, base + 1, base + 1000, base + 1001, tokens, tokens + 1):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base, tokens
