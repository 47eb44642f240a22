"""A client, a server, and what they know of each other, for tests of handshakes."""

from __future__ import annotations

from aerogram.core.handshake import ClientSecurity
from aerogram.core.keys import Identity
from aerogram.core.wire import Mode

CLIENT, SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2)
SERVER_IDENTITY = Identity.from_private_bytes(bytes(range(32)))
CLIENT_IDENTITY = Identity.from_private_bytes(bytes(range(32, 64)))
PSK = bytes(range(64, 96))
SECURITY = {
    Mode.INSECURE: ClientSecurity(Mode.INSECURE),
    Mode.PSK: ClientSecurity(Mode.PSK, psk=PSK),
    Mode.PINNED: ClientSecurity(
        Mode.PINNED, identity=CLIENT_IDENTITY, server_key=SERVER_IDENTITY.public_bytes
    ),
}
