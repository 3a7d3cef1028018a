"""Gunicorn's settings for the shop: a file per worker says when it is ready to serve."""

import os
from pathlib import Path

workers = 3
worker_class = "sync"
timeout = 60
loglevel = "warning"
control_socket_disable = True


def post_worker_init(worker):
    Path(os.environ["SHOP_RUN_DIR"], f"ready-{worker.pid}").touch()
