"""The local network: finding servers, asking a group, and one sender to many receivers.

`discovery` finds servers by name, `ask` and `answer` are one question to many, `multicast` is one
stream to many. Each is a module of its own and imported on its own.
"""

from __future__ import annotations

from aerogram.lan.answering import answer
from aerogram.lan.asking import Answer, ask

__all__ = ["Answer", "answer", "ask"]
