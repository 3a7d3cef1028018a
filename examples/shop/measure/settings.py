"""The shop's own settings with meters on: for `demo.py`, never for a site."""

import os

from project.settings import *  # noqa: F403
from project.settings import CACHES, MIDDLEWARE

METERED_BACKEND = os.environ.get("SHOP_BACKEND") or CACHES["default"]["BACKEND"]
CACHES = {"default": {**CACHES["default"], "BACKEND": "measure.meters.MeteredCache"}}
MIDDLEWARE = ["measure.meters.meters", *MIDDLEWARE]
