"""The connection to another tokenization service: deadlines, bounds, and what its failures mean."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from kvatlas.index import errors
from kvatlas.index.errors import (
    ConfigError,
    InputError,
    KvatlasError,
    OverloadedError,
    TokenizerError,
    quoted,
)
from kvatlas.tokenize.config import SidecarConfig
from kvatlas.tokenize.service.addresses import parse_address
from kvatlas.tokenize.service.wire import metadata
from kvatlas.tokenize.service.wire.schema import METHODS, SERVICE, message_class

_RECONNECT_MS = (("min", 100), ("initial", 100), ("max", 1000))
_TEXT_MAX = 1024
# Said by gRPC as well as by services: they tell nothing of who serves.
_NOT_OF_THE_SERVICE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)
# What a service may tell that its client then raises: of the request and of the model, not of the service.
_TOLD = ("InputError", "TemplateError", "TokenizerError", "UnsupportedModelError")


class SidecarChannel:
    """Calls one service. Any thread; connects when it is first used, and again after a loss."""

    def __init__(self, config: SidecarConfig) -> None:
        """Raises ConfigError for a bad address or TLS files that cannot be read."""
        assert config.address is not None
        self._target = parse_address(config.address, "sidecar.address").target
        self.name = f"sidecar:{config.address}"
        self._config = config
        self._credentials = _credentials(config)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._channel: grpc.Channel | None = None
        self._calling = 0
        self._is_closed = False
        self.takes_chats = False
        """Whether the service understands `chat_json`, as it said last."""

    def call(
        self, method: str, request: Any, *, states_chat: bool = False, without_offsets: bool = False
    ) -> Any:
        """The answer's message, its success checked. `states_chat`: the request needs `chat_json`.

        Raises what the service tells of; InputError for a request that is too long; OverloadedError;
        TokenizerError where there is no such answer within the deadline.
        """
        self._check_size(method, request)
        before = ((metadata.NO_OFFSETS, "1"),) if without_offsets else ()
        try:
            with self._opened() as channel:
                response, call = channel.unary_unary(
                    f"/{SERVICE}/{method}",
                    request_serializer=_to_bytes,
                    response_deserializer=message_class(METHODS[method][1]).FromString,
                ).with_call(request, timeout=self._config.timeout_s, metadata=before)
        except grpc.RpcError as error:
            raise self._failure(method, error) from error
        behind = call.trailing_metadata()
        self.takes_chats = takes_chats = bool(metadata.value_of(behind, metadata.TAKES_CHATS))
        if not response.success:
            self._count("errors_told")
            raise self._told(method, response.error_message, metadata.value_of(behind, metadata.ERROR))
        if states_chat and not takes_chats:
            # Another program serves there since; it has skipped the chat as a field that it does not know.
            raise TokenizerError(f"{self.name}: expected a service of kvatlas, as before, got another one")
        return response

    def statistics(self) -> dict[str, int]:
        """Calls, and how they failed."""
        names = ("calls", "errors_told", "too_late", "overloaded", "failed")
        with self._lock:
            return {name: self._counts[name] for name in names}

    def close(self) -> None:
        """Disconnect when the last running call has ended. Twice is fine."""
        with self._lock:
            self._is_closed = True
        self._close_if_idle()

    @contextmanager
    def _opened(self) -> Iterator[grpc.Channel]:
        with self._lock:
            self._counts["calls"] += 1
            self._calling += 1
            if self._channel is None:
                self._channel = self._connect()
            channel = self._channel
        try:
            yield channel
        finally:
            with self._lock:
                self._calling -= 1
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        with self._lock:
            if not self._is_closed or self._calling:
                return
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _connect(self) -> grpc.Channel:
        bytes_max = self._config.message_bytes_max
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", bytes_max),
            ("grpc.max_receive_message_length", bytes_max),
            ("grpc.enable_http_proxy", 0),  # a sidecar is near
            *((f"grpc.{which}_reconnect_backoff_ms", pause_ms) for which, pause_ms in _RECONNECT_MS),
        ]
        if self._credentials is None:
            return grpc.insecure_channel(self._target, options)
        return grpc.secure_channel(self._target, self._credentials, options)

    def _check_size(self, method: str, request: Any) -> None:
        size = request.ByteSize()
        if size > self._config.message_bytes_max:
            raise InputError(
                f"{method}: expected a request of at most {self._config.message_bytes_max} bytes, got {size}"
            )

    def _failure(self, method: str, error: grpc.RpcError) -> KvatlasError:
        assert isinstance(error, grpc.Call)
        code, details = error.code(), quoted(error.details() or "", _TEXT_MAX)
        if code not in _NOT_OF_THE_SERVICE:
            self.takes_chats = bool(metadata.value_of(error.trailing_metadata(), metadata.TAKES_CHATS))
        where = f"{self.name}: {method}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._count("too_late")
            return TokenizerError(f"{where}: expected an answer within {self._config.timeout_s} s, got none")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" not in details:
            self._count("overloaded")
            return OverloadedError(f"{where}: {details}")
        self._count("failed")
        return TokenizerError(f"{where}: expected an answer, got {code.name}: {details}")

    def _told(self, method: str, text: str, kind: str) -> KvatlasError:
        where = f"{self.name}: {method}: {quoted(text, _TEXT_MAX) or 'no success, and no reason'}"
        error: type[KvatlasError] = getattr(errors, kind) if kind in _TOLD else TokenizerError
        return error(where)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _to_bytes(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _credentials(config: SidecarConfig) -> grpc.ChannelCredentials | None:
    if config.tls_ca_file is None:
        return None
    try:
        authorities = Path(config.tls_ca_file).read_bytes()
        key = Path(config.tls_key_file).read_bytes() if config.tls_key_file else None
        certificate = Path(config.tls_certificate_file).read_bytes() if config.tls_certificate_file else None
    except OSError as error:
        raise ConfigError(f"sidecar: expected a PEM file: {error}") from error
    return grpc.ssl_channel_credentials(authorities, key, certificate)
