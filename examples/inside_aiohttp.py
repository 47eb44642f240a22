"""Datagrams inside aiohttp: one loop, no thread. `python examples/inside_aiohttp.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from chat import Line, app

from aerogram import serve

ADDRESS = web.AppKey("address", str)


async def datagrams(site: web.Application) -> AsyncIterator[None]:
    async with serve(app, "127.0.0.1", 0) as server:
        site[ADDRESS] = server.address
        yield


async def address(request: web.Request) -> web.Response:
    return web.Response(text=request.app[ADDRESS])


async def announce(request: web.Request) -> web.Response:
    room = app.group(request.match_info["room"])
    await room.send(Line(await request.text(), "operator"))
    return web.Response(text=str(len(room)))


def create_site() -> web.Application:
    site = web.Application()
    site.cleanup_ctx.append(datagrams)
    site.router.add_get("/address", address)
    site.router.add_post("/rooms/{room}/announce", announce)
    return site


if __name__ == "__main__":
    web.run_app(create_site(), host="127.0.0.1", port=8080)
