"""Finds, installs and runs real servers for benchmarks and tests: Redis, Valkey, memcached, databases.

They are on unix sockets, or where that is asked for on free ports of the loopback. It never touches a server that it
did not start.

    scripts/servers.py install redis-server memcached libmemcached-dev    # prints one line for each that is missing
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType


def postgresql_program(name: str) -> str | None:
    """Debian keeps PostgreSQL's programs out of the PATH, in a folder for each version; the newest is taken."""
    folders = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: int(path.parent.name))
    newest_first = os.pathsep.join(str(folder) for folder in reversed(folders))
    return shutil.which(name, path=newest_first) or shutil.which(name)


def program(name: str) -> str | None:
    """A program that may be where only root's PATH looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


# Debian's package, and how to see that it is there.
PACKAGES = {
    "redis-server": lambda: shutil.which("redis-server"),
    "valkey-server": lambda: shutil.which("valkey-server"),
    "openssl": lambda: shutil.which("openssl"),
    "memcached": lambda: shutil.which("memcached"),
    "libmemcached-dev": lambda: Path("/usr/include/libmemcached/memcached.h").exists(),
    "postgresql": lambda: postgresql_program("postgres") and postgresql_program("initdb"),
    "mariadb-server": lambda: program("mariadbd") and program("mariadb-install-db"),
}
# What a stable Debian has in its backports alone.
BACKPORTS = {"valkey-server"}
START_SECONDS = 10
# PostgreSQL refuses to run as root; this is who Debian's package runs it as.
POSTGRESQL_USER = "postgres"
# MariaDB does so too; this is its own.
MARIADB_USER = "mysql"
# What a server is asked, and what there is in its answer; another is ready when it accepts a connection.
STARTUP = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0"
QUESTIONS = {
    "redis-server": (b"PING\r\n", b"PONG"),
    "memcached": (b"version\r\n", b"VERSION"),
    "postgresql": (
        struct.pack("!i", len(STARTUP) + 4) + STARTUP + b"Q" + struct.pack("!i", 13) + b"select 1\0",
        b"SELECT 1",
    ),
}
# SIGTERM asks PostgreSQL to wait until all clients have left.
STOPS = {"postgres": signal.SIGINT}


def install(package: str) -> str | None:
    """Leaves the package installed; else returns one line that says why not."""
    if PACKAGES[package]():
        return None
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"{package} is missing; install it with the system's package manager"
    with tempfile.TemporaryDirectory() as folder:
        sources = backports(Path(folder)) if package in BACKPORTS else []
        # Debian starts a server when it installs one, unless the runlevel says that the machine is going down.
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            done = subprocess.run(
                ["apt-get", "-q", *sources, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
    if done.returncode or not PACKAGES[package]():
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        return f"{package} is missing and apt-get could not install it: {lines[-1]}"
    return None


def backports(folder: Path) -> list[str]:
    """Options for apt-get that add Debian's backports to the sources of the machine, for this call alone."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return []
    if release.get("ID") != "debian":
        return []
    for system in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        if system.is_file():
            shutil.copy(system, folder)
    suite = f"{release.get('VERSION_CODENAME')}-backports"
    (folder / "backports.list").write_text(f"deb http://deb.debian.org/debian {suite} main\n")
    return ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={folder}"]


