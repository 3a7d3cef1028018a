"""Runs the tests of the API, which are about the cache of this machine, on a real Redis and memcached as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from servers import Servers  # noqa: E402

MODULES = (
    "atomic",
    "changes",
    "decorators",
    "flights",
    "loads",
    "locks",
    "names",
    "patience",
    "signals",
    "transactions",
    "verbs",
)


def main() -> int:
    files = [f"tests/test_{name}.py" for name in MODULES]
    failed = 0
    with Servers() as servers:
        for kind, package in (("redis", "redis-server"), ("memcached", "memcached")):
            path = getattr(servers, kind)()
            if path is None:
                print(f"not run on {kind}: {servers.missing[package]}")
                continue
            print(f"the API on {kind}:", flush=True)
            environ = {**os.environ, "TESTS_ON": f"{kind}:{path}"}
            environ["TEZKOR_SHARED_DIRECTORY"] = str(servers.directory)
            command = [sys.executable, "-m", "pytest", "-p", "on_server", "-q", *files]
            failed |= subprocess.run(command, cwd=HERE.parent, env=environ, check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
