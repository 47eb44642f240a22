"""Datagrams inside FastAPI: one loop, no thread. `uvicorn inside_fastapi:api` from this folder.

Starlette is the same: `Starlette(lifespan=lifespan)`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from chat import Line, app
from fastapi import FastAPI

from aerogram import serve


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncGenerator[None]:
    async with serve(app, "127.0.0.1", 0) as server:
        api.state.address = server.address
        yield


api = FastAPI(lifespan=lifespan)


@api.get("/address")
async def address() -> str:
    return str(api.state.address)


@api.post("/rooms/{room}/announce")
async def announce(room: str, text: str) -> int:
    await app.group(room).send(Line(text, "operator"))
    return len(app.group(room))
