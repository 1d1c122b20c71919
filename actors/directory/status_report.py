"""Makes the status of a cluster from what its directory holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from kvatlas.actors.directory.service import DirectoryService
from kvatlas.actors.directory.status import (
    ClusterStatus,
    LayoutStatus,
    NodeStatus,
    PodStatus,
    RouterStatus,
    ShardStatus,
    SubscriberStatus,
    TokenizerStatus,
)
from kvatlas.actors.directory.supervision import Supervision
from kvatlas.actors.orders import TokenizerReport
from kvatlas.ingest.discovery.discovery import Discovery
from kvatlas.ingest.discovery.pods import DiscoveredPod


def status_of(service: DirectoryService, discovery: Discovery, supervision: Supervision) -> ClusterStatus:
    """At one moment, on the directory's loop."""
    now_s = time.monotonic()
    settings = service.settings
    return ClusterStatus(
        cluster=settings.cluster,
        view_version=service.version,
        directory_age_s=service.age_s,
        desired_shards=service.resharding.wanted.n_shards,
        desired_replicas_per_node=service.resharding.wanted.replicas_per_node,
        off_nodes=service.resharding.wanted.off_nodes,
        building_waits_for=_waits_for(service),
        nodes=tuple(
            NodeStatus(node_id=node, address=at) for node, at in sorted(service.placement.nodes.items())
        ),
        layouts=tuple(_layouts(service, now_s)),
        shards=tuple(_shards(service, now_s)),
        subscribers=tuple(_subscribers(service, now_s)),
        scorers=tuple(f"{settings.cluster}/scorer/{number}" for number in range(settings.n_scorers)),
        pods=tuple(
            PodStatus(
                pod=pod.pod,
                model=service.pods[pod.pod].model if pod.pod in service.pods else None,
                subscriber=service.assignments.subscriber_of.get(pod.pod, ""),
                state=pod.state,
                why=pod.why,
                found_by=pod.found_by,
                serves=_serves(service.pods.get(pod.pod)),
            )
            for pod in discovery.states()
        ),
        counts=dict(_counts(service) + supervision.counts),
        lanes_free=service.lent.lanes.n_free,
        workers_free=service.lent.workers.n_free,
        tokenizers=tuple(_tokenizers(service, now_s)),
        routers=tuple(_routers(service, now_s)),
    )


def _serves(pod: DiscoveredPod | None) -> str:
    if pod is None:
        return ""
    if pod.announces is not None:
        return f"announces store {pod.announces}".rstrip()
    serving = pod.serving
    role = "" if serving.role == "both" else serving.role
    said = (serving.url or "", role, "draining" if serving.is_draining else "")
    return ", ".join(filter(None, said))


def _routers(service: DirectoryService, now_s: float) -> Iterator[RouterStatus]:
    for known in service.routers.members:
        report = known.report
        yield RouterStatus(
            number=report.number,
            node_id=report.node_id,
            process=report.process,
            endpoint=report.endpoint,
            requests=report.requests,
            peers=report.peers,
            silent_s=now_s - known.heard_s,
            counts=report.counts,
        )


def _counts(service: DirectoryService) -> Counter[str]:
    return service.counts + service.pool.counts + service.routers.counts + service.assignments.counts


def _waits_for(service: DirectoryService) -> str:
    building = service.layouts.building
    if building is None:
        return ""
    missing = len(building.slots) - len(building.replicas)
    return f"{missing} processes" if missing else "content of the subscribers"


def _layouts(service: DirectoryService, now_s: float) -> Iterator[LayoutStatus]:
    layouts = service.layouts
    for generation in layouts.all:
        shown = service.board.layout(generation)
        served = generation is layouts.serving
        yield LayoutStatus(
            number=generation.number,
            n_shards=generation.shape.n_shards,
            state="serving" if served else "building" if generation is layouts.building else "leaving",
            n_slots=len(generation.slots),
            n_up=len(shown.replicas),
            n_whole=sum(replica.whole for replica in shown.replicas),
            age_s=now_s - generation.began_s,
        )


def _shards(service: DirectoryService, now_s: float) -> Iterator[ShardStatus]:
    for generation in service.layouts.all:
        for slot, node in sorted(generation.slots.items()):
            holder = generation.holders.get(slot)
            replica = holder.replica if holder is not None else None
            report = holder.report if holder is not None else None
            yield ShardStatus(
                layout=slot.layout,
                shard=slot.shard,
                replica=slot.replica,
                node_id=replica.node_id if replica is not None else node,
                incarnation=holder.incarnation if holder is not None else 0,
                is_up=replica is not None,
                whole=replica is not None and service.board.is_whole(generation, replica),
                bytes=report.bytes if report is not None else 0,
                entries=report.entries if report is not None else 0,
                silent_s=now_s - holder.heard_s if holder is not None else 0.0,
                counts=report.counts if report is not None else {},
            )


def _subscribers(service: DirectoryService, now_s: float) -> Iterator[SubscriberStatus]:
    sessions = service.sessions
    for session in sessions.all:
        report = session.report
        yield SubscriberStatus(
            name=session.subscriber,
            session=session.number,
            node_id=session.node_id,
            is_used=sessions.used.get(session.subscriber) is session,
            lost=session.lost,
            settled=session.settled,
            n_pods=len(service.assignments.pods_of(session.subscriber)),
            n_workers=len(session.part.workers) if session.part is not None else 0,
            n_lanes=sum(lease.count for lease in service.lent.lanes.of(session.number)),
            loaded=len(session.loaded),
            bytes=report.bytes if report is not None else 0,
            silent_s=now_s - session.heard_s,
            counts=report.counts if report is not None else {},
        )


_NOT_UP = TokenizerReport(number=0, process=0, node_id="", threads=0)


def _tokenizers(service: DirectoryService, now_s: float) -> Iterator[TokenizerStatus]:
    members = {member.report.number: member for member in service.pool.members}
    for number in range(service.pool.wanted):
        member = members.get(number)
        report = member.report if member is not None else _NOT_UP
        yield TokenizerStatus(
            number=number,
            name=f"{service.settings.cluster}/tokenizer/{number}",
            node_id=report.node_id,
            is_up=number in service.pool.numbers,
            threads=report.threads,
            waiting=report.waiting,
            busy_share=report.busy_share,
            bytes=report.bytes,
            models=report.models,
            silent_s=now_s - member.heard_s if member is not None else 0.0,
            counts=report.counts,
        )
