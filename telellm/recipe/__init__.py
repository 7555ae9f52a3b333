"""Recipe: one YAML file that says everything about a run.

Its sections are the modules beside this one: every field has a description with its unit and bounds, and
`docs/recipes.md` is generated from them. Relative paths are relative to the recipe's folder; those given with `--set`,
to the working folder.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from telellm.recipe.cluster import Cluster, Nodes, Pod, Shards
from telellm.recipe.corpus import Clean, Corpus, Decontaminate, Deduplicate, Ingest, Screen, Source
from telellm.recipe.evaluation import Benchmark, Evaluation, General, GeneralTask, Literature
from telellm.recipe.fields import WITH_KEY, Here, PathOrUri, Settings
from telellm.recipe.messages import alternatives, short
from telellm.recipe.models import LanguageModel, Model, ReferenceModel
from telellm.recipe.nightly import Gate, GateReference, Nightly, Notify, Retention
from telellm.recipe.retrieval import Index, Retrieval
from telellm.recipe.scores import unknown_scores
from telellm.recipe.study import Study
from telellm.recipe.tele_eval import Check, Distinct, Draft, TeleEval
from telellm.recipe.training import Instruct, Lora, Optimization, Pack, Pretrain, Training

__all__ = [
    "Benchmark",
    "Check",
    "Clean",
    "Cluster",
    "Corpus",
    "Decontaminate",
    "Deduplicate",
    "Distinct",
    "Draft",
    "Evaluation",
    "Gate",
    "GateReference",
    "General",
    "GeneralTask",
    "Index",
    "Ingest",
    "Instruct",
    "LanguageModel",
    "Literature",
    "Lora",
    "Model",
    "Nightly",
    "Nodes",
    "Notify",
    "Optimization",
    "Pack",
    "Pod",
    "Pretrain",
    "Recipe",
    "RecipeError",
    "ReferenceModel",
    "Retention",
    "Retrieval",
    "Screen",
    "Settings",
    "Shards",
    "Source",
    "Study",
    "TeleEval",
    "Training",
    "load",
    "parse",
    "vary",
]

MAXIMUM_CHARACTERS = 2**20
MAXIMUM_VALUES = 10_000
"""Far above any recipe: what is longer is a wrong file, or made to fill the memory."""


class RecipeError(ValueError):
    """A recipe is not valid; the message names file, field, value and alternatives."""


class Recipe(Settings):
    """Everything about a run."""

    name: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        max_length=53,
        description="Name of corpus, questions and models in the store (lower case, digits, hyphens).",
    )
    model: Model
    lm: LanguageModel = LanguageModel()  # type: ignore[call-arg]
    sources: dict[str, Source] = Field(min_length=1, description="The raw documents, by a name of one's choice.")
    truth: PathOrUri = Field(
        "", description="Folder that says which documents are telecom or duplicates, to score both."
    )
    corpus: Corpus = Corpus()
    tele_eval: TeleEval = TeleEval()  # type: ignore[call-arg]
    training: Training = Training()
    evaluation: Evaluation = Evaluation()  # type: ignore[call-arg]
    retrieval: Retrieval = Retrieval()  # type: ignore[call-arg]
    study: Study = Study()  # type: ignore[call-arg]
    gate: Gate = Gate()  # type: ignore[call-arg]
    nightly: Nightly = Nightly()  # type: ignore[call-arg]
    notify: Notify = Notify()  # type: ignore[call-arg]
    retention: Retention = Retention()  # type: ignore[call-arg]
    cluster: Cluster = Cluster()  # type: ignore[call-arg]
    seed: int = Field(17, ge=0, description="Seed of what is drawn while corpus and questions are made.")

    def section(self, path: str) -> Any:
        """Return the section or field at a dotted path (`corpus.clean`)."""
        value: Any = self
        for name in path.split("."):
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        return value

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML: every field, absolute paths."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load(path: Path, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=value` changes.

    Raises `RecipeError` when the file is missing, is no YAML, or does not fit `Recipe`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe{_near(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error}") from None
    return parse(text, source=str(path), folder=path.parent, changes=changes)


def parse(text: str, source: str = "recipe", folder: Path | None = None, changes: Iterable[str] = ()) -> Recipe:
    """Validate a recipe's text; relative paths are resolved against `folder`.

    Raises `RecipeError` with one line a mistake.
    """
    data = _read_yaml(text, source)
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of sections, not {type(data).__name__}")
    for change in (changes := list(changes)):
        _apply(data, change)
    recipe = _validate(data, f"{source} with --set" if changes else source, folder)
    for arm, its_changes in recipe.study.all_arms().items():
        vary(recipe, its_changes, f"{source}: study, arm {arm}")
    return recipe


def vary(recipe: Recipe, changes: Iterable[str], source: str = "recipe") -> Recipe:
    """Return a recipe with other values in some fields (`a.b=value`), without its study.

    Raises `RecipeError` with one line a mistake, each beginning with `source`.
    """
    data = recipe.model_dump(mode="json", exclude={"study"})
    for change in changes:
        _apply(data, change, source)
    return _validate(data, source)


def _validate(data: dict[str, Any], source: str, folder: Path | None = None) -> Recipe:
    try:
        recipe = Recipe.model_validate(data, context={"folder": folder or Path()})
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(mistake, source) for mistake in error.errors())) from None
    if mistakes := list(unknown_scores(recipe)):
        raise RecipeError("\n".join(f"{source}: {mistake}" for mistake in mistakes))
    return recipe


class _Loader(yaml.SafeLoader):
    """YAML's plain values; a date stays the text that it is."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(text: str, source: str) -> Any:
    if len(text) > MAXIMUM_CHARACTERS:
        raise RecipeError(f"{source}: {len(text):,} characters are no recipe; it has at most {MAXIMUM_CHARACTERS:,}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _refuse_bomb(node)
        return loader.construct_document(node) if node else None
    except Exception as error:  # PyYAML lets errors of many kinds through
        raise RecipeError(f"{source}: not valid YAML: {short(' '.join(str(error).split()), 300)}") from None


def _refuse_bomb(node: Any) -> None:
    """Count values before they are made: aliases of aliases could fill the memory."""
    waiting, num_values = [node], 0
    while waiting:
        value = waiting.pop()
        num_values += 1
        if num_values > MAXIMUM_VALUES:
            raise ValueError(f"more than {MAXIMUM_VALUES:,} values, counting each use of an alias")
        if isinstance(value, yaml.MappingNode):
            waiting += [part for pair in value.value for part in pair]
        elif isinstance(value, yaml.SequenceNode):
            waiting += value.value


def _apply(data: dict[str, Any], change: str, where: str = "--set") -> None:
    path, equals, value = change.partition("=")
    if not equals or not path:
        raise RecipeError(f'{where} {change}: write --set section.field=value (value may be YAML, as in "[a, b]")')
    parsed = _read_yaml(value, f"{where} {change}") if value else ""  # `field=` empties a field
    *parents, name = path.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise RecipeError(f'{where} {change}: "{parent}" is not a section')
    data[name] = _from_here(parsed)


def _from_here(value: Any) -> Any:
    """A path given on the command line means one in the working folder."""
    if isinstance(value, list):
        return [_from_here(item) for item in value]
    if isinstance(value, dict):
        return {key: _from_here(item) for key, item in value.items()}
    return Here(value) if isinstance(value, str) else value


def _near(path: Path) -> str:
    """Return what was probably meant: a recipe of that folder, or of `recipes/` where a name alone was given."""
    folders = [path.parent, *([path.parent / "recipes"] if path.parent == Path() else [])]
    known = sorted(str(p) for folder in folders if folder.is_dir() for p in folder.glob("*.yaml"))
    names = {Path(one).stem: one for one in known}
    said = f"\n  recipes there: {', '.join(known)}" if known else ""
    close = get_close_matches(path.stem, names, 1)
    return said + (f"\n  did you mean {names[close[0]]}?" if close else "")


def _explain(mistake: Any, source: str) -> str:
    """One message a mistake: file, field, value, alternatives."""
    location = [str(part) for part in mistake["loc"]]
    field, value = ".".join(location), mistake["input"]
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f'{source}: {field}: there is no field "{location[-1]}"{alternatives(location[-1], known, "fields")}'
    if kind == "missing":
        return f"{source}: {field}: this field is missing{_describe(location)}"
    if kind == "literal_error":
        known = [part.strip(" '\"") for part in str(context["expected"]).replace(" or ", ",").split(",")]
        what = "name" if location[-1] == "[key]" else _item_of(location)
        plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
        given = short(str(value))
        return f'{source}: {field}: "{given}" is not a {what}{alternatives(given, known, plural)}'
    if isinstance(value, str):
        value = WITH_KEY.sub("//…@", value)
    shown = short(repr(value)) if not isinstance(value, str) else f'"{short(value)}"'
    return f"{source}: {field}: {shown}: {mistake['msg'].removeprefix('Value error, ')}{_describe(location)}"


def _item_of(location: list[str]) -> str:
    """Return what a value is: that of `method` is a method, an item of `metrics` a metric."""
    if not location[-1].isdigit():
        return location[-1]
    several = location[-2]
    if several.endswith("ies"):
        return f"{several[:-3]}y"
    return several[:-1] if several.endswith("s") else "value"


def _walk(location: Iterable[str]) -> Any:
    """Return the annotation or field at a location, as far as it is known."""
    current: Any = Recipe
    field = None
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(part)
            if field is None:
                return None, None
            current = field.annotation
            if part == "sources":
                current = dict[str, Source]
            elif part == "judge":
                current = LanguageModel
            elif part == "reference_models":
                current = dict[str, ReferenceModel]
            elif current == GateReference | None:
                current = GateReference
        elif current in (dict[str, Source], dict[str, ReferenceModel]):
            field, current = None, Source if current == dict[str, Source] else ReferenceModel
        elif current in (list[Benchmark], list[GeneralTask]):
            field, current = None, get_args(current)[0]
        else:
            return field, None
    return field, current


def _fields_at(location: Iterable[str]) -> list[str]:
    _, current = _walk(location)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _describe(location: Iterable[str]) -> str:
    field, _ = _walk(location)
    return f"\n  {field.description}" if field is not None and field.description else ""
