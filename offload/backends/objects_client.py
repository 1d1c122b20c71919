"""The few requests that chunks need of an S3-compatible object store, and what their errors mean."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from kvatlas.index.errors import ConfigError, StoreError, quoted
from kvatlas.offload.backends.backend import Outcome

if TYPE_CHECKING:
    from typing_extensions import Buffer

_OPTIONS = frozenset(
    {
        "checksum_algorithm",
        "disable_bulk_delete",
        "endpoint",
        "region",
        "request_payer",
        "s3_express",
        "server_side_encryption",
        "skip_signature",
        "sse_kms_key_id",
        "unsigned_payload",
        "virtual_hosted_style_request",
    }
)
_RETRIES = 3
_BACKOFF_S = 0.1
_BACKOFF_S_MAX = 1.0
_CONNECT_S_MAX = 5.0
_LIST_KEYS = 1000  # of one request, S3's own bound
_FULL = re.compile(r"\b507\b|StorageFull|QuotaExceeded|InsufficientStorage")
_NO_RANGE = re.compile(r"\b416\b|InvalidRange")
_NO_CONDITION = re.compile(r"\b501\b|NotImplemented")
_WORDS_MAX = 600
_ENDPOINT_NAMES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_SLOW = re.compile(r"kind: Timeout|operation timed out")


class ObjectError(StoreError):
    """A request failed; `outcome` says how, the message in one line."""

    def __init__(self, outcome: Outcome, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.is_refused = is_refused
        """The store answered and will not: credentials, rights, no such bucket. Asking again is no use."""


class Listed(msgspec.Struct, frozen=True):
    """An object of a listing."""

    path: str
    """Below the store's root."""
    size_bytes: int
    modified_s: float
    """Since 1970, by the store's clock."""


class ObjectClient:
    """One prefix of one bucket, through obstore. Thread-safe; all methods raise ObjectError.

    They wait for the network, in bounded time: what fails at the server or on the way is tried again, with
    growing pauses, within the time limit.
    """

    def __init__(self, url: str, options: Mapping[str, str], time_limit_s: float) -> None:
        """`url`: s3://bucket/prefix; credentials come from the environment, as for any S3 client.

        Raises ConfigError for another URL, an unknown option, and where obstore is not installed.
        """
        scheme, _, place = url.partition("://")
        bucket, _, prefix = place.partition("/")
        if scheme != "s3" or not bucket:
            raise ConfigError(f"root: expected a folder or s3://bucket/prefix, got {quoted(url, 200)}")
        self.url = url
        self._obstore = _client_library()
        self._store = _open(bucket, prefix.strip("/"), options, time_limit_s)
        self._has_conditional_put = True

    def read(self, path: str, bytes_max: int) -> tuple[memoryview, int] | None:
        """A whole object and its length, without its bytes if it is longer than that; None: there is none."""
        try:
            answer = self._obstore.get(self._store, path)
            size_bytes = answer.meta["size"]
            return memoryview(answer.bytes() if size_bytes <= bytes_max else b""), size_bytes
        except Exception as error:
            _raise_unless_absent(error, path)
            return None

    def read_begin(self, path: str, n_bytes: int) -> tuple[memoryview, int] | None:
        """The first bytes of an object, and how long it is; None: there is none."""
        try:
            answer = self._obstore.get(self._store, path, options={"range": (0, n_bytes)})
            return memoryview(answer.bytes()), answer.meta["size"]
        except Exception as error:
            if _NO_RANGE.search(str(error)):  # an empty object has no first byte
                return memoryview(b""), 0
            _raise_unless_absent(error, path)
            return None

    def write_new(self, path: str, content: Buffer) -> bool:
        """Writes an object whole or not at all; False: there was one. `content` must not change meanwhile.

        A store without conditional writes has it written again: what has one name has one content here.
        """
        try:
            if self._has_conditional_put:
                try:
                    self._obstore.put(self._store, path, content, mode="create", use_multipart=False)
                    return True
                except Exception as error:
                    if _is_there(error):
                        return False
                    if not _NO_CONDITION.search(str(error)):
                        raise
                    self._has_conditional_put = False
            self._obstore.put(self._store, path, content, use_multipart=False)
            return True
        except Exception as error:
            raise _failure(error, path, is_write=True) from None

    def remove(self, paths: Sequence[str]) -> None:
        """Deletes objects; those that are not there are nobody's loss."""
        try:
            self._obstore.delete(self._store, [*paths])
        except FileNotFoundError:
            return
        except Exception as error:
            raise _failure(error, paths[0], is_write=True) from None

    def listing(self, folder: str = "") -> Iterator[Sequence[Listed]]:
        """All objects below a folder (the root), in batches of at most 1000. Waits at each step."""
        try:
            for batch in self._obstore.list(self._store, folder or None, chunk_size=_LIST_KEYS):
                yield [Listed(one["path"], one["size"], one["last_modified"].timestamp()) for one in batch]
        except Exception as error:
            raise _failure(error, folder or "listing") from None


