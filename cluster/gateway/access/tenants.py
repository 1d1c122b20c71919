"""Who may ask: bearer tokens, each of a tenant, in a file that may change."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from kvatlas.index.errors import ConfigError

_FILE_BYTES_MAX = 1 << 20
_LOOK_EVERY_S = 1.0

_log = logging.getLogger(__name__)


class Tenants:
    """The tokens of a file. Any thread.

    Without a file anybody may ask. A file that cannot be read, or has no token, lets nobody in: that
    would be the worse mistake the other way round.
    """

    def __init__(self, path: str | None, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._looked_s = -_LOOK_EVERY_S
        self._stamp: tuple[int, int, int] | None = None
        self._by_digest: Mapping[bytes, tuple[bytes, str]] = {}

    @property
    def are_named(self) -> bool:
        """Whether callers need a token."""
        return self._path is not None

    def tenant_of(self, authorization: str | None) -> str | None:
        """The tenant of an `Authorization` header; empty where nobody needs a token. None: he may not."""
        if self._path is None:
            return ""
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer":
            return None
        given = token.strip().encode("utf-8", "surrogateescape")
        # Looked up by digest: how long that takes says nothing of the tokens that there are.
        known = self._tokens().get(hashlib.sha256(given).digest())
        if known is None or not hmac.compare_digest(known[0], given):
            return None
        return known[1]

    def _tokens(self) -> Mapping[bytes, tuple[bytes, str]]:
        with self._lock:
            now_s = self._clock_s()
            if now_s - self._looked_s >= _LOOK_EVERY_S:
                self._looked_s = now_s
                self._look()
            return self._by_digest

    def _look(self) -> None:
        assert self._path is not None
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                with open(self._path, "rb") as file:
                    content = file.read(_FILE_BYTES_MAX + 1)
                self._by_digest = _by_digest(content, self._path)
                self._stamp = stamp
        except (OSError, ConfigError) as error:
            if self._by_digest or self._stamp is None:
                _log.error("gateway: nobody is let in: %s", error)
            self._by_digest, self._stamp = {}, (0, 0, 0)


def _by_digest(content: bytes, path: str) -> dict[bytes, tuple[bytes, str]]:
    """Raises ConfigError for a line that is no tenant and token; it does not say the line."""
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(f"{path}: expected at most {_FILE_BYTES_MAX} bytes, got more")
    tokens: dict[bytes, tuple[bytes, str]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        if len(words) != 2:
            raise ConfigError(f"{path} line {number}: expected a tenant and a token, got {len(words)} words")
        tenant, token = words
        tokens[hashlib.sha256(token).digest()] = (token, tenant.decode("utf-8", "replace"))
    return tokens
