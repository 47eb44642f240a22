"""Addresses are checked before a socket sees them, and sockets have the options that we promise."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aerogram.errors import InvalidAddress
from aerogram.io import sockets
from aerogram.io.sockets import (
    can_send_runs,
    check_target,
    checked_address,
    checked_socket_address,
    create_udp_socket,
    enable_receive_runs,
    is_loopback,
    is_numeric,
    resolve_numeric,
)
from tests.io.fakes import descriptors

BUFFER_BYTES = 65536
LINUX = sys.platform == "linux"
IPV6 = socket.has_ipv6

GOOD_HOSTS = [
    "127.0.0.1",
    "0.0.0.0",
    "::1",
    "fe80::1%lo",
    "example.com",
    "example.com.",
    "a-b_c.example",
    "xn--bcher-kva.example",
    "bücher.example",
    "a" * 63 + ".example",
]
BAD_HOSTS: list[Any] = [
    "",
    ".",
    "..",
    "a..b",
    ".a",
    " ",
    "a b",
    "a\x00",
    "127.0.0.1\x00",
    "a/b",
    "http://a",
    "user@host",
    "[::1]",
    "host:9",
    "::1%",
    "1.2.3.4%lo",
    "a%lo",
    "<broadcast>",
    "a" * 64,
    "a" * 64 + ".example",
    ".".join(["a" * 50] * 6),
    "\ud800",
    "\udcff.example",
    None,
    7,
    1.5,
    True,
    b"127.0.0.1",
    bytearray(b"a"),
    (),
    ["127.0.0.1"],
    {},
    object(),
]
BAD_PORTS: list[Any] = [-1, 65536, 70000, 1 << 64, 9.0, True, False, None, "9", b"9", [], (9,)]


@pytest.mark.parametrize("host", GOOD_HOSTS)
@pytest.mark.parametrize("port", [1, 9000, 65535])
def test_a_usable_host_and_port_are_returned_as_given(host: str, port: int) -> None:
    assert checked_address(host, port) == (host, port)


@pytest.mark.parametrize("host", BAD_HOSTS, ids=repr)
def test_a_bad_host_raises_one_error(host: object) -> None:
    with pytest.raises(InvalidAddress):
        checked_address(host, 9)


@pytest.mark.parametrize("port", BAD_PORTS, ids=repr)
def test_a_bad_port_raises_one_error(port: object) -> None:
    for to_bind in (False, True):
        with pytest.raises(InvalidAddress):
            checked_address("127.0.0.1", port, to_bind=to_bind)


def test_port_0_is_for_binding_alone() -> None:
    assert checked_address("127.0.0.1", 0, to_bind=True) == ("127.0.0.1", 0)
    assert checked_socket_address(("::1", 0, 0, 0), to_bind=True) == ("::1", 0, 0, 0)
    with pytest.raises(InvalidAddress):
        checked_address("127.0.0.1", 0)
    with pytest.raises(InvalidAddress):
        checked_socket_address(("::1", 0, 0, 0))


BAD_TARGETS: list[Any] = [
    None,
    "127.0.0.1",
    ["127.0.0.1", 9],
    (),
    ("127.0.0.1",),
    ("127.0.0.1", 9, 0),
    ("127.0.0.1", 9, 0, 0),
    ("::1", 9, 0, 0, 0),
    ("::1", 9, -1, 0),
    ("::1", 9, 1 << 20, 0),
    ("::1", 9, 0, 1 << 32),
    ("::1", 9, 0.0, 0),
    ("::1", 9, 0, "lo"),
    ("localhost", 9),
    ("example.com", 9),
    (b"127.0.0.1", 9),
    ("", 9),
    ("<broadcast>", 9),
    ("127.1", 9),
    ("1.2.3.4\x00", 9),
    ("\ud800", 9),
    *(("127.0.0.1", port) for port in BAD_PORTS),
    *((host, 9) for host in BAD_HOSTS),
]


@pytest.mark.parametrize("address", BAD_TARGETS, ids=repr)
def test_a_bad_socket_address_raises_one_error(address: object) -> None:
    with pytest.raises(InvalidAddress):
        checked_socket_address(address)
    for family in (socket.AF_INET, socket.AF_INET6):
        with pytest.raises(InvalidAddress):
            check_target(address, family)


@pytest.mark.parametrize(
    ("address", "family"),
    [
        (("127.0.0.1", 9), socket.AF_INET6),
        (("::1", 9), socket.AF_INET),
        (("::1", 9, 0, 0), socket.AF_INET),
        (("::ffff:127.0.0.1", 9), socket.AF_INET),
    ],
)
def test_a_target_of_the_other_family_is_refused(address: Any, family: int) -> None:
    assert checked_socket_address(address) == address
    with pytest.raises(InvalidAddress):
        check_target(address, family)


def test_a_target_that_a_peer_may_come_from_is_taken() -> None:
    for address in [("127.0.0.1", 9), ("192.0.2.1", 0), ("255.255.255.255", 65535)]:
        check_target(address, socket.AF_INET)
    for ipv6 in [("::1", 9), ("::1", 9, 0, 0), ("fe80::1", 0, (1 << 20) - 1, (1 << 32) - 1)]:
        check_target(ipv6, socket.AF_INET6)


@given(
    host=st.text(max_size=30) | st.ip_addresses().map(str) | st.binary() | st.none(),
    rest=st.lists(st.integers() | st.integers(0, 65535) | st.floats() | st.none(), max_size=4),
)
@example(host="0x7f000001", rest=[9])
@example(host="1", rest=[9])
@example(host="127.0.0.1 ", rest=[9])
def test_what_passes_the_check_never_fails_in_the_socket_module(host: Any, rest: Any) -> None:
    closed = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    closed.close()
    address = (host, *rest)
    try:
        check_target(address, socket.AF_INET6)
    except InvalidAddress:
        return
    with pytest.raises(OSError) as raised:  # noqa: PT011
        closed.sendto(b"x", address)
    assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize("scope", ["\ud800", "\x00", "x" * 100, "é", "no-such-interface", " "])
def test_a_scope_that_is_not_here_is_an_invalid_address(scope: str) -> None:
    assert is_numeric(f"fe80::1%{scope}")
    with pytest.raises(InvalidAddress):
        resolve_numeric(f"fe80::1%{scope}", 9)


@pytest.mark.skipif(not LINUX, reason="the loopback interface has another name")
def test_a_scope_becomes_the_number_of_its_interface() -> None:
    assert resolve_numeric("fe80::1%lo", 9) == ("fe80::1", 9, 0, socket.if_nametoindex("lo"))
    check_target(resolve_numeric("fe80::1%lo", 9), socket.AF_INET6)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_only_numbers_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    "address",
    [("localhost", 0), ("", 0), ("127.0.0.1", 70000), ("127.0.0.1", -1), ("::1", 0, 0, -1), None],
    ids=repr,
)
def test_a_socket_is_not_made_for_a_bad_address(address: Any) -> None:
    before = descriptors()
    with pytest.raises(InvalidAddress):
        create_udp_socket(address, buffer_bytes=BUFFER_BYTES)
    assert descriptors() == before


def test_a_bind_that_fails_closes_its_socket() -> None:
    before = descriptors()
    with pytest.raises(OSError, match="assign"):
        create_udp_socket(("192.0.2.1", 9), buffer_bytes=BUFFER_BYTES)
    assert descriptors() == before


@pytest.mark.skipif(not LINUX, reason="IP_MTU_DISCOVER is Linux's")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_forged_icmp_message_changes_no_packet_size(host: str) -> None:
    probe = 3  # IP_PMTUDISC_PROBE of <linux/in.h>: no fragments, and no belief in "too big"
    with create_udp_socket((host, 0), buffer_bytes=BUFFER_BYTES) as udp:
        assert udp.getsockopt(socket.IPPROTO_IP, 10) == probe
        if ":" in host:
            assert udp.getsockopt(socket.IPPROTO_IPV6, 23) == probe


def test_a_socket_never_blocks_and_its_buffers_are_what_was_asked() -> None:
    with create_udp_socket(("127.0.0.1", 0), buffer_bytes=BUFFER_BYTES) as udp:
        assert not udp.getblocking()
        assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= BUFFER_BYTES
        assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= BUFFER_BYTES


@pytest.mark.skipif(not IPV6, reason="no IPv6")
def test_an_ipv6_socket_carries_ipv4_only_when_asked() -> None:
    for ipv6_only in (True, False):
        with (
            create_udp_socket(("::", 0), buffer_bytes=BUFFER_BYTES, ipv6_only=ipv6_only) as both,
            create_udp_socket(("127.0.0.1", 0), buffer_bytes=BUFFER_BYTES) as ipv4,
        ):
            ipv4.sendto(b"x", ("127.0.0.1", both.getsockname()[1]))
            if ipv6_only:
                with pytest.raises(BlockingIOError):
                    both.recv(10)
            else:
                assert both.recvfrom(10)[1][0] == "::ffff:127.0.0.1"


def test_a_port_is_shared_only_if_all_who_share_it_ask() -> None:
    def bound(port: int, *, reuse_port: bool) -> socket.socket:
        return create_udp_socket(
            ("127.0.0.1", port), buffer_bytes=BUFFER_BYTES, reuse_port=reuse_port
        )

    with bound(0, reuse_port=False) as alone:
        assert alone.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        for reuse_port in (False, True):
            with pytest.raises(OSError, match="in use"):
                bound(alone.getsockname()[1], reuse_port=reuse_port)
    with bound(0, reuse_port=True) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            bound(port, reuse_port=False)
        bound(port, reuse_port=True).close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port))


def test_a_system_that_cannot_share_a_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(OSError, match="share"):
        create_udp_socket(("127.0.0.1", 0), buffer_bytes=BUFFER_BYTES, reuse_port=True)


class OldSystemsSocket(socket.socket):
    def setsockopt(self, *arguments: Any) -> None:
        raise OSError(errno.ENOPROTOOPT, "not here")


def test_what_a_system_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets.socket, "socket", OldSystemsSocket)
    with create_udp_socket(("127.0.0.1", 0), buffer_bytes=BUFFER_BYTES) as udp:
        assert not can_send_runs(udp)
        assert not enable_receive_runs(udp)
    monkeypatch.setattr(sys, "platform", "other")
    with create_udp_socket(("127.0.0.1", 0), buffer_bytes=BUFFER_BYTES) as udp:
        assert not can_send_runs(udp)
        assert not enable_receive_runs(udp)
