"""Reference: a model that is scored as it is, beside those of the run, such as its vendor's instruct model.

It stands in the store as an output whose content is what identifies it. So it is scored like a model that a stage made,
and never twice: with the same questions, settings and model, the scores are those that are there.
"""

import tempfile
from pathlib import Path

from telellm.lm.models import model_digest
from telellm.recipe import ReferenceModel
from telellm.stage import Output, digest_of
from telellm.store import Store

REFERENCE = "reference"
FILE = "reference.json"


def reference_digest(model: ReferenceModel) -> str:
    """Return what identifies a reference model and the way in which it is asked."""
    if model.endpoint:
        return digest_of(REFERENCE, "endpoint", model.model, model.revision, *([] if model.chat else ["plain"]))
    return digest_of(REFERENCE, model_digest(model.model, model.revision), model.chat)


def put_reference(store: Store, name: str, model: ReferenceModel) -> str:
    """Write down a reference model where it is not yet; returns its place, an input of the stage `evaluate`.

    Raises `RecipeError` where a model of this machine or of a store is not there.
    """
    content = reference_digest(model)
    place = f"stages/{REFERENCE}/{digest_of(content, name, model)}"
    if store.manifest(place) is None:
        with tempfile.TemporaryDirectory(prefix="telellm-reference-") as folder:
            Path(folder, FILE).write_text(model.model_dump_json(indent=1), encoding="utf-8")
            manifest = {"stage": REFERENCE, "content": content, "out": 1, "summary": {"name": name}}
            store.commit(place, Path(folder), manifest)
    return place


def read_reference(output: Output) -> tuple[str, ReferenceModel]:
    """Return a reference model and its name in the recipe."""
    text = output.path(FILE).read_text(encoding="utf-8")
    return str(output.summary()["name"]), ReferenceModel.model_validate_json(text)
