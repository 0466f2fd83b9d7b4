"""One connection from each process of a run to the first: a dead one is missed at once, and one message is told.

A process that dies leaves the others waiting for it, in a collective operation, for half an hour. The system closes the
connections of a dead process within milliseconds, so the first process, or the second where the first has died, tells
what has happened, and all of them leave. An error that ends one process, or all of them, is told once in the same way.
"""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("died", "stop", "mistake", "error")
"""Why a run ends before its time; of several reasons at once the first of these is the cause of the others.

Where one process dies, torchrun stops the others; where a run is stopped, each of them says so before it ends.
"""
COLLECT_SECONDS = 0.5  # for the cause to arrive where its effects came first
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 8.0  # for the first process to end a run, after another one has told it why
_LONGEST = 1 << 20  # bytes of a line: of a traceback, or of a stranger


@dataclass(frozen=True)
class Ending:
    """Why a run ends."""

    kind: str  # one of `KINDS`
    message: str  # for people; empty where it has been told
    status: int  # exit status of every process
    rank: int = 0  # the process that it is about

    @classmethod
    def death(cls, rank: int, size: int) -> Ending:
        """Of a process that has gone without a word."""
        what = f"process {rank + 1} of {size} has died (killed? out of memory?)"
        return cls("died", f"error: {what}; what is finished is kept, and the same command goes on from there", 1, rank)


Leave = Callable[[Ending, bool], None]
"""Ends this process at once; the second argument says whether it tells the message."""
Share = Callable[[Any], Any]
"""Gives every process what the first one passes, as a broadcast does."""


def hold_lifeline(rank: int, size: int, host: str, share: Share, leave: Leave, warn: Callable[[str], None]) -> Lifeline:
    """Connect all processes of a run; every one of them has to call this.

    Args:
        rank: Number of this process.
        size: Number of processes.
        host: Address of the first process, at which the others reach it.
        share: Broadcast from the first process.
        leave: Called, in a thread of its own, when the run has to end; does not return.
        warn: Called with a warning of another process, on the first one.
    """
    if rank == 0:
        listener, token = _listen(host), secrets.token_hex(16)
        share(None if listener is None else (host, listener.getsockname()[1], token))
        if listener is None:
            return Lifeline()
        first = _First(size, listener, token, leave, warn)
        first.all_here.wait(CONNECT_SECONDS)
        return first
    place = share(None)
    if place is None:
        return Lifeline()
    try:
        connection = socket.create_connection(tuple(place[:2]), CONNECT_SECONDS)
    except OSError:  # a firewall between machines; torch's own time limits are left
        return Lifeline()
    return _Other(rank, size, connection, str(place[2]), leave)


class Lifeline:
    """Of a process that no other one watches: alone, or where no connection could be made."""

    active = False

    def report(self, ending: Ending) -> None:
        """Tell why this process ends; does not return where processes watch each other."""

    def warn(self, text: str) -> bool:
        """Hand a warning to the first process, which tells it once; False where nobody takes it."""
        return False

    def close(self) -> None:
        """Say that this process has done its part: it is not missed from now on."""


class _Connected(Lifeline):
    active = True

    def __init__(self, leave: Leave) -> None:
        self.leave = leave
        self.closed = False
        os.register_at_fork(after_in_child=self._forget)  # a copy in a worker would outlive a dead process

    def _start(self, watch: Callable[[], None]) -> None:
        threading.Thread(target=watch, name="lifeline", daemon=True).start()

    def _sockets(self) -> list[socket.socket]:
        raise NotImplementedError

    def _forget(self) -> None:
        self.active, self.closed = False, True
        for each in self._sockets():
            each.close()


