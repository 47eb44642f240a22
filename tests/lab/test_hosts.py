from __future__ import annotations

import asyncio

import pytest

from aerogram.lab import Link, Network, simulate
from tests.lab.recorder import open_at


def test_a_crash_tells_nobody_and_loses_all() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.5))
        a, b = network.host("a"), network.host("b")
        from_a, lost = await open_at(a, (a.ipv4, 1))
        from_b, told = await open_at(b, (b.ipv4, 1), remote_address=(a.ipv4, 1))
        from_a.sendto(b"last words", (b.ipv4, 1))
        from_b.sendto(b"too late")
        a.crash()
        a.crash()
        assert from_a.is_closing()
        from_a.sendto(b"from the grave", (b.ipv4, 1))
        await asyncio.sleep(1.0)
        assert told.data == [b"last words"]
        assert told.errors == told.lost == []
        assert lost.received == []
        assert [type(error) for error in lost.lost] == [OSError]
        with pytest.raises(OSError, match="down"):
            await open_at(a)
        assert network.trace.dropped == {"host down": 1}
        a.restart()
        with pytest.raises(RuntimeError, match="not down"):
            a.restart()
        _, again = await open_at(a, (a.ipv4, 1))
        from_b.sendto(b"hello again")
        await asyncio.sleep(1.0)
        assert again.data == [b"hello again"]

    simulate(main)


def test_a_crash_ends_the_hosts_programs_and_a_restart_begins_them_anew() -> None:
    runs: list[int] = []

    async def main() -> None:
        network = Network()
        host = network.host("a")

        async def serve() -> None:
            state = len(runs)
            runs.append(0)
            await open_at(host, (host.ipv4, 1))
            while True:
                await asyncio.sleep(1.0)
                runs[state] += 1

        async def end_soon() -> str:
            return "ended"

        task = host.run(serve)
        assert await host.run(end_soon) == "ended"
        await asyncio.sleep(3.5)
        host.crash()
        await asyncio.sleep(10.0)
        assert task.cancelled()
        assert runs == [3]
        [again] = host.restart()
        await asyncio.sleep(5.5)
        assert runs == [3, 5]
        again.cancel()

    simulate(main)


def test_a_program_that_fails_ends_the_simulation() -> None:
    async def fail() -> None:
        await asyncio.sleep(1.0)
        raise KeyError("program")

    async def main() -> None:
        _task = Network().host("a").run(fail)
        await asyncio.sleep(60.0)

    with pytest.raises(KeyError) as caught:
        simulate(main)
    assert any("a program of a failed, at 1.0" in note for note in caught.value.__notes__)


def test_a_paused_host_does_not_read_and_its_buffers_fill() -> None:
    async def main() -> None:
        network = Network()
        host = network.host("a")
        _, heard = await open_at(host, (host.ipv4, 1), receive_buffer_bytes=10_000)
        client, _ = await open_at(network)
        host.pause()
        for number in range(100):
            client.sendto(bytes([number]) * 436, (host.ipv4, 1))
        await asyncio.sleep(1.0)
        assert heard.data == []
        host.resume()
        await asyncio.sleep(1.0)
        assert [data[0] for data in heard.data] == list(range(20))
        assert network.trace.dropped == {"receive buffer": 80}

    simulate(main)


def test_a_burst_larger_than_the_receive_buffer_is_cut() -> None:
    async def main() -> None:
        network = Network()
        host = network.host("a")
        _, heard = await open_at(host, (host.ipv4, 1))
        client, _ = await open_at(network)
        for _ in range(100):
            client.sendto(bytes(60_000), (host.ipv4, 1))
        client.sendto(b"", (host.ipv4, 1))
        await asyncio.sleep(1.0)
        assert len(heard.data) == 4 * 1024 * 1024 // 60_064 + 1
        client.sendto(b"there is room again", (host.ipv4, 1))
        await asyncio.sleep(1.0)
        assert heard.data[-1] == b"there is room again"

    simulate(main)


def test_a_program_may_close_its_socket_while_it_reads() -> None:
    async def main() -> None:
        network = Network()
        host = network.host("a")
        transport, heard = await open_at(host, (host.ipv4, 1))
        client, _ = await open_at(network)
        for number in range(5):
            client.sendto(bytes([number]), (host.ipv4, 1))
        heard.close_after = 2
        await asyncio.sleep(1.0)
        assert len(heard.data) == 2
        assert transport.is_closing()

    simulate(main)


def test_each_host_has_a_clock_that_may_be_wrong() -> None:
    async def main() -> None:
        network = Network()
        right, wrong = network.host("right"), network.host("wrong")
        began = right.time()
        wrong.step_clock(-30.0)
        assert wrong.time() == began - 30.0
        wrong.skew_clock(100.0)
        await asyncio.sleep(1000.0)
        assert right.time() - began == 1000.0
        assert wrong.time() - began == pytest.approx(970.1)
        wrong.skew_clock(0.0)
        await asyncio.sleep(1000.0)
        assert wrong.time() - right.time() == pytest.approx(-29.9)
        assert asyncio.get_running_loop().time() == 2000.0

    simulate(main)
