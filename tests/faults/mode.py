"""What a mode of the proxy is: it stands between a client and its server, and decides what becomes of each reply.

It never leaves anything to chance but through the `random` that it was given: the same seed, connections and replies
meet the same faults.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Literal

from faults.links import Link

# A reply that is looked at as a whole may be so long; a link with a longer one is closed.
FRAME_BYTES = 16 * 1024 * 1024


class Mode:
    """`none`: passes everything on, and keeps count of the replies."""

    # `closed` refuses connections; a `full` queue leaves them hanging.
    listener: Literal["open", "closed", "full"] = "open"
    connects = True

    link: Link
    random: Random
    server_is_gone = False

    def admits(self, number: int) -> bool:
        """Whether the listener keeps the connection of this number."""
        return True

    def attach(self, link: Link, random: Random) -> None:
        self.link = link
        self.random = random

    def request(self, data: bytes) -> None:
        server = self.link.server
        if server is not None:
            server.write(data)

    def reply(self, data: bytes) -> None:
        self.link.client.write(data)
        self.link.replies.feed(data)

    def held_bytes(self) -> int:
        return 0

    def release(self) -> None:
        """Hands out what is held: another mode takes over, or the server has ended."""

    def server_ended(self) -> None:
        self.release()
        self.link.client.close_when_written()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls, unless the connection or the mode has ended by then."""

        def still() -> None:
            if self.link.mode is self and not self.link.is_over:
                call()

        self.link.loop.later(seconds, still)


class Framed(Mode):
    """Looks at each reply as a whole. The rest of a reply that had begun before passes as it is."""

    def attach(self, link: Link, random: Random) -> None:
        super().attach(link, random)
        self.passing = link.replies.midway
        self.begun = bytearray()

    def reply(self, data: bytes) -> None:
        ends = self.link.replies.feed(data)
        start = 0
        for place, end in enumerate(ends, 1):
            piece = data[start:end]
            start = end
            if self.passing:
                self.passing = False
                self.link.client.write(piece)
                continue
            if self.begun:
                piece = bytes(self.begun) + piece
                self.begun.clear()
            if self.link.protocol.answers(piece):
                self.frame(piece, len(ends) - place)
            else:
                self.link.client.write(piece)
            if self.link.is_over or self.link.client.is_closing:
                return
        if start == len(data):
            return
        if self.passing:
            self.link.client.write(data[start:])
            return
        self.begun += data[start:]
        if len(self.begun) > FRAME_BYTES:
            self.link.close()

    def frame(self, frame: bytes, more: int) -> None:
        """Answers with what becomes of this reply; so many more came together with it."""
        raise NotImplementedError

    def release(self) -> None:
        self.link.client.write(bytes(self.begun))
        self.begun.clear()
