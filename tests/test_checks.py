"""Settings mistakes as ``manage.py check`` reports them: which setting, what is wrong, what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from tezkor import checks, options


def entry(backend="TezkorCache", **settings):
    return {"BACKEND": f"tezkor.backends.{backend}", **settings}


def found(entry, deploy=False, **settings):
    """Ids and texts of what is said about one alias."""
    with override_settings(CACHES={"default": entry}, **settings):
        messages = checks.check_settings() + (checks.check_folders_not_exposed() if deploy else [])
    return {message.id: f"{message.msg} {message.hint}" for message in messages}


GOOD = [
    entry(),
    entry(LOCATION=""),
    entry(LOCATION="shared://"),
    entry(LOCATION="shared://shop?size=64MiB"),
    entry(LOCATION="memory://"),
    entry(LOCATION="file:///var/cache/shop?size=1GiB"),
    entry(LOCATION="unique-snowflake"),
    entry(
        TIMEOUT=None,
        KEY_PREFIX="p",
        VERSION=2,
        KEY_FUNCTION="django.core.cache.backends.base.default_key_func",
    ),
    entry(OPTIONS={"SIZE": "64MiB", "DECODED_SIZE": 0, "PICKLE": False, "COMPRESS_MIN_BYTES": "4KiB"}),
    entry(OPTIONS={"SIZE": 1 << 20, "REGION": "shop-1.0", "TEST": {"SHARED": True}}),
    entry(OPTIONS={"JITTER": 0.1, "DELETE_MANY_PATTERNS": True, "TRANSACTIONAL": False}),
    entry(OPTIONS={"JITTER": 0, "TIMEOUTS": {}, "KEYS": {}}),
    entry(OPTIONS={"TIMEOUTS": {"STATIC": 86400, "SHORT": 0.5, "EVER": None, "OFF": 0}}),
    entry(OPTIONS={"KEYS": {"product_list": "list:{page}:{cat_id}", "user": "user:{user.pk}", "front": "f"}}),
    entry("LocMemCache", LOCATION="any thing?", OPTIONS={"MAX_ENTRIES": "30", "CULL_FREQUENCY": 0}),
    entry("FileBasedCache", LOCATION="/var/tmp/django_cache"),
    entry("FileBasedCache", LOCATION=Path("/var/tmp/django_cache")),
    entry("DummyCache", LOCATION="redis://", OPTIONS={"CLIENT_CLASS": "x"}),
    {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"SIZ": 1}},
    {"BACKEND": "not.there"},
]


@pytest.mark.parametrize("settings", GOOD, ids=str)
def test_good_settings_pass_in_silence(settings):
    assert found(settings, deploy=True) == {}


BAD = [
    (
        entry(LOCATION="redi://localhost"),
        "tezkor.E001",
        ["['LOCATION'] is 'redi://localhost'", "shared://name"],
    ),
    (entry(LOCATION="/var/cache"), "tezkor.E001", ["'/var/cache'", "Write 'file:///var/cache'"]),
    (entry(LOCATION=["a", "b"]), "tezkor.E001", ["['a', 'b']", "memory://name"]),
    (entry(LOCATION=Path("/x")), "tezkor.E001", ["PosixPath('/x')", "file:///absolute/folder"]),
    (entry(LOCATION="file://relative"), "tezkor.E001", ["absolute"]),
    (entry(LOCATION="shared://x?size=12Mb"), "tezkor.E001", ["12Mb", "128MiB"]),
    (entry(LOCATION="shared://x?colour=red"), "tezkor.E001", ["colour"]),
    (entry(LOCATION="file:///etc/passwd"), "tezkor.E001", ["/etc/passwd is no folder", "path of a folder"]),
    (entry("FileBasedCache", LOCATION="/etc/passwd"), "tezkor.E001", ["/etc/passwd is no folder"]),
    (entry("FileBasedCache"), "tezkor.E001", ["is ''", "absolute path of a folder"]),
    (entry(OPTIONS={"SIZE": "lots"}), "tezkor.E002", ["['OPTIONS']['SIZE'] is 'lots'", "'128MiB'"]),
    (entry(OPTIONS={"SIZE": -1}), "tezkor.E002", ["is -1"]),
    (entry(OPTIONS={"SIZE": True}), "tezkor.E002", ["is True"]),
    (entry(OPTIONS={"SIZE": 1.5}), "tezkor.E002", ["is 1.5"]),
    (entry(OPTIONS={"SIZE": "1KiB"}), "tezkor.E002", ["['OPTIONS']['SIZE'] is '1KiB'", "1MiB to 128GiB"]),
    (entry(OPTIONS={"SIZE": "999GiB"}), "tezkor.E002", ["is '999GiB'", "1MiB to 128GiB"]),
    (entry(OPTIONS={"SIZE": 10**30}), "tezkor.E002", ["is 1000"]),
    (entry(LOCATION="shared://x?size=100KiB"), "tezkor.E001", ["102400", "1MiB to 128GiB"]),
    (entry(LOCATION="shared:/x"), "tezkor.E001", ["'shared:/x'", "Write 'shared://x'"]),
    (entry(LOCATION="file:///a\0b"), "tezkor.E001", ["absolute directory"]),
    (entry("FileBasedCache", LOCATION="/a\0b"), "tezkor.E001", ["without NUL"]),
    (entry("FileBasedCache", LOCATION=b"/a"), "tezkor.E001", ["b'/a'", "absolute path of a folder"]),
    (entry(OPTIONS=None), "tezkor.E003", ["['OPTIONS'] is None, not a dictionary"]),
    (entry(OPTIONS=[]), "tezkor.E003", ["['OPTIONS'] is [], not a dictionary"]),
    (entry(TIMEOUT=float("inf")), "tezkor.E005", ["['TIMEOUT'] is inf", "None for ever"]),
    (entry(VERSION=[1]), "tezkor.E006", ["['VERSION'] is [1]", "a text or a number"]),
    (entry(KEY_PREFIX="\ud800"), "tezkor.E006", ["['KEY_PREFIX']", "a text or a number"]),
    (entry(SIZE="64MiB"), "tezkor.W001", ["['SIZE'] has no effect", "'OPTIONS': {'SIZE': '64MiB'}"]),
    (entry(OPTIONS={"DECODED_SIZE": "x"}), "tezkor.E002", ["DECODED_SIZE"]),
    (entry(OPTIONS={"PICKLE": "no"}), "tezkor.E002", ["['PICKLE'] is 'no'", "True or False"]),
    (entry("LocMemCache", OPTIONS={"MAX_ENTRIES": "many"}), "tezkor.E002", ["MAX_ENTRIES", "a number"]),
    (entry(OPTIONS={"REGION": "a/b"}), "tezkor.E002", ["'a/b'", "letters"]),
    (entry(OPTIONS={"TEST": {"SHARE": True}}), "tezkor.E002", ["{'SHARED': True}"]),
    (entry(OPTIONS={"TEST": True}), "tezkor.E002", ["{'SHARED': True}"]),
    (entry(LOCATION="memory://?size=2MiB", OPTIONS={"SIZE": "1MiB"}), "tezkor.E002", ["1048576", "2097152"]),
    *(
        (entry(OPTIONS={"JITTER": share}), "tezkor.E002", ["['OPTIONS']['JITTER'] is", "less than 1"])
        for share in (1, -0.1, True, "0.1", None, float("nan"))
    ),
    (entry(OPTIONS={"DELETE_MANY_PATTERNS": "yes"}), "tezkor.E002", ["is 'yes'", "True or False"]),
    (entry(OPTIONS={"TRANSACTIONAL": 1}), "tezkor.E002", ["['TRANSACTIONAL'] is 1", "True or False"]),
    (entry(OPTIONS={"TIMEOUTS": ["STATIC"]}), "tezkor.E002", ["a dictionary from name", "'STATIC': 86400"]),
    (entry(OPTIONS={"TIMEOUTS": {5: 5}}), "tezkor.E002", ["a dictionary from name"]),
    (entry(OPTIONS={"TIMEOUTS": {"A": 5, "B": "1h"}}), "tezkor.E002", ["'B': Write a number of seconds"]),
    (entry(OPTIONS={"TIMEOUTS": {"A": -1}}), "tezkor.E002", ["'A': Write a number of seconds"]),
    (entry(OPTIONS={"KEYS": "product:{pk}"}), "tezkor.E002", ["a dictionary from name to template"]),
    (entry(OPTIONS={"KEYS": {"a": "p:{}"}}), "tezkor.E002", ["'a': Give every field a name"]),
    (entry(OPTIONS={"KEYS": {"a": "p:{0}"}}), "tezkor.E002", ["'a': Give every field a name"]),
    (entry(OPTIONS={"KEYS": {"a": "{x}{y}"}}), "tezkor.E002", ["'a': Write something between '{x}'"]),
    (entry(OPTIONS={"KEYS": {"a": "{x:03d}"}}), "tezkor.E002", ["'a': Write '{x}' without a format"]),
    (entry(OPTIONS={"KEYS": {"{a}": "x"}}), "tezkor.E002", ["a name without braces"]),
    (entry(OPTIONS={"KEYS": {"a": 5}}), "tezkor.E002", ["'a': Write a text such as"]),
    *(
        (entry(**{name: {"A": 5}}), "tezkor.W001", [f"['{name}'] has no effect", f"'OPTIONS': {{'{name}'"])
        for name in ("JITTER", "TIMEOUTS", "KEYS", "TRANSACTIONAL", "DELETE_MANY_PATTERNS")
    ),
    (entry(LOCATION="127.0.0.1:6379"), "tezkor.E001", ["looks like a server", "redis://127.0.0.1:6379/0"]),
    (entry(LOCATION="redis:/127.0.0.1"), "tezkor.E001", ["redis://host:6379/0"]),
    (entry(OPTIONS={"MIGRATE_FROM": "redis"}), "tezkor.E002", ["is 'redis'", "'django' or 'django-redis'"]),
    (entry(OPTIONS={"MIGRATE_FROM": ["django"]}), "tezkor.E002", ["is ['django']"]),
    (entry(OPTIONS={"MIGRATE_FROM": "django"}), "tezkor.W006", ["is 'django'", "nobody signed", "expired"]),
    (entry(OPTIONS={"MIGRATE_FROM": "django-redis"}), "tezkor.W006", ["what django-redis wrote is read"]),
    (entry(OPTIONS={"TIMEOUT": 5}), "tezkor.E003", ["Write 'TIMEOUT' next to OPTIONS, not in it."]),
    (entry(OPTIONS={"JITER": 5}), "tezkor.E003", ["Did you mean 'JITTER'?"]),
    (entry(OPTIONS={"max_entries": 5}), "tezkor.E003", ["'max_entries'", "Did you mean 'MAX_ENTRIES'?"]),
    (entry(OPTIONS={"COMPRESS": 5}), "tezkor.E003", ["Did you mean 'COMPRESS_MIN_BYTES'?"]),
    (
        entry(OPTIONS={"CLIENT_CLASS": "x"}),
        "tezkor.E003",
        ["'CLIENT_CLASS'", "There are COMPRESS_MIN_BYTES, "],
    ),
    (entry("LocMemCache", OPTIONS={"ENTRIES_MAX": 5}), "tezkor.E003", ["Did you mean 'MAX_ENTRIES'?"]),
    (entry(OPTIONS=["SIZE"]), "tezkor.E003", ["['OPTIONS'] is ['SIZE'], not a dictionary"]),
    (entry(KEY_FUNCTION="not.there"), "tezkor.E004", ["['KEY_FUNCTION'] is 'not.there'", "key_prefix"]),
    (entry(KEY_FUNCTION="nodots"), "tezkor.E004", ["nodots"]),
    (entry(KEY_FUNCTION="math.pi"), "tezkor.E004", ["3.14", "cannot be called"]),
    (entry(size="64MiB"), "tezkor.W001", ["['size'] has no effect", "'OPTIONS': {'SIZE': '64MiB'}"]),
    (entry(TIMEOUT=float("nan")), "tezkor.E005", ["['TIMEOUT'] is nan"]),
    (entry("FileBasedCache", LOCATION="file:///x"), "tezkor.E001", ["'file:///x'", "takes a path"]),
    (entry(KEY_PREFX="p"), "tezkor.W001", ["'KEY_PREFX'", "Did you mean 'KEY_PREFIX'?"]),
    (entry(TIMEOUT="soon"), "tezkor.W004", ["'soon'", "300"]),
    (entry("FileBasedCache", LOCATION="var/cache"), "tezkor.W003", ["relative", "var/cache"]),
    (
        entry(OPTIONS={"MAX_ENTRIES": 5, "CULL_FREQUENCY": 3}),
        "tezkor.I001",
        ["MAX_ENTRIES and CULL_FREQUENCY", "SIZE"],
    ),
    (entry("FileBasedCache", LOCATION="/x", OPTIONS={"MAX_ENTRIES": 5}), "tezkor.I001", ["bounded in bytes"]),
]


@pytest.mark.parametrize(
    ("settings", "id", "parts"), BAD, ids=lambda part: str(part) if isinstance(part, str) else ""
)
def test_mistakes_are_reported_with_the_fix(settings, id, parts):
    messages = found(settings)
    assert list(messages) == [id]
    assert messages[id].startswith("CACHES['default'][")
    for part in parts:
        assert part in messages[id]


@pytest.mark.parametrize(
    ("folder", "relation"),
    [("/srv/media", "matches"), ("/srv/media/cache", "is inside"), ("/srv", "contains"), ("/other", "")],
)
@pytest.mark.parametrize(
    "served",
    [
        {"MEDIA_ROOT": "/srv/media"},
        {"STATIC_ROOT": Path("/srv/media")},
        {"STATICFILES_DIRS": ["/srv/media"]},
        {"STATICFILES_DIRS": [("prefix", "/srv/media")]},
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["FileBasedCache", "TezkorCache"])
def test_folders_that_the_web_server_serves_are_reported(folder, relation, served, backend):
    location = f"file://{folder}" if backend == "TezkorCache" else folder
    messages = found(entry(backend, LOCATION=location), deploy=True, **served)
    assert list(messages) == (["tezkor.W002"] if relation else [])
    if relation:
        assert f"{relation} {next(iter(served))}" in messages["tezkor.W002"]


def test_a_plan_holds_what_the_options_mean():
    def plan(**given):
        return options.plan(options.region_url, "", {"OPTIONS": given})

    assert plan().arguments.get("jitter", 0) == 0
    assert not any((plan().delete_many_patterns, plan().transactional, plan().timeouts, plan().keys))
    assert plan().migrate_from is None
    assert plan(MIGRATE_FROM="django").migrate_from == "django"
    read = plan(
        JITTER=0.25, DELETE_MANY_PATTERNS=True, TRANSACTIONAL=True, TIMEOUTS={"A": 5}, KEYS={"k": "k:{a}"}
    )
    assert read.mistakes == []
    assert (read.arguments["jitter"], read.delete_many_patterns, read.transactional) == (0.25, True, True)
    assert read.timeouts == {"A": 5}
    assert read.keys["k"].format({"a": 1}) == "k:1"


def sizes(**aliases):
    with override_settings(CACHES=aliases):
        return [message.msg for message in checks.check_settings() if message.id == "tezkor.W005"]


def test_aliases_of_one_region_with_different_sizes_are_reported():
    big, small = {"SIZE": "64MiB"}, {"SIZE": "32MiB"}
    assert sizes(a=entry(OPTIONS=big), b=entry(LOCATION="name-space", OPTIONS=big)) == []
    assert sizes(a=entry(OPTIONS=big), b=entry(LOCATION="shared://x", OPTIONS=small)) == []
    assert sizes(a=entry(OPTIONS=big), b=entry(OPTIONS=small | {"REGION": "r"})) == []
    for other in (entry(LOCATION="shared://"), entry(LOCATION="name-space?size=1MiB"), entry(OPTIONS=small)):
        assert "'a': 67108864, 'b'" in sizes(a=entry(OPTIONS=big), b=other)[0]


def test_checks_are_registered():
    with override_settings(CACHES={"default": entry(OPTIONS={"SIZ": 1})}):
        assert "tezkor.E003" in [message.id for message in run_checks()]


def test_manage_check_lists_all_mistakes(project):
    project.settings(
        "shop", "{'default': {'BACKEND': 'tezkor.backends.TezkorCache', 'OPTIONS': {'SIZ': 1, 'PICKLE': 2}}}"
    )
    with pytest.raises(AssertionError) as caught:
        project.run("manage.py", "check")
    assert "(tezkor.E003) CACHES['default']['OPTIONS']['SIZ'] is not an option" in str(caught.value)
    assert "(tezkor.E002) CACHES['default']['OPTIONS']['PICKLE'] is 2." in str(caught.value)


def test_manage_check_says_it_without_the_app_too(project):
    """Django's own checks make every backend, and ours runs no checks of its own then."""
    project.settings("shop", "{'default': {'BACKEND': 'tezkor.backends.TezkorCache', 'OPTIONS': {'SIZ': 1}}}")
    path = project.folder / "shop.py"
    path.write_text(path.read_text().replace("['tezkor']", "[]"))
    with pytest.raises(
        AssertionError, match=r"ImproperlyConfigured: CACHES\['default'\]\['OPTIONS'\]\['SIZ'\] is not"
    ):
        project.run("manage.py", "check")


@pytest.mark.parametrize("installed", ["['tezkor']", "[]"])
def test_a_server_stops_at_start_or_at_the_first_use(project, installed):
    """A server runs no checks; the app says it when it is loaded, the backend when it is made."""
    project.settings(
        "shop", "{'default': {'BACKEND': 'tezkor.backends.TezkorCache', 'LOCATION': 'redi://x'}}"
    )
    path = project.folder / "shop.py"
    path.write_text(path.read_text().replace("['tezkor']", installed))
    start = "import django; django.setup()"
    with pytest.raises(
        AssertionError, match=r"ImproperlyConfigured: CACHES\['default'\]\['LOCATION'\] is 'redi://x'"
    ):
        project.python(
            start
            if "tezkor" in installed
            else f"{start}\nfrom django.core.cache import cache; cache.get('a')"
        )


def test_every_option_is_read_and_known_to_the_documentation():
    text = (Path(__file__).resolve().parent.parent / "docs" / "settings.md").read_text()
    for name in options.READERS:
        assert f"`{name}`" in text
