"""Runs Django's own cache tests on every backend of ours, with Django 5.2 and 6.x, and lists what is left out.

python tests/django_suite/run.py                   everything; the last line counts
python tests/django_suite/run.py shared file       some backends
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from backends import BACKENDS  # noqa: E402
from django_source import NotFetched, tests_folder  # noqa: E402
from servers import Servers  # noqa: E402

NEWER_DJANGO = "6.1.3"
NEWER_PYTHONS = ("3.14", "3.13", "3.12")
AT_ONCE = 4  # most of the time goes into the sleeps of Django's tests


class Outcome(NamedTuple):
    name: str
    passed: int
    failed: int
    skipped: int
    text: str


def newer_python() -> str | None:
    """A Python that Django 6 runs on: this one, or the first found on PATH or among pyenv's versions."""
    if sys.version_info >= (3, 12):
        return sys.executable
    for version in NEWER_PYTHONS:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"), reverse=True)
        for python in (*pyenv, shutil.which(f"python{version}")):
            if python and _runs(str(python)):
                return str(python)
    return None


def _runs(python: str) -> bool:
    """Whether it is a Python and not a shim for one that is not chosen."""
    command = [python, "-c", "import sys, venv; sys.exit(sys.version_info < (3, 12))"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def pythons() -> Iterator[tuple[str, str]]:
    """Python and Django version of each environment that the tests run in."""
    import django

    yield sys.executable, django.get_version()
    if django.VERSION >= (6,):
        return
    base = newer_python()
    if base is None:
        print(f"Django {NEWER_DJANGO}: not run, since none of Python {', '.join(NEWER_PYTHONS)} is installed")
        return
    environment = ROOT / ".cache" / "venv-django-6"
    python = environment / "bin" / "python"
    if not (environment / NEWER_DJANGO).exists():
        try:
            shutil.rmtree(environment, ignore_errors=True)
            _quietly([base, "-m", "venv", str(environment)])
            _quietly([str(python), "-m", "pip", "install", "-q", f"Django=={NEWER_DJANGO}"])
        except subprocess.CalledProcessError as error:
            lines = error.output.strip().splitlines() or [str(error)]
            print(f"Django {NEWER_DJANGO}: not run, since it could not be installed: {lines[-1]}")
            return
        (environment / NEWER_DJANGO).touch()
    yield str(python), NEWER_DJANGO


def _quietly(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)


def run(python: str, version: str, tests: Path, backend: str) -> Outcome:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="tezkor-suite-") as folder,
        tempfile.TemporaryDirectory(prefix="tezkor-suite-", dir=memory) as shared,
    ):
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "settings",
            "DJANGO_TESTS": str(tests),
            "PYTHONPATH": os.pathsep.join(
                [str(HERE), str(tests), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
            ),
            "TEZKOR_SUITE": backend,
            "TEZKOR_SUITE_FOLDER": folder,
            "TEZKOR_SHARED_DIRECTORY": shared,
            "TMPDIR": folder,
        }
        command = [
            python,
            "-W",
            "error::ResourceWarning",
            "-m",
            "django",
            "test",
            "test_suite",
            "-v2",
            "--noinput",
        ]
        ended = subprocess.run(
            command, cwd=HERE, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
    return read(f"Django {version} on {backend}", ended.stderr)


def read(name: str, text: str) -> Outcome:
    ran = re.findall(r"^Ran (\d+) tests? in ", text, re.MULTILINE)
    end = re.findall(r"^(OK|FAILED)(?: \((.*)\))?$", text, re.MULTILINE)
    if not ran or not end:
        return Outcome(name, 0, 1, 0, text)
    counts = {word: int(number) for word, number in re.findall(r"(\w[\w ]*)=(\d+)", end[-1][1])}
    failed = counts.get("failures", 0) + counts.get("errors", 0)
    skipped = counts.get("skipped", 0)
    return Outcome(name, max(int(ran[-1]) - failed - skipped, 0), failed, skipped, text)


def main() -> int:
    with Servers() as servers:
        chosen = [name for name in sys.argv[1:] or list(BACKENDS) if _has_its_server(name, servers)]
        return run_all(chosen)


def _has_its_server(name: str, servers: Servers) -> bool:
    """Starts the server that a backend needs."""
    server = BACKENDS[name].server
    if server is None:
        return True
    socket = getattr(servers, server)()
    if socket is None:
        print(f"{name}: not run, since {servers.missing}")
        return False
    os.environ[f"TEZKOR_SUITE_{server.upper()}"] = str(socket)
    return True


def run_all(chosen: list[str]) -> int:
    total = [0, 0, 0]
    reasons: dict[str, set[str]] = {}
    try:
        for python, version in pythons():
            tests = tests_folder(version, python)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                outcomes = list(pool.map(lambda backend: run(python, version, tests, backend), chosen))  # noqa: B023
            for backend, outcome in zip(chosen, outcomes, strict=True):
                show(outcome, reasons)
                if BACKENDS[backend].dotted.startswith("tezkor.") or outcome.failed:
                    total = [sum(pair) for pair in zip(total, outcome[1:4], strict=True)]
    except NotFetched as error:
        print(f"not run: {error}")
        total[2] += 1
    for reason, tests_left_out in sorted(reasons.items()):
        print(f"left out, {reason}:\n    {', '.join(sorted(tests_left_out))}")
    print(f"{total[0]} passed, {total[1]} failed" + (f", {total[2]} skipped" if total[2] else ""))
    return 1 if total[1] else 0


def show(outcome: Outcome, reasons: dict[str, set[str]]) -> None:
    name, passed, failed, skipped, text = outcome
    print(f"{name}: {passed} pass, {failed} fail, {skipped} left out", flush=True)
    for test, reason in re.findall(
        r"^(\w+) \(.*\)(?: \.\.\.|\n.* \.\.\.) skipped ['\"](.*)['\"]$", text, re.MULTILINE
    ):
        reasons.setdefault(reason, set()).add(test)
    if failed:
        for line in text[max(text.find("\n===="), 0) :].splitlines()[-400:]:
            print(f"  | {line}")


if __name__ == "__main__":
    sys.exit(main())
