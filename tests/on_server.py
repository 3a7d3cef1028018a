"""A pytest plugin that puts the default cache of the tests on a server: ``TESTS_ON=redis:/path pytest -p on_server``.

What the tests say of the cache of this machine is asked of one on Redis or memcached; what they say that cannot be true
there is left out, each with its reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from tezkor import backends, options

KIND, _, PATH = os.environ["TESTS_ON"].partition(":")
LOCATION = f"unix://{PATH}?db=3" if KIND == "redis" else PATH

# By the beginnings of their names.
LEFT_OUT = {
    "test_a_stale_value_is_served_when_the_loader_fails_and_the_source_rests": "a source rests for three seconds",
    "test_those_who_wait_for_many_get_what_came_of_it": "keys are claimed one by one, so two callers may share them",
    "test_rate_limit": "limits may be larger there, and clear() of memcached takes them away",
    "test_tags_of_every_way_to_write": "what was cleared is gone, and no server tells why",
    "test_stale_entries_go_with_the_pattern_too": "stale entries are counted too",
    "test_a_view_in_the_thread_that_an_async_loader_needs_runs_it_itself": "who comes first is settled in that thread",
}
LEFT_OUT_ON_MEMCACHED = {
    **dict.fromkeys(
        (
            "test_an_invalidated_value_is_never_served_as_stale[pattern",
            "test_an_invalidated_value_is_never_served_as_stale[prefix",
            "test_a_load_that_is_overtaken_is_not_stored[pattern",
            "test_a_load_that_is_overtaken_is_not_stored[prefix",
            "test_neither_clear_nor_eviction_takes_a_lock_away",
            "test_patterns",
            "test_random_transactions_do_what_the_model_does",
            "test_a_prefix_with_letters_of_a_pattern_is_taken_as_it_is",
            "test_delete_many_takes_patterns_where_it_is_told_to",
        ),
        "it cannot list its keys",
    ),
    **dict.fromkeys(
        (
            "test_a_dear_value_is_refreshed_before_it_expires_and_a_cheap_one_is_not",
            "test_a_load_that_is_overtaken_is_not_stored[set",
            "test_a_lock_that_is_not_ours_is_not_given_back",
            "test_times",
            "test_jitter_shortens_each_timeout_by_its_own_share",
            "test_named_timeouts_and_keys_in_every_call",
        ),
        "it counts whole seconds",
    ),
}


def read(cls: Any, location: Any, params: Mapping[str, Any]) -> options.Plan:
    if location or cls is not backends.TezkorCache:
        return original(cls, location, params)
    given = {**params, "OPTIONS": {**params.get("OPTIONS", {}), "TEST": {"SHARED": True}}}
    return options.plan(cls.to_url, LOCATION, given, KIND)


original = backends.TezkorCache.__dict__["read"].__func__
backends.TezkorCache.read = classmethod(read)  # type: ignore[method-assign,assignment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    left_out = LEFT_OUT | (LEFT_OUT_ON_MEMCACHED if KIND == "memcached" else {})
    for item in items:
        for name, reason in left_out.items():
            if item.name.startswith(name):
                item.add_marker(pytest.mark.skip(f"on {KIND}: {reason}"))