class _First(_Connected):
    """The first process's end: a thread that waits on all connections."""

    def __init__(
        self, size: int, listener: socket.socket, token: str, leave: Leave, warn: Callable[[str], None]
    ) -> None:
        super().__init__(leave)
        self.size, self.listener, self.token, self.tell_warning = size, listener, token, warn
        self.all_here = threading.Event()
        self.ranks: dict[socket.socket, int] = {}
        self.received: dict[socket.socket, bytes] = {}
        self.notices: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self.woken, self.wakes = socket.socketpair()
        self.selector = selectors.DefaultSelector()
        for each in (listener, self.woken):
            each.setblocking(False)
            self.selector.register(each, selectors.EVENT_READ)
        self._start(self._watch)

    def report(self, ending: Ending) -> None:
        self.notices.put(ending)
        with suppress(OSError):
            self.wakes.send(b"!")
        time.sleep(ANSWER_SECONDS)  # the thread ends this process
        self.leave(ending, True)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._send_all({"bye": True})
            with suppress(OSError):
                self.wakes.send(b"!")

    def _sockets(self) -> list[socket.socket]:
        self.selector.close()
        return [self.listener, self.woken, self.wakes, *self.received]

    def _watch(self) -> None:
        while not self.closed:
            for key, _ in self.selector.select():
                self._take(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
            if not self.notices.empty():
                self._conclude()

    def _conclude(self) -> None:
        """After the first notice, wait for others that may tell its cause; then end everything."""
        until = time.monotonic() + COLLECT_SECONDS
        while (left := until - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                self._take(key.fileobj)  # type: ignore[arg-type]
        found = []
        while not self.notices.empty():
            found.append(self.notices.get())
        if self.closed:
            return
        cause = min(found, key=lambda ending: (KINDS.index(ending.kind), ending.rank))
        self._send_all({"end": cause.status})
        self.leave(cause, True)

    def _take(self, ready: socket.socket) -> None:
        if ready is self.woken:
            with suppress(OSError):
                ready.recv(4096)
            return
        if ready is self.listener:
            with suppress(OSError):
                connection, _ = ready.accept()
                _keep_alive(connection)
                connection.setblocking(False)
                self.received[connection] = b""
                self.selector.register(connection, selectors.EVENT_READ)
            return
        try:
            content = ready.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        *lines, rest = (self.received[ready] + content).split(b"\n")
        self.received[ready] = rest
        kept = bool(content) and len(rest) < _LONGEST and all(self._read(ready, line) for line in lines)
        if not kept:
            self._drop(ready)

    def _drop(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        self.received.pop(connection, None)
        connection.close()
        rank = self.ranks.pop(connection, None)
        if rank is not None and not self.closed:
            self.notices.put(Ending.death(rank, self.size))

    def _read(self, connection: socket.socket, line: bytes) -> bool:
        """Act on a line; False where the connection is to be closed."""
        try:
            content = json.loads(line)
        except ValueError:
            return False
        if connection not in self.ranks:
            if not isinstance(content, dict) or not secrets.compare_digest(str(content.get("token")), self.token):
                return False  # a stranger
            self.ranks[connection] = int(content["rank"])
            if len(self.ranks) == self.size - 1:
                self.all_here.set()
        elif "bye" in content:
            self.ranks.pop(connection)
            return False
        elif "warning" in content:
            self.tell_warning(str(content["warning"]))
        else:
            self.notices.put(Ending(**content))
        return True

    def _send_all(self, content: dict[str, Any]) -> None:
        for connection in list(self.ranks):
            _send(connection, content)


class _Other(_Connected):
    """Another process's end: a thread that waits for the first one's word, or for its death."""

    def __init__(self, rank: int, size: int, connection: socket.socket, token: str, leave: Leave) -> None:
        super().__init__(leave)
        self.rank, self.size, self.connection = rank, size, connection
        connection.settimeout(None)
        _keep_alive(connection)
        _send(connection, {"token": token, "rank": rank})
        self._start(self._watch)

    def report(self, ending: Ending) -> None:
        _send(self.connection, asdict(ending) | {"rank": self.rank})
        time.sleep(ANSWER_SECONDS)
        self.leave(ending, True)  # the first one does not answer

    def warn(self, text: str) -> bool:
        return not self.closed and _send(self.connection, {"warning": text})

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            _send(self.connection, {"bye": True})

    def _sockets(self) -> list[socket.socket]:
        return [self.connection]

    def _watch(self) -> None:
        received = b""
        while not self.closed:
            try:
                content = self.connection.recv(65536)
            except OSError:
                content = b""
            received += content
            *lines, received = received.split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "bye" in said:
                    self.closed = True
                elif not self.closed:
                    self.leave(Ending("error", "", int(said["end"])), False)
            if not content and not self.closed:
                self.leave(Ending.death(0, self.size), self.rank == 1)  # one of those that are left tells it
                return


def _listen(host: str) -> socket.socket | None:
    """A listener at the address that the other processes know; None where this machine does not have it.

    Where a machine's name means itself alone, here and not elsewhere, the listener is at all of its addresses.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        place = str(address[0])
        named = ipaddress.ip_address(place.partition("%")[0]).is_loopback and host not in ("localhost", place)
        return socket.create_server(("" if named else place, 0), family=family, backlog=1024)
    except OSError:
        return None


def _send(connection: socket.socket, content: dict[str, Any]) -> bool:
    try:
        connection.sendall(json.dumps(content).encode() + b"\n")
    except OSError:
        return False
    return True


def _keep_alive(connection: socket.socket) -> None:
    """Miss a machine that has lost its power or its network within half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
