"""Questions to a group: the datagrams, and when to ask again, answer, or keep back an answer.

    QUESTION  "Aq" version(1) 1(1) identity(8) milliseconds(4) count(1) responder(8)... question
    ANSWER    "Aq" version(1) 2(1) identity(8) responder(8) answer
    HEARD     "Aq" version(1) 3(1) identity(8) digest(8)

A question goes to the group, answers to the asker alone. It is repeated with the responders that
were heard already, which then do not answer again. Each responder waits a random time, within what
the question allows. One that may keep back its answer tells the group the digest of what it sent;
when enough others have sent the same, it sends none.

Rules: pure planners: datagrams, the time and random numbers are arguments. Nothing here is sealed:
who hears the group can answer, and can make a responder keep back its answer.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aerogram.config import SMALLEST_DATAGRAM_BYTES
from aerogram.errors import DecodeError
from aerogram.io.sockets import Address
from aerogram.lan.stream.timing import TokenBucket

MAGIC: Final = b"Aq"
VERSION: Final = 1
IDENTITY_BYTES: Final = 8
"""Random: of a question, and of a responder."""

_QUESTION: Final = 1
_ANSWER: Final = 2
_HEARD: Final = 3
_HEAD: Final = struct.Struct(f">2sBB{IDENTITY_BYTES}s")
_ASKED: Final = struct.Struct(">IB")

KNOWN_LIMIT: Final = 64
"""Responders named in a repeated question: the ones heard last."""
QUESTION_BYTES_LIMIT: Final = SMALLEST_DATAGRAM_BYTES - _HEAD.size - _ASKED.size
ANSWER_BYTES_LIMIT: Final = SMALLEST_DATAGRAM_BYTES - _HEAD.size - IDENTITY_BYTES

QUESTIONS_LIMIT: Final = 256
"""Questions that a responder remembers, so that none is handled twice."""
PENDING_LIMIT: Final = 64
"""Questions that wait for a handler or for their time; further ones are not answered."""
ANSWERS_PER_SECOND: Final = 100.0
"""A responder sends no more: the address of a question may be forged."""
WAIT_SHARE: Final = 0.5
"""Of the time that a question allows, a responder waits for this much at most."""


class Question(NamedTuple):
    """What somebody wants to know of a group."""

    identity: bytes
    within: float
    """Seconds that the asker waits for answers."""
    known: Sequence[bytes]
    """Responders that need not answer again."""
    body: bytes


class Reply(NamedTuple):
    """One answer."""

    identity: bytes
    """Of the question."""
    responder: bytes
    body: bytes


class Heard(NamedTuple):
    """A responder has sent an answer with this digest."""

    identity: bytes
    digest: bytes


def encode_question(question: Question) -> bytes:
    """The datagram of a question; of the known responders as many as fit, the last ones."""
    room = (QUESTION_BYTES_LIMIT - len(question.body)) // IDENTITY_BYTES
    count = min(len(question.known), KNOWN_LIMIT, max(room, 0))
    milliseconds = min(max(round(question.within * 1e3), 0), 0xFFFF_FFFF)
    return b"".join(
        [
            _HEAD.pack(MAGIC, VERSION, _QUESTION, question.identity),
            _ASKED.pack(milliseconds, count),
            *question.known[len(question.known) - count :],
            question.body,
        ]
    )


def encode_reply(reply: Reply) -> bytes:
    """The datagram of an answer."""
    return _HEAD.pack(MAGIC, VERSION, _ANSWER, reply.identity) + reply.responder + reply.body


def encode_heard(heard: Heard) -> bytes:
    """The datagram that lets others keep back the same answer."""
    return _HEAD.pack(MAGIC, VERSION, _HEARD, heard.identity) + heard.digest


def decode_untrusted(datagram: bytes) -> Question | Reply | Heard:
    """What a datagram is. Raises `DecodeError`."""
    if len(datagram) < _HEAD.size:
        raise DecodeError("no question and no answer")
    magic, version, kind, identity = _HEAD.unpack_from(datagram)
    if magic != MAGIC or version != VERSION:
        raise DecodeError("no question and no answer of this version")
    rest = datagram[_HEAD.size :]
    if kind == _QUESTION:
        return _decode_question(identity, rest)
    if kind == _ANSWER and len(rest) >= IDENTITY_BYTES:
        return Reply(identity, rest[:IDENTITY_BYTES], rest[IDENTITY_BYTES:])
    if kind == _HEARD and len(rest) == IDENTITY_BYTES:
        return Heard(identity, rest)
    raise DecodeError("no question and no answer")


def _decode_question(identity: bytes, rest: bytes) -> Question:
    if len(rest) < _ASKED.size:
        raise DecodeError("a question is cut off")
    milliseconds, count = _ASKED.unpack_from(rest)
    end = _ASKED.size + count * IDENTITY_BYTES
    if count > KNOWN_LIMIT or len(rest) < end:
        raise DecodeError("a question is cut off")
    known = [rest[at : at + IDENTITY_BYTES] for at in range(_ASKED.size, end, IDENTITY_BYTES)]
    return Question(identity, milliseconds / 1e3, known, rest[end:])


class Asker:
    """One question, and who has answered it."""

    def __init__(self, identity: bytes, body: bytes) -> None:
        self._identity = identity
        self._body = body
        self._answered: dict[tuple[Address, bytes], None] = {}

    @property
    def answers(self) -> int:
        """How many have answered."""
        return len(self._answered)

    def question(self, within: float) -> bytes:
        """The datagram to send, or to send again, to the group."""
        known = [responder for _, responder in self._answered]
        return encode_question(Question(self._identity, within, known, self._body))

    def receive(self, datagram: bytes, address: Address) -> Reply | None:
        """The answer in a datagram; None if it is none, or came before from there."""
        try:
            reply = decode_untrusted(datagram)
        except DecodeError:
            return None
        if not isinstance(reply, Reply) or reply.identity != self._identity:
            return None
        source = (address, reply.responder)
        if source in self._answered:
            return None
        self._answered[source] = None
        return reply


@dataclass(slots=True)
class AnswerStats:
    """What a responder has counted."""

    questions: int = 0
    """Handed to the handler, each once."""
    answers_sent: int = 0
    """Answers to repeated questions included."""
    kept_back: int = 0
    """Answers not sent, since enough others had sent the same."""
    unanswered: int = 0
    """Questions for which there was nothing to send: failed handlers and large answers, too."""
    handler_errors: int = 0
    too_large: int = 0
    """Answers larger than `ANSWER_BYTES_LIMIT`, which were not sent."""
    dropped_at_limit: int = 0
    """Questions beyond `PENDING_LIMIT`, and answers beyond `ANSWERS_PER_SECOND`."""
    dropped_malformed: int = 0
    """Datagrams that are none of these, or questions that the handler's type cannot be."""


