"""A store that is opened late: refuses until it is there, tries again what can be tried again."""

from __future__ import annotations

import threading

import numpy as np

from kvatlas.index.errors import ConfigError, StoreError
from kvatlas.offload.backends.backend import Backend
from kvatlas.offload.backends.late import LateBackend
from tests.offload.storing.files_at_hand import wait_for
from tests.offload.storing.scripted_backend import ScriptedBackend, key_of


class Opener:
    """Fails as often as it has errors, then gives the store."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.store = ScriptedBackend()
        self.tries = 0

    def __call__(self) -> Backend:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.store


def unreachable() -> StoreError:
    error = StoreError("expected to read it, got Input/output error")
    error.__cause__ = OSError(5, "Input/output error")
    return error


def test_what_the_system_refused_is_tried_again() -> None:
    opener = Opener(OSError("no route"), unreachable())
    late = LateBackend(opener, "store", 0.001, 0.01)
    wait_for(lambda: late.submit_probe(1, [key_of(1)]))
    assert opener.tries == 3
    opener.store.run()
    assert [ended.job for ended in late.finished()] == [1]
    late.close(1.0)
    assert opener.store.is_closed


def test_a_store_that_is_not_what_was_configured_is_not_tried_again() -> None:
    opener = Opener(StoreError("expected store 'a', got 'b'"))
    late = LateBackend(opener, "store", 0.001, 0.01)
    assert late.wait(60.0) is None
    wait_for(lambda: late.is_refused)
    assert list(late.inventory()) == [], "the thread is over"
    assert opener.tries == 1
    assert not late.submit_probe(1, [key_of(1)])


def test_a_store_that_hangs_while_it_is_opened_holds_nobody_up() -> None:
    answers = threading.Event()
    store = ScriptedBackend()
    store.there_at_start = [[key_of(1)]]

    def opener() -> Backend:
        answers.wait()
        return store

    late = LateBackend(opener, "store", 0.001, 0.01)
    assert late.wait(0.01) is None
    rows = np.zeros(1, np.int32)
    assert not late.submit_store(1, [key_of(1)], rows) and not late.submit_load(2, [key_of(1)], rows)
    assert not late.may_store(1) and late.drain(0.0)
    assert list(late.finished()) == [] and list(late.take_removed()) == []
    assert late.statistics() == {"is_open": 0.0}
    answers.set()
    assert late.wait(60.0) is store
    assert [list(batch) for batch in late.inventory()] == [[key_of(1)]]
    assert late.may_store(1) and late.submit_store(3, [key_of(1)], rows)
    late.close(1.0)


def test_what_is_opened_after_the_end_is_closed_at_once() -> None:
    answers = threading.Event()
    store = ScriptedBackend()

    def opener() -> Backend:
        answers.wait()
        return store

    late = LateBackend(opener, "store", 0.001, 0.01)
    late.close(0.0)
    answers.set()
    wait_for(lambda: store.is_closed)
    assert not late.submit_probe(1, [key_of(1)])


def test_a_configuration_that_can_never_work_is_not_tried_again() -> None:
    opener = Opener(ConfigError("root: expected obstore for an object store"))
    late = LateBackend(opener, "store", 0.001, 0.01)
    wait_for(lambda: late.is_refused)
    assert opener.tries == 1
    late.close(1.0)
