"""Requests to an HTTP server that answers in JSON: repeated where it is busy, many at a time, answers in order.

One thread of libcurl sends them all. Threads that each wait for an answer cost five times its processor time, and a
judge must keep a server busy that answers thousands of requests a second.
"""

import heapq
import random
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import pycurl
from pydantic_core import from_json

PASSING = (408, 409, 429)
"""Refusals that pass, beside the errors of the server itself (500 and above)."""
SHORTEST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first repetition, doubled with each one."""
LONGEST_TOLD = 60.0
"""The longest that a server may tell to wait (seconds)."""
SHORTEST_KEY = 8
"""A shorter one is a word for no key (characters)."""
LARGEST_ANSWER, LARGEST_HEAD = 2**26, 2**18
"""Bytes of an answer and of what comes before it; more is no answer of a model, and a server may send without end."""


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
    """A server at an address. Proxies are those of the environment, certificates those that Python trusts."""

    def __init__(self, address: str, key: str, timeout_seconds: float, attempts: int, at_once: int) -> None:
        self.address = address.rstrip("/")
        self.key = "".join(key.split())  # a Secret often ends in a line's end, which ends a header
        self.attempts = attempts
        self.at_once = at_once
        parts = urlsplit(self.address)
        proxy = "" if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme, "")
        trusted = ssl.get_default_verify_paths()  # they heed SSL_CERT_FILE and SSL_CERT_DIR
        self.options: dict[int, Any] = {
            pycurl.HTTPHEADER: [f"Authorization: Bearer {self.key}", "Content-Type: application/json", "Expect:"],
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.TIMEOUT_MS: max(1, round(1000 * timeout_seconds)),
            pycurl.CONNECTTIMEOUT_MS: max(1, round(1000 * timeout_seconds)),
            pycurl.NOSIGNAL: 1,
            pycurl.PROXY: proxy,
            pycurl.NOPROXY: "",  # Python has decided it
            pycurl.CAINFO: trusted.cafile,
            pycurl.CAPATH: trusted.capath,
            pycurl.PROXY_CAINFO: trusted.cafile,
            pycurl.PROXY_CAPATH: trusted.capath,
        }

    def post_each(self, path: str, bodies: Iterable[bytes], num_ahead: int) -> Iterator[Any]:
        """Yield the server's answers to requests, in their order; the first failure is raised at once.

        Up to `num_ahead` requests are taken ahead of the first that has no answer. Whoever stops listening ends what is
        in flight. Raises `Unanswered` or `Refused` when a request was repeated often enough, or repeating is of no use.
        """
        transfers = _Transfers(self.options | {pycurl.URL: f"{self.address}/{path}"}, self.at_once, self.attempts)
        numbered = enumerate(bodies)
        found: dict[int, bytes] = {}
        num_taken = num_given = 0
        try:
            while True:
                for request in islice(numbered, num_ahead - (num_taken - num_given)):
                    num_taken += 1
                    transfers.send(request)
                if num_given == num_taken:
                    return
                while num_given not in found:
                    for number, result in transfers.done.get():
                        if isinstance(result, Exception):
                            raise result
                        found[number] = result
                yield _parse(found.pop(num_given))
                num_given += 1
        except Refused as error:
            # some servers repeat what they were sent, and what is said of a refusal is kept in logs and reports
            said = str(error).replace(self.key, "…") if len(self.key) >= SHORTEST_KEY else str(error)
            raise Refused(error.status, said) from None
        finally:
            transfers.leave()


class _Transfers:
    """A thread that sends numbered requests, `at_once` at a time, over connections that stay open."""

    def __init__(self, options: Mapping[int, Any], at_once: int, attempts: int) -> None:
        self.options, self.attempts = options, attempts
        self.done: SimpleQueue[list[tuple[int, bytes | Exception]]] = SimpleQueue()
        """Answers and failures, as they come."""
        self._todo: deque[tuple[int, bytes]] = deque()
        self._num_free = at_once
        self._free: list[_Transfer] = []
        self._waiting: list[tuple[float, int, _Transfer]] = []
        """A heap of what is to be repeated: when (seconds of the monotonic clock)."""
        self._due: float | None = None
        """When libcurl wants to be called, whatever the sockets do."""
        self._left = self._hungry = False
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, at_once)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._call_me)
        # it does not keep the process from ending: a name that is looked up cannot be interrupted
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, request: tuple[int, bytes]) -> None:
        self._todo.append(request)
        if self._hungry:
            self._hungry = False
            self._ring()

    def leave(self) -> None:
        """End the thread and what is in flight."""
        self._left = True
        self._ring()

    def _ring(self) -> None:
        with suppress(OSError):  # it is about to wake up, or has ended
            self._bell.send(b"!")

    def _run(self) -> None:
        try:
            while not self._left:
                finished = self._finished()
                self._start()  # the server has something to do again before anyone reads
                if finished:
                    self.done.put(finished)
                self._turn()
        except Exception as error:  # it is raised where the answers are read
            self.done.put([(-1, error)])
        finally:
            self._multi.close()
            self._selector.close()
            self._ear.close()
            self._bell.close()

    def _start(self) -> None:
        """Send what can be sent now."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._multi.add_handle(heapq.heappop(self._waiting)[2].curl)
        self._hungry = True
        while self._todo and (self._free or self._num_free):
            if not self._free:
                self._num_free -= 1
                self._free.append(_Transfer(self.options))
            transfer = self._free.pop()
            transfer.take(*self._todo.popleft())
            self._multi.add_handle(transfer.curl)
        self._hungry = bool(self._free or self._num_free)

    def _turn(self) -> None:
        """Wait until something happens, and let libcurl go on with it."""
        times = [due for due in (self._due, self._waiting[0][0] if self._waiting else None) if due is not None]
        if self._hungry and self._todo:  # it came since
            times = [0.0]
        for key, events in self._selector.select(max(min(times) - time.monotonic(), 0) if times else None):
            if key.fileobj is self._ear:
                self._ear.recv(4096)
            else:
                readable = pycurl.CSELECT_IN if events & selectors.EVENT_READ else 0
                writable = pycurl.CSELECT_OUT if events & selectors.EVENT_WRITE else 0
                self._multi.socket_action(key.fd, readable | writable)
        if self._due is not None and self._due <= time.monotonic():
            self._due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _finished(self) -> list[tuple[int, bytes | Exception]]:
        """Return what has its answer, or fails for good; what is worth repeating waits."""
        found: list[tuple[int, bytes | Exception]] = []
        num_left = 1
        while num_left:
            num_left, answered, failed = self._multi.info_read()
            for curl in answered:
                self._settle(curl.transfer, curl.transfer.answer(), found)
            for curl, code, message in failed:
                late = code == pycurl.E_OPERATION_TIMEDOUT
                self._settle(curl.transfer, curl.transfer.too_large() or Unanswered(message, late=late), found)
        return found

    def _settle(
        self, transfer: "_Transfer", result: bytes | Exception, found: list[tuple[int, bytes | Exception]]
    ) -> None:
        self._multi.remove_handle(transfer.curl)
        transfer.attempt += 1
        lasting = isinstance(result, Refused) and result.status < 500 and result.status not in PASSING
        if isinstance(result, bytes) or lasting or transfer.attempt >= self.attempts:
            found.append((transfer.number, result))
            self._free.append(transfer)
        else:
            heapq.heappush(self._waiting, (time.monotonic() + transfer.wait(), transfer.number, transfer))

    def _watch(self, what: int, descriptor: int, multi: pycurl.CurlMulti, data: object) -> None:
        """Note which events of a socket libcurl waits for; it calls this."""
        known = descriptor in self._selector.get_map()
        if what == pycurl.POLL_REMOVE:
            if known:
                self._selector.unregister(descriptor)
            return
        events = selectors.EVENT_READ if what & pycurl.POLL_IN else 0
        events |= selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
        (self._selector.modify if known else self._selector.register)(descriptor, events)

    def _call_me(self, milliseconds: int) -> None:
        self._due = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


