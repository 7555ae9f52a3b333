"""Serve: a model behind an OpenAI-compatible address that follows the version in production without a gap.

The engine is `transformers serve`, a process for each version. What stands before it hands requests on: when the
pointer moves, the new version's engine is started and asked something; then new requests go to it, and the old one ends
when its last request has its answer.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telellm import registry
from telellm.lm.models import model_directory
from telellm.recipe import RecipeError
from telellm.serving.asked import Unfit, has_chat_template, read_request, while_connected
from telellm.serving.named_models import NamedModel, of_registry, resolve
from telellm.stage import StageFailed, end_with_parent
from telellm.store import Store, StoreUnavailable, TornOutput

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

POLL_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""After a version that could not be loaded, it is tried again."""
START_SECONDS = 1800.0
DRAIN_SECONDS = 600.0
"""Requests that take longer are cut off when a version goes."""
VERSION_HEADER = "x-telellm-version"
UNHANDED = {"host", "content-length", "connection", "transfer-encoding", "accept-encoding"}
"""Headers that belong to one connection."""
PATHS = ("chat/completions", "completions", "responses")
"""What is handed on. An engine offers more, such as loading any model that a request names."""
MOST_AT_ONCE = 256
"""Requests that wait for an engine; others are sent away for a moment."""
JSON = {"content-type": "application/json"}
Say = Callable[[str], None]


