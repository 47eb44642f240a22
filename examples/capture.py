"""Write down every datagram of a program: `python examples/capture.py [capture.pcapng]`.

A `Trace` is given to whatever opens a socket, and costs nothing where there is none. It makes a
timeline to read, JSON for programs, and a capture that Wireshark and tshark open. Here it watches a
server of sessions, its client, and a plain endpoint whose peer is not there.
"""

from __future__ import annotations

import asyncio
import sys

from aerogram import App, Session, connect, open_endpoint, serve
from aerogram.lab import Trace

app = App()


@app.on(str)
async def echo(session: Session, text: str) -> None:
    await session.send(text.upper())


async def main(path: str | None) -> None:
    trace = Trace(keep_packets=path is not None)
    async with (
        serve(app, trace=trace) as server,
        connect(server.address, trace=trace) as session,
        open_endpoint("127.0.0.1", trace=trace) as endpoint,
    ):
        await session.send("hello")
        print(await session.receive(str))
        async with open_endpoint("127.0.0.1") as gone:
            nobody = gone.local_address
        await endpoint.send(b"is anybody there?", nobody)
        async for report in endpoint.errors:
            print(f"{report.address} is not there: {report.reason.value}")
            break
    print(trace.as_text(last=6), end="")
    if path is not None:
        print(f"{trace.as_pcapng(path)} datagrams in {path}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
