"""Closing takes no longer than its grace, whatever handlers do, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aerogram import App, ClosedByPeer, Config, Session, SessionClosed, connect, serve
from aerogram.manager import SessionManager
from tests.echo import echo_app, echoed
from tests.io.fakes import descriptors

SOURCES = Path(__file__).parents[1] / "src"
BRIEF = Config(grace_seconds=0.2)


def managers_timers(loop: Any) -> list[Any]:
    """Timers of session managers; uvloop does not show its own."""
    return [
        handle
        for handle in getattr(loop, "_scheduled", [])
        if not handle.cancelled()
        and isinstance(getattr(handle._callback, "__self__", None), SessionManager)
    ]


# Nothing is left


async def test_closing_two_hundred_live_sessions_leaves_nothing(
    config: Config, complaints: list[Any]
) -> None:
    before, files = asyncio.all_tasks(), descriptors()
    server = await serve(echo_app(), config=config, insecure=True)
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(connect(server.address, config=config, insecure=True))
            for _ in range(200)
        ]
        for session in sessions:
            assert await echoed(session)
        assert len(server.sessions) == 200
        for session in sessions:
            await session.send(b"on its way")
        await server.close("enough")
        for session in sessions:
            await asyncio.wait_for(session.wait_closed(), 10)
            assert isinstance(session.error, ClosedByPeer)
            assert session.error.reason == "enough"
            with pytest.raises(SessionClosed):
                await session.send(b"x")
        for served in server.sessions:
            with pytest.raises(SessionClosed):
                await served.send(b"x")
    assert asyncio.all_tasks() == before
    assert descriptors() == files
    assert managers_timers(asyncio.get_running_loop()) == []
    gc.collect()
    assert complaints == []


async def test_two_hundred_servers_one_after_the_other_leave_nothing(
    config: Config, complaints: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    app = echo_app()
    async with serve(app, config=config, insecure=True):
        pass
    before, files = asyncio.all_tasks(), descriptors()
    for number in range(200):
        async with serve(app, config=config, insecure=True) as server:
            if number % 10 == 0:
                async with connect(server.address, config=config, insecure=True) as session:
                    assert await echoed(session)
        assert descriptors() == files
    assert asyncio.all_tasks() == before
    assert managers_timers(asyncio.get_running_loop()) == []
    gc.collect()
    assert complaints == []
    assert capfd.readouterr().out == ""


async def test_a_session_that_sends_after_the_end_gets_its_reason(config: Config) -> None:
    async with serve(echo_app(), config=config) as server:
        async with connect(server.address, config=config) as session:
            assert await echoed(session)
        with pytest.raises(SessionClosed):
            await session.send(b"x")
        shell = session._shell
        shell.schedule_flush()
        shell._flush()  # type: ignore[attr-defined]
        assert shell.protocol.stats.send_errors == 0  # type: ignore[attr-defined]


async def test_a_closed_server_arms_no_timer_for_peers_that_never_answered(config: Config) -> None:
    server = await serve(echo_app(), config=replace(config, grace_seconds=0.05))
    async with connect(server.address, config=replace(config, grace_seconds=0.05)) as session:
        assert await echoed(session)
        session._shell.transport.abort()  # type: ignore[attr-defined]
        manager = server._manager
        manager.schedule_flush()
        await server.close()
        assert manager.endpoint.poll_timeout() is not None, "it would have something to wait for"
        manager._flush()
        manager.schedule_flush()
        await asyncio.sleep(0)
        assert not manager._timers._armed


# Handlers that do not end


async def test_an_on_close_that_never_ends_is_cancelled(complaints: list[Any]) -> None:
    app = echo_app()
    cancelled = asyncio.Event()

    @app.on_close
    async def wait_for_ever(session: Session[None], error: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    before = asyncio.all_tasks()
    server = await serve(app, config=BRIEF)
    async with connect(server.address) as session:
        assert await echoed(session)
        await asyncio.wait_for(server.close(), 10)
        assert cancelled.is_set()
    assert asyncio.all_tasks() == before
    assert complaints == []


async def test_an_on_close_after_a_cancelled_handler_has_its_time() -> None:
    app = App()
    order: list[str] = []

    @app.on(bytes)
    async def wait_for_ever(session: Session[None], data: bytes) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("handler")

    @app.on_close
    async def clean_up(session: Session[None], error: object) -> None:
        await asyncio.sleep(0)
        order.append("on_close")

    server = await serve(app, config=BRIEF)
    async with connect(server.address) as session:
        await session.deliver(b"x", timeout=10)
        await asyncio.wait_for(server.close(), 10)
        assert order == ["handler", "on_close"]


async def test_a_handler_that_ignores_its_cancellation_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()
    release = asyncio.Event()

    @app.on(bytes)
    async def stubborn(session: Session[None], data: bytes) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    before = asyncio.all_tasks()
    server = await serve(app, config=Config(grace_seconds=0.05))
    async with connect(server.address) as session:
        await session.deliver(b"x", timeout=10)
        await asyncio.wait_for(server.close(), 10)
        assert "although cancelled" in caplog.text
    release.set()
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left, timeout=10)
    assert asyncio.all_tasks() == before


async def test_closing_that_is_cancelled_leaves_nothing(complaints: list[Any]) -> None:
    app = App()
    cancelled = asyncio.Event()

    @app.on(bytes)
    async def wait_for_ever(session: Session[None], data: bytes) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    before, files = asyncio.all_tasks(), descriptors()
    server = await serve(app, config=Config(grace_seconds=60))
    async with connect(server.address) as session:
        await session.deliver(b"x", timeout=10)
        closing = asyncio.create_task(server.close("in a hurry"))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.wait_for(cancelled.wait(), 10)
        await asyncio.wait_for(session.wait_closed(), 10)
        assert isinstance(session.error, ClosedByPeer)
        await asyncio.wait_for(server.wait_closed(), 10)
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left, timeout=10)
    assert asyncio.all_tasks() == before
    assert descriptors() == files
    assert complaints == []


async def test_whoever_closes_second_waits_for_the_first() -> None:
    app = App()
    ended: list[str] = []

    @app.on(bytes)
    async def busy(session: Session[None], data: bytes) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("handler")

    server = await serve(app, config=BRIEF)
    async with connect(server.address) as session:
        await session.deliver(b"x", timeout=10)

        async def close() -> None:
            await server.close()
            ended.append("close")

        await asyncio.gather(close(), close())
    assert ended == ["handler", "close", "close"]


async def test_a_handler_may_close_its_own_server() -> None:
    app = App()

    @app.on(bytes)
    async def stop(session: Session[None], data: bytes) -> None:
        await server.close("as you wish")

    before = asyncio.all_tasks()
    server = await serve(app, config=BRIEF)
    async with connect(server.address) as session:
        await session.send(b"stop")
        await asyncio.wait_for(session.wait_closed(), 10)
        await asyncio.wait_for(server.wait_closed(), 10)
        assert isinstance(session.error, ClosedByPeer)
        assert session.error.reason == "as you wish"
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left, timeout=10)
    assert asyncio.all_tasks() == before


# Whole programs


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=False
    )


ECHO_PROGRAM = """
import asyncio, gc, sys
from aerogram import App, Config, connect, serve

