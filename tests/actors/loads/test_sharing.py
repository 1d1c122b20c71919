"""Routers that tell each other over real sockets what they have reserved."""

from __future__ import annotations

import random

import msgspec
import pytest
import zmq

from kvatlas.actors.loads.sharing import LoadSharing, SharingSettings
from kvatlas.actors.loads.sums import LoadRow
from kvatlas.actors.orders import LinkKeys, RouterAt
from kvatlas.index._native import LoadBook
from kvatlas.index.errors import ConfigError
from tests.actors.link.link_peers import new_keys, wait_until
from tests.actors.loads.books import PODS, frame, loads, reserve
from tests.actors.loads.routers import QUICK, Fleet, Router, RouterProcess, routers


@pytest.fixture(scope="module")
def keys() -> LinkKeys:
    return new_keys()


def complete(router: Router, request_id: str) -> None:
    assert router.book.completed(request_id, 2.0) is not None


def test_what_one_router_reserves_all_others_know_and_what_it_ends_they_forget(keys: LinkKeys) -> None:
    with routers(3, keys, Fleet()) as (first, second, third):
        reserve(first.book, "a", "x")
        told = loads(first.book)
        assert told["a"][2] == 1
        wait_until(lambda: loads(second.book) == told and loads(third.book) == told)
        complete(first, "x")
        wait_until(lambda: loads(second.book) == {} and loads(third.book) == {})


def test_loads_of_all_routers_add_up_after_any_traffic(keys: LinkKeys) -> None:
    chance = random.Random(5)
    with routers(3, keys, Fleet()) as made:
        running: list[tuple[Router, str]] = []
        for number in range(600):
            router = chance.choice(made)
            reserve(router.book, chance.choice(PODS), str(number), chance.randrange(1, 5000))
            running.append((router, str(number)))
            if chance.random() < 0.8:
                complete(*running.pop(chance.randrange(len(running))))
        expected: dict[str, int] = {}
        for router in made:
            slots, _, _, requests = router.book.own()
            for slot, count in zip(slots.tolist(), requests.tolist(), strict=True):
                name = router.book.name(slot)
                assert name is not None
                expected[name[0]] = expected.get(name[0], 0) + count
        assert sum(expected.values()) == len(running)

        def all_agree() -> bool:
            told = [loads(router.book) for router in made]
            requests_told = {pod: requests for pod, (_, _, requests) in told[0].items()}
            return requests_told == expected and all(one == told[0] for one in told)

        wait_until(all_agree)


def test_a_router_that_joins_late_is_told_everything_at_once(keys: LinkKeys) -> None:
    slow = msgspec.structs.replace(QUICK, whole_s=3600.0, silent_s_max=3600.0)
    fleet = Fleet()
    with routers(1, keys, fleet, slow) as (first,):
        wait_until(lambda: first.sharing.statistics().counts.get("sent_whole", 0) > 0)
        reserve(first.book, "b", "x")
        wait_until(lambda: first.sharing.statistics().counts.get("sent", 0) > 0)  # to nobody
        late = Router(9, keys, fleet, slow)
        try:
            wait_until(lambda: loads(late.book) == loads(first.book))
        finally:
            late.sharing.close()


def test_a_router_that_ends_is_forgotten_at_once(keys: LinkKeys) -> None:
    patient = msgspec.structs.replace(QUICK, silent_s_max=3600.0)
    with routers(2, keys, Fleet(), patient) as (first, second):
        reserve(first.book, "a", "x")
        wait_until(lambda: loads(second.book) != {})
        first.sharing.close()
        wait_until(lambda: loads(second.book) == {})
        assert loads(first.book) != {}  # its own choices go on


def test_nobody_without_the_clusters_keys_hears_or_is_heard(keys: LinkKeys) -> None:
    fleet = Fleet()
    with routers(2, keys, fleet) as (first, second):
        stranger_fleet = Fleet()
        stranger_fleet.routers = fleet.routers
        stranger = Router(77, new_keys(), stranger_fleet)
        fleet.routers = (*fleet.routers, stranger.at)
        try:
            reserve(stranger.book, "c", "theirs")
            reserve(first.book, "a", "ours")
            wait_until(lambda: set(loads(second.book)) == {"a"})
            wait_until(lambda: stranger.sharing.statistics().counts.get("sent_whole", 0) > 3)
            assert set(loads(stranger.book)) == {"c"}
            assert "c" not in loads(second.book)
        finally:
            stranger.sharing.close()


