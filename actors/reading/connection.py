"""A process's connection to a cluster: finds the directory in Ray, and keeps one reader for all who ask."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

import msgspec
import ray
from ray.exceptions import RayError, RayTaskError

from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import NAMESPACE, ReaderSecrets, Replica, decode
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index.errors import ClusterError, KvatlasError

_CALL_S_MAX = 10.0
T = TypeVar("T", bound=msgspec.Struct)


class DirectoryCalls:
    """Calls the directory of a cluster, wherever it is just now. Any thread may call it."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self._handle: Any = None

    def handle(self) -> Any:
        """Its Ray handle. Raises ClusterError when Ray knows no such actor."""
        handle = self._handle
        if handle is None:
            try:
                handle = ray.get_actor(f"{self.cluster}/directory", namespace=NAMESPACE)
            except ValueError as error:
                raise ClusterError(
                    f"cluster {self.cluster!r}: expected its directory in Ray, found none"
                ) from error
            self._handle = handle
        return handle

    def is_gone(self) -> bool:
        """Ray knows no directory of this name."""
        try:
            ray.get_actor(f"{self.cluster}/directory", namespace=NAMESPACE)
        except ValueError:
            return True
        except Exception:  # of Ray, which has many kinds: nothing is known
            return False
        return False

    def begin(self, method: str, *arguments: object) -> Future[Any]:
        """Begin a call; `result` has its end. Raises ClusterError when there is nobody to call."""
        if not ray.is_initialized():  # Ray would begin a cluster of its own for whoever calls it
            raise ClusterError(f"cluster {self.cluster!r}: expected this process to be connected to Ray")
        called: Future[Any] = getattr(self.handle(), method).remote(*arguments).future()
        return called

    def result(self, called: Future[Any], timeout_s: float = _CALL_S_MAX) -> Any:
        """What the method returns. Raises ClusterError when it does not answer in time, and what the
        method itself raises of ours."""
        try:
            return called.result(timeout_s)
        except RayTaskError as error:
            raise self._raised(error) from None
        except (RayError, TimeoutError, FutureTimeoutError) as error:
            raise self._unanswered(error) from error

    def call(self, method: str, *arguments: object) -> Any:
        """`begin`, and its `result`."""
        return self.result(self.begin(method, *arguments))

    async def call_async(self, method: str, *arguments: object) -> Any:
        """The same, awaited."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.begin(method, *arguments)), _CALL_S_MAX)
        except RayTaskError as error:
            raise self._raised(error) from None
        except (RayError, TimeoutError, asyncio.TimeoutError) as error:
            raise self._unanswered(error) from error

    def forget_handle(self) -> None:
        """The next call looks it up anew: a directory that was started again has another."""
        self._handle = None

    def _unanswered(self, error: Exception) -> ClusterError:
        self.forget_handle()
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        return ClusterError(f"cluster {self.cluster!r}: its directory does not answer: {said}")

    def _raised(self, error: RayTaskError) -> KvatlasError:
        """What a method has raised: what is of ours as it is."""
        if isinstance(error.cause, KvatlasError):
            return error.cause
        return ClusterError(f"cluster {self.cluster!r}: its directory has failed: {error}")

    def ask(self, method: str, kind: type[T], *arguments: object) -> T:
        """What a method returns as the bytes of a struct."""
        return decode(self.call(method, *arguments), kind)


class _Views:
    """Asks the directory for views; a call that waits can be ended. Used by one thread."""

    def __init__(self, calls: DirectoryCalls) -> None:
        self._calls = calls
        self._woken = threading.Event()
        self._is_closed = False

    def fetch(self, since: int, wait_s: float) -> bytes:
        """Bytes of a ClusterView. Raises ClusterError when there is no answer in time."""
        woken = self._woken = threading.Event()
        answer = self._calls.begin("view", since, wait_s)
        answer.add_done_callback(lambda _: woken.set())
        if not self._is_closed:
            woken.wait(wait_s + _CALL_S_MAX)
        if not answer.done():
            self._calls.forget_handle()
            raise ClusterError(f"cluster {self._calls.cluster!r}: its directory does not answer")
        view: bytes = self._calls.result(answer)
        return view

    def close(self) -> None:
        """Whoever waits waits no longer. From any thread."""
        self._is_closed = True
        self._woken.set()


class Connection:
    """One process's connection to one cluster. Any thread may call it."""

    def __init__(self, cluster: str, settings: ReaderSettings) -> None:
        self.calls = DirectoryCalls(cluster)
        self._settings = settings
        self._lock = threading.Lock()
        self._reader: ClusterReader | None = None
        self._links: Links | None = None
        self._views: _Views | None = None
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        """`reader` need not wait."""
        return self._reader is not None and not self._reader.is_superseded

    def reader(self) -> ClusterReader:
        """The reader, made when first asked for, and anew when the cluster was started anew under its
        name. Raises ClusterError when the directory cannot be found or does not answer."""
        reader = self._reader
        if reader is not None and not reader.is_superseded:
            return reader
        with self._lock:
            if self._is_closed:
                raise ClusterError(
                    f"cluster {self.calls.cluster!r}: expected an open client, got a closed one"
                )
            if self._reader is None or self._reader.is_superseded:
                self._release()
                self._reader = self._connect()
            return self._reader

    def _connect(self) -> ClusterReader:
        secrets = self.calls.ask("secrets", ReaderSecrets)
        links = self._links = Links(secrets.keys if secrets.keys.client_secret else None)
        views = self._views = _Views(self.calls)

        def open_link(replica: Replica) -> ShardLink:
            return links.open(replica)

        node_id = ray.get_runtime_context().get_node_id()
        reader = ClusterReader(
            views.fetch, secrets, node_id=node_id, open_link=open_link, settings=self._settings
        )
        weakref.finalize(reader, _let_go, views, links)
        return reader

    def _release(self) -> None:
        if self._views is not None:
            self._views.close()
        if self._reader is not None:
            self._reader.close()
        if self._links is not None:
            self._links.close()
        self._reader = self._links = self._views = None

    def close(self) -> None:
        """Let go of everything. Twice is fine."""
        with self._lock:
            self._is_closed = True
            self._release()


def _let_go(views: _Views, links: Links) -> None:
    views.close()
    links.close()


_connections: weakref.WeakValueDictionary[tuple[str, str, ReaderSettings], Connection]
_connections = weakref.WeakValueDictionary()
_connecting = threading.Lock()


def connection_to(cluster: str, settings: ReaderSettings) -> Connection:
    """The process's connection, shared by all who hold it; it ends with the last of them.

    Raises ClusterError when this process is not connected to Ray.
    """
    if not ray.is_initialized():
        raise ClusterError(f"cluster {cluster!r}: expected ray.init() to have been called in this process")
    job = ray.get_runtime_context().get_job_id()
    key = (f"{ray.get_runtime_context().gcs_address} {job}", cluster, settings)
    with _connecting:
        connection = _connections.get(key)
        if connection is None:
            connection = _connections[key] = Connection(cluster, settings)
        return connection


@atexit.register
def _close_all() -> None:
    """Before the interpreter goes: a thread that still waits would keep native objects from going."""
    with _connecting:
        connections = list(_connections.values())
    for connection in connections:
        connection.close()
