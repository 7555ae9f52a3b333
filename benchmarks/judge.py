"""The judge through an endpoint, beside a plain load generator on the same endpoint with the same concurrency.

    python benchmarks/judge.py [--times N] [--seconds N]

The endpoint is an OpenAI-compatible server in a process of its own: each request takes a fixed time, and no more than
the concurrency are worked on at once. The load generator, another process, sends the judge's own requests over
connections that stay open and reads the answers without parsing them. Ours is the judge as the stage calls it, which
asks the references of its prompt beside the questions: both send as many requests. They run by turns; the ratio is
that of each turn. What the server gives at most is
the concurrency over the latency; where the machine cannot serve that, the generator shows what it can.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import record

SETTINGS = ((32, 0.05), (256, 0.05), (32, 0.5), (256, 0.5))
"""Requests in flight, and how long each takes (seconds)."""
FEWEST = 4
"""A turn is at least so many times the concurrency."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", nargs="?", choices=["serve", "load", "judge"], help="what a process of its own does")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of a turn, were the server alone the limit")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.role == "serve":
        asyncio.run(serve(options.concurrency, options.latency))
    elif options.role == "load":
        print(json.dumps(asyncio.run(load(options.port, options.concurrency, options.number))))
    elif options.role == "judge":
        print(json.dumps(ask_judge(options.port, options.concurrency, options.number)))
    else:
        compare(options.times, options.seconds)


def compare(times: int, seconds: float) -> None:
    settings = []
    for concurrency, latency in SETTINGS:
        most = concurrency / latency
        number = max(FEWEST * concurrency, round(most * seconds))
        server = start("serve", concurrency, latency)
        assert server.stdout
        port = int(server.stdout.readline())
        try:
            runs: dict[str, list[dict[str, float]]] = {"load": [], "judge": []}
            for _ in range(times):
                for role, found in runs.items():
                    done = start(role, concurrency, latency, "--port", str(port), "--number", str(number))
                    found.append(json.loads(done.communicate()[0]))
                    print(f"{concurrency}, {latency} s: {role} {found[-1]}", file=sys.stderr)
        finally:
            server.terminate()
            server.wait()
        rates = {role: [round(number / run["seconds"], 1) for run in found] for role, found in runs.items()}
        ratios = [round(ours / plain, 3) for ours, plain in zip(rates["judge"], rates["load"], strict=True)]
        settings.append(
            {
                "concurrency": concurrency,
                "latency_seconds": latency,
                "requests": number,
                "most_per_second": most,
                "per_second": rates,
                "cpu_milliseconds_per_request": {
                    role: round(statistics.median(1000 * run["cpu_seconds"] / number for run in found), 3)
                    for role, found in runs.items()
                },
                "ratios": ratios,
                "ratio": statistics.median(ratios),
            }
        )
    show(settings)
    record.write("judge", {"times": times, "settings": settings})


def show(settings: list[dict[str, Any]]) -> None:
    rows = [("in flight", "latency", "at most", "load generator", "judge", "ratio (least, greatest)", "CPU a request")]
    for one in settings:
        rates = one["per_second"]
        rows.append(
            (
                str(one["concurrency"]),
                f"{one['latency_seconds']} s",
                f"{one['most_per_second']:.0f}/s",
                f"{statistics.median(rates['load']):.0f}/s",
                f"{statistics.median(rates['judge']):.0f}/s",
                f"{one['ratio']:.2f} ({min(one['ratios']):.2f}, {max(one['ratios']):.2f})",
                f"{one['cpu_milliseconds_per_request']['judge']:.2f} ms",
            )
        )
    print(record.table(rows))


def start(role: str, concurrency: int, latency: float, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, role, "--concurrency", str(concurrency), "--latency", str(latency), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"NO_PROXY": "127.0.0.1"})


