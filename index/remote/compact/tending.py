"""What keeps a remote index tidy, in small steps: lifetimes and bounds, dead lanes, segments in use."""

from __future__ import annotations

import struct

from kvatlas.index.remote.compact.asking import Asker
from kvatlas.index.remote.compact.server import Server, command
from kvatlas.index.remote.compact.telling import Teller
from kvatlas.index.remote.connection.commands import Argument, Command

_BUCKETS_PER_STEP = 8
_CHECKS_PER_STEP = 256
_SEGMENTS_PER_SCRUB = 16
_SCRUBS_PER_STEP = 4
_DEAD_MAX = 512
_TOUCHES_PER_CALL = 128


class Keeper:
    """REQUIRES: calls take turns, with the teller's too."""

    def __init__(self, server: Server, teller: Teller, asker: Asker) -> None:
        self._server = server
        self._teller = teller
        self._asker = asker
        self._next_bucket = 0
        self._next_check = 0
        self._dead: tuple[int, ...] = ()
        self._place = (0, b"0")  # of the walk that takes these out: bucket, cursor
        self._dead_of = 0
        """The teller's beginning that they were dead in: after a flush, live lanes may have their numbers."""

    def step(self) -> None:
        """A few short round trips at most. Raises RemoteIndexError."""
        self.touch()
        self._check()
        self._trim()
        self._teller.mark_lossy()
        self._scrub()

    def touch(self) -> None:
        """Tells which segments matches of this process have used. One round trip, or none."""
        server = self._server
        of_bucket: dict[int, list[bytes]] = {}
        for segment, bucket in self._asker.take_used().items():
            of_bucket.setdefault(bucket, []).append(segment)
        commands: list[Command] = []
        for bucket, segments in of_bucket.items():
            keys = [server.names.life(bucket), server.names.use(bucket)]
            for i in range(0, len(segments), _TOUCHES_PER_CALL):
                some = segments[i : i + _TOUCHES_PER_CALL]
                commands.append(server.scripts.touch.command([*keys, *some], [server.lifetime_ms]))
        if commands:
            server.tell(commands)

    def _check(self) -> None:
        """A writer that has nothing to tell notices that the server, or a node of it, was emptied."""
        n_buckets = self._server.names.n_buckets
        count = min(n_buckets, _CHECKS_PER_STEP)
        self._teller.check([(self._next_check + i) % n_buckets for i in range(count)])
        self._next_check = (self._next_check + count) % n_buckets

    def _trim(self) -> None:
        if not self._server.lifetime_ms and not self._teller.over:
            return
        n_buckets = self._server.names.n_buckets
        turn = [(self._next_bucket + i) % n_buckets for i in range(min(n_buckets, _BUCKETS_PER_STEP))]
        self._next_bucket = (turn[-1] + 1) % n_buckets
        buckets = list(dict.fromkeys([*turn, *list(self._teller.over)[:_BUCKETS_PER_STEP]]))
        answers = self._server.tell([self._teller.trim_command(bucket) for bucket in buckets])
        for bucket, answer in zip(buckets, answers, strict=True):
            self._teller.trimmed(bucket, answer)

    def _scrub(self) -> None:
        server = self._server
        if self._dead_of != self._teller.begins:
            self._dead_of, self._dead = self._teller.begins, ()
        if not self._dead:
            some = server.tell([command(server.names.dead, "SRANDMEMBER", _DEAD_MAX)])[0]
            self._dead = tuple(int(word) for word in some if word.isdigit() and len(word) < 9)
            self._place = (0, b"0")
        for _ in range(_SCRUBS_PER_STEP if self._dead else 0):
            if not self._scrub_some():
                server.tell([command(server.names.dead, "SREM", *self._dead)])
                self._dead = ()
                return

    def _scrub_some(self) -> bool:
        """False: that was the last bucket's end."""
        server, names = self._server, self._server.names
        bucket, cursor = self._place
        dead = struct.pack(f"<{len(self._dead)}I", *self._dead)
        args: list[Argument] = [
            self._teller.lives[bucket],
            cursor,
            _SEGMENTS_PER_SCRUB,
            names.segments(bucket),
            dead,
        ]
        answer = server.tell([server.scripts.scrub.command([names.life(bucket), names.use(bucket)], args)])[0]
        if not isinstance(answer, list):
            self._dead = ()
            raise self._teller.places.lost(f"bucket {bucket}")
        self._place = (bucket, answer[0]) if answer[0] != b"0" else (bucket + 1, b"0")
        return self._place[0] < names.n_buckets
