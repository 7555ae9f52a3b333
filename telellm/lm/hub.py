"""Hub: a hub's model is put into the store file by file over plain HTTP, where the hub's own client is not installed.

The launcher is such a place: it reads no model, and huggingface_hub with what it needs would take its image over its
limit for one step. `HF_ENDPOINT`, `HF_TOKEN` and the environment's proxies count as they do for the hub's own client.
"""

import http.client
import json
import os
import re
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from hashlib import sha1, sha256
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from telellm.progress import Progress
from telellm.recipe import RecipeError
from telellm.stage import StageFailed
from telellm.store import MANIFEST, Store, cache_directory, inside

FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "1_Pooling/*")
"""What of a model is read: no pickle, and no code."""
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
TRIES = 3
TIMEOUT_SECONDS = 60
PAUSE_SECONDS = 2.0
PIECE_BYTES = 2**20
LARGEST_LIST = 2**24
"""Bytes of a list of files."""
LARGEST_UNTOLD = 2**26
"""Bytes of a file whose size the hub does not tell."""
GIT_DIGEST = re.compile("[0-9a-f]{40}")


def no_hub_name(name: str) -> RecipeError:
    """Return what is said of a model's name that is none of those that can be opened."""
    return RecipeError(f'model: "{name}" is neither a folder nor a hub name (owner/name), package:MODULE/FILE or .gguf')


def copy_from_hub(
    name: str, revision: str, store: Store, place: str, about: Mapping[str, Any], progress: Progress | None = None
) -> None:
    """Put a model of the hub into the store at `place`; its manifest holds `about`, and the commit that was read.

    One file at a time is on this machine. Raises `RecipeError` where the hub has no such model, or not for this
    account, and `StageFailed` where it does not answer or a file is not what the hub says it is.
    """
    if not NAME.fullmatch(name):
        raise no_hub_name(name)
    commit, listed = _listed(name, revision)
    wanted = {file: entry for file, entry in listed.items() if any(fnmatch(file, pattern) for pattern in FILES)}
    wanted.pop(MANIFEST, None)  # some models bring one: it would make the model seem whole before it is
    if "config.json" not in wanted or not any(file.endswith(".safetensors") for file in wanted):
        raise RecipeError(f'model: "{name}" has no config.json or no .safetensors on the hub at {commit[:12]}')
    files: dict[str, Any] = {}
    for number, (file, entry) in enumerate(sorted(wanted.items()), 1):
        key = inside(f"{place}/{file}")
        if progress is not None:
            size = f" ({entry['size'] / 2**20:,.0f} MiB)" if entry.get("size") else ""
            progress.note(f"copies {name} from the hub: file {number} of {len(wanted)}, {file}{size}")
        with tempfile.TemporaryDirectory(prefix="hub-", dir=cache_directory()) as folder:
            path = Path(folder) / "file"
            files[file] = _download(name, commit, file, entry, path)
            store.upload(key, path)
    for key in set(store.list(place)) - {f"{place}/{file}" for file in (*files, MANIFEST)}:
        store.remove(key)  # left by an earlier try, when the revision was another commit
    store.write_json(f"{place}/{MANIFEST}", {**about, "commit": commit, "files": files})


def _listed(name: str, revision: str) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """Return the commit at a revision, and what the hub says of each of its files."""
    with _asked(name, revision, f"api/models/{name}/revision/{quote(revision, safe='')}?blobs=true") as answer:
        content = answer.read(LARGEST_LIST + 1)
    try:
        if len(content) > LARGEST_LIST:
            raise ValueError("it has no end")
        known = json.loads(content)
        commit = known["sha"]
        listed = {entry["rfilename"]: entry for entry in known.get("siblings") or []}
        sizes = [entry.get("size") for entry in listed.values()]
        if not re.fullmatch("[0-9a-f]{40,64}", commit) or not all(size is None or size >= 0 for size in sizes):
            raise ValueError("a commit or a size is none")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise StageFailed(
            f'model: "{name}": what comes from the hub ({_endpoint()}) is no list of files ({said}); is HF_ENDPOINT '
            "that of a hub?"
        ) from None
    return commit, listed


def _download(name: str, commit: str, file: str, entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Write one file of a commit to `path`; returns its size and digest, which are those that the hub tells."""
    for left in reversed(range(TRIES)):
        try:
            told_size, lfs, blob = entry.get("size"), entry.get("lfs") or {}, str(entry.get("blobId"))
            state, size, as_blob = sha256(), 0, sha1(f"blob {told_size}\0".encode(), usedforsecurity=False)
            with _asked(name, commit, f"{name}/resolve/{commit}/{quote(file)}") as answer, path.open("wb") as target:
                for piece in _pieces(answer):
                    target.write(piece)
                    state.update(piece)
                    as_blob.update(piece)
                    size += len(piece)
                    if size > (LARGEST_UNTOLD if told_size is None else told_size):
                        break  # it may have no end
            told = lfs.get("sha256") or state.hexdigest()
            # git's own digest of a file that is not large
            whole = lfs or told_size is None or not GIT_DIGEST.fullmatch(blob) or blob == as_blob.hexdigest()
            if told_size in (None, size) and told == state.hexdigest() and whole:
                return {"bytes": size, "sha256": state.hexdigest()}
            trouble = f"{size:,} bytes came that are not those of the hub's list"
        except (OSError, http.client.HTTPException) as error:
            trouble = f"{type(error).__name__}: {error}"
        except StageFailed:
            if not left:
                raise
            trouble = ""
        if left:
            time.sleep(PAUSE_SECONDS)
    raise StageFailed(f'model: "{name}": {file} cannot be read from the hub ({_endpoint()}): {trouble}; run again')


def _pieces(answer: IO[bytes]) -> Iterator[bytes]:
    while piece := answer.read(PIECE_BYTES):
        yield piece


def _asked(name: str, revision: str, path: str) -> Any:
    """Return the hub's open answer for a path."""
    headers = {"User-Agent": "telellm"} | ({"Authorization": f"Bearer {token}"} if (token := _token()) else {})
    request = urllib.request.Request(f"{_endpoint()}/{path}", headers=headers)
    trust = ssl.create_default_context()
    if authorities := os.environ.get("AWS_CA_BUNDLE"):  # a site's own authority signs its store and its mirror
        trust.load_verify_locations(authorities)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trust), _Redirects())
    try:
        return opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        where = f'model: "{name}": the hub ({_endpoint()}) '
        if error.code in (401, 403):
            raise RecipeError(
                f"{where}does not give it to this account ({error.code}); is the name right? If so, accept its licence "
                "there, and set HF_TOKEN (in Kubeflow the Secret telellm-hub)"
            ) from None
        if error.code == 404:
            raise RecipeError(f"{where}has no such model at revision {revision}") from None
        raise StageFailed(f"{where}answers {error.code} {error.reason}; run again later") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise StageFailed(
            f'model: "{name}" is not in the store, and the hub ({_endpoint()}) does not answer ({reason})\n'
            "  put the model into a bucket and name it (s3://bucket/prefix), or set HF_ENDPOINT for a mirror"
        ) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """The hub sends on to where its large files lie: the token is the hub's alone."""

    def redirect_request(self, request: Any, *given: Any) -> urllib.request.Request | None:
        to = super().redirect_request(request, *given)
        if to is not None and urlsplit(to.full_url)[:2] != urlsplit(request.full_url)[:2]:
            to.remove_header("Authorization")
        return to


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _token() -> str:
    return "".join(os.environ.get("HF_TOKEN", "").split())  # what is said of a header with a line's end shows it
