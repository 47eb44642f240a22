"""The sender and the receivers of `benchmarks.multicast`: as processes, or as tasks in the lab.

As a process it is told its part by one JSON argument, and speaks JSON, one line for each step.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from time import process_time
from typing import Any

from aerogram import App, Session, connect, serve
from aerogram.io.network import Network
from aerogram.lan import multicast
from aerogram.lan.multicast import MulticastConfig, MulticastReceiver, MulticastSender

GROUP = "239.77.0.1"
PORT = 7700
SERVER_PORT = 7701
DRAIN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent."""

    messages: int = 4000
    size: int = 1000
    rate_bytes_per_second: float = 2_000_000.0

    @property
    def config(self) -> MulticastConfig:
        return MulticastConfig(rate_bytes_per_second=self.rate_bytes_per_second)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs."""

    host: str = "127.0.0.1"
    interface: str | None = None
    network: Network | None = None


Tell = Callable[[dict[str, Any]], None]


def everybody(session: Session) -> bool:
    return True


async def send(place: Place, load: Load, tell: Tell, go: Callable[[], Awaitable[None]]) -> None:
    """Serve, and after `go` send everything and wait until all have it."""
    app = App()
    sender = MulticastSender(
        GROUP, PORT, interface=place.interface, config=load.config, network=place.network
    )
    multicast.invitations(app, sender, admit=everybody)
    loop = asyncio.get_running_loop()
    async with serve(app, place.host, SERVER_PORT, network=place.network) as server, sender:
        tell({"address": server.address})
        await go()
        started, worked = loop.time(), process_time()
        for number in range(load.messages):
            await sender.send(number.to_bytes(4, "big") + bytes(load.size - 4))
        sent_at = loop.time()
        complete = True
        try:
            await sender.drain(timeout=DRAIN_SECONDS)
        except TimeoutError:
            complete = False
        tell(
            {
                "seconds": loop.time() - started,
                "sending_seconds": sent_at - started,
                "cpu_seconds": process_time() - worked,
                "complete": complete,
                "members": len(sender.members),
                "rtt": sender.rtt,
                "stats": asdict(sender.stats),
            }
        )


async def receive(place: Place, address: str, tell: Tell) -> None:
    """Join and follow the stream to its end."""
    async with (
        connect(address, network=place.network) as session,
        MulticastReceiver.join(session, interface=place.interface, network=place.network) as stream,
    ):
        tell({"joined": True})
        worked = process_time()
        numbers = [
            int.from_bytes(item[:4], "big") async for item in stream if isinstance(item, bytes)
        ]
        tell(
            {
                "cpu_seconds": process_time() - worked,
                "received": len(numbers),
                "in_order": numbers == [*range(len(numbers))],
                "stats": asdict(stream.stats),
            }
        )


def main(argument: str) -> None:
    """Be one peer as a process."""
    told = json.loads(argument)
    place = Place(told["host"], told["interface"])

    def tell(what: dict[str, Any]) -> None:
        print(json.dumps(what), flush=True)

    async def go() -> None:
        await asyncio.to_thread(sys.stdin.readline)

    if told["part"] == "sender":
        asyncio.run(send(place, Load(**told["load"]), tell, go))
    else:
        asyncio.run(receive(place, told["address"], tell))


if __name__ == "__main__":
    main(sys.argv[1])
