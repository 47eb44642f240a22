"""Handlers of bare datagrams: `@app.datagram(...)` over connectionless endpoints.

Rules: one datagram at a time per endpoint, in the order of arrival; what comes meanwhile waits in
the endpoint's bounded queue. A handler that raises is logged at a bounded rate and counted, and the
endpoint goes on. The app's middleware surrounds these handlers too, with the endpoint in the place
of the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aerogram.config import Config
from aerogram.errors import Rejected
from aerogram.io.datagram import Datagram
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.network import Network
from aerogram.io.opening import open_endpoint
from aerogram.io.tracing import Observer
from aerogram.loglimit import LogLimit
from aerogram.routes import Handler

Logger = logging.Logger | logging.LoggerAdapter[Any]

DATAGRAMS_PER_TURN: Final = 64
"""Others run after this many datagrams, even if a handler never waits."""


@dataclass(frozen=True, slots=True)
class DatagramRoute:
    """Where datagrams are expected, and who takes them."""

    host: str | None
    port: int
    options: dict[str, Any]
    """Further arguments of `open_endpoint`."""
    call: Handler
    name: str


class DatagramWorker:
    """Hands the datagrams of one endpoint to their handler."""

    def __init__(self, route: DatagramRoute, endpoint: DatagramEndpoint, logger: Logger) -> None:
        self.endpoint = endpoint
        self.handled = 0
        self.rejected = 0
        """A handler or middleware raised `Rejected`: nobody is told, for a stranger may have sent
        it."""
        self.handler_errors = 0
        self._route = route
        self._logger = logger
        self._log_limit = LogLimit()

    async def run(self) -> None:
        """Work until the endpoint is closed."""
        async for datagram in self.endpoint:
            await self._handle(datagram)
            if (self.handled + self.handler_errors) % DATAGRAMS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _handle(self, datagram: Datagram) -> None:
        try:
            await self._route.call(self.endpoint, datagram)
            self.handled += 1
        except Rejected:
            self.rejected += 1
        except Exception:  # the one place where these handlers' errors end
            self.handler_errors += 1
            if self._log_limit.allows(asyncio.get_running_loop().time()):
                self._logger.exception(
                    "the handler %s failed for a datagram of %s",
                    self._route.name,
                    datagram.address,
                )


@asynccontextmanager
async def handling_datagrams(
    routes: Iterable[DatagramRoute],
    *,
    network: Network | None,
    config: Config,
    logger: Logger,
    trace: Observer | None = None,
) -> AsyncGenerator[list[DatagramWorker]]:
    """Open an endpoint for each route, and let its handler work until the context ends."""
    async with AsyncExitStack() as stack:
        workers: list[DatagramWorker] = []
        for route in routes:
            opening = open_endpoint(
                route.host,
                route.port,
                network=network,
                config=config,
                trace=trace,
                **route.options,
            )
            endpoint = await stack.enter_async_context(opening)
            workers.append(DatagramWorker(route, endpoint, logger))
        tasks = [asyncio.create_task(worker.run(), name="datagrams") for worker in workers]
        try:
            yield workers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
