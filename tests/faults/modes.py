"""What the proxy can do to the connections through it, by name: `MODES`; here those that need not know the protocol.

When a mode ends, open connections go on honestly, and what was held back is handed out in order.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Literal, get_args, get_origin, get_type_hints

from faults.answers import CutWithin, Duplicate, Garbage, Shift, Stall, Swap
from faults.links import Link
from faults.mode import Mode


class Refuse(Mode):
    """The listener is closed, as after the death of a server; `established` says what becomes of open connections."""

    listener = "closed"

    def __init__(self, established: Literal["closed", "kept"] = "closed") -> None:
        self.established = established

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        if self.established == "closed":
            link.faulted += 1
            link.close()


class PartialAccept(Mode):
    """Every n-th connection is reset right after it was accepted; open ones are left alone."""

    def __init__(self, every: int = 2) -> None:
        self.every = every

    def admits(self, number: int) -> bool:
        return number % self.every != 0


class Blackhole(Mode):
    """Accepts and reads, and never answers; nothing reaches the server.

    When the mode ends, connections that lost something are closed: a stream cannot go on behind a gap.
    """

    connects = False
    lost = False

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.lost = link.server is None

    def request(self, data: bytes) -> None:
        self.link.faulted += 1
        self.lost = True

    def reply(self, data: bytes) -> None:
        self.link.replies.feed(data)
        self.link.faulted += 1
        self.lost = True

    def release(self) -> None:
        if self.lost:
            self.link.close()

    def server_ended(self) -> None:
        self.lost = True


class Unreachable(Blackhole):
    """Connecting hangs, as behind a firewall that drops packets; open connections fall silent.

    A unix socket says EAGAIN to clients that do not wait.
    """

    listener = "full"


class LateBlackhole(Mode):
    """Answers nothing until the mode ends, and then all that was asked meanwhile, as a network does that comes back."""

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.held = bytearray()

    def reply(self, data: bytes) -> None:
        self.link.replies.feed(data)
        self.link.faulted += 1
        self.held += data
        self.link.balance()

    def held_bytes(self) -> int:
        return len(self.held)

    def release(self) -> None:
        self.link.client.write(bytes(self.held))
        self.held.clear()
        if self.server_is_gone:
            self.link.client.close_when_written()

    def server_ended(self) -> None:
        self.server_is_gone = True


def blackhole(then: Literal["close", "deliver"] = "close") -> Mode:
    """`then` says what becomes of the questions when the mode ends."""
    return Blackhole() if then == "close" else LateBlackhole()


class Delay(Mode):
    """Each reply comes so much later, plus a random share of the jitter; replies stay in order."""

    def __init__(self, seconds: float = 0.2, jitter: float = 0.0) -> None:
        self.seconds = seconds
        self.jitter = jitter

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.queue: deque[tuple[float, bytes]] = deque()
        self.size = 0

    def reply(self, data: bytes) -> None:
        self.link.replies.feed(data)
        self.link.faulted += 1
        due = time.monotonic() + self.seconds + self.random.random() * self.jitter
        self.queue.append((due, data))
        self.size += len(data)
        self.link.balance()
        if len(self.queue) == 1:
            self.later(due - time.monotonic(), self.tick)

    def tick(self) -> None:
        while self.queue and self.queue[0][0] <= time.monotonic():
            self._hand_out()
        self.link.balance()
        if self.queue and not self.link.is_over:
            self.later(self.queue[0][0] - time.monotonic(), self.tick)

    def _hand_out(self) -> None:
        _, data = self.queue.popleft()
        self.size -= len(data)
        self.link.client.write(data)

    def held_bytes(self) -> int:
        return self.size

    def release(self) -> None:
        while self.queue:
            self._hand_out()


class Drip(Mode):
    """Replies come in pieces of `size` bytes with a pause after each."""

    def __init__(self, pause: float = 0.001, size: int = 1) -> None:
        self.pause = pause
        self.size = size

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.left = bytearray()
        self.resting = False

    def reply(self, data: bytes) -> None:
        self.link.replies.feed(data)
        self.link.faulted += 1
        self.left += data
        if not self.resting:
            self.drop()
        self.link.balance()

    def drop(self) -> None:
        self.resting = bool(self.left)
        if self.left:
            self.link.client.write(bytes(self.left[: self.size]))
            del self.left[: self.size]
            self.later(self.pause, self.drop)
            self.link.balance()

    def held_bytes(self) -> int:
        return len(self.left)

    def release(self) -> None:
        self.link.client.write(bytes(self.left))
        self.left.clear()


class CutAfter(Mode):
    """Closes a connection after so many bytes of replies in all."""

    def __init__(self, after: int) -> None:
        self.after = after

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.left = self.after

    def reply(self, data: bytes) -> None:
        self.link.replies.feed(data)
        self.link.client.write(data[: self.left])
        self.left -= len(data)
        if self.left <= 0:
            self.link.faulted += 1
            self.link.client.close_when_written()


def cut(after: int | None = None, within: int | None = None) -> Mode:
    """`after` counts the bytes of all replies of a connection, `within` those of each; without both, it is drawn."""
    if after is not None and within is not None:
        raise TypeError("a cut is either after or within so many bytes")
    return CutWithin(within) if after is None else CutAfter(after)


class Reset(Mode):
    """A reset in place of each reply; or at once, for open and for accepted connections."""

    def __init__(self, at: Literal["reply", "once"] = "reply") -> None:
        self.at = at

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        if self.at == "once":
            self._reset()

    def reply(self, data: bytes) -> None:
        self._reset()

    def _reset(self) -> None:
        self.link.faulted += 1
        self.link.reset()


MODES: dict[str, Callable[..., Mode]] = {
    "none": Mode,
    "refuse": Refuse,
    "partial accept": PartialAccept,
    "unreachable": Unreachable,
    "blackhole": blackhole,
    "delay": Delay,
    "drip": Drip,
    "cut": cut,
    "reset": Reset,
    "garbage": Garbage,
    "duplicate": Duplicate,
    "shift": Shift,
    "swap": Swap,
    "stall": Stall,
}


def mode_maker(name: str, options: dict[str, Any]) -> Callable[[], Mode]:
    """Makes modes of this name; what does not fit is said at once."""
    if name not in MODES:
        raise ValueError(f"no mode is called {name!r}; there are {', '.join(MODES)}")
    make = MODES[name]
    known = inspect.signature(make).parameters
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
        choices = choices_of(make, option)
        if choices and value not in choices:
            raise ValueError(f"{option} of {name} is one of {', '.join(choices)}, not {value!r}")
    make(**options)
    return lambda: make(**options)


def choices_of(make: Callable[..., Mode], option: str) -> tuple[str, ...]:
    """The values that the annotation of an option names, if it does."""
    hints = get_type_hints(vars(make)["__init__"] if isinstance(make, type) else make)
    return get_args(hints[option]) if get_origin(hints[option]) is Literal else ()
