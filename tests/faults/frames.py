"""Finds where requests and replies end in the bytes of RESP (2 and 3) and of memcached (classic and meta text).

It never keeps or changes the bytes of a stream, and never fails on what it does not know: a line is a frame then.

RESP                                            memcached
  line         +OK  -ERR …  :7  ,1.5  #t  _       line        STORED  HD …  EN  END  7
  line, bytes  $5  =9  !3       then bytes, CRLF  line, bytes VA 5 …  then bytes, CRLF
  line, parts  *2  ~2  >2  %1   then the parts    group       VALUE k f 5 + bytes, STAT …: up to END
  attribute    |1  its parts, and then the reply  request     set k f e 5, ms k 5 + bytes; else a line

Not known: RESP3's streamed types, which no server sends, and memcached's binary protocol.
"""

from __future__ import annotations

from random import Random

# Redis gives up on a line of more bytes than this (PROTO_INLINE_MAX_SIZE), memcached on far fewer.
LINE_BYTES = 64 * 1024
Span = tuple[int, int]


class Frames:
    """Follows one direction of one connection; `seen` counts the frames that stand for a question or its answer."""

    def __init__(self) -> None:
        self.seen = 0
        self._line = b""
        self._body_left = 0

    @property
    def midway(self) -> bool:
        """Whether a frame has begun that has not ended."""
        return bool(self._line or self._body_left or self._is_open())

    def feed(self, data: bytes) -> list[int]:
        """Takes the next bytes of the stream; where in them frames end."""
        ends = []
        at, size = 0, len(data)
        while at < size:
            if self._body_left:
                step = min(self._body_left, size - at)
                self._body_left -= step
                at += step
                if not self._body_left and self._part_ended():
                    ends.append(at)
                continue
            if not self._line:
                at = self._leap(data, at)
            stop = data.find(b"\n", at) + 1
            if not stop:
                self._line += data[at:]
                if len(self._line) > LINE_BYTES:
                    self._line = b""
                break
            line = self._line + data[at:stop] if self._line else data[at:stop]
            self._line = b""
            at = stop
            body = self._read(line)
            if body:
                self._body_left = body
            elif body == 0 and self._part_ended():
                ends.append(at)
        return ends

    def _leap(self, data: bytes, at: int) -> int:
        """May pass over parts that lie in the data as a whole, but not over the last one."""
        return at

    def _is_open(self) -> bool:
        """Whether parts are missing, apart from the one that is being read."""
        raise NotImplementedError

    def _read(self, line: bytes) -> int | None:
        """How many bytes follow this line before the part ends; None when it is only the head of other parts."""
        raise NotImplementedError

    def _part_ended(self) -> bool:
        """Whether the frame ends with the part that has just ended."""
        raise NotImplementedError


def number(text: bytes) -> int | None:
    """A length as servers write it."""
    return int(text) if text.removeprefix(b"-").isdigit() else None


class RespFrames(Frames):
    """Requests and replies alike: the grammar is the same. Pushes are frames, but answer no question."""

    PARTS = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}

    def __init__(self) -> None:
        super().__init__()
        self._missing: list[int] = []
        self._answers = True

    def _leap(self, data: bytes, at: int) -> int:
        """Strings, a hundred at a time in batches, would take most of a round trip if each went the long way."""
        if not self._missing:
            return at
        missing, size = self._missing[-1], len(data)
        while missing > 1 and data[at : at + 1] == b"$":
            stop = data.find(b"\n", at) + 1
            length = data[at + 1 : stop - 2]
            # A line that is cut has no end yet.
            if not stop or not length.isdigit():
                break
            end = stop + int(length) + 2
            if end > size:
                break
            at = end
            missing -= 1
        self._missing[-1] = missing
        return at

    def _is_open(self) -> bool:
        return bool(self._missing)

    def _read(self, line: bytes) -> int | None:
        kind = line[:1]
        if not self._missing:
            self._answers = kind != b">"
        if kind in b"$=!":
            length = number(line[1:-2])
            return 0 if length is None or length < 0 else length + 2
        if kind in self.PARTS:
            parts = (number(line[1:-2]) or 0) * self.PARTS[kind]
            if kind == b"|":
                parts += 1
            if parts > 0:
                self._missing.append(parts)
                return None
        return 0

    def _part_ended(self) -> bool:
        while self._missing:
            self._missing[-1] -= 1
            if self._missing[-1]:
                return False
            self._missing.pop()
        self.seen += self._answers
        return True


