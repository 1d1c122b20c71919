"""Heads of requests and answers: what of them goes on, and how they are written."""

from __future__ import annotations

import http
from collections.abc import Iterable

import msgspec

Headers = list[tuple[bytes, bytes]]
"""In their order; names in lower case."""

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer"
    b" transfer-encoding upgrade".split()
)
_REASONS = {int(status): status.phrase.encode() for status in http.HTTPStatus}


def header(headers: Headers, name: bytes) -> bytes | None:
    """Its first value."""
    return next((value for key, value in headers if key == name), None)


def forwarded(headers: Headers, without: Iterable[bytes] = ()) -> Headers:
    """Those that are meant for the other end: none that speak of this connection alone (RFC 9110, 7.6.1)."""
    left_out = {*_HOP_BY_HOP, *without}
    for key, value in headers:
        if key == b"connection":
            left_out.update(name.strip().lower() for name in value.split(b","))
    return [(key, value) for key, value in headers if key not in left_out]


def request_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, _lines(headers))


def answer_head(status: int, headers: Headers) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, _REASONS.get(status, b"Unknown"), _lines(headers))


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % one for one in headers)


def error_body(status: int, kind: str, message: str, where: str | None = None) -> bytes:
    """As OpenAI's API says errors."""
    told = {"message": message, "type": kind, "param": where, "code": status}
    return msgspec.json.encode({"error": told})
