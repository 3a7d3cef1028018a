"""Worker processes as the sections see them: started, told what to do, asked for the answer, ended."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders import Contender, Place


class Failed(Exception):
    """A worker ended without an answer; the text is the last line that it wrote to its error output."""


class Worker:
    """One process of one contender."""

    def __init__(self, contender: Contender, place: Place, cpu: int | None, batch_ms: float = 8) -> None:
        order = {
            "contender": contender.name,
            "place": place._asdict() | {"directory": str(place.directory)},
            "cpu": cpu,
            "batch_ms": batch_ms,
        }
        self.errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (closed in end)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def tell(self, **task: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self.reason()) from None

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self.reason())
        return json.loads(line)

    def ask(self, **task: Any) -> Any:
        self.tell(**task)
        return self.answer()

    def reason(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else f"ended with code {code} and said nothing"

    def end(self) -> None:
        try:
            self.tell(do="end")
        except Failed:
            pass
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def ask_all(workers: Sequence[Worker], **task: Any) -> list[Any]:
    """Tells all of them first and then waits for their answers, so that they work at the same time."""
    for worker in workers:
        worker.tell(**task)
    return [worker.answer() for worker in workers]
