"""What every link promises, whatever carries it."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from kvatlas.actors.link.link import CountedLink, LinkSettings
from tests.actors.link.link_peers import WAIT_S, error_of, wait_until

SETTINGS = LinkSettings(in_flight_max=4, message_bytes_max=1 << 20, queue_max=4)


class LinkContract:
    """Tests of a link to an `Echo`; `link` and `let_go` are fixtures of the class that inherits."""

    def test_each_of_many_threads_gets_its_own_answers(self, link: CountedLink) -> None:
        def ask(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(20):
                frame = chance.randbytes(chance.choice([0, 1, 40, 5_000, 300_000]))
                assert link.request(frame, WAIT_S).result(WAIT_S) == frame

        with ThreadPoolExecutor(SETTINGS.in_flight_max) as threads:
            list(threads.map(ask, range(SETTINGS.in_flight_max)))
        seen = link.statistics()
        assert (seen.asked, seen.answered, seen.failed, seen.in_flight) == (80, 80, 0, 0)

    def test_a_late_answer_is_counted_and_taken_for_no_other(
        self, link: CountedLink, let_go: Callable[[], None]
    ) -> None:
        assert link.request(b"x", WAIT_S).result(WAIT_S) == b"x"
        late = link.request(b"hold", 0.05)
        assert "no answer in time" in error_of(late)
        let_go()
        assert link.request(b"y", WAIT_S).result(WAIT_S) == b"y"
        wait_until(lambda: link.statistics().late == 1)
        assert "no answer in time" in link.statistics().said

    def test_more_requests_than_may_be_in_flight_fail_at_once(
        self, link: CountedLink, let_go: Callable[[], None]
    ) -> None:
        held = [link.request(b"hold%d" % number, WAIT_S) for number in range(SETTINGS.in_flight_max)]
        assert "expected at most 4 requests in flight" in error_of(link.request(b"x", WAIT_S))
        let_go()
        assert [one.result(WAIT_S) for one in held] == [b"hold0", b"hold1", b"hold2", b"hold3"]
        assert link.request(b"x", WAIT_S).result(WAIT_S) == b"x"

    def test_a_frame_beyond_the_limit_is_not_sent(self, link: CountedLink) -> None:
        frame = bytes(SETTINGS.message_bytes_max + 1)
        assert "expected a frame of at most 1048576 bytes, got 1048577" in error_of(
            link.request(frame, WAIT_S)
        )

    def test_closing_fails_what_waits_and_what_comes_later(
        self, link: CountedLink, let_go: Callable[[], None]
    ) -> None:
        held = link.request(b"hold", WAIT_S)
        link.close()
        link.close()
        assert "the link was closed" in error_of(held)
        assert "expected a link that is open" in error_of(link.request(b"x", WAIT_S))
        let_go()

    def test_callbacks_are_called(self, link: CountedLink) -> None:
        said: Future[bytes] = Future()
        link.request(b"x", WAIT_S).add_done_callback(lambda done: said.set_result(done.result()))
        assert said.result(WAIT_S) == b"x"
