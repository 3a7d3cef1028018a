"""A connection of a client, forwarded to a connection of its own to the upstream server, with the mode in between.

It never holds more than `HELD_BYTES` for each direction, or one frame: beyond that it stops reading, as a slow peer
would. It runs on one thread, which never waits but for sockets and timers.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import struct
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, TextIO

from faults.frames import Protocol

if TYPE_CHECKING:
    from faults.mode import Mode

READ_BYTES = 64 * 1024
HELD_BYTES = 1024 * 1024
# An upstream server on this machine answers a connect at once, or its queue is full.
CONNECT_SECONDS = 1
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Closing with this sends RST instead of FIN.
LINGER_ZERO = struct.pack("ii", 1, 0)


def address_of(text: str) -> tuple[int, str | tuple[str, int]]:
    """The family and the address of `/a/path`, or of `127.0.0.1:6379`."""
    if text.startswith("/"):
        return socket.AF_UNIX, text
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{text!r} is no address; write host:port, or the path of a unix socket from / on")
    return socket.AF_INET, (host, int(port))


class Loop:
    """Waits for sockets and timers, and calls."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._turns = itertools.count()

    def watch(self, source: socket.socket | TextIO, events: int, ready: Callable[[int], None]) -> None:
        """Calls `ready` from now on whenever one of these events has come; with no events, no more."""
        if source.fileno() not in self._selector.get_map():
            if events:
                self._selector.register(source, events, ready)
        elif events:
            self._selector.modify(source, events, ready)
        else:
            self._selector.unregister(source)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._turns), call))

    def run(self) -> None:
        """Until an exception; a handler of signals raises one."""
        timers = self._timers
        while True:
            wait = None
            if timers:
                wait = max(0.0, timers[0][0] - time.monotonic())
            for key, events in self._selector.select(wait):
                key.data(events)
            while timers and timers[0][0] <= time.monotonic():
                heapq.heappop(timers)[2]()


class End:
    """One socket of a link, and what could not be written to it yet."""

    def __init__(self, link: Link, connection: socket.socket, receive: Callable[[bytes], None]) -> None:
        self.link = link
        self.connection = connection
        self.backlog = bytearray()
        self.is_closing = False
        self.has_ended = False
        self._receive = receive
        self._events = 0
        connection.setblocking(False)
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def expect(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self.link.loop.watch(self.connection, events, self.ready)

    def ready(self, events: int) -> None:
        if events & WRITE and not self.link.is_over:
            self._write_on()
        if events & READ and not self.link.is_over:
            try:
                data = self.connection.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if data:
                self._receive(data)
            else:
                self.link.ended(self)

    def write(self, data: bytes | memoryview) -> None:
        """Sends what the socket takes, and the rest as soon as it takes more."""
        if self.link.is_over or self.is_closing or self.has_ended:
            return
        if not self.backlog:
            try:
                sent = self.connection.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.link.close()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self.backlog += data
        self.link.balance()

    def close_when_written(self) -> None:
        """Ends the link once all that was written is on its way."""
        self.is_closing = True
        if not self.backlog:
            self.link.close()

    def _write_on(self) -> None:
        try:
            sent = self.connection.send(self.backlog)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.link.close()
            return
        del self.backlog[:sent]
        if not self.backlog and self.is_closing:
            self.link.close()
        else:
            self.link.balance()

    def close(self) -> None:
        self.expect(0)
        # What lies there unread would turn the close into a reset, which may overtake what was sent.
        with contextlib.suppress(OSError):
            self.connection.recv(READ_BYTES)
        self.connection.close()

    def reset(self) -> None:
        """RST for TCP; a unix socket knows only a close."""
        self.expect(0)
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self.connection.close()


class Link:
    """A client's connection and the one to the server that was opened for it."""

    def __init__(
        self,
        loop: Loop,
        number: int,
        client: socket.socket,
        protocol: Protocol,
        closed: Callable[[Link], None],
    ) -> None:
        self.loop = loop
        self.number = number
        self.protocol = protocol
        self.requests = protocol.requests()
        self.replies = protocol.replies()
        self.is_over = False
        self.faulted = 0
        self.mode: Mode
        self.client = End(self, client, self._requested)
        self.server: End | None = None
        self._closed = closed

    def connect(self, upstream: str) -> None:
        """Opens the connection to the server; where that fails, the client's is reset."""
        family, address = address_of(upstream)
        connection = socket.socket(family)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(address)
        except OSError:
            connection.close()
            self.reset()
            return
        self.server = End(self, connection, self._replied)

    def obey(self, mode: Mode, random: Random) -> None:
        """Goes on in another mode; the one before hands out what it held back."""
        if hasattr(self, "mode"):
            self.mode.release()
        if not self.is_over:
            self.mode = mode
            mode.attach(self, random)
        if not self.is_over:
            self.balance()

    def _requested(self, data: bytes) -> None:
        self.mode.request(data)
        self.requests.feed(data)

    def _replied(self, data: bytes) -> None:
        self.mode.reply(data)

    def balance(self) -> None:
        """Reads from each end only while there is room for what it says."""
        if self.is_over:
            return
        client, server = self.client, self.server
        is_full = server is not None and len(server.backlog) >= HELD_BYTES
        client.expect((0 if is_full else READ) | (WRITE if client.backlog else 0))
        if server is not None and not server.has_ended:
            is_full = len(client.backlog) + self.mode.held_bytes() >= HELD_BYTES
            server.expect((0 if is_full else READ) | (WRITE if server.backlog else 0))

    def ended(self, end: End) -> None:
        """A peer has closed, or was lost."""
        if end is self.client:
            self.close()
            return
        end.has_ended = True
        end.expect(0)
        self.mode.server_ended()

    def close(self) -> None:
        self._leave(End.close)

    def reset(self) -> None:
        self._leave(End.reset)

    def _leave(self, leave: Callable[[End], None]) -> None:
        if self.is_over:
            return
        self.is_over = True
        leave(self.client)
        if self.server is not None:
            self.server.close()
        self._closed(self)
