"""The pods that routers of one process choose from, followed by a thread of their own."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import msgspec

from kvatlas.actors.orders import PodOrders
from kvatlas.actors.subscriber.pod_sources import PodSources
from kvatlas.cluster.client import Client
from kvatlas.cluster.serve.replicas.prefill_watch import PrefillWatch
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import KvatlasError
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.tokenizers import Tokenizers

_AGAIN_S = 1.0
"""Until what failed is tried again."""
_JOIN_S_MAX = 10.0

_log = logging.getLogger(__name__)


class FleetStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet follows."""

    pods: int
    """That its owners name now."""
    followed: int
    """Of these, pods whose events are followed."""
    refused: dict[str, int]
    """Pods, sources and calls that failed, since the start; they are tried again."""
    failing: str
    """Why the last attempt failed; empty: it did not."""


class Fleet(Protocol):
    """What a router needs of the pods. Any thread may call it; nothing waits."""

    @property
    def chooser(self) -> Chooser | None:
        """None: there is none yet, `why` says so."""
        ...

    @property
    def why(self) -> str: ...
    @property
    def prefills(self) -> PrefillWatch | None:
        """Sees prompts being computed; None: nobody does."""
        ...

    @property
    def shares_loads(self) -> bool:
        """Whether other processes see what is chosen here."""
        ...

    def follow(self, pods: Mapping[str, DiscoveredPod], owner: object = None) -> None:
        """These are all pods that `owner` names, which it replaces; those of other owners stay."""

    def leave(self, owner: object) -> None:
        """The owner names none any more."""

    def statistics(self) -> FleetStatistics: ...
    def close(self) -> None: ...


class _Followed(ABC):
    """The union of what its owners name, applied by one thread whenever it has changed."""

    def __init__(self, name: str) -> None:
        self._named: dict[int, dict[str, DiscoveredPod]] = {}
        self._wanted: dict[str, DiscoveredPod] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._version = self._applied = 0
        self._failing = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def follow(self, pods: Mapping[str, DiscoveredPod], owner: object = None) -> None:
        with self._changed:
            if self._named.get(id(owner)) == pods:
                return
            self._named[id(owner)] = dict(pods)
            self._merge()

    def leave(self, owner: object) -> None:
        with self._changed:
            if self._named.pop(id(owner), None):
                self._merge()

    def close(self) -> None:
        """Twice is fine."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S_MAX)

    def _merge(self) -> None:
        before = self._wanted
        self._wanted = {name: pod for pods in self._named.values() for name, pod in pods.items()}
        self._serve(before, self._wanted)
        self._version += 1
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or self._version != self._applied,
                    self._look_s(),
                )
                if self._stopping:
                    break
                version, wanted = self._version, self._wanted
            self._failing = self._try(wanted)
            self._applied = version
        self._end()

    def _try(self, wanted: Mapping[str, DiscoveredPod]) -> str:
        """What has failed; empty: nothing."""
        try:
            return self._apply(wanted)
        except KvatlasError as error:
            return str(error)
        except Exception as error:  # Ray's, say: the thread goes on
            _log.exception("%s", self._thread.name)
            return f"{type(error).__name__}: {error}"

    def _look_s(self) -> float | None:
        """Until it applies all again though nothing has changed; None: not."""
        return _AGAIN_S if self._failing else None

    @abstractmethod
    def _serve(self, before: Mapping[str, DiscoveredPod], now: Mapping[str, DiscoveredPod]) -> None:
        """At once, in the caller's thread."""

    @abstractmethod
    def _apply(self, wanted: Mapping[str, DiscoveredPod]) -> str:
        """In the thread; says what has failed and should be tried again."""

    @abstractmethod
    def _end(self) -> None:
        """In the thread, at last."""


