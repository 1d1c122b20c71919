"""What a session is told each time it reports."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvatlas.actors.directory.lending import Lent
from kvatlas.actors.directory.remembering import KeptSecrets
from kvatlas.actors.directory.sessions import Session
from kvatlas.actors.orders import PodOrders, SubscriberOrders
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod


def orders_of(
    session: Session,
    secrets: KeptSecrets,
    block_sizes: dict[str, int],
    lent: Lent,
    pods: Iterable[DiscoveredPod],
    version: int,
) -> SubscriberOrders:
    """`pods`: that it is to follow; a guest follows none. `version`: of its orders."""
    return SubscriberOrders(
        session=session.number,
        version=version,
        pods=tuple(PodOrders(pod=pod.pod, source=encode_pod(pod)) for pod in pods),
        lanes=lent.lanes.of(session.number),
        workers=lent.workers.of(session.number),
        block_sizes=block_sizes,
        wants_part=session.part is None,
        hash_seed=secrets.hash_seed,
        keys=msgspec.structs.replace(secrets.keys, server_secret=""),
    )
