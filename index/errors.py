"""The exceptions of kvatlas.

    KvatlasError
    ├── InputError (also ValueError)      an argument of the caller
    │   ├── DecodeError                   a payload that is not an event batch at all
    │   └── TemplateError                 a chat template refused the chat, or was stopped
    ├── ConfigError (also ValueError)     a value of a configuration
    ├── CheckpointError                   a checkpoint: torn, foreign, of another version, cut short
    ├── ClusterError                      a cluster: no such name, not ready, does not answer
    ├── DumpError                         a dump: torn, foreign, of another version, of other keys
    ├── RemoteIndexError                  a Redis or Valkey: not there, too slow, full, foreign data
    ├── RecordingError                    a recording: no such file, foreign, torn, disk full
    ├── OverloadedError                   a bounded queue, or the fleet, is full: ask again later
    ├── NoWorkerError                     nobody may serve a request: no such model, adapter, label or pod
    ├── StoreError                        a store of KV files, or a device: cannot be used, or foreign
    ├── TokenizerError                    a tokenizer: cannot be found, read, used or asked
    │   └── UnsupportedModelError         nobody here can compute this model's token ids: ask its pod
    ├── LinkError                         no answer from a shard: too slow, broken, nobody there (actors/link)
    └── TableFileError                    a shared-memory table: missing, foreign, no room, closed
        └── StaleTableError               its writer is gone or silent for too long

Every message says what was expected, what came, and where.
"""

from __future__ import annotations

from typing import Any


class KvatlasError(Exception):
    """Root of all errors that kvatlas raises on purpose."""


class InputError(KvatlasError, ValueError):
    """An argument has the wrong type, range or shape."""


class DecodeError(InputError):
    """A payload is not an event batch: not even its frame could be read."""


class TemplateError(InputError):
    """A chat template refused the chat, failed on it, or was stopped at a limit."""


class ConfigError(KvatlasError, ValueError):
    """A configuration value is unknown or out of range; the message starts with its path."""


class CheckpointError(KvatlasError):
    """A checkpoint cannot be written or used; nothing of it was applied."""


class ClusterError(KvatlasError):
    """A cluster cannot be found, is not ready, or does not answer."""


class OverloadedError(KvatlasError):
    """A bounded queue, or the whole fleet, is full; nothing was begun. Ask again later, or elsewhere."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """When asking again is worth it; None: not known."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _overloaded, (type(self), str(self), self.retry_after_s)


def _overloaded(kind: type[OverloadedError], message: str, retry_after_s: float | None) -> OverloadedError:
    return kind(message, retry_after_s=retry_after_s)


class NoWorkerError(KvatlasError):
    """Nobody may serve a request: no pod has this model, adapter, role or label, or none that was named."""


class TokenizerError(KvatlasError):
    """A tokenizer cannot be found, read, used or asked."""


class UnsupportedModelError(TokenizerError):
    """Nobody here can compute the token ids of this model as its server does; its pod can be asked."""


class DumpError(KvatlasError):
    """A dump of an index cannot be written, read or loaded; nothing of it was applied."""


class RemoteIndexError(KvatlasError):
    """A Redis or Valkey server cannot be reached or used: down, too slow, full, foreign or newer content."""


class RecordingError(KvatlasError):
    """A recording cannot be read or written."""


class StoreError(KvatlasError):
    """A store of KV files, or a device, cannot be opened or used; or a file there is not what it says."""


class TableFileError(KvatlasError):
    """A shared-memory table cannot be created, attached or used."""


class StaleTableError(TableFileError):
    """The writer of a shared-memory table closed it, or its last heartbeat is too old."""


def quoted(words: object, characters_max: int = 1024) -> str:
    """What others have said, fit for a message: cut where it is long, on one line.

    What a log, a terminal or UTF-8 cannot take as it is stands there as Python would write it.
    """
    try:
        text = str(words)[:characters_max]
    except Exception as error:  # an exception of somebody's own, whose words are as broken as what it reports
        text = f"a {type(words).__name__} that cannot be shown: {type(error).__name__}"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
