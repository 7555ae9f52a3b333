"""Requests to an HTTP server that answers in JSON: repeated where it is busy, many at a time, answers in order.

Each request has a thread, which costs a third of a request's work in the client libraries of such servers: a judge
must keep a server busy that answers hundreds of requests a second.
"""

import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

P = TypeVar("P")
T = TypeVar("T")
PASSING = (408, 409, 429)
"""Refusals that pass, beside the errors of the server itself (500 and above)."""
SHORTEST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first repetition, doubled with each one."""
LONGEST_TOLD = 60.0
"""The longest that a server may tell to wait (seconds)."""


class Unanswered(Exception):
    """The server cannot be reached, or not in time; `late` tells which."""

    def __init__(self, reason: object, *, late: bool) -> None:
        super().__init__(str(reason))
        self.late = late


class Refused(Exception):
    """The server answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """A server at an address; connections to it stay open. Proxies are those of the environment."""

    def __init__(self, address: str, key: str, timeout_seconds: float, attempts: int, num_connections: int) -> None:
        self.address = address.rstrip("/")
        self.attempts = attempts
        self.closed = threading.Event()
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        parts = urlsplit(self.address)
        proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
        timeout = urllib3.Timeout(connect=timeout_seconds, read=timeout_seconds)
        wishes: dict[str, Any] = {"maxsize": num_connections, "timeout": timeout}
        self.pool = urllib3.ProxyManager(proxy, **wishes) if proxy else urllib3.PoolManager(**wishes)

    def post(self, path: str, request: Mapping[str, Any]) -> Any:
        """Return the server's answer to a request; safe to call from several threads.

        Raises `Unanswered` or `Refused` when it was repeated often enough, or repeating is of no use.
        """
        body = json.dumps(request).encode()
        for attempt in range(1, self.attempts + 1):
            failure: Exception
            told = None
            try:
                answer = self.pool.request(
                    "POST", f"{self.address}/{path}", body=body, headers=self.headers, retries=False
                )
            except urllib3.exceptions.NewConnectionError as error:  # it is a TimeoutError, too
                failure = Unanswered(error, late=False)
            except urllib3.exceptions.HTTPError as error:
                failure = Unanswered(error, late=isinstance(error, urllib3.exceptions.TimeoutError))
            else:
                if answer.status == 200:
                    return _parse(answer)
                failure = Refused(answer.status, _message(answer))
                if answer.status < 500 and answer.status not in PASSING:
                    break
                told = _told_to_wait(answer.headers)
            longer = min(SHORTEST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.75, 1)
            if attempt == self.attempts or self.closed.wait(longer if told is None else told):
                break
        raise failure

    def close(self) -> None:
        """Close what is open; nothing is repeated any more."""
        self.closed.set()
        self.pool.clear()


def in_order(work: Callable[[P], T], items: Iterable[P], at_once: int, num_ahead: int) -> Iterator[T]:
    """Yield what `work` makes of each item, in order, computed in `at_once` threads; the first error is raised at once.

    Up to `num_ahead` items are taken ahead of the first that is not ready. The threads end by themselves.
    """
    todo: SimpleQueue[tuple[int, P] | None] = SimpleQueue()
    done: SimpleQueue[tuple[int, T | None, Exception | None]] = SimpleQueue()
    left = threading.Event()

    def go_on() -> None:
        while (taken := todo.get()) and not left.is_set():
            number, item = taken
            try:
                done.put((number, work(item), None))
            except Exception as error:  # it is raised where the results are read
                done.put((number, None, error))

    remaining = enumerate(items)
    found: dict[int, Any] = {}
    num_threads = num_taken = num_given = 0
    try:
        while True:
            for numbered in islice(remaining, num_ahead - (num_taken - num_given)):
                num_taken += 1
                todo.put(numbered)
                if num_threads < min(at_once, num_taken):
                    # one that waits for an answer which nobody wants any more does not keep the process from ending
                    threading.Thread(target=go_on, daemon=True).start()
                    num_threads += 1
            if num_given == num_taken:
                return
            while num_given not in found:
                number, result, error = done.get()
                if error is not None:
                    raise error
                found[number] = result
            yield found.pop(num_given)
            num_given += 1
    finally:
        left.set()
        for _ in range(num_threads):
            todo.put(None)


def _parse(answer: urllib3.BaseHTTPResponse) -> Any:
    try:
        return json.loads(answer.data)
    except ValueError as error:
        raise Refused(answer.status, f"what it answers is not JSON: {_shown(answer)}") from error


def _message(answer: urllib3.BaseHTTPResponse) -> str:
    """Return what a server says about an error, where it says it in one of the usual ways."""
    try:
        found = json.loads(answer.data)
        found = found.get("error", found)
        said = found if isinstance(found, str) else found.get("message") or found["detail"]
    except (ValueError, AttributeError, KeyError, TypeError):
        said = _shown(answer)
    moved = f" (it sends on to {answer.headers['Location']})" if "Location" in answer.headers else ""
    return f"{answer.status} {said}{moved}"


def _shown(answer: urllib3.BaseHTTPResponse) -> str:
    return answer.data[:200].decode(errors="replace").strip()


def _told_to_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server tells to wait, if it does and they are not too many."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds <= LONGEST_TOLD:
            return seconds
    return None
