"""The script that runs real servers: one is ready when it answers a question, and not when it accepts a connection."""

from __future__ import annotations

import socket
import subprocess
import threading

import pytest
import servers


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def starting(tmp_path):
    """The socket of a server that accepts while it starts; it hangs up, then is silent, then answers what is here."""
    answers = []
    with socket.socket(socket.AF_UNIX) as listening:
        path = str(tmp_path / "socket")
        listening.bind(path)
        listening.listen()

        def serve():
            for answer in [b"", b"FATAL: the database system is starting up", *answers]:
                connection, _ = listening.accept()
                with connection:
                    assert connection.recv(1000)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        yield path, answers, thread
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("package", "answer"),
    [
        ("redis-server", b"+PONG\r\n"),
        ("memcached", b"VERSION 1.6\r\n"),
        ("postgresql", b"C\0\0\0\x0dSELECT 1\0"),
    ],
)
def test_a_server_is_ready_when_it_answers(starting, process, package, answer):
    """PostgreSQL accepted, and then told the tests that it was starting up."""
    path, answers, thread = starting
    answers.append(answer)
    thread.start()
    assert servers.answering(package, path, process) is None
    thread.join(10)
    assert not thread.is_alive()  # it was asked until it had answered


def test_a_server_that_only_accepts_is_not_ready(tmp_path, process, monkeypatch):
    monkeypatch.setattr(servers, "START_SECONDS", 0.3)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        assert "did not answer within" in servers.answering("redis-server", path, process)


def test_a_server_that_ends_is_told(tmp_path):
    with subprocess.Popen(["false"]) as process:
        process.wait()
        assert "ended at once with code 1" in servers.answering("memcached", str(tmp_path / "none"), process)


def test_real_servers_answer():
    with servers.Servers() as running:
        started = {"redis-server": running.redis(), "memcached": running.memcached()}
        started["postgresql"] = running.postgresql()
        if running.missing == {}:
            assert None not in started.values()
            return
    pytest.skip(f"not run: {running.missing}")
