"""A Kubernetes API for tests: lists and watches pods over HTTP as the real one does.

What it speaks: resourceVersion on objects, lists and events; `limit` and `continue`; labelSelector;
watch=true as chunked lines of JSON from a version on; bookmarks where they were asked for; 410 for
versions whose history is gone, as an ERROR event in a stream and as a status of a list's page; bearer
tokens. It also misbehaves on demand.
"""

from __future__ import annotations

import base64
import copy
import http.server
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

TOKEN = "a token of the tests"


def pod(
    name: str,
    *ips: str,
    namespace: str = "models",
    phase: str = "Running",
    ready: bool = True,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A v1.Pod, less what the API sets."""
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": [
            {"type": "Initialized", "status": "True", "lastProbeTime": None},
            {"type": "Ready", "status": "True" if ready else "False"},
        ],
        "hostIP": "192.168.7.1",
    }
    if ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"llm-d.ai/inference-serving": "true", **(labels or {})},
            "annotations": annotations or {},
        },
        "spec": {"containers": [{"name": "server", "image": "server:1", "ports": [{"containerPort": 8000}]}]},
        "status": status,
    }


class KubernetesApi:
    """State of the API, and a server on a port of its own. Use as a context."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 1000
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, dict[str, Any]]] = []  # version, event
        self.oldest = 0  # versions below it are gone
        self.uids = 0
        self.requests: Counter[str] = Counter()
        self.asked: list[dict[str, str]] = []
        self.watching = 0
        self.cut = 0  # rises when all watches are to break
        self.refuse_with: int | None = None  # status of every answer
        self.stale_lists: list[dict[str, Any]] = []  # whole lists to answer with, before true ones
        self.before_page: Callable[[int], None] = lambda number: None
        self.raw_lines: list[bytes] = []  # written into the next watch
        self.ends_watches = False
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> KubernetesApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_watches(end=True)
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def write_kubeconfig(self, path: Path, namespace: str | None = "models", token: str = TOKEN) -> str:
        context = {"cluster": "c", "user": "u"} | ({} if namespace is None else {"namespace": namespace})
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": context}],
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    # What happens in the cluster.

    def apply(self, new: dict[str, Any]) -> dict[str, Any]:
        """Create a pod, or update the one of its name."""
        with self.changed:
            new = copy.deepcopy(new)
            key = _key(new)
            known = self.objects.get(key)
            if known is None:
                self.uids += 1
            new["metadata"]["uid"] = f"uid-{self.uids}" if known is None else known["metadata"]["uid"]
            self._happen("ADDED" if known is None else "MODIFIED", new)
            self.objects[key] = new
            return new

    def delete(self, name: str, namespace: str = "models") -> None:
        with self.changed:
            gone = copy.deepcopy(self.objects.pop(f"{namespace}/{name}"))
            self._happen("DELETED", gone)

    def bookmark(self) -> None:
        """Time passes in other namespaces; watches are told how far."""
        with self.changed:
            self._happen("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": {}})

    def send(self, kind: str, what: dict[str, Any]) -> None:
        """An event of one's own making, with whatever version is in it."""
        with self.changed:
            self.version += 1
            self.history.append((self.version, {"type": kind, "object": what}))
            self.changed.notify_all()

    def forget_history(self) -> None:
        """As etcd compacts: what happened so far can not be asked for any more."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.history.clear()

    def drop_watches(self, *, end: bool = False) -> None:
        """Cut all watches, without a word, or, with `end`, at the end of a chunk; and those that come."""
        with self.changed:
            self.cut += 1
            self.ends_watches = end
            self.changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60) -> bool:
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    def wait_for_news(self, version: int, cut: int, timeout_s: float) -> None:
        """Until a watch that has come to `version` has something to do. Under `changed`."""
        self.changed.wait_for(
            lambda: cut != self.cut or self.raw_lines or (self.history and self.history[-1][0] > version),
            timeout_s,
        )

    def _happen(self, kind: str, what: dict[str, Any]) -> None:
        self.version += 1
        what["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, {"type": kind, "object": what}))
        self.changed.notify_all()


def _key(what: dict[str, Any]) -> str:
    return f"{what['metadata']['namespace']}/{what['metadata']['name']}"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def api(self) -> KubernetesApi:
        assert isinstance(self.server, _Server)
        return self.server.api

    def do_GET(self) -> None:
        api = self.api
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        api.asked.append(query)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, "Unauthorized")
        elif api.refuse_with is not None:
            self._fail(api.refuse_with, "Refused")
        elif parts.path == "/api/v1/pods":
            self._pods(query, None)
        elif parts.path.startswith("/api/v1/namespaces/") and parts.path.endswith("/pods"):
            self._pods(query, parts.path.split("/")[4])
        else:
            self._fail(404, "NotFound")

    def _pods(self, query: dict[str, str], namespace: str | None) -> None:
        is_watch = query.get("watch") in ("true", "True", "1")
        with self.api.changed:
            self.api.requests["watch" if is_watch else "list"] += 1
            self.api.changed.notify_all()
        if is_watch:
            self._watch(query, namespace)
        else:
            self._list(query, namespace)

    # Lists.

    def _list(self, query: dict[str, str], namespace: str | None) -> None:
        api = self.api
        number, at_version = 0, None
        if "continue" in query:
            token = json.loads(base64.b64decode(query["continue"]))
            number, at_version = token["start"], token["version"]
        api.before_page(number)
        with api.changed:
            if api.stale_lists:
                self._send(200, api.stale_lists.pop(0))
                return
            version = api.version if at_version is None else at_version
            if version < api.oldest:
                self._fail(410, "Expired")
                return
            found = [one for one in self._at(version) if _is_wanted(one, query, namespace)]
        limit = int(query.get("limit", 0)) or len(found)
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if number + limit < len(found):
            token = json.dumps({"start": number + limit, "version": version})
            metadata["continue"] = base64.b64encode(token.encode()).decode()
            metadata["remainingItemCount"] = len(found) - number - limit
        page = {"kind": "PodList", "apiVersion": "v1", "metadata": metadata}
        self._send(200, page | {"items": found[number : number + limit]})

    def _at(self, version: int) -> list[dict[str, Any]]:
        """All objects as they were then, by name."""
        objects = dict(self.api.objects)
        for then, event in reversed(self.api.history):
            if then > version and event["type"] == "ADDED":
                objects.pop(_key(event["object"]), None)
        return [objects[name] for name in sorted(objects)]

    # Watches.

    def _watch(self, query: dict[str, str], namespace: str | None) -> None:
        api = self.api
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with api.changed:
            api.watching += 1
            api.changed.notify_all()
        try:
            self._stream(query, namespace)
        except OSError:
            pass  # the client is gone
        finally:
            with api.changed:
                api.watching -= 1
                api.changed.notify_all()

    def _stream(self, query: dict[str, str], namespace: str | None) -> None:
        api = self.api
        at, cut = int(query["resourceVersion"]), api.cut
        if at < api.oldest:
            failure = {
                "kind": "Status",
                "code": 410,
                "reason": "Expired",
                "message": "too old resource version",
            }
            self._chunk(json.dumps({"type": "ERROR", "object": failure}).encode() + b"\n")
            self._chunk(b"")
            return
        while True:
            with api.changed:
                api.wait_for_news(at, cut, float(query.get("timeoutSeconds", 3600)))
                is_cut = cut != api.cut
                raw, api.raw_lines = api.raw_lines, []
                events = [(version, event) for version, event in api.history if version > at]
            if is_cut and not api.ends_watches:
                self.connection.shutdown(socket.SHUT_RDWR)
                raise OSError("cut")
            for line in raw:
                self._chunk(line)
            for version, event in events:
                at = version
                if self._is_for(event, query, namespace):
                    self._chunk(json.dumps(event).encode() + b"\n")
            if is_cut or not (events or raw):
                self._chunk(b"")  # the end, in good order
                return

    def _is_for(self, event: dict[str, Any], query: dict[str, str], namespace: str | None) -> bool:
        if event["type"] == "BOOKMARK":
            return query.get("allowWatchBookmarks") in ("true", "True")
        return _is_wanted(event["object"], query, namespace)

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    # Answers.

    def _send(self, status: int, what: dict[str, Any]) -> None:
        content = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, status: int, reason: str) -> None:
        self._send(status, {"kind": "Status", "code": status, "reason": reason, "message": reason})

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _is_wanted(what: dict[str, Any], query: dict[str, str], namespace: str | None) -> bool:
    labels = what["metadata"].get("labels", {})
    wanted = dict(one.split("=") for one in query.get("labelSelector", "").split(",") if one)
    in_namespace = namespace is None or what["metadata"].get("namespace") == namespace
    return in_namespace and all(labels.get(name) == value for name, value in wanted.items())