def test_a_plain_socket_that_dials_is_turned_away_and_counted(keys: LinkKeys) -> None:
    with routers(1, keys, Fleet()) as (router,):
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        dialer = context.socket(zmq.SUB)
        public, secret = zmq.curve_keypair()
        dialer.set(zmq.CURVE_PUBLICKEY, public)
        dialer.set(zmq.CURVE_SECRETKEY, secret)
        dialer.set(zmq.CURVE_SERVERKEY, keys.client_public.encode())
        dialer.set(zmq.SUBSCRIBE, b"")
        dialer.connect(router.sharing.endpoint)
        try:
            wait_until(lambda: router.sharing.statistics().counts.get("strangers", 0) > 0)
            assert dialer.poll(0) == 0
        finally:
            dialer.close(linger=0)
            context.destroy(linger=0)


def test_broken_frames_of_a_peer_are_counted_and_nothing_ends(keys: LinkKeys) -> None:
    fleet = Fleet()
    with routers(2, keys, fleet) as (first, second):
        reserve(first.book, "a", "x")
        wait_until(lambda: loads(second.book) != {})
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        broken = context.socket(zmq.PUB)
        broken.set(zmq.CURVE_SECRETKEY, keys.client_secret.encode())
        broken.set(zmq.CURVE_SERVER, True)
        port = broken.bind_to_random_port("tcp://127.0.0.1")
        fleet.routers = (*fleet.routers, RouterAt(number=5, endpoint=f"tcp://127.0.0.1:{port}"))
        try:

            def has_heard() -> bool:
                for data in (b"", b"kvl1\xff", b"\0" * 5000, frame(5, 1, LoadRow("a", 0, -1.0, 0.0, 0))):
                    broken.send(data)
                return second.sharing.statistics().counts.get("bad_frames", 0) >= 4

            wait_until(has_heard)
        finally:
            broken.close(linger=0)
            context.destroy(linger=0)
        complete(first, "x")
        wait_until(lambda: loads(second.book) == {})
        assert second.sharing.failure is None


@pytest.mark.slow
def test_while_a_restarted_directory_names_nobody_those_who_are_heard_stay(keys: LinkKeys) -> None:
    fleet = Fleet()
    with routers(2, keys, fleet) as (first, second):
        reserve(first.book, "a", "x")
        wait_until(lambda: loads(second.book) != {})
        fleet.routers = ()
        whole = second.sharing.statistics().counts["heard"]
        wait_until(lambda: second.sharing.statistics().counts["heard"] > whole + 15)  # longer than silence
        assert second.sharing.statistics().connected == 1
        complete(first, "x")
        wait_until(lambda: loads(second.book) == {})


def test_an_address_that_cannot_be_had_is_said_so(keys: LinkKeys) -> None:
    with pytest.raises(ConfigError, match="expected an address"):
        LoadSharing(LoadBook(10), 1, keys, Fleet(), host="no such host")
    with pytest.raises(ConfigError):
        LoadSharing(LoadBook(10), 1, msgspec.structs.replace(keys, client_secret=""), Fleet())


def test_ending_twice_is_fine_and_frees_the_port(keys: LinkKeys) -> None:
    router = Router(1, keys, Fleet(), SharingSettings())
    router.sharing.close()
    router.sharing.close()
    assert router.sharing.failure is None


@pytest.mark.slow
def test_processes_share_loads_and_one_that_is_killed_is_forgotten_by_its_silence(keys: LinkKeys) -> None:
    fleet, patient = Fleet(), msgspec.structs.replace(QUICK, silent_s_max=3.0)
    with routers(1, keys, fleet, patient) as (here,):
        there = [RouterProcess(number, keys, (here.at,), "+a") for number in (11, 12)]
        fleet.routers = (here.at, *(one.at for one in there))
        try:
            wait_until(lambda: loads(here.book).get("a", (0, 0, 0))[2] == 2)
            reserve(here.book, "b", "mine")

            def is_known_there() -> bool:
                return "b" in msgspec.json.decode(there[0].say("?"))

            wait_until(is_known_there)
            there[0].kill()
            wait_until(lambda: loads(here.book).get("a", (0, 0, 0))[2] == 1)
            assert here.sharing.statistics().counts["silent"] == 1
        finally:
            for one in there:
                one.kill()


@pytest.mark.slow
def test_a_process_that_is_paused_is_forgotten_and_when_it_goes_on_it_is_heard_again(keys: LinkKeys) -> None:
    fleet = Fleet()
    with routers(1, keys, fleet) as (here,):
        there = RouterProcess(11, keys, (here.at,), "+a")
        fleet.routers = (here.at, there.at)
        try:
            wait_until(lambda: "a" in loads(here.book))
            there.pause()
            wait_until(lambda: loads(here.book) == {})
            there.go_on()
            wait_until(lambda: "a" in loads(here.book))
            assert there.say("-a") == "True"
            wait_until(lambda: loads(here.book) == {})
        finally:
            there.kill()
