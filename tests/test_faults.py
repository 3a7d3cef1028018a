"""Caches on servers behind a proxy that breaks every promise of a network: eight workers, 2 000 requests each.

Nothing that reads raises, nothing wrong is ever read, and what the fault costs is bounded.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from faults.load import Load, django_cache
from faults.proxy import Proxy

# A fault, its options, and whether the server then answers in vain: what it says must not be believed.
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("refuse", {}),
    ("unreachable", {}),
    ("blackhole", {}),
    ("blackhole", {"then": "deliver"}),
    ("stall", {}),
    ("delay", {"seconds": 0.5}),
    ("drip", {"pause": 0.002}),
    ("reset", {}),
    ("cut", {}),
    ("garbage", {"kind": "random"}),
    ("garbage", {"kind": "type"}),
    ("garbage", {"kind": "flip"}),
    ("duplicate", {}),
    ("shift", {}),
    ("shift", {"first": "withheld"}),
    ("swap", {}),
]
WORKERS = 8
SOAK = os.environ.get("SOAK") == "1"
REPLY_SECONDS = 0.1


@pytest.fixture(scope="module", params=["redis", "memcached"])
def loaded(request: Any, running: Any, tmp_path_factory: Any) -> Any:
    upstream = getattr(running, request.param)()
    if upstream is None:
        pytest.skip(str(running.missing))
    protocol = "resp" if request.param == "redis" else "memcached"
    with Proxy(upstream, protocol) as proxy:
        location = f"redis://{proxy.address}/0" if request.param == "redis" else proxy.address
        backend = "RedisCache" if request.param == "redis" else "MemcachedCache"
        entry = {
            "BACKEND": f"tezkor.backends.{backend}",
            "LOCATION": location,
            "OPTIONS": {"TEST": {"SHARED": True}},
        }
        settings = {"INSTALLED_APPS": ["tezkor"], "SECRET_KEY": "django-insecure-of-these-tests"}
        shared = {"TEZKOR_SHARED_DIRECTORY": str(tmp_path_factory.mktemp("regions"))}
        with Load(
            django_cache,
            processes=WORKERS,
            requests=2000,
            caches={"default": entry},
            alias="default",
            environ=shared,
            **settings,
        ) as load:
            yield proxy, load


# Half of them by default, each kind of harm among them.
CHOSEN = FAULTS if SOAK else FAULTS[::2] + FAULTS[9:14:2]


@pytest.mark.parametrize(("fault", "options"), CHOSEN, ids=lambda part: part if isinstance(part, str) else "")
def test_no_fault_raises_or_is_believed(loaded: Any, fault: str, options: dict[str, Any]) -> None:
    proxy, load = loaded
    summary = load.under(proxy, fault, **options)
    assert summary.read_errors == {}, summary
    assert summary.wrong == 0, summary
    print(f"{fault} {options}: {summary.slowest[0]:.3f} s at most, used again after {summary.recovery} s")
    # Bounds for a machine that does other things too; measured: a request of 0.13 s, used again within 0.5 s.
    assert summary.recovery is not None, summary
    assert summary.recovery < 6, summary
    assert summary.median < REPLY_SECONDS / 2, summary
    assert summary.slowest[0] < 5, summary
