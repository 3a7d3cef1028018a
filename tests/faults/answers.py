"""The modes that look at each reply as a whole: what is left of it, and which question it answers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Literal

from faults.links import Link
from faults.mode import Framed


class CutWithin(Framed):
    """Closes a connection within a reply: after so many bytes of it, or anywhere. Replies that are not longer pass."""

    def __init__(self, within: int | None) -> None:
        self.within = within

    def frame(self, frame: bytes, more: int) -> None:
        stop = self.within
        if stop is None:
            stop = self.random.randrange(1, max(2, len(frame)))
        self.link.client.write(frame[:stop])
        if stop < len(frame):
            self.link.faulted += 1
            self.link.client.close_when_written()


class Garbage(Framed):
    """Replaces a share of the replies: by random bytes, valid ones of another type, or a flipped bit in each value."""

    def __init__(self, kind: Literal["random", "type", "flip"] = "random", share: float = 1.0) -> None:
        changes = {"random": self._random, "type": self._another, "flip": self._flip}
        self.change: Callable[[bytes], bytes] = changes[kind]
        self.share = share

    def frame(self, frame: bytes, more: int) -> None:
        changed = self.change(frame) if self.random.random() < self.share else frame
        self.link.faulted += changed != frame
        self.link.client.write(changed)

    def _random(self, frame: bytes) -> bytes:
        return self.random.randbytes(len(frame))

    def _another(self, frame: bytes) -> bytes:
        return self.link.protocol.another(frame, self.random)

    def _flip(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        for start, end in self.link.protocol.payloads(frame):
            changed[self.random.randrange(start, end)] ^= 1 << self.random.randrange(8)
        return bytes(changed)


class Duplicate(Framed):
    """Sends a share of the replies twice."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def frame(self, frame: bytes, more: int) -> None:
        if self.random.random() < self.share:
            self.link.faulted += 1
            frame += frame
        self.link.client.write(frame)


class Shift(Framed):
    """Each question gets the answer to the one before.

    To begin with, the first answer is sent in its place as well (`repeated`: nobody waits, all but the first are
    wrong), or is not (`withheld`: who waits for each answer runs into a timeout, and goes wrong on reading on).
    """

    def __init__(self, first: Literal["repeated", "withheld"] = "repeated") -> None:
        self.first = first

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.before: bytes | None = None

    def frame(self, frame: bytes, more: int) -> None:
        if self.before is not None:
            self.link.faulted += 1
            self.link.client.write(self.before)
        elif self.first == "repeated":
            self.link.client.write(frame)
        self.before = frame

    def release(self) -> None:
        if self.before is not None and self.first == "withheld":
            self.link.client.write(self.before)
        super().release()


class Swap(Framed):
    """Exchanges the answers of two questions that were asked at once; one without a partner waits so many seconds."""

    def __init__(self, wait: float = 0.05) -> None:
        self.wait = wait

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.first: bytes | None = None

    def frame(self, frame: bytes, more: int) -> None:
        if self.first is not None:
            self.link.faulted += 1
            self.link.client.write(frame + self.first)
            self.first = None
        elif more or self.link.requests.seen > self.link.replies.seen:
            self.first = frame
            # A question may stay without an answer (quiet commands of memcached).
            self.later(self.wait, lambda: self._give_up(frame))
        else:
            self.link.client.write(frame)

    def _give_up(self, frame: bytes) -> None:
        if self.first is frame:
            self._hand_out()

    def _hand_out(self) -> None:
        if self.first is not None:
            self.link.client.write(self.first)
            self.first = None

    def release(self) -> None:
        self._hand_out()
        super().release()


class Stall(Framed):
    """Answers half of a reply and then nothing more."""

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.rest = bytearray()

    def frame(self, frame: bytes, more: int) -> None:
        half = 0 if self.rest else max(1, len(frame) // 2)
        self.link.faulted += half > 0
        self.link.client.write(frame[:half])
        self.rest += frame[half:]
        self.link.balance()

    def held_bytes(self) -> int:
        return len(self.rest)

    def release(self) -> None:
        self.link.client.write(bytes(self.rest))
        self.rest.clear()
        super().release()
        if self.server_is_gone:
            self.link.client.close_when_written()

    def server_ended(self) -> None:
        """Not even the end is passed on."""
        self.server_is_gone = True