@dataclass(eq=False)
class Engine:
    """A process that answers for one version of a model."""

    model: NamedModel
    directory: str
    port: int
    process: "subprocess.Popen[bytes]"
    in_flight: int = 0
    converses: bool = True
    """Whether the model has a chat template: an engine that is asked for a chat without one fails without a word."""

    @property
    def address(self) -> str:
        """Where it listens, on this machine alone."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Front:
    """What clients talk to: hands requests to the engine of the version that is served."""

    def __init__(self, name: str, store: Store, arguments: Sequence[str], say: Say, poll: float = POLL_SECONDS) -> None:
        self.name = name
        self.store = store
        self.arguments = list(arguments)
        self.say = say
        self.poll = poll
        self.follows = registry.production(store, name) is not None if "://" not in name else False
        (model, *others) = resolve(name, store)
        if others:
            labels = ", ".join(other.label for other in (model, *others))
            raise RecipeError(
                f"serve: {name} is a run with several models ({labels}); name one: the folder model of an output, such "
                f"as {others[-1].name}"
            )
        if model.endpoint:
            raise RecipeError(f"serve: {name} is served already; name a model")
        self.first = model
        self.current: Engine | None = None
        self.engines: list[Engine] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the first engine, and the watch over the pointer."""
        self.current = await self._load(self.first)
        self.say(f"{self.first.label} is served")
        self._spawn(self._watch())

    async def stop(self) -> None:
        """End everything that was started."""
        for task in self.tasks:
            task.cancel()
        for engine in self.engines:
            await asyncio.to_thread(engine.stop)

    async def _load(self, model: NamedModel) -> Engine:
        """Start a version's engine, and wait until it has answered something."""
        import httpx2

        self.say(f"{model.label} is loaded")
        directory = str(await asyncio.to_thread(model_directory, model.name, model.revision))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", directory, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--log-level", "error", *self.arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which lets the engine end its answers
            preexec_fn=partial(end_with_parent, os.getpid()),
        )
        engine = Engine(model, directory, port, process, converses=has_chat_template(Path(directory)))
        self.engines.append(engine)
        try:
            async with httpx2.AsyncClient(timeout=START_SECONDS) as client:
                async with asyncio.timeout(START_SECONDS):
                    await self._answers(client, engine)
        except BaseException:
            self.engines.remove(engine)
            await asyncio.to_thread(engine.stop)
            raise
        return engine

    async def _answers(self, client: Any, engine: Engine) -> None:
        """Return when an engine has written a token."""
        import httpx2

        while True:
            if engine.process.poll() is not None:
                raise StageFailed(
                    f"serve: the engine of {engine.model.label} ended with code {engine.process.returncode} while it "
                    "was loaded; what it said stands above"
                )
            with suppress(httpx2.TransportError):
                if (await client.get(f"{engine.address}/health")).status_code == 200:
                    break
            await asyncio.sleep(0.2)
        asked = {"model": engine.directory, "prompt": "Question: What is a cell?\nAnswer:", "max_tokens": 1}
        answer = await client.post(f"{engine.address}/v1/completions", json=asked)
        if answer.status_code != 200:
            raise StageFailed(f"serve: {engine.model.label} cannot answer: {answer.text[:300]}")

    async def _watch(self) -> None:
        """Follow the pointer, and start an engine anew that ended."""
        failed: tuple[str, float] = ("", 0.0)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.poll)
            engine = self.current
            assert engine is not None, "start made it"
            try:
                wanted = await asyncio.to_thread(of_registry, self.store, self.name) if self.follows else self.first
                dead = engine.process.poll() is not None
                if wanted.label == engine.model.label and not dead:
                    continue
                if failed[0] == wanted.label and loop.time() < failed[1] + RETRY_SECONDS:
                    continue
                if dead:
                    self.say(f"the engine of {engine.model.label} ended with code {engine.process.returncode}")
                self.current = await self._load(wanted)
                self.say(f"{wanted.label} is served; before: {engine.model.label}")
                self._spawn(self._retire(engine))
            except (StoreUnavailable, TornOutput, RecipeError, StageFailed, TimeoutError, OSError) as error:
                failed = (wanted.label if "wanted" in locals() else "", loop.time())
                self.say(f"{engine.model.label} is served on: {error}")

    async def _retire(self, engine: Engine) -> None:
        """End an engine when its last request has its answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while engine.in_flight:
                    await asyncio.sleep(0.05)
        await asyncio.to_thread(engine.stop)
        self.engines.remove(engine)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def application(front: Front) -> "Starlette":
    """Return the web application: `/v1/…` is handed on, `/health` and `/v1/models` are answered here."""
    import httpx2
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(timeout=None, limits=httpx2.Limits(max_connections=None)) as client:
            app.state.client = client
            try:
                await front.start()
                yield
            finally:
                await front.stop()

    class Relayed(StreamingResponse):
        """An answer that is handed on; its engine may go when it is through, however that came."""

        def __init__(self, engine: Engine, upstream: Any, content: Any, **named: Any) -> None:
            super().__init__(content, **named)
            self.engine, self.upstream = engine, upstream

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self.engine.in_flight -= 1
                await self.upstream.aclose()

    async def health(request: "Request") -> "Response":
        engine = front.current
        alive = engine is not None and engine.process.poll() is None
        label = engine.model.label if engine else None
        return JSONResponse({"status": "ok" if alive else "starting", "version": label}, 200 if alive else 503)

    async def models(request: "Request") -> "Response":
        entry = {"id": front.name, "object": "model", "created": 0, "owned_by": "telellm"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def hand_on(request: "Request") -> "Response":
        try:
            asked = await read_request(request)
        except Unfit as error:
            return JSONResponse({"error": {"message": str(error)}}, error.status, headers={"connection": "close"})
        engine = front.current
        if engine is None or engine.process.poll() is not None:
            return JSONResponse({"error": {"message": "the model is loaded"}}, 503, headers={"retry-after": "5"})
        if engine.in_flight >= MOST_AT_ONCE:
            return JSONResponse({"error": {"message": "too many ask at once"}}, 429, headers={"retry-after": "5"})
        if not engine.converses and request.url.path != "/v1/completions" and "chat_template" not in asked:
            said = f"{engine.model.label} has no chat template, as base models have none: ask it at /v1/completions"
            return JSONResponse({"error": {"message": said}}, 400)
        engine.in_flight += 1
        try:
            body = json.dumps(asked | {"model": engine.directory}).encode()
            headers = {name: value for name, value in request.headers.items() if name not in UNHANDED}
            url = f"{engine.address}{request.url.path}"
            client = request.app.state.client
            sent = client.send(
                client.build_request(request.method, url, content=body, headers=headers | JSON), stream=True
            )
            upstream = await while_connected(request, sent)
        except httpx2.TransportError as error:
            engine.in_flight -= 1
            return JSONResponse({"error": {"message": f"the engine does not answer: {error}"}}, 502)
        except BaseException:
            engine.in_flight -= 1
            raise
        if upstream is None:
            engine.in_flight -= 1
            return Response(status_code=499)
        known = {name: value for name, value in upstream.headers.items() if name not in UNHANDED}
        known[VERSION_HEADER] = engine.model.label
        return Relayed(
            engine, upstream, _renamed(upstream, engine, front.name), status_code=upstream.status_code, headers=known
        )

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        *(Route(f"/v1/{path}", hand_on, methods=["POST"]) for path in PATHS),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _renamed(upstream: Any, engine: Engine, name: str) -> AsyncIterator[str]:
    """Yield an answer's lines with the name that the client knows in place of the engine's folder."""
    there, here = (json.dumps(text)[1:-1] for text in (engine.directory, name))
    async for line in upstream.aiter_lines():
        yield line.replace(f"{there}@main", here).replace(there, here) + "\n"


def serve(name: str, store: Store, host: str, port: int, arguments: Sequence[str], say: Say, poll: float) -> int:
    """Serve a model until it is interrupted; returns the exit status."""
    import uvicorn

    front = Front(name, store, arguments, say, poll)
    config = uvicorn.Config(application(front), host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
    server = uvicorn.Server(config)
    say(
        f"http://{host}:{port}/v1 will serve {front.first.label}" + (", and follow production" if front.follows else "")
    )
    with suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        server.run()
    return 0 if server.started else 1