Key = tuple[Address, bytes]
"""Who asked, and the identity of the question."""


class _Asked:
    """A question that came, and what has become of it."""

    __slots__ = ("body", "digest", "due", "heard", "is_pending")

    def __init__(self, due: float) -> None:
        self.due = due
        self.is_pending = True
        """The handler has not answered yet, or the answer waits for its time."""
        self.body: bytes | None = None
        self.digest = b""
        self.heard: list[bytes] = []
        """Digests of what others have answered."""


class Responder:
    """Answers questions, each after a random time.

    `receive` returns what to ask the handler, `answered` takes its answer, `poll` returns what to
    send. `suppress` is how many equal answers of others make this one superfluous.
    """

    def __init__(
        self, identity: bytes, *, suppress: int | None, max_delay: float, now: float
    ) -> None:
        self.stats = AnswerStats()
        self._identity = identity
        self._suppress = suppress
        self._max_delay = max_delay
        self._asked: OrderedDict[Key, _Asked] = OrderedDict()
        self._bucket = TokenBucket(ANSWERS_PER_SECOND, ANSWERS_PER_SECOND, now)

    def receive(
        self, datagram: bytes, address: Address, now: float, uniform: float
    ) -> Question | None:
        """Take a datagram; return a question that the handler has not seen yet."""
        try:
            received = decode_untrusted(datagram)
        except DecodeError:
            self.stats.dropped_malformed += 1
            return None
        if isinstance(received, Heard):
            self._heard(received)
        elif isinstance(received, Question):
            delay = uniform * min(self._max_delay, WAIT_SHARE * received.within)
            return self._new_question(received, address, now + delay)
        return None

    def _new_question(self, question: Question, address: Address, due: float) -> Question | None:
        key = (address, question.identity)
        asked = self._asked.get(key)
        if asked is not None:
            self._asked_again(asked, question, due)
            return None
        if sum(each.is_pending for each in self._asked.values()) >= PENDING_LIMIT:
            self.stats.dropped_at_limit += 1
            return None
        self._asked[key] = _Asked(due)
        if len(self._asked) > QUESTIONS_LIMIT:
            self._forget_one()
        self.stats.questions += 1
        return question

    def _asked_again(self, asked: _Asked, question: Question, due: float) -> None:
        """Answer again if the asker lacks the answer: this one, or enough equal ones of others."""
        if asked.is_pending or asked.body is None or self._identity in question.known:
            return
        if self._is_superfluous(asked):
            if self._suppress is None or len(question.known) >= self._suppress:
                return
            asked.heard.clear()
        asked.due = due
        asked.is_pending = True

    def _forget_one(self) -> None:
        for key, asked in self._asked.items():
            if not asked.is_pending:
                del self._asked[key]
                return

    def _heard(self, heard: Heard) -> None:
        for (_, identity), asked in self._asked.items():
            if identity == heard.identity and len(asked.heard) < PENDING_LIMIT:
                asked.heard.append(heard.digest)

    def answered(self, address: Address, question: Question, body: bytes | None) -> None:
        """The handler's answer, or None for silence."""
        asked = self._asked.get((address, question.identity))
        if asked is None:
            return
        if body is not None and len(body) > ANSWER_BYTES_LIMIT:
            self.stats.too_large += 1
            body = None
        if body is None:
            self.stats.unanswered += 1
            asked.is_pending = False
            return
        asked.body = body
        asked.digest = hashlib.blake2s(body, digest_size=IDENTITY_BYTES).digest()

    def poll(self, now: float) -> list[tuple[bytes, Address | None]]:
        """What to send now, and to whom; None is the group."""
        sent: list[tuple[bytes, Address | None]] = []
        for (address, identity), asked in self._asked.items():
            if not asked.is_pending or asked.body is None or now < asked.due:
                continue
            asked.is_pending = False
            if self._is_superfluous(asked):
                self.stats.kept_back += 1
                continue
            if not self._bucket.take(1.0, now):
                self.stats.dropped_at_limit += 1
                continue
            self.stats.answers_sent += 1
            sent.append((encode_reply(Reply(identity, self._identity, asked.body)), address))
            if self._suppress is not None:
                sent.append((encode_heard(Heard(identity, asked.digest)), None))
        return sent

    def _is_superfluous(self, asked: _Asked) -> bool:
        return self._suppress is not None and asked.heard.count(asked.digest) >= self._suppress

    def poll_timeout(self) -> float | None:
        """When to call `poll`; None if nothing waits for its time."""
        return min(
            (a.due for a in self._asked.values() if a.is_pending and a.body is not None),
            default=None,
        )
