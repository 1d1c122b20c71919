"""The other ends of a publisher's sockets."""

from __future__ import annotations

import time
from typing import TypeAlias

import zmq

from kvatlas.ingest.simulator.publisher import SimulatedPublisher

WAIT_S = 60.0
END_OF_REPLAY = b"\xff" * 8

Socket: TypeAlias = "zmq.Socket[bytes]"


def number(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


class Peers:
    """Sockets of one context, all closed with it."""

    def __init__(self) -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self._sockets: list[Socket] = []

    def socket(self, kind: int) -> Socket:
        self._sockets.append(self.context.socket(kind))
        return self._sockets[-1]

    def subscribed(self, publisher: SimulatedPublisher, count: int = 1) -> Socket:
        """A SUB socket that receives all that is published from now on, as one of `count`."""
        subscriber = self.socket(zmq.SUB)
        subscriber.subscribe(b"")
        subscriber.connect(publisher.endpoint)
        publisher.wait_for_subscribers(count)
        return subscriber

    def dealer(self, publisher: SimulatedPublisher) -> Socket:
        assert publisher.replay_endpoint is not None
        socket = self.socket(zmq.DEALER)
        socket.connect(publisher.replay_endpoint)
        return socket

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(linger=0)
        self.context.term()


def received(socket: Socket) -> list[bytes]:
    assert socket.poll(int(WAIT_S * 1000)), "nothing came"
    return socket.recv_multipart()


def replay(dealer: Socket, start: int) -> list[list[bytes]]:
    """All replies, without the end marker."""
    dealer.send_multipart([b"", number(start)])
    replies: list[list[bytes]] = []
    while (reply := received(dealer))[-2] != END_OF_REPLAY:
        replies.append(reply)
    return replies


def poll_until_subscribed(publisher: SimulatedPublisher, subscriber: Socket) -> None:
    """A SUB socket announces itself to a publisher that dials, or comes back, only while polled."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        subscriber.poll(5)
        try:
            return publisher.wait_for_subscribers(timeout_s=0.005)
        except TimeoutError:
            assert time.monotonic() < deadline_s, "nobody subscribed"
