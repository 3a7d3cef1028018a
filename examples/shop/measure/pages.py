"""Compares pages between the caches: each by the hash of its HTML without what belongs to one visitor."""

import hashlib
import re

from .load import Visitor

PERSONAL = re.compile(rb'name="csrfmiddlewaretoken" value="[^"]*"')


def looked_at(port, paths, times):
    """The set of different hashes seen for each path, and the share of cache hits of the first look at each.

    Several times, so that most pages are seen from several workers.
    """
    seen, lookups, hits = {path: set() for path in paths}, 0, 0
    for turn in range(times):
        for path in paths:
            visitor = Visitor(port)
            page = visitor.send("GET", path)
            if visitor.failures:
                raise RuntimeError(f"the shop did not answer: {visitor.failures[0]}")
            seen[path].add(fingerprint(page))
            if turn == 0:
                lookups, hits = lookups + visitor.last_meters[1], hits + visitor.last_meters[2]
    return seen, hits / max(lookups, 1)


def fingerprint(page):
    return hashlib.sha256(b" ".join(PERSONAL.sub(b"", page).split())).hexdigest()


def different(seen, reference):
    """Paths whose pages are not, at every look, the one of the reference."""
    return [path for path, hashes in seen.items() if len(hashes) != 1 or hashes != reference[path]]