class Servers:
    """Runs servers in a directory of its own until the end of the block; `missing` says what could not be run."""

    def __init__(self, cpu: int | None = None) -> None:
        self.cpu = cpu
        self.missing: dict[str, str] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.directory = Path(tempfile.mkdtemp(prefix="tezkor-servers-"))

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            programs = [Path(part).name for part in process.args]  # type: ignore[union-attr]
            process.send_signal(next((STOPS[name] for name in programs if name in STOPS), signal.SIGTERM))
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def redis(self, tcp: bool = False) -> str | None:
        """The path of the socket of a running Redis that saves nothing, or None; with `tcp` its loopback address."""
        if not tcp:
            path = str(self.directory / "redis.sock")
            return self._redis(path, ["--port", "0", "--unixsocket", path])
        port = free_port()
        return self._redis(f"127.0.0.1:{port}", ["--port", str(port)])

    def redis_replica(self, primary: str) -> str | None:
        """The address of a replica of a Redis that was started with `tcp`, or None."""
        host, _, port = primary.rpartition(":")
        own = free_port()
        return self._redis(f"127.0.0.1:{own}", ["--port", str(own), "--replicaof", f"{host} {port}"])

    def sentinel(self, primary: str) -> str | None:
        """The address of a Sentinel that watches a Redis under the name of service, or None."""
        host, _, port = primary.rpartition(":")
        own = free_port()
        settings = self.directory / f"sentinel-{own}.conf"
        settings.write_text(
            f"port {own}\nbind 127.0.0.1\nsentinel monitor service {host} {port} 1\n"
            "sentinel down-after-milliseconds service 500\nsentinel failover-timeout service 3000\n"
        )
        return self._start("redis-server", f"127.0.0.1:{own}", ["redis-server", str(settings), "--sentinel"])

    def redis_cluster(self) -> list[str] | None:
        """The addresses of three nodes of a cluster, or None."""
        nodes = []
        for number in range(3):
            port, bus = free_port(), free_port()
            options = ["--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus)]
            options += ["--cluster-config-file", f"nodes-{number}.conf", "--cluster-node-timeout", "1000"]
            address = self._redis(f"127.0.0.1:{port}", options)
            if address is None:
                return None
            nodes.append((port, bus))
        for number, (port, _) in enumerate(nodes):
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            asked(port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            asked(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            if number > 0:
                asked(port, "CLUSTER", "MEET", "127.0.0.1", str(nodes[0][0]), str(nodes[0][1]))
        deadline = time.monotonic() + START_SECONDS
        while not all("cluster_state:ok" in asked(port, "CLUSTER", "INFO") for port, _ in nodes):
            if time.monotonic() > deadline:
                self.missing["redis-server"] = "its nodes did not become a cluster"
                return None
            time.sleep(0.05)
        return [f"127.0.0.1:{port}" for port, _ in nodes]

    def _redis(self, path: str, options: list[str]) -> str | None:
        settings = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.directory)]
        return self._start("redis-server", path, ["redis-server", *options, *settings])

    def memcached(self, tcp: bool = False) -> str | None:
        """The path of the socket of a running memcached of 1 GiB, or None; with `tcp` its loopback address."""
        port = free_port() if tcp else 0
        path = f"127.0.0.1:{port}" if tcp else str(self.directory / "memcached.sock")
        options = ["-l", "127.0.0.1", "-p", str(port)] if tcp else ["-s", path, "-a", "0700"]
        options += ["-m", "1024", "-I", "8m"]
        if os.geteuid() == 0:
            options += ["-u", "root"]
        return self._start("memcached", path, ["memcached", *options])

    def postgresql(self) -> str | None:
        """The directory of the socket of a running PostgreSQL that syncs nothing to the disk, or None.

        The user and the database are called postgres, and there is no password.
        """
        folder = self.directory / "postgresql"
        data = str(folder / "data")
        user = POSTGRESQL_USER if os.geteuid() == 0 else None
        reason = install("postgresql")
        if reason is None:
            initdb = [str(postgresql_program("initdb")), "-D", data, "-U", POSTGRESQL_USER]
            initdb += ["--auth=trust", "--no-sync", "-E", "UTF8", "--no-locale"]
            reason = self._initialise(folder, user, initdb)
        if reason is not None:
            self.missing["postgresql"] = reason
            return None
        settings = ["fsync=off", "full_page_writes=off", "listen_addresses=", "shared_buffers=16MB"]
        command = [str(postgresql_program("postgres")), "-D", data, "-k", str(folder)]
        command += [part for setting in settings for part in ("-c", setting)]
        socket_path = self._start("postgresql", str(folder / ".s.PGSQL.5432"), command, user)
        return None if socket_path is None else str(folder)

    def mariadb(self) -> str | None:
        """The path of the socket of a running MariaDB that syncs nothing to the disk, or None.

        The user is called root, there is no password, and a database test.
        """
        folder = self.directory / "mariadb"
        user = MARIADB_USER if os.geteuid() == 0 else None
        options = ["--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder}"]
        reason = install("mariadb-server")
        if reason is None:
            make = [str(program("mariadb-install-db")), *options]
            make += ["--auth-root-authentication-method=normal", "--skip-name-resolve"]
            reason = self._initialise(folder, user, make)
        if reason is not None:
            self.missing["mariadb-server"] = reason
            return None
        path = str(folder / "mariadb.sock")
        options += [f"--socket={path}", f"--pid-file={folder / 'pid'}", "--skip-networking", "--skip-log-bin"]
        options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"]
        return self._start("mariadb-server", path, [str(program("mariadbd")), *options], user)

    def _initialise(self, folder: Path, user: str | None, command: list[str]) -> str | None:
        """Makes the data of a database in a new folder of the user's; else returns one line that says what happened."""
        folder.mkdir(mode=0o700)
        if user is not None:
            self.directory.chmod(0o711)
            shutil.chown(folder, user)
        made = subprocess.run(
            as_user(command, user),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode == 0:
            return None
        said = made.stderr.strip().splitlines() or ["no reason given"]
        return f"{Path(command[0]).name} failed: {said[-1]}"

    def _start(self, package: str, path: str, command: list[str], user: str | None = None) -> str | None:
        reason = install(package)
        if reason is None:
            process = subprocess.Popen(
                as_user([str(shutil.which(command[0])), *command[1:]], user),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.processes.append(process)
            if self.cpu is not None:
                os.sched_setaffinity(process.pid, {self.cpu})
            reason = answering(package, path, process)
        if reason is not None:
            self.missing[package] = reason
            return None
        return path


def asked(port: int, *words: str) -> str:
    """What a Redis on the loopback answers to a command."""
    command = [str(shutil.which("redis-cli")), "-p", str(port), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def free_port() -> int:
    """One of the loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def as_user(command: list[str], user: str | None) -> list[str]:
    """The command, run by another user. (`subprocess` can do that too, but then forks, for which a process with many
    caches in its memory is too large.)"""
    if user is None:
        return command
    return [str(shutil.which("setpriv")), "--reuid", user, "--regid", user, "--clear-groups", *command]


def answering(package: str, path: str, process: subprocess.Popen[bytes]) -> str | None:
    """Waits until the server answers; else returns one line that says what happened.

    One that accepts connections may still be starting up.
    """
    question, answer = QUESTIONS.get(package, (b"", b""))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"{process.args[0]} ended at once with code {process.returncode}"  # type: ignore[index]
        try:
            host, _, port = path.rpartition(":")
            with socket.socket(socket.AF_INET if host else socket.AF_UNIX) as connection:
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                connection.connect((host, int(port)) if host else path)
                connection.sendall(question)
                received = b""
                while answer not in received:
                    more = connection.recv(1000)
                    if not more:
                        raise ConnectionAbortedError
                    received += more
            return None
        except OSError:
            time.sleep(0.02)
    return f"{process.args[0]} did not answer within {START_SECONDS} s"  # type: ignore[index]


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] != "install" or set(sys.argv[2:]) - set(PACKAGES):
        print(f"usage: scripts/servers.py install {' '.join(PACKAGES)}", file=sys.stderr)
        return 2
    reasons = [reason for package in sys.argv[2:] if (reason := install(package))]
    print("\n".join(f"servers: {reason}" for reason in reasons), end="\n" if reasons else "")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
