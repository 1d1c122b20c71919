"""A gRPC server with bounds, health and reflection, for the services of one who answers.

A threaded server and not one of asyncio: the work is native code that releases the GIL, and asyncio's
serves one event loop a process well, which belongs to whoever embeds us. The way of a request: its bytes
come in, in a thread of grpc's; it takes its turn or is refused (BoundedWork); it is answered (Answering).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.pool.bounded_work import BoundedWork, WorkLimits
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.calls import Answering, Calls, ServiceStatistics
from kvatlas.tokenize.service.serving.listening import Listeners
from kvatlas.tokenize.service.serving.standard_services import Health, add_reflection
from kvatlas.tokenize.service.wire.definition import Definition

if TYPE_CHECKING:
    from typing_extensions import Self

_SPARE_THREADS = 16  # in which those come in that are then refused
_STANDARD_THREADS = 8
_STREAMS_MAX = 256  # those that watch our health take no thread

Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


class GrpcServer:
    """Serves at the addresses of its configuration, from `start` to `stop`. Any thread."""

    def __init__(
        self,
        name: str,
        answers: Answering,
        definitions: Sequence[Definition],
        config: ServiceConfig,
        *,
        shares_ports: bool = False,
    ) -> None:
        """`name`: in threads and messages. All methods of the definitions are the answerer's, by their
        names alone. `shares_ports`: several servers at one port each get some of its connections."""
        self._config = config
        self._definitions = definitions
        self._work = BoundedWork(_work_limits(config), name=name)
        methods = [method for one in definitions for methods in one.services.values() for method in methods]
        self._calls = Calls(answers, self._work, config.answer_s_max, methods)
        self._listeners = Listeners(config)
        self._health = Health(service for one in definitions for service in one.services)
        threads = config.threads + config.waiting_max + _SPARE_THREADS
        self._entry = ThreadPoolExecutor(threads, f"{name} calls")
        self._standard = ThreadPoolExecutor(_STANDARD_THREADS, f"{name} health")
        self._server = self._make_server(threads + _STREAMS_MAX, shares_ports)
        self._stopped = threading.Event()
        self.addresses: tuple[str, ...] = ()
        """As clients dial them, from `start` on."""

    def start(self) -> tuple[str, ...]:
        """Begin to serve, once. Returns the addresses as clients dial them.

        Raises ConfigError where one cannot be listened at, or a TLS file not be read.
        """
        try:
            self.addresses = self._listeners.open(self._server)
        except ConfigError:
            self.stop(0)
            raise
        self._server.start()
        self._health.serves()
        return self.addresses

    def stop(self, grace_s: float | None = None) -> None:
        """Take no more calls; those that run have `grace_s` (or the configured) to end. Twice is fine."""
        grace_s = self._config.grace_s if grace_s is None else grace_s
        self._health.leaves()
        self._server.stop(grace_s)
        # gRPC would wait for streams as well, and who watches our health never ends.
        self._calls.wait_until_idle(grace_s)
        self._server.stop(0).wait()
        self._work.close()
        for pool in (self._entry, self._standard):
            pool.shutdown(wait=False, cancel_futures=True)
        self._listeners.close()
        self._stopped.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until it has been stopped. Returns whether it has."""
        return self._stopped.wait(timeout_s)

    def statistics(self) -> ServiceStatistics:
        """What has come, what became of it, what is being done."""
        return self._calls.statistics()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _make_server(self, calls_max: int, shares_ports: bool) -> grpc.Server:
        server = grpc.server(
            self._standard,
            maximum_concurrent_rpcs=calls_max,
            options=[
                ("grpc.max_receive_message_length", self._config.message_bytes_max),
                ("grpc.max_send_message_length", self._config.message_bytes_max),
                # Where it is not asked for, a second service would silently take half of the calls.
                ("grpc.so_reuseport", int(shares_ports)),
            ],
        )
        for definition in self._definitions:
            for service, methods in definition.services.items():
                handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
                    name: grpc.unary_unary_rpc_method_handler(self._behaviour(name)) for name in methods
                }
                server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._health.add_to(server)
        if self._config.reflection:
            add_reflection(server, self._definitions)
        return server

    def _behaviour(self, method: str) -> Behaviour:
        # There is no deserializer: grpc runs it in its one thread for events, where a large request
        # would hold up all others.
        def behave(request: bytes, context: grpc.ServicerContext) -> bytes:
            return self._calls.handle(method, request, context)

        # Health is told from another pool while all threads of this one are taken. A grpc that does
        # not know the attribute uses one pool for both, and health waits its turn.
        behave.experimental_thread_pool = self._entry  # type: ignore[attr-defined]
        return behave


def _work_limits(config: ServiceConfig) -> WorkLimits:
    return WorkLimits(
        threads=config.threads,
        waiting_max=config.waiting_max,
        waiting_bytes_max=config.waiting_bytes_max,
        wait_s_max=config.answer_s_max,
    )