class EmbeddedFleet(_Followed):
    """An atlas in this process: events of the pods come here, and are chosen by here.

    Other processes do not see what is chosen here, nor this one what others choose.
    """

    shares_loads = False
    why = ""

    def __init__(
        self,
        choosing: ChoosingConfig | None = None,
        atlas: AtlasConfig | None = None,
        tokenize: TokenizeConfig | None = None,
        subscriber: SubscriberConfig | None = None,
    ) -> None:
        super().__init__("kvatlas-serve-fleet")
        self._tokenizers = None if tokenize is None else Tokenizers(tokenize)
        self.atlas = Atlas(atlas, tokenizers=self._tokenizers)
        self._subscriber = Subscriber(self.atlas, (), subscriber).start()
        self._sources = PodSources(self.atlas, self._subscriber)
        self.chooser = Chooser(self.atlas, choosing or ChoosingConfig(), tokenizers=self._tokenizers)
        self.prefills = PrefillWatch(self.atlas, self.chooser)
        self._thread.start()

    def statistics(self) -> FleetStatistics:
        return FleetStatistics(
            pods=len(self._wanted),
            followed=len(self._sources.pods),
            refused=dict(self._sources.counts),
            failing=self._failing,
        )

    def _serve(self, before: Mapping[str, DiscoveredPod], now: Mapping[str, DiscoveredPod]) -> None:
        for name in before.keys() - now.keys():
            self.atlas.set_serving(name, None)
        for name, pod in now.items():
            if before.get(name) != pod:
                self.atlas.set_serving(name, serving_of(pod))

    def _apply(self, wanted: Mapping[str, DiscoveredPod]) -> str:
        refused = self._sources.counts["refused_sources"]
        self._sources.obey(
            PodOrders(pod=name, source=encode_pod(pod)) for name, pod in wanted.items() if pod.sources
        )
        missing = self._sources.counts["refused_sources"] - refused
        return f"{missing} sources cannot be listened to" if missing else ""

    def _end(self) -> None:
        self.prefills.close()
        self._subscriber.stop()
        self.atlas.close()
        if self._tokenizers is not None:
            self._tokenizers.close()


class ClusterFleet(_Followed):
    """A kvatlas cluster that runs already: its pods are added there, all routers share its index and loads.

    It is connected to by the thread, and again where that fails.
    """

    shares_loads = True
    prefills = None

    def __init__(self, name: str) -> None:
        super().__init__("kvatlas-serve-cluster")
        self._client = Client(name)
        self._told: dict[str, DiscoveredPod] = {}
        self._chooser: Chooser | None = None
        self._refused = 0
        self._version = 1  # connect also where nobody is named yet
        self._thread.start()

    def _look_s(self) -> float | None:
        return _AGAIN_S  # whether the cluster was started anew

    @property
    def chooser(self) -> Chooser | None:
        return self._chooser

    @property
    def why(self) -> str:
        if self._chooser is not None:
            return ""
        return f"kvatlas cluster {self._client.cluster!r}: {self._failing or 'connecting'}"

    def statistics(self) -> FleetStatistics:
        return FleetStatistics(
            pods=len(self._wanted),
            followed=len(self._told),
            refused={"refused_calls": self._refused} if self._refused else {},
            failing=self._failing,
        )

    def _serve(self, before: Mapping[str, DiscoveredPod], now: Mapping[str, DiscoveredPod]) -> None:
        """Nothing: who serves what comes with the cluster's view."""

    def _apply(self, wanted: Mapping[str, DiscoveredPod]) -> str:
        if self._chooser is None:
            self._client.wait_ready(_AGAIN_S)
        self._chooser = self._client.chooser  # another one after the cluster was started anew
        failing = [self._remove(name) for name in self._told.keys() - wanted.keys()]
        failing += [
            self._add(pod)
            for name, pod in wanted.items()
            if (pod.sources or pod.serving.url) and self._told.get(name) != pod
        ]
        return next(filter(None, failing), "")

    def _add(self, pod: DiscoveredPod) -> str:
        """Why it could not be; empty: it was."""
        try:
            self._client.add_pod(pod)
        except KvatlasError as error:
            return self._refuse(error)
        self._told[pod.pod] = pod
        return ""

    def _remove(self, name: str) -> str:
        try:
            self._client.remove_pod(name)
        except KvatlasError as error:
            return self._refuse(error)
        del self._told[name]
        return ""

    def _refuse(self, error: KvatlasError) -> str:
        self._refused += 1
        _log.warning("%s: %s", self._client.cluster, error)
        return str(error)

    def _end(self) -> None:
        self._client.close()


def serving_of(pod: DiscoveredPod) -> ServingPod:
    """As choices see it."""
    return ServingPod(
        pod=pod.pod,
        model=pod.model or "",
        serving=pod.serving,
        labels=dict(pod.labels),
        node=pod.node or "",
    )
