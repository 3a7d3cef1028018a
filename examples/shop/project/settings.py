"""Settings of the film shop. The cache is the one choice to look at: everything else is plain Django."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------------------------------- the cache
# One line decides which cache the whole shop uses; SHOP_CACHE=dummy, locmem or tezkor picks it.

# Timeouts and keys that the shop uses by name.
TIMEOUTS = {"PRICES": 600, "CATALOGUE": 3600, "DAY": 24 * 3600}
KEYS = {
    "page": "page:{path}",
    "count": "count:{digest}",
    "row": "film:{pk}:row",
    "looks": "film:{pk}:looks",
}

CACHE_CHOICES = {
    "dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
    # LocMemCache keeps 300 entries unless told otherwise, too few for any real site.
    "locmem": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 20_000},
    },
    "tezkor": {
        "BACKEND": "tezkor.backends.TezkorCache",
        "OPTIONS": {"TIMEOUTS": TIMEOUTS, "KEYS": KEYS},
    },
}
CACHES = {"default": CACHE_CHOICES[os.environ.get("SHOP_CACHE", "tezkor")]}

# Pages without prices may be a minute old (the per-site cache, see MIDDLEWARE).
CACHE_MIDDLEWARE_SECONDS = 60
# The per-site cache leaves these alone: pages with prices have a rule of their own, the rest is personal.
SITE_CACHE_SKIPS = ("/films/", "/film/", "/trending/", "/cart/", "/api/", "/admin/", "/static/")

# -------------------------------------------------------------------------------------------------- the site

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "for-the-demo-only-never-for-a-real-site")
PRICE_TOKEN = os.environ.get("SHOP_PRICE_TOKEN", "")  # who may change prices over HTTP; empty = nobody
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]

INSTALLED_APPS = [
    "shop",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.cache.UpdateCacheMiddleware",  # per-site cache: must be first
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "shop.pages.FetchFromSiteCache",  # per-site cache: must be last
]

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DB", BASE_DIR.parent.parent / ".cache" / "shop" / "shop.sqlite3"),
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Carts live in database sessions: under LocMemCache a cached session would be another one in each worker.
SESSION_ENGINE = "django.contrib.sessions.backends.db"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
STATIC_URL = "/static/"
