"""Scripts that servers run, by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from kvatlas.index.remote.connection.commands import Argument, Command, Packed


class Script(NamedTuple):
    """One script in Lua. RemoteConnection loads it where a server does not know it."""

    source: bytes
    sha: bytes

    @staticmethod
    def of(source: str) -> Script:
        content = source.encode()
        return Script(content, hashlib.sha1(content, usedforsecurity=False).hexdigest().encode())

    def command(
        self, keys: Sequence[bytes | str], args: Sequence[Argument] = (), further_keys: Packed | None = None
    ) -> Command:
        """One call. In a cluster all keys are of one slot, that of the first."""
        first = keys[0] if keys else None
        slot_key = first.encode() if isinstance(first, str) else first
        if further_keys is None:
            return Command(slot_key, (b"EVALSHA", self.sha, len(keys), *keys, *args))
        n_keys = len(keys) + further_keys.n_arguments
        return Command(slot_key, (b"EVALSHA", self.sha, n_keys, *keys, further_keys, *args))

    def loading(self) -> Command:
        return Command(None, (b"SCRIPT", b"LOAD", self.source))
