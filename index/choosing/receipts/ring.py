"""The newest records, by request and tenant."""

from __future__ import annotations

from collections import OrderedDict

from kvatlas.index.choosing.receipts.record import Record
from kvatlas.index.choosing.settings import ChoosingConfig


class Ring:
    """Bounded in number and bytes; the oldest go. Its owner holds a lock around every call."""

    def __init__(self, config: ChoosingConfig) -> None:
        self._records_max = config.receipts_max
        self._bytes_max = config.receipts_bytes_max
        self._records: OrderedDict[int, tuple[Record, int]] = OrderedDict()
        """With its bytes, by number; the oldest first."""
        self._newest: dict[tuple[str, str], int] = {}
        """Number of the newest record of a tenant's request."""
        self._next = 0
        self.kept_bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        weight = record.weight_bytes
        number, self._next = self._next, self._next + 1
        self._records[number] = (record, weight)
        self._newest[record.tenant, record.request_id] = number
        self.kept_bytes += weight
        while len(self._records) > self._records_max or self.kept_bytes > self._bytes_max:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        number, (record, weight) = self._records.popitem(last=False)
        self.kept_bytes -= weight
        self.dropped += 1
        key = (record.tenant, record.request_id)
        if self._newest.get(key) == number:
            del self._newest[key]
        record.shed()

    def find(self, request_id: str, tenant: str) -> Record | None:
        """The newest of a tenant's requests with this id."""
        number = self._newest.get((tenant, request_id))
        return None if number is None else self._records[number][0]

    def newest(self, tenant: str, limit: int) -> list[Record]:
        """A tenant's, the newest first."""
        found: list[Record] = []
        for record, _ in reversed(self._records.values()):
            if len(found) >= limit:
                break
            if record.tenant == tenant:
                found.append(record)
        return found
