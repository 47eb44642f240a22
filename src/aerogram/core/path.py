"""The peer's address, and moving to a new one only after it has answered from there.

Rules (RFC 9000 §9): only the newest authentic packet may suggest a new address; nothing but one
challenge at a time goes there until the answer is back, so a copied packet sent from a forged
address diverts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Address = tuple[Any, ...]
"""An address as the socket gives it; the core only compares it."""
LONGEST_PATIENCE_SECONDS: Final = 1.0
"""A new address is challenged again after this at most, while packets keep coming from there."""
CHALLENGE_BYTES: Final = 8


class Path:
    """Where packets go, and the address that may become the next one."""

    __slots__ = (
        "address",
        "candidate",
        "challenge",
        "challenge_waits",
        "challenged_at",
        "response",
    )

    def __init__(self, address: Address) -> None:
        self.address = address
        self.candidate: Address | None = None
        self.challenge = b""
        self.challenge_waits = False
        self.challenged_at = 0.0
        self.response: bytes | None = None
        """The peer's newest challenge, to be answered."""

    def suspect(
        self,
        address: Address,
        patience_seconds: float,
        random_bytes: Callable[[int], bytes],
        now: float,
    ) -> None:
        """The newest packet came from another address: let it be challenged, unless it was lately.

        The challenge is the same again if this address was challenged before: on a path slower than
        our patience an answer would always be one to the challenge before.
        """
        patience = min(patience_seconds, LONGEST_PATIENCE_SECONDS)
        if address != self.candidate:
            self.candidate = address
            self.challenge = random_bytes(CHALLENGE_BYTES)
        elif now < self.challenged_at + patience:
            return
        self.challenge_waits = True
        self.challenged_at = now

    def answered(self, data: bytes) -> bool:
        """True if this answer to the challenge makes the candidate the address."""
        if self.candidate is None or data != self.challenge:
            return False
        self.address = self.candidate
        self.candidate = None
        return True
