"""A PUB socket of numbered batches, with a replay socket beside it. One thread publishes."""

from __future__ import annotations

import time

import zmq

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.publishing.replay_socket import ReplaySocket, bind

_HWM_MESSAGES = 100_000
_BOUND_MARKS = ("*", "::", "ipc://")


class BatchPublisher:
    """Publishes payloads with numbers from 0, and replays the last ones to whoever asks.

    An endpoint with `*` or `::`, and an ipc:// one, is bound, any other one is connected. Raises ConfigError
    for endpoints that cannot be used.
    """

    def __init__(
        self,
        topic: str,
        endpoint: str,
        replay_endpoint: str | None,
        *,
        buffer_batches: int,
        buffer_bytes_max: int,
    ) -> None:
        self.endpoint = endpoint
        self.replay_endpoint = replay_endpoint
        self._topic = topic.encode()
        self._sequence = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._replay = ReplaySocket(
            self._context,
            self._topic,
            buffer_steps=buffer_batches,
            hwm=_HWM_MESSAGES,
            topic_in_replies=True,
            buffer_bytes_max=buffer_bytes_max,
        )
        try:
            self._open()
        except (zmq.ZMQError, ConfigError) as error:
            self.close()
            raise ConfigError(f"endpoints {endpoint!r}, {replay_endpoint!r}: {error}") from error

    def _open(self) -> None:
        self._socket.set(zmq.SNDHWM, _HWM_MESSAGES)
        self._socket.set(zmq.LINGER, 0)
        if "[" in self.endpoint or "::" in self.endpoint:
            self._socket.set(zmq.IPV6, 1)
        if any(mark in self.endpoint for mark in _BOUND_MARKS):
            self.endpoint = bind(self._socket, self.endpoint, time.monotonic())
        else:
            self._socket.connect(self.endpoint)
        if self.replay_endpoint is not None:
            self.replay_endpoint = self._replay.open(self.replay_endpoint, time.monotonic())

    def publish(self, payload: bytes) -> None:
        """Send one batch, and keep it for replay. Never blocks: who is slow misses it, and asks."""
        self._replay.append(self._sequence, payload)
        self._socket.send_multipart((self._topic, self._sequence.to_bytes(8, "big"), payload))
        self._sequence += 1

    def close(self) -> None:
        """Free the ports; what was sent a moment ago may be lost. Twice is fine."""
        self._replay.close()
        self._socket.close()
        self._context.term()
