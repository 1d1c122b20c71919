"""How far matches count: sound ones in full, doubtful ones by what came true, silent pods by history."""

from __future__ import annotations

import numpy as np
import pytest

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.errors import InputError, OverloadedError, TemplateError, TokenizerError
from kvatlas.index.prompts import Messages
from tests.index.choosing.small_fleet import BLOCK, SmallFleet, prompt
from tests.ingest.plain_batches import stored


def degraded_pod(fleet: SmallFleet, pod: str, blocks: int) -> None:
    """It holds so many blocks of family 0, and then batches are lost."""
    fleet.hold(pod, blocks)
    fleet.say(pod, stored([77], prompt(1, 77)[:-1]), lost=3)


def test_a_doubtful_match_counts_half_until_it_is_known_better() -> None:
    with SmallFleet() as fleet:
        degraded_pod(fleet, "a", 8)
        fleet.hold("b", 5)
        choice = fleet.chooser.choose(prompt(10), model="m", request_id="x")
        assert choice.pod == "b"
        account = fleet.account("x", "a")
        assert account.truth == "DEGRADED" and any("lost for good" in doubt for doubt in account.doubts)
        assert (account.matched_tokens, account.credited_tokens) == (128, 64)
        assert account.tier_blocks == {"gpu": 8}


def test_predictions_that_come_true_make_a_doubtful_worker_count_more() -> None:
    with SmallFleet() as fleet:
        degraded_pod(fleet, "a", 8)
        before = fleet.chooser.choose(prompt(10), model="m", pods=["a"], reserve=False).cost
        for _ in range(30):
            fleet.clock.now_s += 10  # what was only expected has run out: the index predicts
            choice = fleet.chooser.choose(prompt(10), model="m", pods=["a"])
            assert choice.truth == "DEGRADED"
            fleet.chooser.completed(choice.request_id, cached_tokens=128)
        fleet.clock.now_s += 10
        after = fleet.chooser.choose(prompt(10), model="m", pods=["a"], reserve=False).cost
        assert after < before - 40


def test_what_was_reused_is_told_to_whom_mirrors_the_worker() -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.hold("a", 8)
        for _ in range(40):
            fleet.clock.now_s += 10
            choice = fleet.chooser.choose(prompt(10), model="m")
            assert choice.cached_tokens == 128
            fleet.chooser.completed(choice.request_id, cached_tokens=0)
        assert fleet.chooser.choose(prompt(10), model="m").truth == "DEGRADED"
        statistics = fleet.chooser.statistics()
        assert (statistics.predicted_tokens, statistics.reused_tokens) == (40 * 128, 0)


def test_expectations_are_not_held_against_a_worker() -> None:
    with SmallFleet(("a",)) as fleet:
        for _ in range(40):  # no event ever comes, so only what was sent there predicts
            choice = fleet.chooser.choose(prompt(10), model="m")
            fleet.chooser.completed(choice.request_id, cached_tokens=0)
        assert fleet.chooser.choose(prompt(4, 3), model="m").truth == "EXACT"


def test_a_silent_pod_is_chosen_by_what_it_was_sent() -> None:
    with SmallFleet(()) as fleet:
        for pod in "ab":
            fleet.serve(pod, speaks=False)
        first = fleet.chooser.choose(prompt(10), model="m")
        assert first.truth == "BLIND" and "no events have told" in first.reason
        fleet.chooser.completed(first.request_id)
        fleet.clock.now_s += 3600
        for _ in range(5):
            again = fleet.chooser.choose(prompt(12), model="m", reserve=False)
            assert (again.pod, again.cached_tokens) == (first.pod, 10 * BLOCK)
        salted = fleet.chooser.choose(prompt(12), model="m", cache_salt="s", reserve=False)
        assert salted.cached_tokens == 0


