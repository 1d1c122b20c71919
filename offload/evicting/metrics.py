"""Health and metrics of the evict service, by HTTP: GET /healthz, /metrics."""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
from collections.abc import Iterable
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvatlas.index.errors import ConfigError
from kvatlas.offload.evicting.service import EvictService

_REQUEST_S_MAX = 5.0
_CONNECTIONS_MAX = 32

_GAUGES = (
    ("used_bytes", "What lies in the store, by its ledger."),
    ("size_bytes", "What it may hold now."),
    ("free_bytes", "What its file system has left."),
    ("files", "Chunk files at the last crawl."),
    ("oldest_s", "Since the last use of the file that goes next."),
    ("crawl_s", "What the last crawl took."),
)


class EvictCollector(Collector):
    """Register it with a prometheus registry."""

    def __init__(self, service: EvictService) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        states = self._service.states()
        for name, says in _GAUGES:
            metric = name.removesuffix("_s") + "_seconds" if name.endswith("_s") else name
            family = GaugeMetricFamily(f"kvatlas_evict_{metric}", says, labels=("store",))
            for one in states:
                family.add_metric((one.root,), getattr(one.evictor, name))
            yield family
        healthy = GaugeMetricFamily("kvatlas_evict_healthy", "1: all its parts work.", labels=("store",))
        evicting = GaugeMetricFamily("kvatlas_evict_holds_lease", "1: it is the one.", labels=("store",))
        evicted = CounterMetricFamily("kvatlas_evict_evicted_bytes", "Of deleted files.", labels=("store",))
        failures = CounterMetricFamily("kvatlas_evict_failures", "Steps that failed.", labels=("store",))
        dropped = CounterMetricFamily(
            "kvatlas_evict_untold_removals", "Keys whose removal found no room to be told.", labels=("store",)
        )
        events = CounterMetricFamily("kvatlas_evict_events", "What has happened.", labels=("store", "kind"))
        for one in states:
            healthy.add_metric((one.root,), all(part.is_healthy for part in one.parts))
            evicting.add_metric((one.root,), one.evictor.is_evicting)
            evicted.add_metric((one.root,), one.evictor.evicted_bytes)
            failures.add_metric((one.root,), sum(part.failures for part in one.parts))
            dropped.add_metric(
                (one.root,),
                one.notices_dropped + sum(each.dropped_removed for each in one.announced.values()),
            )
            for kind, count in sorted(one.evictor.counts.items()):
                events.add_metric((one.root, kind), count)
        yield from (healthy, evicting, evicted, failures, dropped, events)


class MetricsServer:
    """Serves from `start` to `stop`; a thread a connection, of which there are few."""

    def __init__(self, service: EvictService, host: str, port: int) -> None:
        """Raises ConfigError where it cannot listen."""
        self._registry = CollectorRegistry()
        self._registry.register(EvictCollector(service))
        self._service = service
        try:
            self._server = _Server(self, host, port)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"expected to listen at {host}:{port}, {error}") from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="kvatlas-evict-metrics", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, kind of content, content."""
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry)
        if path == "/healthz":
            states = [msgspec.to_builtins(part) for one in self._service.states() for part in one.parts]
            is_healthy = all(one["is_healthy"] for one in states)
            body = msgspec.json.encode({"is_healthy": is_healthy, "parts": states})
            return (200 if is_healthy else 503), "application/json", body
        return 404, "application/json", b'{"error": "expected GET /healthz or /metrics"}'


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: MetricsServer, host: str, port: int) -> None:
        self.owner = owner
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._room = threading.Semaphore(_CONNECTIONS_MAX)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the resolver for a name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._room.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was too slow."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server_version = "kvatlas"
    sys_version = ""
    timeout = _REQUEST_S_MAX

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        status, kind, body = self.server.owner.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line."""