class MemcachedReplies(Frames):
    """Replies of memcached; all values of one `get` are one reply."""

    GROUPED = (b"VALUE", b"STAT", b"ITEM", b"mg")

    def __init__(self) -> None:
        super().__init__()
        self._grouped = False

    def _is_open(self) -> bool:
        return self._grouped

    def _read(self, line: bytes) -> int | None:
        words = line.split()
        kind = words[0] if words else b""
        self._grouped = kind in self.GROUPED or kind.startswith(b"key=")
        length = None
        if kind == b"VALUE" and len(words) >= 4:
            length = number(words[3])
        elif kind == b"VA" and len(words) >= 2:
            length = number(words[1])
        return 0 if length is None or length < 0 else length + 2

    def _part_ended(self) -> bool:
        self.seen += not self._grouped
        return not self._grouped


class MemcachedRequests(Frames):
    """Requests to memcached. `noreply` asks for no answer; a quiet meta command may get one, so it counts."""

    LENGTHS = {b"ms": 2} | dict.fromkeys((b"set", b"add", b"replace", b"append", b"prepend", b"cas"), 4)

    def __init__(self) -> None:
        super().__init__()
        self._answered = True

    def _is_open(self) -> bool:
        return False

    def _read(self, line: bytes) -> int | None:
        words = line.split()
        self._answered = not words or words[-1] != b"noreply"
        place = self.LENGTHS.get(words[0], 0) if words else 0
        length = number(words[place]) if 0 < place < len(words) else None
        return 0 if length is None or length < 0 else length + 2

    def _part_ended(self) -> bool:
        self.seen += self._answered
        return True


class RawFrames(Frames):
    """Bytes of an unknown protocol (TLS): what comes in one read counts as a frame."""

    def feed(self, data: bytes) -> list[int]:
        self.seen += 1
        return [len(data)]

    def _is_open(self) -> bool:
        return False


class Protocol:
    """What faults need to know of a protocol; this one knows nothing."""

    requests: type[Frames] = RawFrames
    replies: type[Frames] = RawFrames

    def answers(self, frame: bytes) -> bool:
        """Whether a reply is the answer to a question, and no push."""
        return True

    def payloads(self, frame: bytes) -> list[Span]:
        """Where in a whole reply the bytes of values are."""
        return [(0, len(frame))]

    def another(self, frame: bytes, random: Random) -> bytes:
        """A valid reply of another type."""
        return random.randbytes(len(frame))


class Resp(Protocol):
    requests = replies = RespFrames
    REPLIES = (
        b"+OK\r\n",
        b":7\r\n",
        b"$7\r\ngarbage\r\n",
        b"*2\r\n:7\r\n$7\r\ngarbage\r\n",
        b"-ERR garbage\r\n",
    )

    def answers(self, frame: bytes) -> bool:
        return frame[:1] != b">"

    def payloads(self, frame: bytes) -> list[Span]:
        spans = []
        at = 0
        while stop := frame.find(b"\n", at) + 1:
            length = number(frame[at + 1 : stop - 2]) if frame[at : at + 1] in (b"$", b"=") else None
            at = stop
            if length is not None and length >= 0:
                if length:
                    spans.append((at, at + length))
                at += length + 2
        return spans

    def another(self, frame: bytes, random: Random) -> bytes:
        return random.choice([reply for reply in self.REPLIES if reply[:1] != frame[:1]])


class Memcached(Protocol):
    requests = MemcachedRequests
    replies = MemcachedReplies
    REPLIES = (
        b"VA 7\r\ngarbage\r\n",
        b"VALUE garbage 0 7\r\ngarbage\r\nEND\r\n",
        b"HD\r\n",
        b"STORED\r\n",
        b"OK\r\n",
        b"7\r\n",
        b"ERROR\r\n",
    )

    def payloads(self, frame: bytes) -> list[Span]:
        spans = []
        at = 0
        while stop := frame.find(b"\n", at) + 1:
            words = frame[at:stop].split()
            place = {b"VALUE": 3, b"VA": 1}.get(words[0], 0) if words else 0
            length = number(words[place]) if 0 < place < len(words) else None
            at = stop
            if length is not None and length >= 0:
                if length:
                    spans.append((at, at + length))
                at += length + 2
        return spans

    def another(self, frame: bytes, random: Random) -> bytes:
        return random.choice([reply for reply in self.REPLIES if reply.split()[:1] != frame.split()[:1]])


PROTOCOLS: dict[str, Protocol] = {"raw": Protocol(), "resp": Resp(), "memcached": Memcached()}
