"""A real model server for the tests: vLLM on CPU with a tiny random model, publishing its KV events.

It lives in an environment of its own, whose Python the variable KVATLAS_VLLM_PYTHON names (`make e2e`
builds it); nothing of it is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.ports import free_ports

MODEL_NAME = "tiny"
BLOCK_SIZE_TOKENS = 32  # CPU attention takes multiples of 32 only
VOCABULARY = 2048

# A cold start compiles nothing but imports much: about a minute on two cores, more beside other work.
START_SECONDS_MAX = 300.0
REQUEST_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 20.0


class ServerFailedError(RuntimeError):
    """The server ended or did not answer in time; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Completion:
    """One answer of `/v1/completions` or `/v1/chat/completions`.

    cached_tokens: how many prompt tokens the server took from its KV cache, as it says itself.
    prompt_token_ids: of a chat, as the server has made them.
    """

    prompt_tokens: int
    cached_tokens: int
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...] = ()
    text: str = ""


def write_tiny_model(python: str, folder: Path, kind: Literal["plain", "windowed"]) -> Path:
    """Makes the model by the server's Python and returns its folder."""
    model = folder / kind
    subprocess.run(
        [python, str(Path(__file__).with_name("tiny_model.py")), str(model), kind],
        check=True,
        timeout=START_SECONDS_MAX,
        env=_offline_environment(),
        stdout=subprocess.DEVNULL,
    )
    return model


@dataclass
class VllmServer:
    """One server process group on free ports of this machine.

    Start it with `start()`, use it, and `stop()` it, or use it as a context manager. `blocks` is the size
    of its cache; one of them is never used for content.
    """

    python: str
    model: Path
    folder: Path
    pod: str = "pod0"
    blocks: int = 64
    flags: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.http_port, self.event_port, self.replay_port = free_ports(3)
        self.log_path = self.folder / f"{self.pod}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def events_endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.event_port}"

    @property
    def replay_endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.replay_port}"

    @property
    def topic(self) -> str:
        return f"kv@{self.pod}@{MODEL_NAME}"

    def start(self) -> None:
        """Starts the processes and returns at once: a subscriber can be there before the first event."""
        assert self._process is None, "started already"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env={**_offline_environment(), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own process group, so that stop() reaches its children
            )

    def wait_until_healthy(self) -> None:
        """Raises ServerFailedError when the server ends or START_SECONDS_MAX pass before it is up."""
        assert self._process is not None, "not started"
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._is_healthy():
            if self._process.poll() is not None:
                raise ServerFailedError(f"the server ended while starting\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailedError(f"not up in {START_SECONDS_MAX} s\n{self.log_tail()}")
            time.sleep(0.5)

    def stop(self) -> None:
        """Ends the whole process group: asks, waits, then kills what is left. Twice is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS_MAX)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS_MAX)

    def kill(self) -> None:
        """Ends the whole process group at once, as a crash does."""
        process, self._process = self._process, None
        assert process is not None, "not started"
        _signal_group(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS_MAX)

    def __enter__(self) -> VllmServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def complete(self, prompt: Sequence[int], *, max_tokens: int = 1, **fields: Any) -> Completion:
        """Completes a prompt of token ids, greedily, to the full length; further fields go as they are."""
        body = {
            "model": MODEL_NAME,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **fields,
        }
        answer = json.loads(self.request("/v1/completions", body))
        (choice,) = answer["choices"]
        return _completion(answer["usage"], prompt, choice)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, max_tokens: int = 1, **fields: Any
    ) -> Completion:
        """Answers a chat, as `complete` does a prompt; it never calls a tool."""
        body = {
            "model": MODEL_NAME,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **({"tool_choice": "none"} if "tools" in fields else {}),
            **fields,
        }
        answer = json.loads(self.request("/v1/chat/completions", body))
        (choice,) = answer["choices"]
        return _completion(answer["usage"], answer["prompt_token_ids"], choice)

    def reset_prefix_cache(self) -> None:
        self.request("/reset_prefix_cache", {})

    def request(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """GETs a path, or POSTs a JSON body to it. Raises ServerFailedError when the answer is an error."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=REQUEST_SECONDS_MAX) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            raise ServerFailedError(f"{path}: {error.code} {text}") from None

    def log_tail(self, lines: int = 120) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def _is_healthy(self) -> bool:
        try:
            self.request("/health")
        except (OSError, ServerFailedError):
            return False
        return True

    def _command(self) -> list[str]:
        events = {  # it binds only endpoints with a wildcard
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"tcp://*:{self.event_port}",
            "replay_endpoint": f"tcp://*:{self.replay_port}",
            "topic": self.topic,
        }
        return [
            *(self.python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self.model), "--served-model-name", MODEL_NAME),
            *("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"),
            *("--host", "127.0.0.1", "--port", str(self.http_port)),
            *("--block-size", str(BLOCK_SIZE_TOKENS), "--max-num-seqs", "8"),
            *("--num-gpu-blocks-override", str(self.blocks)),
            *("--enable-prefix-caching", "--enable-prompt-tokens-details"),
            *("--kv-events-config", json.dumps(events)),
            *self.flags,
        ]


def _completion(usage: dict[str, Any], prompt: Sequence[int], choice: dict[str, Any]) -> Completion:
    return Completion(
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0,
        token_ids=tuple(choice["token_ids"]),
        prompt_token_ids=tuple(prompt),
        text=choice["message"]["content"] or "" if "message" in choice else choice["text"],
    )


# A proxy that the environment names is of no use for a server on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _offline_environment() -> dict[str, str]:
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # opens /reset_prefix_cache
    }


def _signal_group(process_id: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process_id, number)
