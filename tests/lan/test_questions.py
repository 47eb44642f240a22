"""One question to a group, and the answers of all."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from aerogram import Message, Request, lan
from aerogram.errors import DecodeError, InvalidMessage, MessageTooLarge
from aerogram.io.sockets import Address
from aerogram.lab import Link, Network
from aerogram.lan import questions
from aerogram.lan.questions import (
    ANSWER_BYTES_LIMIT,
    QUESTION_BYTES_LIMIT,
    Asker,
    Heard,
    Question,
    Reply,
    Responder,
)

GROUP, PORT = "239.9.9.9", 7000
ASKER: Address = ("10.0.0.9", 4000)


class Found(Message, tag=1):
    port: int


class Who(Request[Found], tag=2):
    name: str


async def answering(
    stack: AsyncExitStack, network: Network, count: int, **how: Any
) -> list[lan.answer]:
    """Responders that answer with their number, or all with the same."""
    made: list[lan.answer] = []
    for number in range(count):

        async def handler(question: bytes, asker: Address, number: int = number) -> bytes:
            return b"same" if "suppress" in how else b"%d" % number

        answer = lan.answer(GROUP, PORT, handler, network=network, **how)
        made.append(await stack.enter_async_context(answer))
    return made


@pytest.mark.aerogram
async def test_all_answer_once_and_are_shown_once(network: Network) -> None:
    network.default = Link(delay=0.01, loss=0.2, duplicate=0.1)
    async with AsyncExitStack() as stack:
        responders = await answering(stack, network, 30)
        asked = lan.ask(GROUP, PORT, b"who?", deadline=20.0, network=network)
        answers = [answer async for answer in asked]
        assert sorted(int(answer.value) for answer in answers) == [*range(30)]
        assert len({answer.address for answer in answers}) == 30
        assert [responder.stats.questions for responder in responders] == [1] * 30


@pytest.mark.aerogram
async def test_answers_come_spread_and_the_iteration_ends_at_the_deadline(network: Network) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        await answering(stack, network, 20, max_delay=0.1)
        started = loop.time()
        asked = lan.ask(GROUP, PORT, b"who?", deadline=1.5, network=network)
        times = [loop.time() - started async for _ in asked]
        assert loop.time() - started == pytest.approx(1.5)
        assert len(set(times)) == 20
        assert max(times) <= 0.1
        assert max(times) - min(times) > 0.05


@pytest.mark.aerogram
async def test_equal_answers_are_kept_back(network: Network) -> None:
    network.default = Link(delay=0.001)
    async with AsyncExitStack() as stack:
        responders = await answering(stack, network, 40, suppress=2)
        asked = lan.ask(GROUP, PORT, b"who?", network=network)
        answers = [answer async for answer in asked]
        assert 2 <= len(answers) <= 6
        kept_back = sum(responder.stats.kept_back for responder in responders)
        assert kept_back == 40 - len(answers)


@pytest.mark.aerogram
async def test_other_answers_are_not_kept_back(network: Network) -> None:
    async with AsyncExitStack() as stack:
        for value in (b"a", b"b", b"c"):

            async def handler(question: bytes, asker: Address, value: bytes = value) -> bytes:
                return value

            answer = lan.answer(GROUP, PORT, handler, network=network, suppress=1)
            await stack.enter_async_context(answer)
        asked = lan.ask(GROUP, PORT, b"?", network=network)
        assert sorted([answer.value async for answer in asked]) == [b"a", b"b", b"c"]


@pytest.mark.aerogram
async def test_typed_questions_have_typed_answers(network: Network) -> None:
    async def typed(question: Who, asker: Address) -> Found | None:
        return Found(len(question.name)) if question.name != "nobody" else None

    async def plain(question: bytes, asker: Address) -> bytes:
        return b"\x05not a Found"

    async with (
        lan.answer(GROUP, PORT, typed, kind=Who, network=network) as responder,
        lan.answer(GROUP, PORT, plain, network=network),
    ):
        found = [a.value async for a in lan.ask(GROUP, PORT, Who("ada"), network=network)]
        assert found == [Found(3)]
        assert [a async for a in lan.ask(GROUP, PORT, Who("nobody"), network=network)] == []
        assert [a.value async for a in lan.ask(GROUP, PORT, b"raw", network=network)] == [
            b"\x05not a Found"
        ]
        assert responder.stats.unanswered == 2
        assert responder.stats.dropped_malformed == 1


@pytest.mark.aerogram
async def test_a_handler_that_fails_is_silent_and_logged_rarely(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(question: bytes, asker: Address) -> bytes:
        raise RuntimeError("no")

    async def large(question: bytes, asker: Address) -> bytes:
        return bytes(ANSWER_BYTES_LIMIT + 1)

    async with (
        lan.answer(GROUP, PORT, broken, network=network) as failing,
        lan.answer(GROUP, PORT, large, network=network) as too_large,
    ):
        with caplog.at_level(logging.ERROR):
            for _ in range(5):
                asked = lan.ask(GROUP, PORT, b"?", deadline=0.1, network=network)
                assert [a async for a in asked] == []
        assert failing.stats.handler_errors == 5
        assert too_large.stats.too_large == 5
        assert len(caplog.records) == 1


@pytest.mark.aerogram
async def test_a_slow_handler_is_cancelled_with_its_context(network: Network) -> None:
    async def slow(question: bytes, asker: Address) -> bytes:
        await asyncio.sleep(100)
        return b"late"

    async with lan.answer(GROUP, PORT, slow, network=network) as responder:
        asked = lan.ask(GROUP, PORT, b"?", deadline=0.1, network=network)
        assert [a async for a in asked] == []
        assert responder.stats.questions == 1


@pytest.mark.aerogram
async def test_a_few_answers_may_be_enough(network: Network) -> None:
    async with AsyncExitStack() as stack:
        await answering(stack, network, 10)
        asked = lan.ask(GROUP, PORT, b"?", limit=3, network=network)
        assert len([a async for a in asked]) == 3
        async with aclosing(lan.ask(GROUP, PORT, b"?", network=network)) as asked:
            async for _ in asked:
                break


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ((GROUP, PORT, object()), InvalidMessage),
        ((GROUP, PORT, bytes(QUESTION_BYTES_LIMIT + 1)), MessageTooLarge),
        (("10.0.0.1", PORT, b"?"), ValueError),
        ((GROUP, 70000, b"?"), ValueError),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(
    wrong: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        lan.ask(*wrong)
    for deadline in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="deadline"):
            lan.ask(GROUP, PORT, b"?", deadline=deadline)
    for delay in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_delay"):
            lan.answer(GROUP, PORT, silent, max_delay=delay)
    with pytest.raises(ValueError, match="suppress"):
        lan.answer(GROUP, PORT, silent, suppress=0)


async def silent(question: bytes, asker: Address) -> bytes | None:
    return None


# The planners


def test_datagrams_go_and_come() -> None:
    question = Question(b"12345678", 0.25, [b"r" * 8, b"s" * 8], b"what?")
    assert questions.decode_untrusted(questions.encode_question(question)) == question
    reply = Reply(b"12345678", b"r" * 8, b"this")
    assert questions.decode_untrusted(questions.encode_reply(reply)) == reply
    heard = Heard(b"12345678", b"d" * 8)
    assert questions.decode_untrusted(questions.encode_heard(heard)) == heard


def test_hostile_datagrams_raise_one_error() -> None:
    chance = random.Random(3)
    whole = questions.encode_question(Question(b"12345678", 1.0, [b"r" * 8], b"what?"))
    for _ in range(3000):
        broken = bytearray(whole[: chance.randrange(len(whole) + 1)])
        if broken:
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            questions.decode_untrusted(bytes(broken))
        except DecodeError:
            continue


def test_a_repeated_question_names_the_responders_that_were_heard() -> None:
    asker = Asker(b"12345678", bytes(QUESTION_BYTES_LIMIT - 20))
    for number in range(5):
        reply = questions.encode_reply(Reply(b"12345678", b"%08d" % number, b"x"))
        assert asker.receive(reply, ASKER) is not None
        assert asker.receive(reply, ASKER) is None
        assert asker.receive(reply, ("10.0.0.8", 1)) is not None
    datagram = asker.question(1.0)
    assert len(datagram) <= 1200
    question = questions.decode_untrusted(datagram)
    assert isinstance(question, Question)
    assert question.known == [b"00000004", b"00000004"]
    assert asker.receive(b"junk", ASKER) is None
    assert asker.receive(questions.encode_reply(Reply(b"other   ", b"r" * 8, b"")), ASKER) is None


def ask(responder: Responder, *known: bytes, identity: bytes = b"12345678") -> Question | None:
    datagram = questions.encode_question(Question(identity, 1.0, known, b"?"))
    return responder.receive(datagram, ASKER, 0.0, 0.5)


def made(suppress: int | None = None) -> Responder:
    return Responder(b"responde", suppress=suppress, max_delay=0.1, now=0.0)


def test_a_repeated_question_is_answered_again_unless_the_answer_was_heard() -> None:
    responder = made()
    question = ask(responder)
    assert question is not None
    assert ask(responder) is None
    responder.answered(ASKER, question, b"this")
    assert responder.poll_timeout() == pytest.approx(0.05)
    assert responder.poll(0.04) == []
    assert len(responder.poll(0.05)) == 1
    assert responder.poll_timeout() is None
    assert ask(responder, b"responde") is None
    assert responder.poll(1.0) == []
    assert ask(responder, b"others  ") is None
    [(again, address)] = responder.poll(1.0)
    assert address == ASKER
    assert questions.decode_untrusted(again) == Reply(b"12345678", b"responde", b"this")
    assert responder.stats.questions == 1


def test_an_answer_that_was_kept_back_comes_if_the_asker_lacks_it_all() -> None:
    responder = made(suppress=1)
    question = ask(responder)
    assert question is not None
    responder.answered(ASKER, question, b"this")
    [_, (notice, address)] = made_notice = responder.poll(0.05)
    assert address is None
    assert len(made_notice) == 2
    other = made(suppress=1)
    assert ask(other) is not None
    other.answered(ASKER, question, b"this")
    other.receive(notice, ASKER, 0.0, 0.0)
    assert other.poll(0.05) == []
    assert other.stats.kept_back == 1
    ask(other, b"responde")
    assert other.poll_timeout() is None
    ask(other)
    assert len(other.poll(1.0)) == 2


def test_an_answer_waits_no_longer_than_the_question_allows() -> None:
    responder = made()
    datagram = questions.encode_question(Question(b"12345678", 0.02, [], b"?"))
    question = responder.receive(datagram, ASKER, 0.0, 1.0)
    assert question is not None
    responder.answered(ASKER, question, b"this")
    assert responder.poll_timeout() == pytest.approx(0.01)


def test_questions_that_wait_and_those_remembered_are_bounded() -> None:
    responder = made()
    for number in range(100):
        ask(responder, identity=b"%08d" % number)
    assert responder.stats.questions == questions.PENDING_LIMIT
    assert responder.stats.dropped_at_limit == 100 - questions.PENDING_LIMIT
    quiet = made()
    for number in range(1000):
        question = ask(quiet, identity=b"%08d" % number)
        assert question is not None
        quiet.answered(ASKER, question, None)
    assert len(quiet._asked) == questions.QUESTIONS_LIMIT


def test_answers_are_capped_since_the_asker_may_be_forged() -> None:
    responder = made()
    for number in range(500):
        question = ask(responder, identity=b"%08d" % number)
        assert question is not None
        responder.answered(ASKER, question, b"this")
        responder.poll(0.5)
    assert responder.stats.answers_sent == questions.ANSWERS_PER_SECOND
    assert responder.stats.dropped_at_limit == 500 - questions.ANSWERS_PER_SECOND
