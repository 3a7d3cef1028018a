"""Settings for Django's own tests; ``TEZKOR_SUITE`` names the backend that runs them (see backends.py)."""

import os

from backends import CHOSEN

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sites",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "cache",
    "sessions_tests",
    "template_tests",
    *(["tezkor"] if CHOSEN.name == "database" else []),  # its createcachetable makes the table
]
CACHES = {"default": CHOSEN.entry()}
DATABASES = {alias: {"ENGINE": "django.db.backends.sqlite3"} for alias in ("default", "other")}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
LANGUAGE_CODE = "en"
MIGRATION_MODULES = dict.fromkeys(("auth", "contenttypes", "sessions"))
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "urls"
SECRET_KEY = "django_tests_secret_key"
SITE_ID = 1
SILENCED_SYSTEM_CHECKS = ["fields.W342"]
STATIC_URL = "static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [os.path.join(os.environ["DJANGO_TESTS"], "templates")],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
USE_TZ = False
