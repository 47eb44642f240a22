"""`ask`: one question to a group, and the answers of all who have one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

from aerogram import messages as codec
from aerogram.config import check_timeout
from aerogram.errors import DecodeError, InvalidMessage, MessageTooLarge
from aerogram.io.multicast import InterfaceName
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.opening import open_endpoint
from aerogram.io.sockets import Address
from aerogram.lan.group_socket import LOCAL_NETWORK_TTL, checked_group, simulated_only
from aerogram.lan.questions import IDENTITY_BYTES, QUESTION_BYTES_LIMIT, Asker
from aerogram.messages import Request
from aerogram.messages.codec import encode_typed

ValueT = TypeVar("ValueT")
AnswerT = TypeVar("AnswerT")

FIRST_REPEAT_SECONDS: Final = 0.25
"""A question is asked again after this, for packets get lost; then after twice as long..."""
REPEAT_SECONDS_MAX: Final = 1.0
"""...up to this."""
ANSWERS_LIMIT: Final = 4096
"""Answers that are remembered, so that none is shown twice; the iteration ends at these."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[ValueT]):
    """What one responder has answered."""

    value: ValueT
    address: Address
    """Where it came from. Whoever hears the question can answer it, and forge this."""
    responder: bytes
    """Random for each responder: several at one address differ."""


@overload
def ask(
    group: str,
    port: int,
    question: Request[AnswerT],
    *,
    deadline: float = 1.0,
    limit: int | None = None,
    interface: InterfaceName | None = None,
    ttl: int = LOCAL_NETWORK_TTL,
    network: Network | None = None,
) -> AsyncGenerator[Answer[AnswerT], None]: ...
@overload
def ask(
    group: str,
    port: int,
    question: bytes,
    *,
    deadline: float = 1.0,
    limit: int | None = None,
    interface: InterfaceName | None = None,
    ttl: int = LOCAL_NETWORK_TTL,
    network: Network | None = None,
) -> AsyncGenerator[Answer[bytes], None]: ...
def ask(
    group: str,
    port: int,
    question: Request[Any] | bytes,
    *,
    deadline: float = 1.0,
    limit: int | None = None,
    interface: InterfaceName | None = None,
    ttl: int = LOCAL_NETWORK_TTL,
    network: Network | None = None,
) -> AsyncGenerator[Answer[Any], None]:
    """Ask a group, and iterate over all answers until `deadline` seconds have passed.

    Each responder is shown once, as soon as its answer has come. The question is bytes, or a typed
    `Request` whose answers are decoded; what is no answer to it is ignored. It is asked again a few
    times, since packets get lost. `limit` ends the iteration after so many answers. `interface` is
    what to ask on (default: the system chooses). Who leaves the loop early uses
    `contextlib.aclosing`, or leaves the socket open for a while.

    It is not encrypted, and answers may be forged: ask for what can be checked, such as the address
    of a server whose key is known. Raises `InvalidAddress`, `InvalidMessage`, `MessageTooLarge`,
    `ValueError`; while iterating also `OSError`.
    """
    checked_group(group, port)
    check_timeout(deadline, "deadline=")
    if deadline == 0 or (limit is not None and limit < 1):
        raise ValueError("a deadline is above 0 and a limit at least 1")
    kind = None if isinstance(question, bytes) else type(question)
    body = question if isinstance(question, bytes) else _encoded(question)
    if len(body) > QUESTION_BYTES_LIMIT:
        raise MessageTooLarge(f"a question of {len(body)} bytes; {QUESTION_BYTES_LIMIT} fit")
    most = ANSWERS_LIMIT if limit is None else min(limit, ANSWERS_LIMIT)
    return _ask((group, port), body, kind, deadline, most, interface, ttl, network)


def _encoded(question: Request[Any]) -> bytes:
    if not isinstance(question, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidMessage(f"a question is bytes or a Request, not {type(question).__name__}")
    return encode_typed(question)


async def _ask(
    target: Address,
    body: bytes,
    kind: type[Request[Any]] | None,
    deadline: float,
    most: int,
    interface: InterfaceName | None,
    ttl: int,
    network: Network | None,
) -> AsyncGenerator[Answer[Any], None]:
    loop = asyncio.get_running_loop()
    identity = (network or SocketNetwork()).random_bytes(IDENTITY_BYTES)
    asker = Asker(identity, body)
    any_host = "::" if ":" in target[0] else "0.0.0.0"  # noqa: S104
    async with open_endpoint(
        any_host, 0, network=simulated_only(network), details=False
    ) as endpoint:
        endpoint.set_multicast(interface=interface, ttl=ttl, loop=True)
        ends_at = loop.time() + deadline
        pause = FIRST_REPEAT_SECONDS
        repeats_at = loop.time()
        while (now := loop.time()) < ends_at:
            if now >= repeats_at:
                await endpoint.send(asker.question(ends_at - now), target)
                repeats_at = now + pause
                pause = min(2 * pause, REPEAT_SECONDS_MAX)
            try:
                datagram = await endpoint.receive(timeout=min(ends_at, repeats_at) - now)
            except TimeoutError:
                continue
            reply = asker.receive(datagram.data, datagram.address)
            answer = None if reply is None else _decoded(kind, reply.body)
            if reply is None or answer is None:
                continue
            yield Answer(answer[0], datagram.address, reply.responder)
            if asker.answers >= most:
                return


def _decoded(kind: type[Request[Any]] | None, body: bytes) -> tuple[Any] | None:
    """The value, in a tuple since it may be None; nothing for what is no answer to this."""
    if kind is None:
        return (body,)
    try:
        return (codec.decode_answer(kind, body),)
    except DecodeError:
        return None
