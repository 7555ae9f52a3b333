"""References: the models beside those of a run are asked the same questions, one after another.

Pipelines are fixed before a recipe is read, and a recipe may name any number of models: so one step goes through them.
Each has its own output, which is there already when the step is started again, or the next night asks nothing new.
"""

import gc
import sys
from collections.abc import Mapping

from telellm.evaluation.reference import put_reference
from telellm.listed import put_list
from telellm.lm import open_language_model
from telellm.runs import fail, open_run, run_stage, unseen_text
from telellm.stage import digest_of
from telellm.store import Store

LABEL = "evaluate-reference-"
"""What a reference model's step is called, before the model's name."""


def evaluate_references(run: str, questions: str, held_out: str = "", index: str = "") -> str:
    """Score each reference model of a run's recipe; returns the place of their list, "" where the recipe names none.

    Ends the process with 1 or 2 and one message where a model is not there or fails; those before it are kept.
    """
    store, _, recipe = open_run(run)
    places = {}
    for name, model in recipe.evaluation.reference_models.items():
        try:
            reference = put_reference(store, name, model)
        except Exception as error:
            fail(f"{LABEL}{name}", error)
        places[name] = run_stage(
            "evaluate",
            run,
            label=f"{LABEL}{name}",
            questions=questions,
            model=reference,
            held_out=unseen_text(run, held_out),
            index=index,
        )
        _make_room()
    return list_references(store, places)


def list_references(store: Store, places: Mapping[str, str]) -> str:
    """Write down where the scores of each reference model are (name → place); returns the place of that list."""
    if not places:
        return ""
    content = digest_of([(name, (store.manifest(place) or {})["content"]) for name, place in places.items()], places)
    return put_list(store, "references", content, dict(places))


def _make_room() -> None:
    """Forget a judge of this process and what the GPU keeps in reserve: the next model needs the memory."""
    open_language_model.cache_clear()
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
