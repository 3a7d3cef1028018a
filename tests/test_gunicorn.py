"""A server that forks its workers after the cache was used, reloads them, and ends: nothing hangs, nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("gunicorn")

WSGI = """
    import os, warnings
    import django
    django.setup()
    from django.core.cache import cache as django_cache
    from django.http import HttpResponse
    from tezkor import cache

    cache.set("loaded by", os.getpid())
    cache.add("requests", 0)

    def application(environ, start_response):
        # Another worker that starts meanwhile may set it between two of these.
        before, seen, after = django_cache.get("loaded by"), cache.get("loaded by"), django_cache.get("loaded by")
        assert seen in (before, after)
        body = f"{os.getpid()} {cache.incr('requests')} {cache.get('loaded by')}".encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    """


class Server:
    def __init__(self, project, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "wsgi:application",
            "-b",
            f"127.0.0.1:{self.port}",
            "-w",
            "3",
        ]
        self.process = subprocess.Popen(
            [*command, "--log-level", "warning", *arguments],
            cwd=project.folder,
            env=project.environ | {"DJANGO_SETTINGS_MODULE": "shop"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self):
        """Worker, number of the request and loading process, as soon as the server answers."""
        until = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as response:
                    return tuple(int(part) for part in response.read().split())
            except OSError:
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.05)

    def workers(self, wanted):
        """Asks until that many workers have answered; returns them and all numbers that were given."""
        answers = []
        until = time.monotonic() + 30
        while len({worker for worker, _, _ in answers}) < wanted and time.monotonic() < until:
            answers.append(self.get())
        return {worker for worker, _, _ in answers}, [number for _, number, _ in answers]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=30)
        return errors


@pytest.mark.parametrize("preload", [["--preload"], []])
def test_workers_share_survive_a_reload_and_end(project, preload):
    project.write("wsgi.py", WSGI)
    server = Server(project, *preload)
    try:
        before, numbers = server.workers(3)
        assert len(before) == 3
        assert numbers == list(range(1, len(numbers) + 1))
        os.kill(next(iter(before)), signal.SIGKILL)
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while (answer := server.get())[0] in before:
            assert time.monotonic() < until
        assert answer[1] > len(numbers)  # the count went on: the cache is warm
    finally:
        errors = server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in errors, errors
    assert int(project.python("from tezkor import cache; print(cache.get('requests'))")) >= answer[1]