class Room:
    """What the server works on at once; the rest waits."""

    def __init__(self, concurrency: int, latency: float) -> None:
        self.num_free, self.latency = concurrency, latency
        self.waiting: deque[Callable[[], None]] = deque()
        self.loop = asyncio.get_running_loop()

    def work(self, answer: Callable[[], None]) -> None:
        """Call `answer` after the latency, once there is room."""
        if not self.num_free:
            self.waiting.append(answer)
            return
        self.num_free -= 1
        self.loop.call_later(self.latency, self.end, answer)

    def end(self, answer: Callable[[], None]) -> None:
        self.num_free += 1
        answer()
        if self.waiting:
            self.work(self.waiting.popleft())


class Requests(asyncio.Protocol):
    """One connection of the server: a request after the other, each answered after the latency."""

    def __init__(self, room: Room, answer: bytes) -> None:
        self.room, self.answer = room, answer
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if end and len(body) >= content_length(head):
            self.received = b""
            self.room.work(lambda: self.transport.write(self.answer))


def content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)


async def serve(concurrency: int, latency: float) -> None:
    """Serve until told to end; prints the port first. The answer is as long as one with twenty log-probabilities."""
    words = ["Yes", "No", *(f"word{number}" for number in range(18))]
    tops = [
        {"token": word, "logprob": math.log(0.5) - rank, "bytes": list(word.encode())}
        for rank, word in enumerate(words)
    ]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": "Yes"},
        "logprobs": {"content": [{**tops[0], "top_logprobs": tops}]},
    }
    usage = {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201}
    about = {"id": "1", "object": "chat.completion", "created": 1, "model": "served"}
    body = json.dumps(about | {"choices": [choice], "usage": usage}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    room = Room(concurrency, latency)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Requests(room, head + body), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def cases(number: int) -> tuple[list[Any], list[str]]:
    """Return questions and answers for the judge, all different."""
    from telellm.records import Question

    reference = "The target cell allocates resources before the handover command is sent to the user equipment."
    questions = [Question(f"What does cell {at} do before a handover?", reference, "web_1") for at in range(number)]
    return questions, [f"It reserves {at} resource blocks for the user equipment." for at in range(number)]


def judge_prompt() -> Any:
    from telellm.evaluation import judge as judging
    from telellm.lm.prompts import load_prompt

    return load_prompt(Path(judging.__file__).parent / "prompts", judging.PROMPT)


def ask_judge(port: int, concurrency: int, number: int) -> dict[str, float]:
    from telellm.evaluation.judge import judge
    from telellm.lm.endpoint import EndpointModel
    from telellm.recipe import LanguageModel

    settings = {"endpoint": f"http://127.0.0.1:{port}/v1", "max_concurrency": concurrency}
    model = EndpointModel(LanguageModel.model_validate(settings), "served")
    questions, answers = cases(number - len(judge_prompt().references))  # the judge asks those, too
    judge(model, questions[:1], answers[:1])  # imports
    began, busy = time.monotonic(), time.process_time()
    verdicts = judge(model, questions, answers)
    found = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - busy}
    assert {verdict.word for verdict in verdicts} == {"yes"} and len(verdicts) == len(questions)
    return found


async def load(port: int, concurrency: int, number: int) -> dict[str, float]:
    """Send `number` requests over `concurrency` connections."""
    prompt = judge_prompt()
    before = [{"role": "system", "content": prompt.system}]
    for asked, answered in prompt.examples:
        before += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    bodies = []
    asked = [values for values, _ in prompt.references]
    for question, text in zip(*cases(number - len(asked)), strict=True):
        asked.append({"question": question.statement, "reference": question.answer, "answer": text})
    for values in asked:
        filled = prompt.fill(values)
        wishes = {"model": "served", "temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        bodies.append(json.dumps(wishes | {"messages": [*before, {"role": "user", "content": filled}]}).encode())
    remaining = iter(bodies)

    async def ask_one_by_one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in remaining:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answered = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(content_length(answered))
        writer.close()

    began, busy = time.monotonic(), time.process_time()
    await asyncio.gather(*(ask_one_by_one() for _ in range(concurrency)))
    return {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - busy}


if __name__ == "__main__":
    main()
