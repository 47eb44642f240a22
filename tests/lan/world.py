"""A sender and its receivers without sockets, on a clock of their own; a seed decides the rest."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aerogram.lan.stream import wire
from aerogram.lan.stream.assembly import Gap, Item, Numbered
from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.keys import GroupKeys
from aerogram.lan.stream.members import Member
from aerogram.lan.stream.receiver import Order, StreamReceiver
from aerogram.lan.stream.sender import Start, StreamSender

KEY = bytes(range(32))
STREAM = b"stream 1"
STEPS_LIMIT = 5_000_000


class Node:
    """A receiver, how lossy its way is, and what it has shown."""

    def __init__(self, receiver: StreamReceiver, member: Member, loss: float) -> None:
        self.receiver = receiver
        self.member = member
        self.loss = loss
        self.items: list[Item] = []
        self.reports = 0

    @property
    def messages(self) -> list[bytes]:
        return [item.payload for item in self.items if isinstance(item, Numbered)]

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap)]


class World:
    """One way takes `delay` seconds from each to each. `nacks` are those sent, with their times."""

    def __init__(
        self,
        seed: int = 0,
        *,
        delay: float = 0.01,
        config: MulticastConfig | None = None,
        sender_config: MulticastConfig | None = None,
    ) -> None:
        self.now = 0.0
        self.delay = delay
        self.random = random.Random(seed)
        self.config = config or MulticastConfig()
        self.sender = StreamSender(sender_config or self.config, STREAM, KEY, 0.0)
        self.secrets = {0: KEY}
        self.nodes: list[Node] = []
        self.sent: list[tuple[float, bytes]] = []
        self.nacks: list[tuple[float, Node, wire.Nack]] = []
        self.to_sender_loss = 0.0
        self.drop: Callable[[bytes, Node | None], bool] = lambda datagram, node: False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._wakes: dict[Any, float] = {}

    def add(self, *, loss: float = 0.0, start: Start = "newest", order: Order = "ordered") -> Node:
        sender = self.sender
        member, sequence = sender.admit(start, 2 * self.delay, self.now)
        keys = GroupKeys(STREAM, member.identity, self.config.old_key_seconds)
        keys.install(*sender.keys.since(sender.keys.epoch - 1)[0], self.now)
        receiver = StreamReceiver(
            self.config,
            keys,
            STREAM,
            member.identity,
            sequence=sequence,
            message=member.first_message,
            next_sequence=sender.history.next,
            rtt=sender.members.rtt,
            members=len(sender.members),
            order=order,
            uniform=self.random.random,
            now=self.now,
        )
        node = Node(receiver, member, loss)
        self.nodes.append(node)
        self.flush_node(node)
        self.flush_sender()
        return node

    def remove(self, node: Node) -> None:
        self.nodes.remove(node)
        self.sender.dismiss(node.member.identity)

    def rekey(self, key: bytes, *, to: list[Node], after: float = 0.0) -> None:
        """A new key, which `to` get so many seconds later."""
        epoch = self.sender.keys.epoch
        self.sender.rekey(key, self.now)
        self.secrets[epoch + 1] = key
        keys = self.sender.keys.since(epoch)
        for node in to:
            self.at(self.now + after, lambda node=node: self._install(node, keys))
        self.flush_sender()

    def _install(self, node: Node, keys: list[tuple[int, bytes, int]]) -> None:
        node.receiver.install_keys(keys, self.now)
        self.flush_node(node)

    # What happens

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, action))

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.sender.send(payload)
        self.flush_sender()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(STEPS_LIMIT):
            if not self._events or self._events[0][0] > until:
                self.now = until
                return
            self.now, _, action = heapq.heappop(self._events)
            action()
        raise AssertionError("too much happens")

    def flush_sender(self) -> None:
        for datagram in self.sender.poll_transmit(self.now):
            self.sent.append((self.now, datagram))
            self.multicast(datagram, None)
        self._wake(self.sender, self.sender.poll_timeout(self.now), self.flush_sender)

    def flush_node(self, node: Node) -> None:
        receiver = node.receiver
        while (item := receiver.take()) is not None:
            node.items.append(item)
        for datagram in receiver.poll_transmit(self.now):
            self.nacks.append((self.now, node, wire.decode_nack(self.body_of(datagram))))
            self.multicast(datagram, node)
        if receiver.report_due(self.now):
            node.reports += 1
            echo = receiver.echo(self.now)
            self.at(self.now + self.delay, lambda: self._report(node, echo))
        self._wake(node, receiver.poll_timeout(), lambda: self.flush_node(node))

    def _report(self, node: Node, echo: wire.Echo) -> None:
        self.sender.heard(node.member, echo, self.now)

    def _wake(self, who: Any, when: float | None, action: Callable[[], None]) -> None:
        known = self._wakes.get(who)
        if when is None or (known is not None and self.now < known <= when):
            return
        when = max(when, self.now + 1e-6)
        self._wakes[who] = when
        self.at(when, action)

    def multicast(self, datagram: bytes, source: Node | None) -> None:
        """Bring a datagram to everybody but its source."""
        at = self.now + self.delay
        if source is not None and self.random.random() >= self.to_sender_loss:
            self.at(at, lambda: self._to_sender(datagram))
        for node in self.nodes:
            if node is source or self.drop(datagram, node) or self.random.random() < node.loss:
                continue
            self.at(at, lambda node=node: self._to_node(datagram, node))

    def body_of(self, datagram: bytes) -> bytes:
        """What is sealed in it, however old its key is."""
        epoch = wire.split_untrusted(datagram).epoch
        clear = datagram[: wire.HEADER_BYTES]
        return AESGCM(self.secrets[epoch]).decrypt(
            clear[13:25], datagram[wire.HEADER_BYTES :], clear
        )

    def sequence_of(self, datagram: bytes) -> int:
        return wire.decode_segment(self.body_of(datagram)).sequence

    def lose(self, *sequences: int) -> None:
        """Let nobody get these the first time."""
        self.drop = lambda datagram, node: (
            datagram[0] == wire.DATA and self.sequence_of(datagram) in sequences
        )

    def _to_sender(self, datagram: bytes) -> None:
        self.sender.receive_datagram(datagram, self.now)
        self.flush_sender()

    def _to_node(self, datagram: bytes, node: Node) -> None:
        node.receiver.receive_datagram(datagram, self.now)
        self.flush_node(node)
