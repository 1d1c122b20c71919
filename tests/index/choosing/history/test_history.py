"""What workers were sent: what counts, for how long, and what goes first."""

from __future__ import annotations

import threading
from math import inf, nan

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index._native import History
from kvatlas.index.choosing.history import RoutingHistory, Speculation
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError
from kvatlas.index.keys import block_keys

pytestmark = pytest.mark.native

SLOTS = np.arange(4, dtype=np.uint32)


def prompt(*parts: tuple[int, int]) -> npt.NDArray[np.uint64]:
    """Block keys of a prompt made of (what, blocks)."""
    ids = [what for what, blocks in parts for _ in range(16 * blocks)]
    return block_keys(ids, model="m")


def told(history: History, keys: npt.NDArray[np.uint64], now_s: float = 0.0) -> list[float]:
    found = history.hints(keys, SLOTS, now_s)
    return [0.0] * len(SLOTS) if found is None else found.tolist()


def test_a_slot_counts_as_holding_what_it_was_sent_up_to_where_prompts_part() -> None:
    history = History(1000)
    history.note(0, prompt((1, 10), (2, 5)), 0.0, 3.0)
    history.note(2, prompt((1, 4)), 0.0, 3.0)
    assert told(history, prompt((1, 10), (3, 5))) == [10, 0, 4, 0]
    assert told(history, prompt((1, 2))) == [2, 0, 2, 0]
    assert told(history, prompt((1, 10), (2, 9))) == [15, 0, 4, 0]


def test_nobody_was_sent_anything_of_it_is_none_and_not_zeros() -> None:
    history = History(1000)
    assert history.hints(prompt((1, 3)), SLOTS, 0.0) is None
    history.note(0, prompt((1, 3)), 0.0, 3.0)
    assert history.hints(prompt((2, 3)), SLOTS, 0.0) is None
    assert history.hints(prompt(), SLOTS, 0.0) is None
    assert history.hints(prompt((1, 3)), np.array([3], np.uint32), 0.0) is None
    assert history.hints(prompt((1, 3)), np.array([], np.uint32), 0.0) is None


def test_it_ends_when_it_was_said_to_end_and_a_later_note_of_the_same_prefix_holds_on() -> None:
    history = History(1000)
    history.note(1, prompt((1, 4), (2, 4)), 0.0, 3.0)
    history.note(1, prompt((1, 4), (3, 4)), 2.0, 5.0)
    assert told(history, prompt((1, 4), (2, 4)), 2.9) == [0, 8, 0, 0]
    assert told(history, prompt((1, 4), (2, 4)), 3.0) == [0, 4, 0, 0]
    assert told(history, prompt((1, 4), (2, 4)), 5.0) == [0, 0, 0, 0]


def test_what_has_expired_gives_its_room_back_as_notes_come() -> None:
    history = History(1000)
    for slot in range(4):
        history.note(slot, prompt((1 + slot, 20)), 0.0, 3.0)
    for _ in range(4):
        history.note(0, prompt((9, 1)), 10.0, 13.0)
    assert history.statistics()["blocks"] == 1
    assert history.statistics()["expired_blocks"] == 80


def test_a_note_taken_back_leaves_what_others_have_said() -> None:
    history = History(1000)
    history.note(0, prompt((1, 4)), 0.0, 3.0)
    failed = history.note(0, prompt((1, 4), (2, 4)), 0.0, 3.0)
    history.note(1, prompt((1, 4), (2, 4)), 0.0, 3.0)
    history.drop(0, prompt((1, 4), (2, 4)), failed)
    assert told(history, prompt((1, 4), (2, 4))) == [4, 8, 0, 0]


def test_a_note_taken_back_leaves_what_was_noted_again_since() -> None:
    history = History(1000)
    failed = history.note(0, prompt((1, 4), (2, 4)), 0.0, 3.0)
    history.note(0, prompt((1, 4), (3, 1)), 0.1, 3.1)
    history.drop(0, prompt((1, 4), (2, 4)), failed)
    assert told(history, prompt((1, 4), (2, 4)), 1.0) == [4, 0, 0, 0]
    assert told(history, prompt((1, 4), (3, 1)), 1.0) == [5, 0, 0, 0]


def test_at_its_limit_a_slot_loses_what_it_was_sent_longest_ago_ends_first() -> None:
    history = History(1000)
    history.set_limit(0, 12)
    history.note(0, prompt((1, 10)), 0.0, inf)
    history.note(1, prompt((1, 10)), 0.0, inf)
    history.note(0, prompt((2, 8)), 0.0, inf)
    assert told(history, prompt((1, 10))) == [4, 10, 0, 0]
    assert told(history, prompt((2, 8))) == [8, 0, 0, 0]
    assert history.statistics()["evicted_blocks"] == 6


