"""Named channels, and which of them a type travels on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from aerogram import delivery as presets
from aerogram import messages as codec
from aerogram.core.channel import ChannelSpec, WhenFull
from aerogram.core.delivery import AsItArrives, Delivery, InOrder, NewestWins
from aerogram.errors import DecodeError, InvalidMessage


@dataclass(frozen=True)
class Channel:
    """A named channel: its delivery, and the types that travel on it in one order.

    Raises `ValueError` or `TypeError` for what cannot be.
    """

    name: str
    """1 to 255 bytes in UTF-8; both ends know the channel by it."""
    delivery: Delivery
    carries: Sequence[type] = ()
    priority: int = 0
    """Channels of a higher priority are sent first; what waits below gets one packet in 16. Above
    0, what is sent may exceed the congestion window a little, so it does not wait for a round trip.
    """
    weight: int = 1
    """The share among channels of the same priority, up to 256."""
    when_full: WhenFull = "block"
    """What a full queue means. "block": `send` waits. "error": `send` raises `QueueFull`.
    "drop_oldest" and "drop_newest": that message is lost, and its receipt says why. "latest": all
    that wait are superseded by the new one."""
    queue_messages: int | None = None
    """Messages that may wait; None is `Config.send_queue_messages`."""
    queue_bytes: int | None = None
    """The same in bytes; None is `Config.send_queue_bytes`. An empty queue takes any message."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not isinstance(self.delivery, Delivery):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"channel {self.name!r}: delivery is one like delivery.ordered(), "
                f"not {self.delivery!r}"
            )
        _check_carried(self.name, self.carries)
        _ = self.spec

    @property
    def spec(self) -> ChannelSpec:
        """What the protocol core knows of it."""
        return ChannelSpec(
            self.name,
            self.delivery,
            self.priority,
            weight=self.weight,
            when_full=self.when_full,
            queue_messages=self.queue_messages,
            queue_bytes=self.queue_bytes,
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a channel is a str, not {name!r}")
    size = len(name.encode(errors="replace"))
    if not 0 < size <= NAME_BYTES_MAX:
        raise ValueError(f"the name of a channel has 1 to {NAME_BYTES_MAX} bytes, not {size}")


def _check_carried(name: str, carries: object) -> None:
    if not isinstance(carries, Sequence) or isinstance(carries, str):
        raise TypeError(f"channel {name!r}: carries= is a list of types, not {carries!r}")
    for kind in cast("Sequence[object]", carries):
        if not isinstance(kind, type):
            raise TypeError(f"channel {name!r}: carries= is a list of types, with {kind!r} in it")


NAME_BYTES_MAX: Final = codec.NAME_BYTES_MAX
"""The longest name of a channel, as of a topic or tag."""

DEFAULT_CHANNEL: Final = Channel("default", presets.ordered())
ANSWERS_CHANNEL: Final = Channel("answers", presets.reliable())
"""Carries what comes back for questions, and what is told about questions that are asked."""

CONTENT_CHANNEL: Final = Channel("uploads", presets.reliable())
"""Carries the content of uploads, each chunk for itself."""


class Channels:
    """Which channel a type travels on.

    `decode` shows messages to orderings that look into them; without it they are shown the types
    that have been named here. Raises `ValueError` for what cannot be.
    """

    def __init__(
        self, channels: Iterable[Channel], decode: Callable[[bytes], Any] | None = None
    ) -> None:
        self._decode = self._decode_named if decode is None else decode
        self._named: dict[codec.RoutingKey, codec.Decoder] = {}
        self.specs: dict[str, ChannelSpec] = {}
        self._by_type: dict[type, ChannelSpec] = {}
        self._owners: dict[str, str] = {}
        self._default = DEFAULT_CHANNEL.spec
        for channel in (DEFAULT_CHANNEL, ANSWERS_CHANNEL, CONTENT_CHANNEL, *channels):
            self._add(channel)

    def _add(self, channel: Channel) -> None:
        if not isinstance(channel, Channel):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"channels= takes a list of Channel, with {channel!r} in it")
        if channel.name in self.specs:
            raise ValueError(f"two channels are named {channel.name!r}")
        self.specs[channel.name] = self._viewed(channel.spec)
        self._owners[channel.name] = f"the channel {channel.name!r}"
        for kind in channel.carries:
            if kind in self._by_type:
                raise ValueError(f"two channels carry {kind.__name__}")
            self._by_type[kind] = self.specs[channel.name]
            self._name(kind)

    def _viewed(self, spec: ChannelSpec) -> ChannelSpec:
        """The same with a view of messages, if its ordering is one that looks into them."""
        if isinstance(spec.delivery.ordering(), AsItArrives | InOrder | NewestWins):
            return spec
        return replace(spec, view=self._decode)

    def _name(self, kind: type) -> None:
        """Messages of a type can be shown to orderings from now on, unless it is no message."""
        with contextlib.suppress(InvalidMessage):
            self._named[codec.type_key(kind)] = codec.decoder_for(kind)

    def _decode_named(self, payload: bytes) -> Any:
        decode = self._named.get(codec.routing_key(payload))
        if decode is None:
            raise DecodeError(f"{codec.describe(payload)} is unknown here")
        return decode(payload)

    def of(self, kind: type) -> ChannelSpec:
        """The channel of a type: the one that carries it, its own, or the default one.

        Raises `ValueError` if its own would be that of a type with the same tag and another
        delivery.
        """
        spec = self._by_type.get(kind)
        if spec is None:
            delivery = codec.delivery_of(kind)
            spec = self._default if delivery is None else self._own(kind, delivery)
            self._by_type[kind] = spec
            self._name(kind)
        return spec

    def _own(self, kind: type, delivery: Delivery) -> ChannelSpec:
        name = f"tag:{codec.tag_of(kind)}"
        spec = self.specs.get(name)
        if spec is None:
            spec = self.specs[name] = self._viewed(ChannelSpec(name, delivery))
            self._owners[name] = kind.__name__
        elif spec.delivery != delivery:
            raise ValueError(
                f"{self._owners[name]} and {kind.__name__} have the same tag, and with it one "
                f"channel, but different deliveries: give one of them another tag, or let a "
                f"Channel carry it"
            )
        return spec
