"""Asks a chooser where calls of a deployment should go; says why where it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from kvatlas.cluster.serve.replicas.extracting import Extracted, load_extractor
from kvatlas.cluster.serve.replicas.settings import ReplicaRouterConfig, read_settings
from kvatlas.cluster.serve.replicas.tally import Tally
from kvatlas.cluster.serve.sharing import Share, share
from kvatlas.index.choosing.chooser import Chooser, Ranking
from kvatlas.index.errors import ConfigError, KvatlasError, OverloadedError
from kvatlas.index.reading import Asked
from kvatlas.ingest.discovery.pods import DiscoveredPod

if TYPE_CHECKING:
    from ray.serve.request_router import PendingRequest

_log = logging.getLogger(__name__)


class Scored(NamedTuple):
    """The order of workers, and what it was asked for."""

    ranking: Ranking
    asked: Extracted
    ask: dict[str, Any]


class Scoring:
    """A router's part in the fleet that its deployment's routers share. Event loop only.

    `settings` that are wrong are logged: nothing can be scored then, and `why` says so.
    """

    def __init__(self, deployment: str, settings: Mapping[str, Any], tally: Tally, *, is_proxy: bool) -> None:
        self.config = ReplicaRouterConfig()
        self._why = ""
        self._tally = tally
        self._share: Share | None = None
        self._deployment = deployment
        try:
            self.config = read_settings(settings)
            self._extract = load_extractor(self.config.extractor, self.config.names)
            if is_proxy:
                self._why = "a proxy hands on requests whose bodies it has not read"
            else:
                self._share = share(self, deployment, self.config)
        except ConfigError as error:
            self._why = str(error)
            _log.error("%s is routed by load alone: %s", deployment, error)

    @property
    def chooser(self) -> Chooser | None:
        """None: there is none (yet)."""
        return None if self._share is None else self._share.fleet.chooser

    def follow(self, pods: Mapping[str, DiscoveredPod]) -> None:
        """These are the deployment's replicas now."""
        if self._share is not None:
            self._share.fleet.follow(pods, self._share.owner)

    async def ranking(
        self, pending: PendingRequest, *, request_id: str, model: str, labels: Mapping[str, str]
    ) -> Scored | None:
        """Where the call should go. None: it cannot be scored, which is counted.

        Awaits only texts that must be tokenized, and other processes. Raises OverloadedError when all
        replicas are saturated, and nothing else.
        """
        chooser = self.chooser
        if chooser is None:
            self._tally.count("not_ready", self._why or (self._share.fleet.why if self._share else ""))
            return None
        try:
            asked = self._extract(pending.args, pending.kwargs)
            ask = _ask(asked, pending, request_id, model, labels)
            ranked = await self._rank(chooser, asked, ask)
        except OverloadedError:
            raise
        except asyncio.TimeoutError:
            self._tally.count("too_slow", f"no answer within {self.config.rank_s_max} s")
        except KvatlasError as error:
            self._tally.count(type(error).__name__, str(error))
        except Exception as error:  # an extractor's, or ours: the call must go on
            if self._tally.count("failed", f"{type(error).__name__}: {error}") == 1:
                _log.exception("a call of %s cannot be scored", self._deployment)
        else:
            self._count(asked, ranked)
            return Scored(ranked, asked, ask)
        return None

    def runs(self, request_id: str, pod: str, scored: Scored) -> None:
        """The call runs at this pod; until its prompt is computed that counts as work to be done there."""
        ids = scored.asked.token_ids
        if ids is not None and self._share is not None and (watch := self._share.fleet.prefills):
            about = ("model", "lora", "cache_salt")
            watch.add(request_id, pod, ids, cast(Asked, {name: scored.ask[name] for name in about}))

    def moved(self, request_id: str, pod: str, scored: Scored) -> None:
        """It is counted already, and goes to another pod."""
        ranks = (rank for name, rank in scored.ranking.workers if name == pod)
        self.goes_to(request_id, pod, next(ranks, None))

    def ended(self, request_id: str, why: str) -> None:
        """`why` it came to nothing; empty: it has run."""
        if self._share is None or (chooser := self._share.fleet.chooser) is None:
            return
        if watch := self._share.fleet.prefills:
            watch.forget(request_id)
        if why:
            chooser.failed(request_id, why)
        else:
            chooser.completed(request_id)

    def goes_to(self, request_id: str, pod: str, rank: int | None) -> None:
        """It counts there from now on."""
        if (chooser := self.chooser) is not None:
            chooser.routed(request_id, pod, rank)

    async def _rank(self, chooser: Chooser, asked: Extracted, ask: Mapping[str, Any]) -> Ranking:
        assert self._share is not None
        has_text = asked.prompt is not None or asked.messages is not None
        if not has_text and not self._share.fleet.shares_loads:
            return chooser.rank(asked.token_ids, **ask)
        return await asyncio.wait_for(
            chooser.rank_async(asked.token_ids, prompt=asked.prompt, messages=asked.messages, **ask),
            self.config.rank_s_max,
        )

    def _count(self, asked: Extracted, ranked: Ranking) -> None:
        if asked.why:
            self._tally.count("no_prompt", asked.why)
        elif ranked.choice.reason:
            self._tally.count("partly_scored", ranked.choice.reason)
        else:
            self._tally.count("scored")


def _ask(
    asked: Extracted, pending: PendingRequest, request_id: str, model: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of `Ask`. What the call itself says goes before what Serve knows of it."""
    metadata = pending.metadata
    return {
        "model": asked.model or model,
        "request_id": request_id,
        "session": asked.session or getattr(metadata, "session_id", "") or "",
        "lora": asked.lora or metadata.multiplexed_model_id or None,
        "cache_salt": asked.cache_salt,
        "labels": labels,
        "output_tokens": asked.output_tokens,
    }
