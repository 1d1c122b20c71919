"""Which worker served a session last."""

from __future__ import annotations

from kvatlas.index.choosing.sessions import Sessions
from kvatlas.index.choosing.settings import ChoosingConfig


def test_a_session_goes_back_to_the_worker_that_served_it_last() -> None:
    sessions = Sessions(ChoosingConfig())
    assert sessions.get("s") is None
    sessions.put("s", "a", 0)
    sessions.put("s", "b", 1)
    assert sessions.get("s") == ("b", 1)


def test_of_too_many_sessions_the_one_unused_longest_goes() -> None:
    sessions = Sessions(ChoosingConfig(sessions_max=2))
    sessions.put("a", "p", 0)
    sessions.put("b", "p", 0)
    sessions.get("a")
    sessions.put("c", "p", 0)
    assert sessions.get("b") is None
    assert sessions.get("a") == ("p", 0)
    assert sessions.statistics() == {"sessions": 2, "sessions_max": 2, "evicted": 1}
