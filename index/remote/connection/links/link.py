"""One connection to one server: redis-py's, which knows passwords, TLS and the protocol, within bounds of
ours.

Imported when a connection is wanted: redis-py is an extra.
"""

from __future__ import annotations

import inspect
import select
import ssl
import time
from typing import Any

import redis.exceptions
from redis.connection import (
    AbstractConnection,
    Connection,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)

from kvatlas.index.errors import quoted
from kvatlas.index.remote.connection.failures import ErrorReply, Reason, ServerError
from kvatlas.index.remote.connection.links.bounded_socket import BoundedSocket, TooManyBytesError
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.connection.url import Address, RemoteUrl


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """Leaves errors in the server's own words: redis-py takes the first of them away."""

    @classmethod
    def parse_error(cls, response: str) -> redis.exceptions.ResponseError:
        return redis.exceptions.ResponseError(response)


class _Bounded:
    """What a class of redis-py's connections gets in front."""

    until_s = 0.0
    reply_bytes_max = 0
    bounded: BoundedSocket

    def _connect(self) -> Any:
        self.bounded = BoundedSocket(super()._connect(), self.until_s, self.reply_bytes_max)  # type: ignore[misc]
        return self.bounded


class _Tcp(_Bounded, Connection):
    pass


class _Tls(_Bounded, SSLConnection):
    pass


class _Unix(_Bounded, UnixDomainSocketConnection):
    pass


class Link:
    """One connection; one thread at a time. After any error it is closed: no answer can be taken for
    another's."""

    def __init__(self, address: Address, url: RemoteUrl, settings: RemoteSettings, until_s: float) -> None:
        """Connects, says who it is, chooses the database. Raises ServerError: within connect_timeout_ms, and
        before `until_s` (time.monotonic)."""
        self.address = address
        self.is_used = False
        """Whether it has answered before: it may have been closed since."""
        self._asked_s = 0.0
        self._bytes_max = settings.reply_bytes_max
        now_s = time.monotonic()
        limit_s = max(0.001, min(settings.connect_timeout_ms / 1000, until_s - now_s))
        self._connection = _make(address, url, limit_s)
        self._connection.until_s = now_s + limit_s
        self._connection.reply_bytes_max = 1 << 20
        try:
            self._connection.connect()
        except Exception as error:
            self.close()
            raise self._failure(error, f"a connection within {limit_s * 1000:.0f} ms") from None

    def is_silent(self) -> bool:
        """Whether an idle connection is open and has nothing to say, as it should be."""
        poller = select.poll()
        poller.register(self._connection.bounded.fileno(), select.POLLIN)
        return not poller.poll(0)

    def send(self, packed: bytes, until_s: float) -> None:
        """Sends commands; their answers must be received before the next. Raises ServerError."""
        bounded = self._connection.bounded
        self._asked_s = time.monotonic()
        bounded.until_s, bounded.bytes_left = until_s, self._bytes_max
        try:
            self._connection.send_packed_command([packed], check_health=False)
        except Exception as error:
            raise self._broken(error) from None

    def receive(self, count: int) -> list[Any]:
        """Their answers, in order; errors of single commands are ErrorReply. Raises ServerError."""
        read = self._connection.read_response
        answers: list[Any] = []
        try:
            for _ in range(count):
                try:
                    answers.append(read())
                except redis.exceptions.ResponseError as error:
                    answers.append(ErrorReply(str(error)))
        except Exception as error:
            raise self._broken(error) from None
        self.is_used = True
        return answers

    def close(self) -> None:
        self._connection.disconnect()

    def _broken(self, error: Exception) -> ServerError:
        self.close()
        waited_ms = (time.monotonic() - self._asked_s) * 1000
        failure = self._failure(error, f"an answer within {waited_ms:.0f} ms")
        failure.is_sent = True
        return failure

    def _failure(self, error: Exception, expected: str) -> ServerError:
        reason = _reason(error)
        if reason == "garbled":
            expected = f"answers of the protocol, at most {self._bytes_max} bytes"
        is_too_much = isinstance(error.__context__, TooManyBytesError)
        got = "nothing" if reason == "timeout" else "more" if is_too_much else quoted(error, 200)
        return ServerError(f"{self.address}: expected {expected}, got {got}", reason)


# redis-py's commands to introduce itself would be two more round trips; releases differ in how one says no.
_KNOWN = inspect.signature(AbstractConnection.__init__).parameters
_UNNAMED: dict[str, Any] = (
    {"driver_info": None} if "driver_info" in _KNOWN else {"lib_name": None, "lib_version": None}
)


def _make(address: Address, url: RemoteUrl, limit_s: float) -> Any:
    # Any: the types that redis-py gives its connections are not finished.
    kind: Any = _Unix if address.path else _Tls if url.is_tls else _Tcp
    options: dict[str, Any] = {
        "db": url.db,
        "username": url.user,
        "password": url.password,
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "parser_class": _Parser,
        "protocol": 2,
        **_UNNAMED,
    }
    if address.path:
        return kind(path=address.path, **options)
    options.update(host=address.host, port=address.port)
    if not url.is_tls:
        return kind(**options)
    verify = url.tls_verify is not False
    return kind(
        ssl_ca_certs=url.tls_ca,
        ssl_certfile=url.tls_certificate,
        ssl_keyfile=url.tls_key,
        ssl_cert_reqs="required" if verify else "none",
        ssl_check_hostname=verify,
        **options,
    )


def _reason(error: BaseException) -> Reason:
    if isinstance(error, redis.exceptions.ResponseError):
        return ErrorReply(str(error)).reason_of_server or "refused"
    seen: BaseException | None = error
    while seen is not None:  # redis-py raises its own in place of what happened
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, TimeoutError):
            return "tls"
        if isinstance(seen, (TooManyBytesError, redis.exceptions.InvalidResponse)):
            return "garbled"
        seen = seen.__context__
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "refused"
    if isinstance(error, (redis.exceptions.TimeoutError, TimeoutError)):
        return "timeout"
    return "down" if isinstance(error, (redis.exceptions.ConnectionError, OSError)) else "garbled"
