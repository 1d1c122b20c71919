"""What readers are told of a worker of whom both a subscriber and a guest speak: one of the two.

A guest says what somebody else has told it, a dump for instance. It counts as long as no subscriber
has heard the worker itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvatlas.index.view import FleetPart, WorkerName, is_heard, name_of


def beside_subscribers(part: FleetPart, fed: Iterable[FleetPart]) -> FleetPart:
    """A guest's part without the workers that a subscriber has heard."""
    heard = {name_of(worker) for one in fed for worker in one.workers if is_heard(worker)}
    return _without(part, heard)


def beside_guests(part: FleetPart, guests: Iterable[FleetPart]) -> FleetPart:
    """A subscriber's part without the workers that it has not heard and a guest speaks of."""
    unheard = {name_of(worker) for worker in part.workers if not is_heard(worker)}
    return _without(part, unheard & {name_of(worker) for one in guests for worker in one.workers})


def _without(part: FleetPart, names: set[WorkerName]) -> FleetPart:
    left = tuple(worker for worker in part.workers if name_of(worker) not in names)
    return part if len(left) == len(part.workers) else msgspec.structs.replace(part, workers=left)
