"""Doctor: can this machine, this store, this cluster do it? Each check is one line, with its remedy."""

import json
import os
import socket
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from telellm.cluster import preflight
from telellm.cluster.api import Api, ClusterError, in_cluster
from telellm.lm.models import find_local
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError
from telellm.stage import StageFailed
from telellm.store import InvalidStore, Store, StoreUnavailable, TornOutput, sha256_file

ENDPOINT_SECONDS = 5
MULTIPART_BYTES = 11 * 2**20
"""More than two of the smallest parts of S3 (5 MiB)."""


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    state: Literal["ok", "warning", "failed"]
    said: str

    def __str__(self) -> str:
        """`ok       store  s3://bucket/prefix answers`."""
        return f"{self.state:<8} {self.name:<16} {self.said}"


def diagnose(recipe: Recipe | None, store: str, only: str = "") -> Iterator[Check]:
    """Yield what each check finds of a store, and of the cluster where a recipe uses one.

    `only`: `store` or `cluster`; empty: both.
    """
    if only != "cluster":
        yield from check_store(store)
    if not only and recipe is not None:
        yield from check_servers(recipe)
        yield from check_references(recipe)
    if only != "store" and (only == "cluster" or (recipe is not None and recipe.cluster.enabled)):
        yield from check_cluster(recipe, store)


def require(recipe: Recipe, store: Store, progress: Progress) -> None:
    """Check what a run in the cluster needs; raises `RecipeError` or `StageFailed` with every check that failed."""
    preflight.refuse_unreachable(recipe, store.uri, in_kubeflow=preflight.is_launcher())
    found = []
    for check in diagnose(recipe, store.uri):
        progress.note(f"checks {check.name}")
        found.append(check)
        if check.state == "warning":
            progress.say(f"{check.name}: {check.said}")
    if failed := [check for check in found if check.state == "failed"]:
        lines = [f"{check.name}: {check.said.removeprefix(f'{check.name}: ')}" for check in failed]
        raise StageFailed("start: what the run needs is not there:\n  " + "\n  ".join(lines))


def check_store(uri: str) -> Iterator[Check]:
    """Yield whether a store is reached, and takes, returns and deletes small and large objects."""
    if uri.startswith("s3://"):
        host = urlsplit(os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com").hostname or ""
        try:
            address = socket.getaddrinfo(host, None)[0][4][0]
            yield Check("dns", "ok", f"{host} is {address}")
        except OSError as error:
            yield Check("dns", "failed", f"{host} has no address here ({error.strerror}); check AWS_ENDPOINT_URL")
            return
    try:
        store = Store.open(uri)
        yield Check("store", "ok", f"{store.uri} answers")
        key = f"checks/{uuid.uuid4().hex}"
        for name, kind, size in (("store objects", "written, read and deleted", 64), *_multipart(uri)):
            _round_trip(store, key, size)
            yield Check(name, "ok", f"an object of {size:,} bytes is {kind}")
        if uri.startswith("s3://"):
            yield _check_conditions(store, key)
    except (StoreUnavailable, InvalidStore, TornOutput, FileNotFoundError) as error:
        yield Check("store", "failed", str(error))


def check_servers(recipe: Recipe) -> Iterator[Check]:
    """Yield whether the servers of the models that a recipe asks answer; that one does not here is no failure."""
    asked = [("lm", recipe.lm), *([("evaluation.judge", recipe.evaluation.judge)] if recipe.evaluation.judge else [])]
    for where, model in asked:
        if model.endpoint:
            yield _check_endpoint("language model", where, model.endpoint, model.model, "OPENAI_API_KEY")


def check_references(recipe: Recipe) -> Iterator[Check]:
    """Yield whether each reference model is on this machine, or its server answers; the hub is not asked.

    A server that does not answer here may do so where the model is scored: its lack is no failure.
    """
    for name, model in recipe.evaluation.reference_models.items():
        where = f"evaluation.reference_models.{name}"
        if model.endpoint:
            yield _check_endpoint("reference model", where, model.endpoint, model.model, model.key_variable)
            continue
        try:
            path = None if "://" in model.model else find_local(model.model)
            said = f"is {path}" if path else f"{model.model} is fetched when it is scored"
            yield Check("reference model", "ok", f"{name} {said}")
        except RecipeError as error:
            yield Check("reference model", "failed", f"{where}: {str(error).removeprefix('model: ')}")


def _check_endpoint(name: str, where: str, endpoint: str, model: str, key_variable: str) -> Check:
    address = f"{endpoint.rstrip('/')}/models"
    headers = {"Authorization": f"Bearer {os.environ.get(key_variable) or 'none'}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=ENDPOINT_SECONDS
        ) as answer:
            known = [entry["id"] for entry in json.load(answer)["data"]]
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        remedy = f"set {key_variable} where it is asked" if refused else "see that it is an address that ends in /v1"
        return Check(name, "warning", f"{where}.endpoint: {address} answers {error.code}; {remedy}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        said = f"{address} gives no list of models here ({error}); see that it does where the model is asked"
        return Check(name, "warning", f"{where}.endpoint: {said}")
    if model and model not in known:
        return Check(name, "warning", f"{where}.model: {model} is none of: {', '.join(known[:8])}")
    return Check(name, "ok", f"{model or ', '.join(known[:8])} is served at {endpoint}")


def check_cluster(recipe: Recipe | None, store: str) -> Iterator[Check]:
    """Yield whether the cluster answers, has what jobs need, lets this account start them, and has room for them."""
    settings = recipe.cluster if recipe else preflight.DEFAULTS
    try:
        api = Api(settings.namespace)
        yield Check("cluster", "ok", f"{api.server} answers: Kubernetes {preflight.version(api)}")
        for name, check in preflight.CHECKS.items():
            trouble, said = check(api, settings)
            yield Check(name, trouble or "ok", said)
        if store.startswith("s3://") and not in_cluster():
            trouble, said = preflight.check_store_from_a_pod(api, settings, store)
            yield Check("store from a pod", trouble or "ok", said)
    except (ClusterError, RecipeError) as error:
        yield Check("cluster", "failed", str(error))
    except StageFailed as error:
        yield Check("store from a pod", "failed", str(error))


def _multipart(uri: str) -> list[tuple[str, str, int]]:
    return [("store multipart", "written in parts, read and deleted", MULTIPART_BYTES)] if "s3://" in uri else []


def _check_conditions(store: Store, key: str) -> Check:
    """Only nights need it, which move the pointer to production: its lack is no failure."""
    try:
        store.swap(key, None, b"1")
        return Check("store conditions", "ok", "of two writers that expect the same one wins")
    except StoreUnavailable as error:
        if error.passing:
            raise
        return Check("store conditions", "warning", str(error))
    finally:
        store.remove(key)


def _round_trip(store: Store, key: str, size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="telellm-doctor-") as folder:
        there, back = Path(folder) / "there", Path(folder) / "back"
        there.write_bytes(os.urandom(size))
        try:
            store.upload(key, there)
            store.download(key, back)
        finally:
            store.remove(key)
        if sha256_file(there) != sha256_file(back):
            raise TornOutput(f"{store.uri}/{key} is not what was written there; look at the store's server")
