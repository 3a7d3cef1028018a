"""The shop under gunicorn: start, how much CPU time it took, reload of its workers, stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from .database import SHOP, environment

WORKERS = 3
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """Use as a context manager: the processes and the port are gone when the block is left, however it is left."""

    def __init__(self, cache, database, run_dir, *, settings="project.settings", port=0, log=None, **environ):
        self.run_dir, self.log = Path(run_dir), log
        self.environ = environment(database, cache, settings, SHOP_RUN_DIR=str(run_dir), **environ)
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "project.wsgi:application",
            "-c",
            "measure/gunicorn_conf.py",
        ]
        self.log_file = open(self.log, "ab") if self.log else None
        self.master = subprocess.Popen(
            [*command, "--bind", f"fd://{self.listener.fileno()}"], cwd=SHOP, env=self.environ,
            pass_fds=[self.listener.fileno()], stderr=self.log_file, start_new_session=True,
        )  # fmt: skip
        try:
            self.wait_ready(set())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        if self.master.returncode is not None and self.listener.fileno() < 0:
            return  # it was stopped before
        workers = self.workers()
        self.master.terminate()
        try:
            self.master.wait(15)
        except subprocess.TimeoutExpired:
            self.master.kill()
            self.master.wait()
            for pid in workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.listener.close()
        if self.log_file:
            self.log_file.close()

    def wait_ready(self, old, limit=60):
        """Until all workers but the old ones serve, and the old ones are gone."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            pids = self.workers()
            ready = {pid for pid in pids if (self.run_dir / f"ready-{pid}").exists()}
            if len(ready - old) == WORKERS and not pids & old:
                return
            if self.master.poll() is not None:
                raise RuntimeError(f"gunicorn ended at its start{self._last_words()}")
            time.sleep(0.02)
        raise RuntimeError(f"gunicorn's workers were not ready after {limit} s{self._last_words()}")

    def reload(self):
        """New workers, as on a deployment; the port stays open."""
        old = self.workers()
        self.master.send_signal(signal.SIGHUP)
        self.wait_ready(old)

    def workers(self):
        return {pid for pid, parent, _ in _processes() if parent == self.master.pid}

    def cpu_seconds(self):
        """Of the master, its workers, and workers that have ended."""
        family = (self.master.pid, *self.workers())
        return sum(seconds for pid, _, seconds in _processes() if pid in family)

    def _last_words(self):
        return f":\n{Path(self.log).read_text()[-2000:]}" if self.log else ""


def _processes():
    """(pid, parent's pid, CPU seconds with those of ended children) of every process that may be read."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended in between
        if fields[0] != "Z":
            yield int(entry), int(fields[1]), sum(map(int, fields[11:15])) / TICKS
