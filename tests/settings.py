"""Settings for the tests that run in this process; pytest makes every LOCATION private memory."""

SECRET_KEY = "for tests only"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "tezkor"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
USE_TZ = True
CACHES = {
    "default": {"BACKEND": "tezkor.backends.TezkorCache"},
    "other": {"BACKEND": "tezkor.backends.TezkorCache", "LOCATION": "other", "KEY_PREFIX": "p", "VERSION": 3},
    "locmem": {"BACKEND": "tezkor.backends.LocMemCache", "LOCATION": "here"},
    "dummy": {"BACKEND": "tezkor.backends.DummyCache"},
    "django": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "django"},
}
