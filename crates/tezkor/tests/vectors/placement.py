"""Asks pymemcache and pylibmc on which server each of 10 000 keys lives; writes their answers to placement.txt.

    pip install pymemcache==4.0.0 pylibmc==1.6.3 && python placement.py

Each answer is four lines: the placement as Tezkor calls it, the servers, the number of each key's server (one
character), and nothing. The keys are those of `keys()` here and in src/store/memcached/ring.rs. It never talks to
a server.
"""

from __future__ import annotations

from pathlib import Path

import pylibmc
from pymemcache.client.hash import HashClient

NUMBERS = "0123456789abcdef"
SERVERS = {
    "three": ["10.0.0.1:11211", "10.0.0.2:11211", "cache.example.org:11300"],
    "sockets": ["/run/a.sock", "/run/b.sock", "/run/memcached/c.sock"],
    "mixed": ["[::1]:11211", "localhost", "b.example", *[f"10.1.0.{n}:{11210 + n % 3}" for n in range(5)]],
    "weighted": ["10.0.0.1:11211:1", "10.0.0.2:11211:2", "10.0.0.3:11300:5"],
}
BEHAVIOURS = {"modula": None, "ketama": {"ketama": True}, "ketama-weighted": {"ketama_weighted": True}}


def keys() -> list[str]:
    """Keys as Django makes them, short ones, long ones, and some beyond ASCII."""
    kinds = [
        lambda number: f":1:key{number}",
        lambda number: f"shop:2:product:{number * 7919}",
        lambda number: f"{number:x}",
        lambda number: f":1:ключ-{number}",
        lambda number: f":1:鍵😀é{number}" + "x" * (number % 150),
    ]
    return [kinds[number % len(kinds)](number) for number in range(10_000)]


def rendezvous(servers: list[str]) -> list[int]:
    client = HashClient(servers, allow_unicode_keys=True)
    nodes = client.hasher.nodes
    assert len(nodes) == len(servers)
    return [nodes.index(client.hasher.get_node(key)) for key in keys()]


def libmemcached(servers: list[str], behaviours: dict[str, object] | None) -> list[int]:
    client = pylibmc.Client(servers, behaviors=behaviours)
    return [client.hash(key) for key in keys()]


def main() -> None:
    lines = []
    for name, servers in SERVERS.items():
        answers = {}
        if name != "weighted":
            answers["rendezvous"] = rendezvous(servers)
        for placement, behaviour in BEHAVIOURS.items():
            if name != "weighted" or placement == "ketama-weighted":
                answers[placement] = libmemcached(servers, behaviour)
        for placement, numbers in answers.items():
            lines += [placement, ",".join(servers), "".join(NUMBERS[number] for number in numbers), ""]
    Path(__file__).with_suffix(".txt").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
