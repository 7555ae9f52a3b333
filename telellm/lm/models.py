"""Models by name: a Hugging Face directory, here or in a bucket, a hub name, a .gguf file, or `package:MODULE/FILE`.

Whatever the name, the model is used as a directory with safetensors: what is not one is converted once and kept in
this machine's cache. No pickle is read and no code of a model is run.
"""

import hashlib
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from telellm.entries import stays_below
from telellm.lm.hub import FILES, copy_from_hub, no_hub_name
from telellm.progress import Progress
from telellm.recipe import RecipeError
from telellm.store import MANIFEST, InvalidStore, Store, TornOutput, alone, cache_directory, sha256_file

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def model_directory(name: str, revision: str = "main") -> Path:
    """Return a local directory with the model's config, safetensors and tokenizer.

    Raises `RecipeError` when there is no such model.
    """
    if "://" in name:
        return _from_store(name)
    path = find_local(name)
    if path is None:
        return _from_hub(name, revision)
    if path.suffix == ".gguf":
        return _converted(path)
    if not (path / "config.json").is_file():
        raise RecipeError(f"model: {path}: no model is there (config.json is missing)")
    return path


def model_digest(name: str, revision: str = "main") -> str:
    """Return what identifies a model: the digest of its files, or name and revision on the hub."""
    if "://" in name:
        return _store_digest(name)
    path = find_local(name)
    if path is None:
        return f"{name}@{revision}"
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".json"))
    return hashlib.sha256("".join(_file_digest(file) for file in files).encode()).hexdigest()[:20]


def share_model(name: str, revision: str, store: Store, progress: Progress | None = None) -> str:
    """Put a model of this machine or of the hub into the store, if it is not there; returns its address there.

    Its digest stays what it was: whoever trains it from there makes the same output. A branch of the hub that moves on
    later is not read again: all nights start from the same weights.
    """
    digest = model_digest(name, revision)
    place = f"base-models/{hashlib.sha256(digest.encode()).hexdigest()[:20]}/{PurePosixPath(name).name}"
    about = {"content": digest, "name": name}
    if store.manifest(place) is not None:
        return f"{store.uri}/{place}"
    if find_local(name) is None and find_spec("huggingface_hub") is None:
        copy_from_hub(name, revision, store, place, about, progress)
    else:
        store.commit(place, model_directory(name, revision), about)
    return f"{store.uri}/{place}"


def load_tokenizer(name: str, revision: str = "main") -> "PreTrainedTokenizerBase":
    """Return the model's tokenizer, with a padding token and padding on the left (for generation)."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        model_directory(name, revision), trust_remote_code=False, padding_side="left"
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, revision: str = "main", dtype: str = "float32") -> "PreTrainedModel":
    """Return the model for inference, on the GPUs if there are any (`device_map`), else on the CPU in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    _silence()
    on_gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        model_directory(name, revision),
        dtype=torch_dtype(dtype) if on_gpu else torch.float32,
        device_map="auto" if on_gpu else None,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.train(False)
    return cast("PreTrainedModel", model)


def torch_dtype(name: str) -> "torch.dtype":
    """Return torch's number format of that name."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def find_local(name: str) -> Path | None:
    """Return where a model lies on this machine, or None for a hub name."""
    if name.startswith("package:"):
        module, _, file = name.removeprefix("package:").partition("/")
        spec = find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise RecipeError(
                f"model: {name}: the package {module} is not installed; install it, or name another model"
            )
        path = Path(spec.submodule_search_locations[0]) / file
    elif name.startswith("/") or name.endswith(".gguf"):
        path = Path(name)
    else:
        return None
    if not path.exists():
        raise RecipeError(f"model: {name}: there is no such file or folder ({path})")
    return path


def _open(uri: str) -> tuple[Store, str, dict[str, Any] | None]:
    """Return the store that holds a model's folder, the folder's place, and its manifest, if telellm put it there."""
    parent, _, place = uri.rstrip("/").rpartition("/")
    store = Store.open(parent)
    return store, place, store.manifest(place)


def _store_digest(uri: str) -> str:
    store, place, manifest = _open(uri)
    if manifest is not None:
        return str(manifest["content"])
    stamps = [f"{key} {stamp}\n" for key, stamp in store.stamps(place) if key.endswith((".safetensors", ".json"))]
    return hashlib.sha256("".join(stamps).encode()).hexdigest()[:20]


def _from_store(uri: str) -> Path:
    """Return a local copy of a model's folder in a store; it is read once by a machine."""
    store, place, manifest = _open(uri)
    found = {key.removeprefix(f"{place}/"): stamp for key, stamp in store.stamps(place)}
    # some clients mark a folder by an empty object that ends in /
    stamps = {file: stamp for file, stamp in found.items() if file != MANIFEST and not file.endswith("/")}
    for file in stamps:
        if not stays_below(file):  # a bucket's keys may be `place//etc/passwd`
            raise InvalidStore(f"model: {uri}: the name {file[:80]!r} leaves its folder; remove that object")
    if "config.json" not in stamps:
        raise RecipeError(f"model: {uri}: no model is there (config.json is missing)")
    state = hashlib.sha256(json.dumps([uri, stamps]).encode()).hexdigest()[:20]
    target = cache_directory() / "models" / state
    with alone(target):
        if target.exists():
            return target
        temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
        shutil.rmtree(temporary, ignore_errors=True)  # of a process of this number that was killed
        for file in stamps if manifest is None else manifest["files"]:
            path = temporary / file
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                store.download(f"{place}/{file}", path)
            except FileNotFoundError:
                raise TornOutput(f"{store.uri}/{place}/{file} is gone; put the model there again") from None
            if manifest is not None and sha256_file(path) != manifest["files"][file]["sha256"]:
                raise TornOutput(
                    f"{store.uri}/{place}/{file} is not the file that its manifest names; put the model there again"
                )
        temporary.rename(target)
    return target


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise no_hub_name(name) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise RecipeError(
            f'model: "{name}" is not a folder here, and the hub ({os.environ.get("HF_ENDPOINT", "default")}) '
            f"gave no such model at revision {revision}: {str(error).splitlines()[0]}\n"
            "  name a local directory, or set HF_ENDPOINT and HF_TOKEN for a mirror"
        ) from error


def conversion_of(path: Path) -> Path:
    """Return where the directory lies that is made from a GGUF file, whether it was made or not."""
    return cache_directory() / "models" / _file_digest(path)[:20]


def _converted(path: Path) -> Path:
    """Return the safetensors directory made from a GGUF file; it is made once, atomically."""
    target = conversion_of(path)
    if target.exists():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _silence()
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    where: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    AutoTokenizer.from_pretrained(path.parent, **where).save_pretrained(temporary)
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    # the weights are plain float32 now: what says otherwise would refuse to be saved
    model.hf_quantizer, model.quantization_method = None, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(temporary)
    try:
        temporary.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(temporary)
    return target


def _silence() -> None:
    """The stage shows its own progress; a library's bars would break it."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _file_digest(path: Path) -> str:
    """Return a file's SHA-256, remembered by path, size and time: weights are large."""
    state = path.stat()
    memory = cache_directory() / "digests.json"
    known: dict[str, str] = json.loads(memory.read_text()) if memory.exists() else {}
    key = f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    if key not in known:
        known[key] = sha256_file(path)
        temporary = memory.with_name(f"digests.{os.getpid()}.part")
        temporary.write_text(json.dumps(known))
        temporary.replace(memory)
    return known[key]