class _Transfer:
    """One request in flight, and after it the next."""

    def __init__(self, options: Mapping[int, Any]) -> None:
        self.curl = pycurl.Curl()
        self.curl.transfer = self
        for option, value in options.items():
            self.curl.unsetopt(option) if value is None else self.curl.setopt(option, value)

    def take(self, number: int, body: bytes) -> None:
        self.number, self.attempt = number, 0
        self.curl.setopt(pycurl.POSTFIELDS, body)
        self._listen()

    def _listen(self) -> None:
        self.head: list[bytes] = []
        self.content: list[bytes] = []
        self.left = {id(self.head): LARGEST_HEAD, id(self.content): LARGEST_ANSWER}
        self.curl.setopt(pycurl.HEADERFUNCTION, partial(self._keep, self.head))
        self.curl.setopt(pycurl.WRITEFUNCTION, partial(self._keep, self.content))

    def _keep(self, where: list[bytes], piece: bytes) -> int:
        """Keep a piece; libcurl ends the transfer where fewer bytes were taken than came."""
        self.left[id(where)] -= len(piece)
        if self.left[id(where)] < 0:
            return -1
        where.append(piece)
        return len(piece)

    def too_large(self) -> Refused | None:
        """Return why the transfer was ended here; None where it was not."""
        if min(self.left.values()) >= 0:
            return None
        return Refused(200, f"its answer is larger than {LARGEST_ANSWER / 2**20:g} MiB")

    def answer(self) -> bytes | Refused:
        status = self.curl.getinfo(pycurl.RESPONSE_CODE)
        content = b"".join(self.content)
        return content if status == 200 else Refused(status, _message(status, self.headers(), content))

    def headers(self) -> dict[str, str]:
        """Return the answer's headers, their names in small letters."""
        found: dict[str, str] = {}
        for line in self.head:
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                found[name.strip().lower()] = value.strip()
            elif name.startswith("HTTP/"):  # what came before is a proxy's, or of an answer to come
                found = {}
        return found

    def wait(self) -> float:
        """Return the seconds before the request is sent again, and be ready for its answer."""
        told = _told_to_wait(self.headers())
        self._listen()
        longer = min(SHORTEST_WAIT * 2 ** (self.attempt - 1), LONGEST_WAIT) * random.uniform(0.75, 1)
        return longer if told is None else told


def _parse(content: bytes) -> Any:
    try:
        return from_json(content)  # more than twice as fast as the standard library's
    except ValueError as error:
        raise Refused(200, f"what it answers is not JSON: {_shown(content)}") from error


def _message(status: int, headers: Mapping[str, str], content: bytes) -> str:
    """Return what a server says about an error, where it says it in one of the usual ways."""
    try:
        found = from_json(content)
        found = found.get("error", found)
        said = found if isinstance(found, str) else found.get("message") or found["detail"]
    except (ValueError, AttributeError, KeyError, TypeError):
        said = _shown(content)
    moved = f" (it sends on to {headers['location']})" if "location" in headers else ""
    return f"{status} {said}{moved}"


def _shown(content: bytes) -> str:
    return content[:200].decode(errors="replace").strip()


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
