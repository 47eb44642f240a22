"""An app that sends back what it gets, and a client's look at whether it does."""

from __future__ import annotations

from typing import Any, Final, Literal

from aerogram import App, Session

Transport = Literal["auto", "batch", "asyncio"]
TRANSPORTS: Final[list[Transport]] = ["auto", "batch", "asyncio"]


def echo_app(**options: Any) -> App[None, None]:
    app: App[None, None] = App(**options)

    @app.on(bytes)
    async def echo(session: Session[None], data: bytes) -> None:
        await session.send(data)

    return app


async def echoed(session: Session[Any], data: bytes = b"x") -> bool:
    await session.send(data)
    return await session.receive(bytes, timeout=10) == data
