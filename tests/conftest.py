"""Django for the tests of this process, and whole projects for those that need several."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from servers import Servers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

if "tezkor.pytest_plugin" not in sys.modules:  # found by its entry point when installed
    pytest_plugins = ["tezkor.pytest_plugin"]

PACKAGE = Path(__file__).resolve().parent.parent / "python"
MANAGE = "import os, sys\nfrom django.core.management import execute_from_command_line\nexecute_from_command_line()\n"


class Project:
    """A Django project in a folder, with a directory for shared regions of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST", "TEZKOR", "DJANGO"))
        }
        self.environ.update(PYTHONPATH=str(PACKAGE), TEZKOR_SHARED_DIRECTORY=str(folder))
        self.write("manage.py", MANAGE)
        self.settings("shop")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def settings(
        self, name: str, caches: str = "{'default': {'BACKEND': 'tezkor.backends.TezkorCache'}}"
    ) -> None:
        self.write(
            f"{name}.py", f"SECRET_KEY = 'x'\nUSE_TZ = True\nINSTALLED_APPS = ['tezkor']\nCACHES = {caches}\n"
        )

    def run(self, *arguments: str, settings: str = "shop", cwd: Path | None = None, **environ: str) -> str:
        """What ``python arguments`` in the project's folder prints; fails unless it ends well."""
        ended = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=cwd or self.folder,
            env=self.environ | {"DJANGO_SETTINGS_MODULE": settings} | environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def python(self, code: str, **kwargs: str) -> str:
        """What the code prints in a process of the project."""
        return self.run("-c", textwrap.dedent(code), **kwargs).strip()


@pytest.fixture(scope="module")
def running() -> Iterator[Servers]:
    """Starts real servers, and stops them behind the module's tests."""
    with Servers() as running:
        yield running


@pytest.fixture(scope="module")
def redis(running: Servers) -> str:
    """The socket of a Redis."""
    return started(running, running.redis(), "redis-server")


@pytest.fixture(scope="module")
def memcached(running: Servers) -> str:
    """The socket of a memcached."""
    return started(running, running.memcached(), "memcached")


@pytest.fixture(scope="module")
def postgresql(running: Servers) -> str:
    """The directory of the socket of a PostgreSQL."""
    pytest.importorskip("psycopg")
    return started(running, running.postgresql(), "postgresql")


def started(running: Servers, path: str | None, package: str) -> str:
    if path is None:
        pytest.skip(f"not run: {running.missing[package]}")
    return path


@pytest.fixture(params=["redis", "memcached"])
def on_server(request: pytest.FixtureRequest, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cache on a real server. What this machine knows of servers of tests stays among them."""
    from tezkor.backends import MemcachedCache, RedisCache
    from tezkor.test import clear_caches

    path = request.getfixturevalue(request.param)
    monkeypatch.setenv("TEZKOR_SHARED_DIRECTORY", str(tmp_path_factory.getbasetemp()))
    options = {"OPTIONS": {"TEST": {"SHARED": True}}}
    made = (
        RedisCache(f"unix://{path}?db=1", options)
        if request.param == "redis"
        else MemcachedCache(path, options)
    )
    clear_caches()
    return made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def projects(tmp_path: Path) -> Callable[[str], Project]:
    """Makes several projects that share one directory of regions."""

    def make(name: str) -> Project:
        made = Project(tmp_path / name) if (tmp_path / name).mkdir() is None else None
        assert made is not None
        made.environ["TEZKOR_SHARED_DIRECTORY"] = str(tmp_path)
        return made

    return make
