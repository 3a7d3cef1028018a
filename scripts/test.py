"""Runs every part of the tests, passes their output on, and closes with one line that counts all of them.

It never decides by itself that a test passed: the counts come from the closing lines of the runners.
A part that breaks without saying so, takes too long, or ran no test at all counts as one failed test.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOAK = os.environ.get("SOAK") == "1"


class Part(NamedTuple):
    name: str
    command: list[str]
    limit_seconds: int


class Count(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:  # type: ignore[override]
        return Count(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


PARTS = [
    Part("rust", ["scripts/test-rust"], 1500),
    Part("fuzz", ["scripts/fuzz", "120" if SOAK else "5"], 600),
    Part("python", [sys.executable, "-m", "pytest", "-q", "tests"], 1200),
    Part("servers", [sys.executable, "tests/on_servers.py"], 900),
    Part("django", [sys.executable, "tests/django_suite/run.py"], 900),
]

NEXTEST = re.compile(r"^\s*Summary \[.*\] \d+(?:/\d+)? tests? run: (.*)")
CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
PYTEST = re.compile(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s")
UNITTEST_RAN = re.compile(r"^Ran (\d+) tests? in ")
UNITTEST_END = re.compile(r"^(?:OK|FAILED)(?: \((.*)\))?$")
PLAIN = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def words(text: str) -> dict[str, int]:
    """`3 passed, 1 failed` and `failures=1, skipped=2` as numbers by word; repeated words add up."""
    found: dict[str, int] = {}
    for number, word, name, value in re.findall(r"(\d+) ([a-z]+)|([a-z ]+)=(\d+)", text):
        key = word or name.strip()
        found[key] = found.get(key, 0) + int(number or value)
    return found


class Reader:
    """Counts tests from the closing lines of cargo test, nextest, pytest, unittest, or a plain one."""

    def __init__(self) -> None:
        self.count = Count()
        self.ran = 0

    def line(self, text: str) -> None:
        text = COLOUR.sub("", text).rstrip()
        if match := NEXTEST.match(text):
            seen = words(match[1])
            failed = seen.get("failed", 0) + seen.get("timed", 0) + seen.get("exec", 0)
            self.count += Count(seen.get("passed", 0), failed, seen.get("skipped", 0))
        elif (match := CARGO.match(text)) or (match := PLAIN.match(text)):
            self.count += Count(*(int(number or 0) for number in match.groups()))
        elif match := PYTEST.match(text):
            seen = words(match[1])
            failed = seen.get("failed", 0) + seen.get("error", 0) + seen.get("errors", 0)
            self.count += Count(
                seen.get("passed", 0) + seen.get("xfailed", 0), failed, seen.get("skipped", 0)
            )
        elif match := UNITTEST_RAN.match(text):
            self.ran = int(match[1])
        elif self.ran and (match := UNITTEST_END.match(text)):
            seen = words(match[1] or "")
            failed = sum(seen.get(word, 0) for word in ("failures", "errors", "unexpected successes"))
            skipped = seen.get("skipped", 0)
            self.count += Count(max(self.ran - failed - skipped, 0), failed, skipped)
            self.ran = 0


def run(part: Part) -> Count:
    """Runs one part with its output passed on, and says in one line what came of it."""
    print(f"== {part.name}: {' '.join(part.command)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        part.command,
        cwd=ROOT,
        env=os.environ | {"PYO3_PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    limit = part.limit_seconds * (10 if SOAK else 1)
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop)
    timer.daemon = True
    timer.start()
    reader = Reader()
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        reader.line(line)
    code = process.wait()
    process.stdout.close()
    timer.cancel()
    count = reader.count
    reason = ""
    if late.is_set():
        reason = f"stopped after {limit} s"
    elif code != 0 and not count.failed:
        reason = f"ended with code {code}"
    elif not count.passed and not count.failed:
        reason = "ran no test"
    if reason:
        count += Count(failed=1)
        reason = f", {reason}"
    seconds = time.monotonic() - started
    print(f"== {part.name}: {said(count)} in {seconds:.0f} s{reason}\n", flush=True)
    return count


def said(count: Count) -> str:
    skipped = f", {count.skipped} skipped" if count.skipped else ""
    return f"{count.passed} passed, {count.failed} failed{skipped}"


def main() -> int:
    chosen = sys.argv[1:]
    unknown = set(chosen) - {part.name for part in PARTS}
    if unknown:
        names = ", ".join(part.name for part in PARTS)
        print(f"test: no part is called {', '.join(sorted(unknown))}; there are {names}")
        return 2
    total = Count()
    for part in PARTS:
        if not chosen or part.name in chosen:
            total += run(part)
    print(said(total), flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
