"""An asyncio datagram framework: reliable, ordered, encrypted messages over UDP."""
