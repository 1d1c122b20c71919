"""The shelf of loaded tokenizers: each loaded once, bounded, replaced when changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvatlas.index.errors import InputError, TokenizerError, UnsupportedModelError
from kvatlas.tokenize.backend import ModelTokenizer, TokenizerStatistics
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.loading import shelf as shelf_module
from kvatlas.tokenize.loading.shelf import Shelf
from kvatlas.tokenize.prompt import TokenizedPrompt

pytestmark = pytest.mark.timeout(120)
LOOK_S = 5.0


class Numbered:
    """A tokenizer that knows when it was made, and is as current as it is told."""

    def __init__(self, model: str, number: int) -> None:
        self.model = model
        self.number = number
        self.served_by = "test"
        self.current = True
        self.looks = 0
        self.closed = threading.Event()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> TokenizedPrompt:
        raise AssertionError("a shelf keeps tokenizers, it does not use them")

    def encode_chat(self, chat: Chat) -> TokenizedPrompt:
        raise AssertionError("a shelf keeps tokenizers, it does not use them")

    def render_chat(self, chat: Chat) -> str:
        raise AssertionError("a shelf keeps tokenizers, it does not use them")

    def is_current(self) -> bool:
        self.looks += 1
        return self.current

    def statistics(self) -> TokenizerStatistics:
        return TokenizerStatistics(model=self.model, served_by=self.served_by)

    def close(self) -> None:
        self.closed.set()


class World:
    """A shelf, its clock, and what `find` does."""

    def __init__(self, loaded_max: int = 2) -> None:
        self.now_s = 0.0
        self.made: list[Numbered] = []
        self.failing: dict[str, Exception] = {}
        self.gates: dict[str, threading.Event] = {}
        self.entered = threading.Semaphore(0)
        self.tried = threading.Semaphore(0)
        self.shelf = Shelf(
            self.find, check=self.check, loaded_max=loaded_max, look_s=LOOK_S, clock_s=lambda: self.now_s
        )

    def find(self, model: str) -> ModelTokenizer:
        self.entered.release()
        if model in self.gates:
            assert self.gates[model].wait(30)
        self.tried.release()
        if model in self.failing:
            raise self.failing[model]
        self.made.append(Numbered(model, len(self.made)))
        return self.made[-1]

    def check(self, model: str) -> None:
        if model == "bad":
            raise InputError("model: bad")

    def number(self, model: str) -> int:
        tokenizer = self.shelf.get(model)
        assert isinstance(tokenizer, Numbered)
        return tokenizer.number


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition that another thread makes true."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.002)


def test_model_is_loaded_once_however_many_ask_at_a_time() -> None:
    world = World()
    world.gates["m"] = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(world.number, "m") for _ in range(8)]
        assert world.entered.acquire(timeout=30)
        world.gates["m"].set()
        assert [answer.result(30) for answer in answers] == [0] * 8
    assert world.shelf.counts.loads == 1


def test_model_that_is_loading_holds_up_no_other() -> None:
    world = World()
    world.gates["slow"] = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(world.number, "slow")
        assert world.entered.acquire(timeout=30)
        assert world.number("quick") == 0
        world.gates["slow"].set()
        assert slow.result(30) == 1


def test_used_least_recently_goes_first() -> None:
    world = World(loaded_max=2)
    a, b = world.shelf.get("a"), world.shelf.get("b")
    world.shelf.get("a")
    world.shelf.get("c")
    assert isinstance(a, Numbered) and isinstance(b, Numbered)
    assert (a.closed.is_set(), b.closed.is_set()) == (False, True)
    assert world.shelf.counts.evicted == 1
    assert world.shelf.peek("b") is None and world.shelf.peek("a") is a


def test_failure_is_remembered_for_a_while_and_then_tried_again() -> None:
    world = World()
    world.failing["m"] = UnsupportedModelError("why not")
    for _ in range(3):
        with pytest.raises(UnsupportedModelError, match="why not"):
            world.shelf.get("m")
    assert world.shelf.counts.load_failures == 1
    world.failing.clear()
    world.now_s = LOOK_S - 0.1
    with pytest.raises(UnsupportedModelError):
        world.shelf.get("m")
    world.now_s = LOOK_S
    assert world.number("m") == 0


def test_all_who_wait_for_a_load_that_fails_are_told() -> None:
    world = World()
    world.gates["m"] = threading.Event()
    world.failing["m"] = TokenizerError("why not")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(world.number, "m") for _ in range(4)]
        assert world.entered.acquire(timeout=30)
        world.gates["m"].set()
        errors = [answer.exception(30) for answer in answers]
    assert all(isinstance(error, TokenizerError) for error in errors)
    assert len({id(error) for error in errors}) == 4


def test_loader_that_breaks_lets_the_others_go_on() -> None:
    world = World()
    world.failing["m"] = ZeroDivisionError("a mistake")
    with pytest.raises(ZeroDivisionError):
        world.shelf.get("m")
    with pytest.raises(TokenizerError, match="a mistake"):
        world.shelf.get("m")


def test_failures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "FAILURES_MAX", 3)
    world = World()
    for number in range(10):
        world.failing[f"m{number}"] = TokenizerError("no")
        with pytest.raises(TokenizerError):
            world.shelf.get(f"m{number}")
    assert world.shelf.counts.failures_forgotten == 7


def test_bad_name_is_not_remembered() -> None:
    world = World()
    with pytest.raises(InputError):
        world.shelf.get("bad")
    assert world.shelf.counts.load_failures == 0


def test_old_one_answers_until_the_new_one_is_loaded() -> None:
    world = World()
    old = world.shelf.get("m")
    assert isinstance(old, Numbered)
    old.current = False
    world.now_s = LOOK_S
    world.gates["m"] = threading.Event()
    for _ in range(3):
        assert world.number("m") == 0
    assert old.looks == 1
    world.gates["m"].set()
    until(lambda: world.shelf.counts.reloads == 1)
    assert world.number("m") == 1
    assert old.closed.wait(30)


def test_files_are_looked_at_no_more_than_so_often() -> None:
    world = World()
    tokenizer = world.shelf.get("m")
    assert isinstance(tokenizer, Numbered)
    for now_s in (0, 1, LOOK_S, LOOK_S + 1, 2 * LOOK_S - 0.1, 2 * LOOK_S):
        world.now_s = now_s
        world.shelf.get("m")
    assert tokenizer.looks == 2


def test_new_files_that_are_no_good_leave_the_old_one_and_are_tried_ever_less_often() -> None:
    world = World()
    old = world.shelf.get("m")
    assert isinstance(old, Numbered)
    old.current = False
    world.failing["m"] = TokenizerError("torn")
    for failures in range(1, 8):
        world.now_s += LOOK_S * 16
        assert world.number("m") == 0
        until(lambda failures=failures: world.shelf.counts.reload_failures == failures)  # type: ignore[misc]
        until(lambda: not world.shelf._slots["m"].is_busy)
    # A wait has become longer than the usual one, and has a bound.
    looks = old.looks
    world.now_s += LOOK_S * 15
    assert world.number("m") == 0 and old.looks == looks
    world.failing.clear()
    world.now_s += LOOK_S
    world.shelf.get("m")
    until(lambda: world.shelf.counts.reloads == 1)
    assert world.number("m") == 1
    assert old.closed.wait(30)


def test_tokenizer_evicted_while_its_new_one_loads_stays_away() -> None:
    world = World(loaded_max=1)
    old = world.shelf.get("m")
    assert isinstance(old, Numbered)
    old.current = False
    world.now_s = LOOK_S
    world.gates["m"] = threading.Event()
    world.shelf.get("m")
    world.shelf.get("other")
    world.gates["m"].set()
    until(lambda: world.shelf.counts.reloads == 1)
    assert world.made[-1].model == "m" and world.made[-1].closed.wait(30)
    assert world.shelf.peek("m") is None


def test_closed_shelf_lets_go_of_all_and_says_so() -> None:
    world = World()
    tokenizer = world.shelf.get("m")
    world.shelf.close()
    world.shelf.close()
    assert isinstance(tokenizer, Numbered) and tokenizer.closed.is_set()
    with pytest.raises(TokenizerError, match="closed"):
        world.shelf.get("m")


def test_load_that_ends_after_the_close_leaves_nothing_open() -> None:
    world = World()
    world.gates["m"] = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(world.shelf.get, "m")
        assert world.entered.acquire(timeout=30)
        world.shelf.close()
        world.gates["m"].set()
        answer.result(30)
    assert world.made[0].closed.wait(30)


@pytest.mark.parametrize("model", [None, 5, [], {}, "none"])
def test_peek_takes_anything(model: object) -> None:
    assert World().shelf.peek(model) is None


def test_many_threads_and_few_places_keep_the_bound() -> None:
    world = World(loaded_max=3)

    def ask(seed: int) -> None:
        for step in range(300):
            model = f"m{(seed * 7 + step * step) % 9}"
            tokenizer = world.shelf.get(model)
            assert isinstance(tokenizer, Numbered) and tokenizer.model == model

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    counts, loaded = world.shelf.statistics()
    assert len(loaded) <= 3
    assert counts.loads - counts.evicted == len(loaded)
    assert sum(not tokenizer.closed.is_set() for tokenizer in world.made) == len(loaded)