app = App()

@app.on(bytes)
async def echo(session, data):
    await session.send(data)

async def main(kind):
    asyncio.get_running_loop().slow_callback_duration = 60.0
    config = Config(transport=kind)
    async with serve(app, config=config) as server:
        async with connect(server.address, config=config) as session:
            for size in (1, 1000, 100_000):
                await session.send(bytes(size))
                assert await session.receive(bytes, timeout=30) == bytes(size)

factories = [asyncio.new_event_loop]
if "uvloop" in sys.argv:
    import uvloop
    factories.append(uvloop.new_event_loop)
for factory in factories:
    for kind in ("auto", "batch", "asyncio"):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(kind))
gc.collect()
"""


def with_uvloop() -> list[str]:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return []
    return ["uvloop"]


def test_a_program_in_development_mode_says_nothing() -> None:
    ended = run(sys.executable, "-X", "dev", "-W", "error", "-c", ECHO_PROGRAM, *with_uvloop())
    assert ended.stderr == ""
    assert ended.stdout == ""
    assert ended.returncode == 0


SLOW_DEVICE = "ip link set lo up; tc qdisc add dev lo root tbf rate 10mbit burst 20000 limit 500000"

SLOW_PROGRAM = """
import asyncio, sys
from aerogram import App, Config, connect, serve

app = App()

@app.on(bytes)
async def echo(session, data):
    await session.send(data[:1])

async def main(kind):
    config = Config(transport=kind, socket_buffer_bytes=4096, transport_buffer_bytes=20_000)
    async with serve(app, config=config) as server:
        async with connect(server.address, config=config) as session:
            for number in range(30):
                await session.deliver(bytes([number]) * 1000, timeout=60)
                assert await session.receive(bytes, timeout=60) == bytes([number])
            protocol = session._shell.protocol
            for _ in range(1000):
                protocol.send_run([bytes(1000)] * 2, server.local_address)
                assert protocol._held_bytes() <= 20_000
            stats = protocol.stats
            assert stats.send_dropped > 1900, stats
            assert stats.send_errors == 0, stats

factories = [asyncio.new_event_loop]
if "uvloop" in sys.argv:
    import uvloop
    factories.append(uvloop.new_event_loop)
for factory in factories:
    for kind in ("auto", "asyncio"):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(kind))
"""


def private_network() -> list[str]:
    """The start of a command that runs a shell in a network namespace of its own."""
    if not all(shutil.which(tool) for tool in ("unshare", "ip", "tc")):
        pytest.skip("no unshare, ip and tc on this system")
    as_root = [] if os.geteuid() == 0 else ["-r"]
    command = ["unshare", *as_root, "-n", "sh", "-c"]
    if run(*command, SLOW_DEVICE).returncode != 0:
        pytest.skip("this user, or this kernel, cannot make a slow device")
    return command


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_a_device_slower_than_the_program_fills_no_memory_and_no_screen() -> None:
    script = f'{SLOW_DEVICE}; exec "$@"'
    ended = run(
        *private_network(), script, "sh", sys.executable, "-c", SLOW_PROGRAM, *with_uvloop()
    )
    assert ended.stderr == ""
    assert ended.stdout == ""
    assert ended.returncode == 0
