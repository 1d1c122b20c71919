"""Why a request is not passed on, and how its client is told."""

from __future__ import annotations

import math
import re

from kvatlas.cluster.proxy.http.head import Headers, error_body
from kvatlas.index.errors import (
    InputError,
    KvatlasError,
    NoWorkerError,
    OverloadedError,
    quoted,
)

_PLACE = re.compile(r"(\$[\w.\[\]]*): (.*)", re.DOTALL)
_RETRY_S = 1.0


class ProxyRefusalError(KvatlasError):
    """A request that is answered with this status; `kind` is the word for programs."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        where: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.where = where
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> bytes:
        return error_body(self.status, self.kind, quoted(self, 4096), self.where)

    @property
    def headers(self) -> Headers:
        headers: Headers = [(b"content-type", b"application/json")]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s))))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


def refusal_of(error: KvatlasError) -> ProxyRefusalError:
    """What a client is told of an error."""
    if isinstance(error, ProxyRefusalError):
        return error
    message = str(error)
    if isinstance(error, OverloadedError):
        wait_s = _RETRY_S if error.retry_after_s is None else error.retry_after_s
        return ProxyRefusalError(503, "overloaded", message, retry_after_s=wait_s)
    if isinstance(error, InputError):
        found = _PLACE.fullmatch(message)
        where, message = (found[1], found[2]) if found else (None, message)
        return ProxyRefusalError(400, "invalid_request_error", message, where=where)
    if isinstance(error, NoWorkerError):
        return ProxyRefusalError(503, "no_worker", message, retry_after_s=_RETRY_S)
    return ProxyRefusalError(503, "unavailable", message, retry_after_s=_RETRY_S)
