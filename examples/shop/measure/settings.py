"""The shop's own settings with meters on: for `demo.py`, never for a site."""

import os

from project.settings import *  # noqa: F403
from project.settings import CACHES, MIDDLEWARE

METERED_BACKEND = CACHES["default"]["BACKEND"]
CACHES = {"default": {**CACHES["default"], "BACKEND": "measure.meters.MeteredCache"}}
if os.environ.get("SHOP_CACHE") == "tezkor":
    CACHES["default"]["LOCATION"] = os.environ[
        "SHOP_DEMO_LOCATION"
    ]  # a region of the demo's own, removed after it
MIDDLEWARE = ["measure.meters.meters", *MIDDLEWARE]
