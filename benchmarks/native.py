"""The floor and the load of the datagram benchmarks, in C: compiled with `cc` where there is one.

`flood` sends from many sockets or one; `drain` receives with recvmmsg as tightly as C can;
`fanout` sends one datagram to each of many addresses. They obey lines on their standard input and
answer with lines, so that Python and C are told to start at the same moment.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

_HEAD = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
static double clock_of(clockid_t id) {
    struct timespec t; clock_gettime(id, &t); return t.tv_sec + t.tv_nsec * 1e-9;
}
static double now(void) { return clock_of(CLOCK_MONOTONIC); }
static struct sockaddr_in at(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &a.sin_addr); return a;
}
"""

_FLOOD = r"""
/* flood PORT SENDERS BYTES SEGMENTS; then lines "fill N" or "flood SECONDS", answered with what
   was sent. SEGMENTS > 1 sends runs of so many datagrams (UDP_SEGMENT). */
int main(int c, char **v) {
    int port = atoi(v[1]), senders = atoi(v[2]), size = atoi(v[3]), segments = atoi(v[4]);
    struct sockaddr_in to = at("127.0.0.1", port);
    int *fd = malloc(senders * sizeof *fd);
    for (int i = 0; i < senders; i++) {
        fd[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd[i] < 0 || connect(fd[i], (void *)&to, sizeof to)) { perror("flood"); return 1; }
        if (segments > 1) setsockopt(fd[i], 17, 103, &size, sizeof size);
    }
    char *data = calloc(segments, size), line[64];
    for (int i = 0; i < size * segments; i++) data[i] = i;
    puts("ready"); fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        int timed = line[1] == 'l';
        double value = atof(strchr(line, ' ')), until = now() + value;
        long sent = 0, turn = 0;
        while (timed ? (turn % 64 || now() < until) : sent < value) {
            if (send(fd[turn++ % senders], data, size * segments, 0) > 0) sent += segments;
        }
        printf("%ld\n", sent); fflush(stdout);
    }
}
"""

_DRAIN = r"""
/* drain: prints its port; then lines "read N" (reads N) or "idle" (reads until nothing came for
   0.3 s); answered with what was read, the seconds it took and those of processor time. */
#define N 64
static char data[N][2048];
int main(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    struct sockaddr_in a = at("127.0.0.1", 0); socklen_t size = sizeof a;
    bind(fd, (void *)&a, size); getsockname(fd, (void *)&a, &size);
    printf("%d\n", ntohs(a.sin_port)); fflush(stdout);
    static struct mmsghdr head[N]; static struct iovec part[N]; static struct sockaddr_in from[N];
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        long wanted = line[0] == 'r' ? atol(line + 5) : 0, got = 0;
        double began = now(), last = began, busy = clock_of(CLOCK_PROCESS_CPUTIME_ID);
        struct pollfd waiting = {.fd = fd, .events = POLLIN};
        while (!wanted || got < wanted) {
            for (int i = 0; i < N; i++) {
                part[i] = (struct iovec){data[i], sizeof data[i]};
                head[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
                    .msg_namelen = sizeof from[i], .msg_iov = &part[i], .msg_iovlen = 1};
            }
            int count = recvmmsg(fd, head, N, MSG_DONTWAIT, NULL);
            if (count > 0) { if (!got) began = now(); got += count; last = now(); continue; }
            if (poll(&waiting, 1, got || wanted ? 300 : 10000) <= 0) break;
        }
        busy = clock_of(CLOCK_PROCESS_CPUTIME_ID) - busy;
        printf("%ld %.9f %.9f\n", got, last - began, busy); fflush(stdout);
    }
}
"""

_FANOUT = r"""
/* fanout PORT COUNT BYTES; then lines "go": sends once to each of COUNT addresses 127.x.y.z and
   answers with what was sent and the seconds of processor time. */
int main(int c, char **v) {
    int port = atoi(v[1]), count = atoi(v[2]), size = atoi(v[3]);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in *to = malloc(count * sizeof *to);
    for (int i = 0; i < count; i++) {
        char host[20];
        int second = 1 + i / 62500, third = i / 250 % 250, fourth = 1 + i % 250;
        snprintf(host, sizeof host, "127.%d.%d.%d", second, third, fourth);
        to[i] = at(host, port);
    }
    char *data = calloc(1, size), line[64];
    puts("ready"); fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long sent = 0; double busy = clock_of(CLOCK_PROCESS_CPUTIME_ID);
        for (int i = 0; i < count; i++)
            sent += sendto(fd, data, size, 0, (void *)&to[i], sizeof to[i]) == size;
        busy = clock_of(CLOCK_PROCESS_CPUTIME_ID) - busy;
        printf("%ld %.9f\n", sent, busy); fflush(stdout);
    }
}
"""

_SOURCES = {"flood": _FLOOD, "drain": _DRAIN, "fanout": _FANOUT}


class NotAvailable(Exception):
    """There is no C compiler, or it does not like the program."""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="aerogram-benchmarks-")


@functools.cache
def compiled(name: str) -> Path:
    """The program, compiled once. Raises `NotAvailable`."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotAvailable("no C compiler")
    program = Path(_folder().name) / name
    source = program.with_suffix(".c")
    source.write_text(_HEAD + _SOURCES[name])
    command = [compiler, "-O2", "-w", "-o", str(program), str(source)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise NotAvailable(finished.stderr.strip()[:200])
    return program


class Program:
    """A running program that is told lines and answers with lines. Leaving the block ends it."""

    def __init__(
        self,
        name: str,
        *arguments: object,
        core: int | None = None,
        replacement: str | None = None,
    ) -> None:
        """Start it, or the Python module `replacement` where there is no C compiler."""
        try:
            command = [str(compiled(name))]
        except NotAvailable:
            if replacement is None:
                raise
            command = [sys.executable, "-m", replacement]
        command += map(str, arguments)
        if core is not None and shutil.which("taskset"):
            command = ["taskset", "-c", str(core), *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def hear(self) -> list[str]:
        """The words of the next line. Waits for it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotAvailable("the program has ended")
        return line.split()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