def _client_library() -> ModuleType:
    try:
        return importlib.import_module("obstore")
    except ImportError as error:
        raise ConfigError(
            f"root: expected obstore for an object store (pip install 'kvatlas[objects]'), got {error}"
        ) from None


def _open(bucket: str, prefix: str, options: Mapping[str, str], time_limit_s: float) -> Any:
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ConfigError(
            f"objects.{quoted(unknown[0], 64)}: expected one of {', '.join(sorted(_OPTIONS))}; "
            "credentials and whatever else an S3 client takes come from the environment (AWS_...)"
        )
    endpoints = [options.get("endpoint"), *(os.environ.get(name) for name in _ENDPOINT_NAMES)]
    endpoint = next((one for one in endpoints if one), "")
    limit = timedelta(seconds=time_limit_s)
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=min(time_limit_s, _CONNECT_S_MAX)),
        "timeout": limit,
    }
    if endpoint.startswith("http://"):
        client["allow_http"] = True
    backoff = {
        "base": 2,
        "init_backoff": timedelta(seconds=_BACKOFF_S),
        "max_backoff": timedelta(seconds=_BACKOFF_S_MAX),
    }
    retry = {"max_retries": _RETRIES, "retry_timeout": limit, "backoff": backoff}
    store = importlib.import_module("obstore.store")
    try:
        return store.S3Store(
            bucket, prefix=prefix or None, config=dict(options), client_options=client, retry_config=retry
        )
    except Exception as error:
        raise ConfigError(f"objects: expected what an S3 client takes, got {_words(error)}") from None


def _raise_unless_absent(error: Exception, path: str) -> None:
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
        return
    raise _failure(error, path) from None


def _is_there(error: Exception) -> bool:
    return type(error).__name__ in ("AlreadyExistsError", "PreconditionError")


def _failure(error: Exception, path: str, *, is_write: bool = False) -> ObjectError:
    text = str(error)
    outcome, is_refused = Outcome.FAILED, False
    if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        outcome, is_refused = (Outcome.READ_ONLY if is_write else Outcome.FAILED), True
    elif isinstance(error, FileNotFoundError):
        is_refused = True  # of a bucket: a missing object is no failure
    elif _FULL.search(text):
        outcome = Outcome.NO_SPACE
    elif _SLOW.search(text):
        outcome = Outcome.TIMED_OUT
    words = _words(error)
    return ObjectError(outcome, words if path in words else f"{path}: {words}", is_refused=is_refused)


def _words(error: Exception) -> str:
    text = " ".join(str(error).partition("\n\nDebug source")[0].split())
    # From the request on: what stands before only wraps it, and names the path once more.
    return quoted(text[max(0, text.find("Error performing")) :], _WORDS_MAX)