def test_a_prompt_longer_than_a_limit_keeps_its_front() -> None:
    history = History(8)
    history.note(0, prompt((1, 20)), 0.0, inf)
    assert told(history, prompt((1, 20))) == [8, 0, 0, 0]
    history.set_limit(1, 3)
    history.note(1, prompt((1, 20)), 0.0, inf)
    assert told(history, prompt((1, 20))) == [5, 3, 0, 0]


def test_what_is_forgotten_is_gone_and_its_limit_too() -> None:
    history = History(1000)
    history.set_limit(0, 2)
    history.note(0, prompt((1, 10)), 0.0, inf)
    history.forget(0)
    assert told(history, prompt((1, 10))) == [0, 0, 0, 0]
    assert history.statistics()["nodes"] == 0
    history.note(0, prompt((1, 10)), 0.0, inf)
    assert told(history, prompt((1, 10))) == [10, 0, 0, 0]


@pytest.mark.parametrize(
    ("slot", "now_s", "until_s", "message"),
    [
        (-1, 0.0, 1.0, "slot"),
        (1 << 16, 0.0, 1.0, "slot"),
        (0, nan, 1.0, "now_s"),
        (0, inf, 1.0, "now_s"),
        (0, 0.0, nan, "until_s"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(
    slot: int, now_s: float, until_s: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        History(10).note(slot, prompt((1, 1)), now_s, until_s)


def test_keys_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match="keys"):
        History(10).note(0, np.zeros(3, np.uint32), 0.0, 1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="blocks_max"):
        History(-1)
    with pytest.raises(InputError, match="blocks"):
        History(10).set_limit(0, -1)


def test_threads_that_note_look_drop_and_forget_at_once_keep_to_the_bound() -> None:
    """The thread sanitizer runs this too."""
    history = History(200)
    prompts = [prompt((1, 5), (2 + i % 7, 1 + i % 11)) for i in range(50)]
    wrong: list[object] = []

    def work(slot: int) -> None:
        for i in range(1500):
            keys = prompts[(i * 7 + slot) % len(prompts)]
            number = history.note(slot, keys, i * 0.01, i * 0.01 + 1)
            hints = history.hints(keys, SLOTS, i * 0.01)
            if hints is not None and hints.max() > len(keys):
                wrong.append(hints)
            if i % 5 == 0:
                history.drop(slot, keys, number)
            if i % 301 == 0:
                history.forget(slot)
            if history.statistics()["blocks"] > 200:
                wrong.append(history.statistics())

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for slot in range(4):
        history.forget(slot)
    assert history.statistics()["nodes"] == history.statistics()["claims"] == 0


def test_speculation_lasts_as_long_as_configured_and_counts_in_tokens() -> None:
    speculation = Speculation(ChoosingConfig(speculative_s=2.0))
    keys = prompt((1, 3))
    number = speculation.note(1, keys, 10.0)
    hints = speculation.hints(keys, SLOTS, 11.9, 16)
    assert hints is not None
    assert hints.tolist() == [0, 48, 0, 0]
    assert speculation.hints(keys, SLOTS, 12.0, 16) is None
    speculation.failed(1, keys, number)
    assert speculation.statistics()["dropped_blocks"] == 3


def test_without_a_time_there_is_no_speculation() -> None:
    speculation = Speculation(ChoosingConfig(speculative_s=0.0))
    assert speculation.note(1, prompt((1, 3)), 10.0) == 0
    assert speculation.hints(prompt((1, 3)), SLOTS, 10.0, 16) is None


def test_routing_history_holds_as_much_as_the_worker_does() -> None:
    history = RoutingHistory(ChoosingConfig())
    history.limit(0, 5 * 16 + 7, 16)
    history.limit(1, None, 16)
    for slot in range(2):
        history.note(slot, prompt((1, 8)), 0.0)
    hints = history.hints(prompt((1, 8)), SLOTS, 1e9, 16)
    assert hints is not None
    assert hints.tolist() == [80, 128, 0, 0]


def test_keys_of_a_model_without_events_tell_prompts_loras_and_salts_apart() -> None:
    history = RoutingHistory(ChoosingConfig())
    ids = list(range(64))
    keys = history.keys("m", ids)
    assert len(keys) == 64 // history.block_size_tokens
    assert history.keys("m", ids).tolist() == keys.tolist()
    others = [history.keys("n", ids), history.keys("m", ids, "lora"), history.keys("m", ids, None, "salt")]
    assert all(other[0] != keys[0] for other in others)
