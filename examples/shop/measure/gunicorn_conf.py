"""Gunicorn's settings for the shop: a file per worker says when it is ready to serve."""

import os
from pathlib import Path

workers = 3
threads = int(os.environ.get("SHOP_THREADS", "1"))
worker_class = "sync" if threads == 1 else "gthread"
worker_connections = threads  # a worker takes no request that would wait for a thread: another takes it
keepalive = 0
timeout = 60
loglevel = "warning"
control_socket_disable = True


def post_worker_init(worker):
    Path(os.environ["SHOP_RUN_DIR"], f"ready-{worker.pid}").touch()
