"""Sends visits to the shop and notes how long each answer took: a process of its own, with one thread per client.

Each request has a connection of its own, as from a web server in front, so that any worker may get it.
Run as `python -m measure.load PORT`: visits come as JSON on standard input, figures go as JSON to standard output.
"""

import json
import queue
import re
import socket
import sys
import threading
import time

CLIENTS = 4
TOKEN = re.compile(rb'name="csrfmiddlewaretoken" value="([^"]+)"')
READS_AROUND_WRITE = 3  # as many as there are workers


class Visitor:
    """A browser as far as the shop can tell: cookies, one request at a time."""

    def __init__(self, port):
        self.port, self.cookies, self.worker = port, {}, ""
        self.latencies, self.meters, self.failures = [], [0, 0, 0, 0], []

    def send(self, method, path, body=None, headers=""):
        if self.cookies:
            headers += (
                "Cookie: " + "; ".join(f"{name}={value}" for name, value in self.cookies.items()) + "\r\n"
            )
        if body is not None:
            headers += f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n"
        text = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body or ''}"
        )
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as link:
            link.sendall(text.encode())
            parts = []
            while part := link.recv(65536):
                parts.append(part)
        self.latencies.append(time.perf_counter() - start)
        head, _, content = b"".join(parts).partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1]) if lines[0] else 0
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            if name == "X-Shop-Meters":
                self.meters = [old + int(new) for old, new in zip(self.meters, value.split(), strict=True)]
                self.last_meters = [int(new) for new in value.split()]
            elif name == "X-Shop-Worker":
                self.worker = value
            elif name == "Set-Cookie":
                cookie, _, setting = value.partition(";")[0].partition("=")
                self.cookies[cookie] = setting
        if status not in (200, 302):
            self.failures.append(f"{method} {path}: {status}")
        return content


class Client(threading.Thread):
    """One thread that makes visit after visit, as long as there are any."""

    def __init__(self, port, visits, price_token):
        super().__init__()
        self.visits, self.price_token = visits, price_token
        self.visitor = Visitor(port)
        self.old_prices = self.price_reads = 0

    def run(self):
        try:
            while True:
                self.visitor.cookies = {}
                for kind, *what in self.visits.get_nowait():
                    getattr(self, f"do_{kind}")(*what)
        except queue.Empty:
            pass
        except (OSError, ValueError) as problem:  # a failure to report, not a thread to lose
            self.visitor.failures.append(f"no proper answer: {problem!r}")

    def do_get(self, path):
        self.visitor.send("GET", path)

    def do_add(self, pk, quantity):
        page = self.visitor.send("GET", f"/cart/add/{pk}/")
        token = TOKEN.search(page)
        if not token:
            self.visitor.failures.append(f"/cart/add/{pk}/ has no CSRF token")
            return
        body = f"csrfmiddlewaretoken={token[1].decode()}&quantity={quantity}"
        self.visitor.send("POST", f"/cart/add/{pk}/", body)
        self.visitor.send("GET", "/cart/")

    def do_price(self, pk, price):
        """Reads a film, changes its price, reads it again; nobody else writes it, so any other is an old one."""
        for _ in range(READS_AROUND_WRITE):
            self.visitor.send("GET", f"/film/{pk}/film/")
        self.visitor.send(
            "POST", f"/api/price/{pk}/", f"price={price}", f"X-Price-Token: {self.price_token}\r\n"
        )
        for _ in range(READS_AROUND_WRITE):
            page = self.visitor.send("GET", f"/film/{pk}/film/")
            self.price_reads += 1
            self.old_prices += f'class="price">${price}<'.encode() not in page


def send(port, visits, price_token):
    waiting = queue.SimpleQueue()
    for visit in visits:
        waiting.put(visit)
    clients = [Client(port, waiting, price_token) for _ in range(CLIENTS)]
    start = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    seconds = time.perf_counter() - start
    meters = zip(*(client.visitor.meters for client in clients), strict=True)
    queries, lookups, hits, loads = map(sum, meters)
    return {
        "seconds": seconds, "latencies": [latency for client in clients for latency in client.visitor.latencies],
        "queries": queries, "lookups": lookups, "hits": hits, "loads": loads,
        "old_prices": sum(client.old_prices for client in clients),
        "price_reads": sum(client.price_reads for client in clients),
        "failures": [failure for client in clients for failure in client.visitor.failures],
    }  # fmt: skip


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(send(int(sys.argv[1]), asked["visits"], asked["price_token"]), sys.stdout)
