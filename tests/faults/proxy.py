"""A proxy in front of a real server, a process of its own, that misbehaves when told to; the modes are in `modes.py`.

In a test:

    with Proxy("/run/redis.sock", protocol="resp") as proxy:
        client = redis.Redis(host=proxy.host, port=proxy.port)
        proxy.fault("delay", seconds=0.2)
        proxy.clear()
        proxy.counts["replies"]

From anything else, in the folder `tests`; it prints its address on one line, and ends by SIGTERM or with its input:

    python3 -m faults.proxy /run/redis.sock --protocol resp --control /tmp/control.sock

A line to the control socket is answered by one as soon as it holds for every connection:

    {"do": "fault", "mode": "delay", "options": {"seconds": 0.2}}     or {"do": "clear"} or {"do": "counts"}
    {"counts": {"accepted": 3, ...}}                                  or {"error": "no mode is called ..."}

It never retries, never answers by itself, and never changes a byte unless a fault asks for it. Linux and macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random, SystemRandom
from types import TracebackType
from typing import Any, Literal

from faults.frames import PROTOCOLS
from faults.links import READ, READ_BYTES, End, Link, Loop, address_of
from faults.mode import Mode
from faults.modes import mode_maker

BACKLOG = 128
START_SECONDS = 20


class Front:
    """Listens for clients, links each to the upstream server, and holds the mode that is in force."""

    def __init__(self, loop: Loop, listen: str, upstream: str, protocol: str, seed: str) -> None:
        self.loop = loop
        self.upstream = upstream
        self.protocol = PROTOCOLS[protocol]
        self.seed = seed
        self.links: set[Link] = set()
        self.totals = dict.fromkeys(("accepted", "refused", "requests", "replies", "faulted"), 0)
        self._faults = 0
        self._make: Callable[[], Mode] = Mode
        self._mode = Mode()
        self._listener: socket.socket | None = None
        self._filler: socket.socket | None = None
        self._place: socket.socket | None = None
        self.address = self._bind(listen)
        self._listen()

    def obey(self, make: Callable[[], Mode]) -> None:
        """Puts all connections, open ones and later ones, in another mode."""
        self._faults += 1
        before = self._mode.listener
        self._make, self._mode = make, make()
        if self._mode.listener != before:
            self._refuse()
            if self._mode.listener == "open":
                self._listen()
            elif self._mode.listener == "full":
                self._fill()
        for link in sorted(self.links, key=lambda link: link.number):
            self._instruct(link)

    def counts(self) -> dict[str, int]:
        counts = self.totals | {"open": len(self.links)}
        for link in self.links:
            self._add(counts, link)
        return counts

    def close(self) -> None:
        self._refuse()
        if self.address.startswith("/"):
            Path(self.address).unlink(missing_ok=True)

    def _bind(self, listen: str) -> str:
        """Takes the address for as long as the proxy lives.

        A port is held by a socket that never listens: while connections are refused, nobody else gets it.
        """
        family, address = address_of(listen)
        if family == socket.AF_UNIX:
            return listen
        self._place = socket.socket(family)
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(address)
        host, port = self._place.getsockname()
        return f"{host}:{port}"

    def _listen(self) -> None:
        self._listener = self._bound()
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        self.loop.watch(self._listener, READ, self._accept)

    def _fill(self) -> None:
        """Listens with room for one connection, takes it unless a client was faster, and accepts none."""
        self._listener = self._bound()
        self._listener.listen(0)
        family, address = address_of(self.address)
        self._filler = socket.socket(family)
        self._filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._filler.connect(address)

    def _bound(self) -> socket.socket:
        family, address = address_of(self.address)
        listener = socket.socket(family)
        if family == socket.AF_UNIX:
            Path(self.address).unlink(missing_ok=True)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        return listener

    def _refuse(self) -> None:
        """A unix socket stays in its folder, where connections to it are refused."""
        if self._listener is not None:
            self.loop.watch(self._listener, 0, self._accept)
            self._listener.close()
            self._listener = None
        if self._filler is not None:
            self._filler.close()
            self._filler = None

    def _accept(self, events: int) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        number = self.totals["accepted"] + self.totals["refused"] + 1
        link = Link(self.loop, number, client, self.protocol, self._closed)
        if not self._mode.admits(number):
            self.totals["refused"] += 1
            End.reset(link.client)
            return
        self.totals["accepted"] += 1
        self.links.add(link)
        if self._mode.connects:
            link.connect(self.upstream)
        self._instruct(link)

    def _instruct(self, link: Link) -> None:
        """The randomness of a connection does not depend on what others do meanwhile."""
        link.obey(self._make(), Random(f"{self.seed} {self._faults} {link.number}"))

    def _closed(self, link: Link) -> None:
        self.links.discard(link)
        self._add(self.totals, link)

    @staticmethod
    def _add(counts: dict[str, int], link: Link) -> None:
        counts["requests"] += link.requests.seen
        counts["replies"] += link.replies.seen
        counts["faulted"] += link.faulted


class Control:
    """Takes orders as lines of JSON from any number of connections to a unix socket."""

    def __init__(self, front: Front, path: str) -> None:
        self.front = front
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(BACKLOG)
        front.loop.watch(self.listener, READ, self._accept)

    def _accept(self, events: int) -> None:
        connection, _ = self.listener.accept()
        begun = bytearray()

        def ready(events: int) -> None:
            try:
                data = connection.recv(READ_BYTES)
                begun.extend(data)
                while b"\n" in begun:
                    line, _, rest = bytes(begun).partition(b"\n")
                    begun[:] = rest
                    connection.sendall(json.dumps(self.answer(line)).encode() + b"\n")
            except OSError:
                data = b""
            if not data:
                self.front.loop.watch(connection, 0, ready)
                connection.close()

        self.front.loop.watch(connection, READ, ready)

    def answer(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            if order["do"] == "fault":
                self.front.obey(mode_maker(order["mode"], order.get("options", {})))
            elif order["do"] == "clear":
                self.front.obey(Mode)
            elif order["do"] != "counts":
                raise ValueError(f"cannot do {order['do']!r}; there are fault, clear and counts")
        except (ValueError, TypeError, KeyError) as error:
            return {"error": str(error)}
        return {"counts": self.front.counts()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="faults.proxy", description="A proxy that misbehaves when told to.")
    parser.add_argument("upstream", help="host:port, or the path of a unix socket")
    parser.add_argument("--listen", default="127.0.0.1:0", help="the same; port 0 takes a free one")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="raw")
    parser.add_argument("--control", help="the path of the unix socket that takes orders")
    parser.add_argument("--seed", default="0")
    arguments = parser.parse_args()
    address_of(arguments.upstream)
    loop = Loop()
    front = Front(loop, arguments.listen, arguments.upstream, arguments.protocol, arguments.seed)
    if arguments.control:
        Control(front, arguments.control)

    def stop(*_: object) -> None:
        raise SystemExit(0)

    def listen_to_starter(events: int) -> None:
        if not os.read(sys.stdin.fileno(), READ_BYTES):
            stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        loop.watch(sys.stdin, READ, listen_to_starter)
    except PermissionError:
        pass  # A file or /dev/null cannot be waited for: nobody means to end the proxy by it.
    print(front.address, flush=True)
    try:
        loop.run()
    finally:
        front.close()


class Proxy:
    """Runs a proxy until the end of the block. `listen` says on what: a free port of loopback, or a unix socket.

    The seed comes from FAULT_SEED, or is drawn; it is printed, so that pytest shows it when the test fails.
    """

    def __init__(
        self,
        upstream: str,
        protocol: Literal["raw", "resp", "memcached"] = "raw",
        listen: Literal["tcp", "unix"] = "tcp",
        seed: int | None = None,
    ) -> None:
        drawn = os.environ.get("FAULT_SEED") or SystemRandom().randrange(2**32)
        self.seed = int(drawn) if seed is None else seed
        self.upstream = upstream
        self.protocol = protocol
        self._listen = listen
        self.address = ""

    def __enter__(self) -> Proxy:
        print(f"proxy: FAULT_SEED={self.seed} repeats the faults of this one in front of {self.upstream}")
        self._folder = tempfile.mkdtemp(prefix="faults-")
        control = f"{self._folder}/control.sock"
        listen = f"{self._folder}/proxy.sock" if self._listen == "unix" else "127.0.0.1:0"
        command = [sys.executable, "-S", "-m", "faults.proxy", self.upstream, "--listen", listen]
        command += ["--protocol", self.protocol, "--control", control, "--seed", str(self.seed)]
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._control = socket.socket(socket.AF_UNIX)
        self._answers = self._control.makefile("rb")
        try:
            assert self._process.stdout is not None
            if select.select([self._process.stdout], [], [], START_SECONDS)[0]:
                self.address = self._process.stdout.readline().strip()
            if not self.address:
                raise RuntimeError(f"the proxy for {self.upstream} did not start; its error output says why")
            self._control.connect(control)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def path(self) -> str:
        """Of its unix socket."""
        assert self._listen == "unix", "the proxy listens on a port"
        return self.address

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def counts(self) -> dict[str, int]:
        """Since the start: connections accepted and refused, requests, replies, faults that struck; and who is open."""
        return self._tell(do="counts")

    def fault(self, mode: str, **options: Any) -> None:
        """From the return on every connection is in this mode, open ones too; it replaces the one before."""
        self._tell(do="fault", mode=mode, options=options)

    def clear(self) -> None:
        """From the return on the proxy is honest."""
        self._tell(do="clear")

    def stop(self) -> None:
        """Ends the process; a second call does nothing."""
        self._answers.close()
        self._control.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, **order: Any) -> dict[str, int]:
        self._control.sendall(json.dumps(order).encode() + b"\n")
        line = self._answers.readline()
        if not line:
            raise RuntimeError("the proxy has ended; its error output says why")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        counts: dict[str, int] = answer["counts"]
        return counts


if __name__ == "__main__":
    main()
