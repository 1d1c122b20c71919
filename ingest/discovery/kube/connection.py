"""Requests to the Kubernetes API through its official client, with bounded answers.

Credentials, TLS and their renewal are the client's. Its typed objects are not used: they cost a
millisecond a pod and hold all of it, and a pod can be a hundred kilobytes.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Generator, Iterator
from typing import Any

import kubernetes
import msgspec
import urllib3.exceptions
import yaml
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from kvatlas.index.errors import ConfigError, KvatlasError
from kvatlas.ingest.discovery.config import KubernetesWatchConfig
from kvatlas.ingest.discovery.kube.objects import Failure, KubePodList, WatchEvent

_READ_BYTES = 1 << 16
_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_GONE = 410


# The client is partly typed.
_load_in_cluster: Any = kubernetes.config.load_incluster_config
_load_kubeconfig: Any = kubernetes.config.load_kube_config
_list_contexts: Any = kubernetes.config.list_kube_config_contexts


class ApiError(KvatlasError):
    """A request to the Kubernetes API failed; what it would have said is not known."""


class GoneError(ApiError):
    """The version asked from is too old, or a page's: everything must be listed again."""


class PodsApi:
    """Lists and watches the pods of a configuration. One thread at a time; `close` any.

    Raises ConfigError when nothing says how to reach an API.
    """

    def __init__(self, config: KubernetesWatchConfig) -> None:
        self._config = config
        self._client, self.namespace = _connect(config)
        self._api = kubernetes.client.CoreV1Api(self._client)
        self._lock = threading.Lock()
        self._response: Any = None
        self._closed = False

    def list_page(self, page: str | None, *, in_pages: bool = True) -> KubePodList:
        """One page of all pods; `page` is the `continue_` of the one before. Raises GoneError, ApiError."""
        wanted: dict[str, Any] = {"limit": self._config.page_pods} if in_pages else {}
        if page:
            wanted["_continue"] = page
        response = self._ask(self._config.request_s_max, **wanted)
        try:
            content = _whole(response, self._config.answer_bytes_max)
            return msgspec.json.decode(content, type=KubePodList)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ApiError(f"list of pods: expected a v1.PodList, {error}") from None
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise ApiError(f"list of pods: {_short(error)}") from None
        finally:
            response.close()

    def watch(self, version: str) -> Generator[WatchEvent, None, None]:
        """What happens after `version`, for `watch_s` or until the connection ends; to be closed.

        Raises GoneError and ApiError, here or while it is read.
        """
        watch_s = self._config.watch_s
        response = self._ask(
            watch_s + self._config.request_s_max,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=max(1, round(watch_s)),
        )
        return self._events(response)

    def _events(self, response: Any) -> Generator[WatchEvent, None, None]:
        with self._lock:
            self._response = response
            if self._closed:
                _shut(response)
        try:
            for line in _lines(response, self._config.answer_bytes_max):
                yield _event(line)
        except (OSError, ValueError, AttributeError, urllib3.exceptions.HTTPError) as error:
            raise ApiError(f"watch of pods: {_short(error)}") from None  # of a closed one: any of these
        finally:
            with self._lock:
                self._response = None
            response.close()

    def close(self) -> None:
        """End a watch that waits, and all that come."""
        with self._lock:
            self._closed = True
            if self._response is not None:
                _shut(self._response)

    def _ask(self, read_s: float, **wanted: Any) -> Any:
        if self._closed:
            raise ApiError("closed")
        wanted |= {
            "label_selector": self._config.label_selector,
            "_preload_content": False,
            "_request_timeout": (self._config.request_s_max, read_s),
        }
        try:
            if self.namespace is None:
                return self._api.list_pod_for_all_namespaces(**wanted)
            return self._api.list_namespaced_pod(self.namespace, **wanted)
        except ApiException as error:
            raise _failed(error) from None
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise ApiError(f"Kubernetes API: {_short(error)}") from None


def _connect(config: KubernetesWatchConfig) -> tuple[Any, str | None]:
    """A client and the namespace to look in; None: all."""
    settings = kubernetes.client.Configuration()
    namespace = config.namespace
    try:
        if config.kubeconfig is None and config.context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            _load_in_cluster(client_configuration=settings)
            namespace = namespace or _own_namespace()
        else:
            _load_kubeconfig(
                config_file=config.kubeconfig, context=config.context, client_configuration=settings
            )
            namespace = namespace or _namespace_of_context(config)
    except (ConfigException, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{config.name}: expected a way to reach the Kubernetes API, {_short(error)}"
        ) from None
    settings.retries = False  # we have our own
    client = kubernetes.client.ApiClient(settings)
    return client, None if config.all_namespaces else namespace or "default"


def _own_namespace() -> str | None:
    try:
        with open(_NAMESPACE_FILE, encoding="utf-8") as file:
            return file.read(300).strip() or None
    except OSError:
        return None


def _namespace_of_context(config: KubernetesWatchConfig) -> str | None:
    contexts, active = _list_contexts(config_file=config.kubeconfig)
    named = [one for one in contexts if one["name"] == config.context] or [active]
    found = named[0]["context"].get("namespace")
    return str(found) if found else None


def _whole(response: Any, bytes_max: int) -> bytes:
    content: bytes = response.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise ApiError(f"list of pods: expected at most {bytes_max} bytes a page, got more")
    return content


def _lines(response: Any, bytes_max: int) -> Iterator[bytes]:
    waiting = bytearray()
    for part in response.stream(_READ_BYTES, decode_content=True):
        *whole, rest = part.split(b"\n")
        for line in whole:
            yield bytes(waiting) + line
            waiting.clear()
        waiting += rest
        if len(waiting) > bytes_max:
            raise ApiError(f"watch of pods: expected at most {bytes_max} bytes an event, got more")


def _event(line: bytes) -> WatchEvent:
    try:
        event = msgspec.json.decode(line, type=WatchEvent)
        if event.type != "ERROR":
            return event
        failure = msgspec.json.decode(event.object, type=Failure)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ApiError(f"watch of pods: expected an event, {error}") from None
    kind = GoneError if failure.code == _GONE else ApiError
    raise kind(f"watch of pods: {failure.code} {failure.reason} {failure.message[:200]}")


def _failed(error: ApiException) -> ApiError:
    if error.status == _GONE:
        return GoneError("Kubernetes API: 410 Gone")
    hint = ""
    if error.status in (401, 403):
        hint = "; it needs list and watch on pods (deploy/kubernetes/rbac.yaml)"
    return ApiError(f"Kubernetes API: {error.status} {error.reason}{hint}")


def _shut(response: Any) -> None:
    """Wake the thread that reads it."""
    try:
        if hasattr(response, "shutdown"):  # urllib3 2.3
            response.shutdown()
        else:
            response.connection.sock.shutdown(socket.SHUT_RDWR)
    except (OSError, AttributeError, ValueError):
        pass  # it ends by itself, at the latest with the watch


def _short(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