def test_a_silent_pod_beside_speaking_ones_is_known_by_history_too() -> None:
    with SmallFleet(("a",)) as fleet:
        fleet.serve("quiet", serving=Serving(kv_tokens_max=1600), speaks=False)
        fleet.chooser.choose(prompt(50), model="m", pods=["quiet"], request_id="x")
        fleet.chooser.completed("x", cached_tokens=0)
        fleet.clock.now_s += 3600
        choice = fleet.chooser.choose(prompt(60), model="m")
        assert (choice.pod, choice.cached_tokens, choice.truth) == ("quiet", 800, "BLIND")
        account = fleet.account(choice.request_id, "quiet")
        assert (account.matched_tokens, account.credited_tokens) == (0, 800)
        assert fleet.chooser.statistics().reused_tokens == 0  # a guess is not compared
        for family in range(1, 4):
            fleet.chooser.choose(prompt(60, family), model="m", pods=["quiet"])
        fleet.clock.now_s += 10
        assert fleet.chooser.choose(prompt(60), model="m", pods=["quiet"]).cached_tokens == 0


def test_a_worker_that_does_not_say_what_is_salted_is_not_exact_for_salted_prompts() -> None:
    with SmallFleet(("a",)) as fleet:
        event = stored([1], prompt(1)[:-1])
        del event["extra_keys"]
        fleet.say("a", event)
        plain = fleet.chooser.choose(prompt(4), model="m", request_id="x")
        salted = fleet.chooser.choose(prompt(4), model="m", cache_salt="s", request_id="y")
        assert (plain.truth, salted.truth) == ("EXACT", "PARTIAL")
        assert fleet.account("x", "a").truth == "EXACT"


class Words:
    """One token a word; `error` instead, where there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.token_ids = np.array(prompt(10), np.uint32)
        self.features: list[tuple[str, int, int]] = []

    def tokenize(self, model: str, *, prompt: str | None = None, messages: Messages | None = None) -> Words:
        if self.error is not None:
            raise self.error
        return self


def test_texts_and_chats_are_tokenized_where_that_is_possible() -> None:
    with SmallFleet(tokenizers=Words()) as fleet:
        fleet.hold("b", 8)
        assert fleet.chooser.choose(prompt="ten blocks", model="m", reserve=False).pod == "b"
        chat = [{"role": "user", "content": "ten blocks"}]
        choice = fleet.chooser.choose(messages=chat, model="m")
        assert (choice.pod, choice.reason) == ("b", "")


@pytest.mark.parametrize("error", [TokenizerError("no such file"), OverloadedError("queue is full")])
def test_without_token_ids_the_least_loaded_worker_is_chosen_and_the_reason_said(error: Exception) -> None:
    with SmallFleet(("a", "b"), tokenizers=Words(error)) as fleet:
        fleet.hold("a", 8)
        fleet.chooser.adopt("x", "a", 0, model="m", prompt_tokens=1000)
        choice = fleet.chooser.choose(prompt="x" * 400, model="m", request_id="y")
        assert (choice.pod, choice.reason, choice.prompt_tokens) == ("b", str(error), 100)
        assert fleet.load("b")[0] == 100 and fleet.receipt("y").reason == str(error)
        nothing = fleet.chooser.choose(ask=Ask(model="m", prompt_tokens=50))
        assert (nothing.pod, nothing.reason, nothing.prompt_tokens) == ("b", "no prompt was given", 50)
        assert fleet.chooser.statistics().without_whole_scores == 2


def test_without_tokenizers_texts_are_measured_by_their_length() -> None:
    with SmallFleet(("a",)) as fleet:
        chat: list[dict[str, object]] = [
            {"role": "user", "content": "y" * 80},
            {"role": "user", "content": [{"type": "image"}]},
        ]
        choice = fleet.chooser.choose(messages=chat, model="m")
        assert (choice.prompt_tokens, choice.reason) == (20, "there is no tokenizer")


def test_a_chat_that_its_template_refuses_is_the_clients_mistake() -> None:
    refusing = Words(TemplateError("roles must alternate"))
    with SmallFleet(tokenizers=refusing) as fleet, pytest.raises(InputError, match="roles must alternate"):
        fleet.chooser.choose(messages=[{"role": "user"}], model="m")


def test_of_a_prompt_that_was_sent_whole_the_last_block_is_computed_again() -> None:
    with SmallFleet(("a",)) as fleet:
        whole = prompt(10)[:-1]
        fleet.chooser.choose(whole, model="m")
        assert fleet.chooser.choose(whole, model="m", reserve=False).cached_tokens == 9 * BLOCK
        assert fleet.chooser.choose([*whole, 7], model="m", reserve=False).cached_tokens == 10 * BLOCK
