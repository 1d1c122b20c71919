"""What one process has for one application of ray.serve.llm, put together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kvatlas.cluster.serve.fleets import ClusterFleet, EmbeddedFleet, Fleet
from kvatlas.cluster.serve.llm import reports, seams
from kvatlas.cluster.serve.llm.bookkeeping import Bookkeeping
from kvatlas.cluster.serve.llm.environment import check_environment
from kvatlas.cluster.serve.llm.options import RouterOptions, read_options
from kvatlas.cluster.serve.llm.routing import Routing
from kvatlas.cluster.serve.llm.routing_statistics import RoutingCounts, RoutingStatistics
from kvatlas.cluster.serve.llm.tokenizing import RayTokenizing
from kvatlas.index.errors import ConfigError, InputError

STATISTICS = "kvatlas_statistics"
RECEIPT = "kvatlas_receipt"

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_applications: dict[str, Application] = {}


class Application:
    """The fleet, the books and the routing of one application in one LLMRouter's process."""

    def __init__(
        self, tracker: Any, options: RouterOptions, app: str, deployment: str, problem: str = ""
    ) -> None:
        """Turns Ray's tracker to the books. Raises SeamError where it is not as it should be."""
        seam = seams.TrackerSeam(tracker)
        self._problem = problem
        self.fleet: Fleet = (
            ClusterFleet(options.cluster)
            if options.cluster
            else EmbeddedFleet(options.choosing, options.atlas)
        )
        self._texts = RayTokenizing()
        self._counts = RoutingCounts()
        model = options.model or deployment
        self._books = Bookkeeping(
            self.fleet,
            self._counts,
            model=model,
            requests_max=options.choosing.reservations_max,
            arrival_s_max=options.arrival_s_max,
            source=seam.rank,
            tell_peers=seam.tell_peers,
        )
        self.routing = Routing(
            self.fleet,
            self._books,
            self._counts,
            app=app,
            deployment=deployment,
            model=model,
        )
        self._texts.install()
        seam.turn(self.hear, self._books.on_reservations)

    @classmethod
    def of_process(cls, deployment_id: Any, kwargs: Mapping[str, Any]) -> Application | None:
        """The one of this process, made where there is none yet; None where Ray has no tracker.

        Options that cannot be read are logged, and the defaults count: an error here would leave requests
        waiting without a word.
        """
        tracker = seams.tracker_of_process()
        if tracker is None:
            return None
        options, problem = RouterOptions(), ""
        try:
            options = read_options(kwargs)
        except ConfigError as error:
            problem = str(error)
            _log.error("KvatlasRouter goes by its defaults: %s", problem)
        name = f"{deployment_id.app_name}#{deployment_id.name}"
        with _lock:
            if name not in _applications:
                app, deployment = deployment_id.app_name, deployment_id.name
                _applications[name] = cls(tracker, options, app, deployment, problem)
            return _applications[name]

    async def hear(self, events: Sequence[tuple[str, Sequence[Any]]]) -> Any:
        """News of engines; or one question of `asking.py`, which is answered."""
        if len(events) == 1 and events[0][0] in (STATISTICS, RECEIPT):
            name, arguments = events[0]
            return self._receipt(*arguments) if name == RECEIPT else msgspec.to_builtins(self.statistics())
        await self._books.on_events(events)
        return None

    def statistics(self) -> RoutingStatistics:
        """Counters of this process."""
        self._books.give_up_lost()
        return self._counts.statistics(
            refused=self._texts.refused,
            open_requests=len(self._books.open),
            forgotten=self._books.open.forgotten,
            problem=self._problem,
            pods=sorted(self._books.pods),
        )

    def close(self) -> None:
        """For tests: Ray ends processes."""
        self.fleet.close()

    def _receipt(self, request_id: str, tenant: str = "", cache_salt: str | None = None) -> Any:
        chooser = self.fleet.chooser
        if chooser is None:
            return None
        try:
            receipt = chooser.receipt(request_id, tenant=tenant, cache_salt=cache_salt)
        except InputError:
            return None  # not this process's, not this tenant's, or nobody's
        return msgspec.to_builtins(receipt)


class Prepared:
    """Looks at each process that a subclass comes to, whenever it does, by import or by value.

    Raises SeamError on a Ray that differs, ConfigError where the environment lacks what Serve LLM needs.
    In a replica, which asks for the router's class before it makes its engine, it has that report.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        seams.probe()
        check_environment()
        reports.install()
