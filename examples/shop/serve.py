#!/usr/bin/env python
"""Runs the shop for a person to click through, until Ctrl-C. Uses Tezkor; `--cache` chooses another cache."""

import argparse
import signal
import sys
import tempfile

from measure import database
from measure.server import WORKERS, Server


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", default="tezkor", choices=["dummy", "locmem", "tezkor"])
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    shop = database.CACHE_DIR / "shop.sqlite3"
    films = database.prepared(print)
    if not shop.exists() or shop.stat().st_mtime < films.stat().st_mtime:
        database.copied(films, shop)
    with tempfile.TemporaryDirectory(prefix="tezkor-shop-") as run_dir:
        try:
            with Server(asked.cache, shop, run_dir, port=asked.port) as server:
                host = f"127.0.0.1:{server.port}"
                if asked.cache == "tezkor":  # the only one of the three that this other process can fill
                    database.manage("warm", "--host", host, database=shop, cache=asked.cache)
                print(f"The shop is open at http://{host}/ with {WORKERS} workers; Ctrl-C closes it.")
                print(
                    f"Back office: http://{host}/admin/, user admin, password {database.ADMIN_PASSWORD}",
                    flush=True,
                )
                server.master.wait()
                sys.exit("serve: gunicorn has ended")
        except KeyboardInterrupt:
            print("\nclosed")
        except (RuntimeError, OSError) as problem:
            sys.exit(f"serve: {problem}")


if __name__ == "__main__":
    main()
