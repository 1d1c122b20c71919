"""One LLMRouter's choices: its replicas become pods, and each request is given one of them.

It runs on the loop of Ray's routers, which is another thread than the LLMRouter's own; nothing waits.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from kvatlas.cluster.serve.fleets import Fleet
from kvatlas.cluster.serve.llm.bookkeeping import Bookkeeping
from kvatlas.cluster.serve.llm.open_requests import Given
from kvatlas.cluster.serve.llm.routed_request import RoutedRequest, read_request
from kvatlas.cluster.serve.llm.routing_statistics import RoutingCounts
from kvatlas.cluster.serve.replicas.replica_pods import ReplicaPods, pod_name
from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.errors import InputError, NoWorkerError, OverloadedError
from kvatlas.index.keys import TokenIds
from kvatlas.ingest.discovery.pods import DiscoveredPod

_log = logging.getLogger(__name__)


class _Candidates(NamedTuple):
    """What a request may be given."""

    replicas: Sequence[Any]
    by_pod: dict[str, Any]
    pods: frozenset[str] | None
    """None: all that are followed."""


class Routing:
    """Chooses replicas for the requests of one application, in one process."""

    def __init__(
        self,
        fleet: Fleet,
        books: Bookkeeping,
        counts: RoutingCounts,
        *,
        app: str,
        deployment: str,
        model: str,
    ) -> None:
        """`model`: under which name the replicas are followed."""
        self.model = model
        self._fleet = fleet
        self._books = books
        self._counts = counts
        self._pods = ReplicaPods(app, deployment, self.model)
        self._followed: frozenset[str] = frozenset()
        self._candidates = _Candidates((), {}, None)
        self._has_logged = False

    def update(self, replicas: Sequence[Any]) -> None:
        """These are all that run now."""
        pods = self._pods.pods(replicas)
        for replica in replicas:
            name = pod_name(replica.replica_id)
            pods[name] = _with_url(pods[name], replica.backend_http_endpoint)
        self._fleet.follow(pods, self)
        self._followed = frozenset(pods)
        self._books.follow(self._followed)
        self._candidates = _Candidates((), {}, None)

    async def choose(self, candidates: Sequence[Any], pending_request: Any) -> Any | None:
        """The replica for a request; None where there are none to choose from.

        Raises RuntimeError, which Ray answers with 503, when all have too much to do.
        """
        if not candidates:
            return None
        began_s = time.perf_counter()
        self._books.give_up_lost()
        among = self._among(candidates)
        asked = read_request(pending_request)
        choice = await self._choice(asked, among)
        if choice is None:
            given = Given(asked.request_id, self._least_given(among), 0, 0, 0, asked.output_tokens)
        else:
            self._counts.noted(choice, has_ids=asked.token_ids is not None)
            given = _given(asked, choice)
        self._books.note(given)
        self._counts.times_s.append(time.perf_counter() - began_s)
        return among.by_pod[given.pod]

    async def _choice(self, asked: RoutedRequest, among: _Candidates) -> Choice | None:
        """The chooser's; None where it has none: then the replica with the fewest requests takes it."""
        chooser = self._fleet.chooser
        if chooser is None:
            self._counts.fell_back("not ready")
            return None
        try:
            choice = await self._chosen(chooser, self._ask(asked, among), asked.token_ids)
        except OverloadedError as error:
            self._counts.overloaded += 1
            raise RuntimeError(str(error)) from error
        except NoWorkerError:
            self._counts.fell_back("no worker known")
            return None
        except Exception as error:  # whatever it is: serving goes on
            self._counts.fell_back("error")
            self._log_once(error)
            return None
        if choice.pod not in among.by_pod:
            chooser.failed(choice.request_id, "its replica is no candidate")
            self._counts.fell_back("not a candidate")
            return None
        return choice

    async def _chosen(self, chooser: Any, ask: Ask, token_ids: TokenIds | None) -> Choice:
        choice: Choice
        try:
            choice = await chooser.choose_async(token_ids, ask=ask)
        except InputError:
            if token_ids is None:
                raise
            self._counts.malformed += 1
            choice = await chooser.choose_async(None, ask=ask)
        return choice

    def _ask(self, asked: RoutedRequest, among: _Candidates) -> Ask:
        pods = among.pods
        if asked.lora is not None:
            # Another one would load the adapter first. While nobody has it, anybody may.
            loaded = [pod for pod, one in among.by_pod.items() if asked.lora in one.multiplexed_model_ids]
            pods = frozenset(loaded) if loaded else pods
        return Ask(
            model=self.model,
            request_id=asked.request_id,
            session=asked.session,
            lora=asked.lora,
            cache_salt=asked.cache_salt,
            pods=pods,
            output_tokens=asked.output_tokens,
        )

    def _among(self, candidates: Sequence[Any]) -> _Candidates:
        """Ray hands over the same list until replicas change."""
        among = self._candidates
        if among.replicas is not candidates or len(among.by_pod) != len(candidates):
            by_pod = {pod_name(replica.replica_id): replica for replica in candidates}
            pods = None if by_pod.keys() == self._followed else frozenset(by_pod)
            among = self._candidates = _Candidates(candidates, by_pod, pods)
        return among

    def _least_given(self, among: _Candidates) -> str:
        """Of those with the fewest open requests any: not always the same."""
        open_of = self._books.open.by_pod
        counts = {pod: open_of.get(pod, 0) for pod in among.by_pod}
        least = min(counts.values())
        return random.choice([pod for pod, count in counts.items() if count == least])

    def _log_once(self, error: Exception) -> None:
        if not self._has_logged:
            self._has_logged = True
            _log.error("requests go to the replica with the fewest (logged once)", exc_info=error)


def _given(asked: RoutedRequest, choice: Choice) -> Given:
    return Given(
        request_id=asked.request_id,
        pod=choice.pod,
        rank=choice.rank,
        prompt_tokens=choice.prompt_tokens,
        cached_tokens=choice.cached_tokens,
        output_tokens=asked.output_tokens,
    )


def _with_url(pod: DiscoveredPod, endpoint: tuple[str, int] | None) -> DiscoveredPod:
    if endpoint is None:
        return pod
    host = f"[{endpoint[0]}]" if ":" in endpoint[0] else endpoint[0]
    serving = msgspec.structs.replace(pod.serving, url=f"http://{host}:{endpoint[1]}")
    return msgspec.structs.replace(pod, serving=serving)
