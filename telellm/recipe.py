"""Recipe: one YAML file that says everything about a run.

Every class below is a section, every field has a description with its unit and bounds; `docs/recipes.md` is generated
from them. Relative paths are relative to the recipe's folder; those given with `--set`, to the working folder.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

MAXIMUM_CHARACTERS = 2**20
MAXIMUM_VALUES = 10_000
"""Far above any recipe: what is longer is a wrong file, or made to fill the memory."""


class RecipeError(ValueError):
    """A recipe is not valid; the message names file, field, value and alternatives."""


class Settings(BaseModel):
    """A section of a recipe: unknown fields are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class _Here(str):
    """Text from the command line: if it is a path, then one in the working folder."""


def _absolute(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value or "://" in value or value.startswith("package:"):
        return value
    folder = Path() if isinstance(value, _Here) else Path((info.context or {}).get("folder", "."))
    try:
        return str((folder / Path(value).expanduser()).resolve())
    except (ValueError, RuntimeError) as error:  # a zero byte, an unknown ~user
        raise ValueError(f"this is not a path ({error})") from None


def _model(value: Any, info: ValidationInfo) -> Any:
    """A model may be a hub name (`owner/name`): it is a path only where it looks like one."""
    is_path = isinstance(value, str) and (value.startswith((".", "/", "~")) or value.endswith(".gguf"))
    return _absolute(value, info) if is_path else value


PathOrUri = Annotated[str, BeforeValidator(_absolute)]
ModelName = Annotated[str, BeforeValidator(_model)]
Share = Annotated[float, Field(ge=0, le=1)]
Score = Literal["answer_perplexity.corpus", "answer_perplexity.question_mean", "semscore.mean", "llm_eval.accuracy"]


class Source(Settings):
    """Section `sources.<name>`: a folder or a bucket with raw documents."""

    category: Literal["arxiv", "standard", "wiki", "web"] = Field(
        description="What the documents are: LaTeX projects, specifications, a Wikipedia dump, or web archives."
    )
    path: PathOrUri = Field(description="A folder, a file, or s3://bucket/prefix with the raw files.")
    licence: str = Field("", description="Licence of the documents, kept in their metadata.")
    retrieved_at: str = Field("", description="When the files were collected (ISO date), where they do not say it.")


class Model(Settings):
    """Section `model`: the base model that is adapted."""

    name: ModelName = Field(
        description="A Hugging Face directory or hub name, a .gguf file, or package:MODULE/FILE of an installed one."
    )
    revision: str = Field("main", description="Revision of a hub model (branch, tag or commit).")


class LanguageModel(Settings):
    """Section `lm`: the language model that is asked (screening, questions, judging)."""

    model: ModelName = Field("", description="The model to ask; empty: the base model.")
    revision: str = Field("main", description="Revision of a hub model.")
    endpoint: str = Field("", description="URL of an OpenAI-compatible server (…/v1); empty: in this process.")
    max_concurrency: int = Field(32, ge=1, le=4096, description="Requests in flight to an endpoint.")
    timeout_seconds: float = Field(120, gt=0, description="Time for one answer of an endpoint (seconds).")
    batch_size: int = Field(8, ge=1, description="Prompts that an in-process model answers at once.")
    context_tokens: int = Field(2048, ge=128, description="Longest prompt and answer together (tokens).")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of an in-process model.")


class Ingest(Settings):
    """Section `corpus.ingest`."""

    num_shards: int = Field(16, ge=1, le=4096, description="Parts into which the files of each source are divided.")
    languages: list[str] = Field(["en"], description="Languages of web pages to keep (ISO 639-1).")


class Clean(Settings):
    """Section `corpus.clean`."""

    rules: list[str] = Field([], description="Names of the rules, in the order in which they apply; empty: all.")
    minimum_words: int = Field(50, ge=0, description="Shorter documents are rejected after cleaning (words).")
    sample_share: Share = Field(0.05, description="Share of changed documents whose text before and after is kept.")


class Screen(Settings):
    """Section `corpus.screen`: is a document about telecommunications?"""

    threshold: Share = Field(0.5, description="Least probability of yes that keeps a document.")
    prompt: str = Field("relevance-1", description="Name of the prompt in telellm/corpus/prompts.")
    excerpt_words: int = Field(100, ge=20, description="Words from the document's beginning that the model reads.")
    trusted: list[Literal["arxiv", "standard", "wiki", "web"]] = Field(
        [], description="Categories that are kept without asking, because their source is telecom alone."
    )
    keyword_categories: list[Literal["arxiv", "standard", "wiki", "web"]] = Field(
        ["wiki", "web"],
        description="Categories in which a document without enough telecom keywords is not even asked about.",
    )
    minimum_keywords: int = Field(3, ge=0, description="Different telecom keywords that such a document must contain.")


class Deduplicate(Settings):
    """Section `corpus.deduplicate`: exact, then MinHash."""

    similarity: Share = Field(0.8, description="Jaccard similarity from which two documents are near-duplicates.")
    ngram_words: int = Field(5, ge=1, description="Length of the shingles (words).")
    num_permutations: int = Field(128, ge=16, description="Length of a MinHash signature.")


class Decontaminate(Settings):
    """Section `corpus.decontaminate`."""

    benchmarks: list[PathOrUri] = Field(
        [], description="Files whose questions must not be in the corpus (JSON, JSONL)."
    )
    ngram_words: int = Field(8, ge=3, description="Length of a shared run of words that counts (words).")


class Corpus(Settings):
    """Section `corpus`: how Tele-Data is made."""

    ingest: Ingest = Ingest()  # type: ignore[call-arg]
    clean: Clean = Clean()  # type: ignore[call-arg]
    screen: Screen = Screen()  # type: ignore[call-arg]
    deduplicate: Deduplicate = Deduplicate()  # type: ignore[call-arg]
    decontaminate: Decontaminate = Decontaminate()  # type: ignore[call-arg]


class TeleEval(Settings):
    """Section `tele_eval`: open questions from the corpus."""

    passages_per_document: int = Field(
        3, ge=1, description="Passages of a document that are asked about, one question each."
    )
    passage_words: int = Field(80, ge=20, description="Length of the passage that the model reads (words).")
    held_out_share: Share = Field(0.2, description="Share of documents that training never sees.")
    minimum_answer_words: int = Field(8, ge=1, description="Shorter answers are rejected (words).")
    maximum_answer_words: int = Field(45, ge=5, description="Longer answers are rejected (words).")
    minimum_overlap: Share = Field(
        0.8, description="Least share of the answer's content words that the passage must contain."
    )
    support_threshold: Share = Field(
        0.5,
        description="Least probability, by the model, that the passage supports the answer to the question; 0: not "
        "asked (a model of 135M parameters cannot tell).",
    )
    prompt: str = Field("question-1", description="Name of the prompt for questions in telellm/tele_eval/prompts.")
    support_prompt: str = Field("support-1", description="Name of the prompt for support in telellm/tele_eval/prompts.")
    max_question_tokens: int = Field(48, ge=16, description="Longest question that is generated (tokens).")


class Pack(Settings):
    """Section `training.pack`."""

    sequence_length: int = Field(1024, ge=32, description="Tokens in a training sequence.")
    replay: PathOrUri = Field(
        "", description="Folder of general text (.md, .txt, .parquet) that is mixed in; empty: none."
    )
    replay_share: Share = Field(0.05, description="Share of replay in the training tokens.")


class Lora(Settings):
    """Section `training.lora`: used where a method is `lora`."""

    rank: int = Field(64, ge=1, description="Rank of the update matrices.")
    alpha: float = Field(128, gt=0, description="Scale of the update.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the update matrices.")
    targets: list[str] = Field([], description="Names of the linear layers; empty: every one but the output layer.")


class Optimization(Settings):
    """Fields that pretraining and instruction tuning share."""

    method: Literal["full", "lora"] = Field("full", description="Train every weight, or low-rank updates.")
    epochs: float = Field(2, gt=0, description="Passes over the data.")
    max_steps: int = Field(0, ge=0, description="Optimiser steps at most; 0: no limit.")
    learning_rate: float = Field(2e-5, gt=0, lt=1, description="Greatest learning rate.")
    final_learning_rate_share: Share = Field(0.1, description="Share of it that is left at the end of the cosine.")
    warmup_share: Share = Field(0.03, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's weight decay (matrices only).")
    adam_betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's moment decay rates.")
    gradient_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    batch_sequences: int = Field(8, ge=1, description="Sequences in an optimiser step, over all processes.")
    micro_batch_sequences: int = Field(1, ge=1, description="Sequences that one process computes at once.")
    checkpoint_steps: int = Field(100, ge=1, description="Optimiser steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints that are kept.")
    processes: int = Field(1, ge=0, description="Processes on this machine; 0: one a GPU.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Number format of the forward and backward pass on a GPU; a CPU always uses float32."
    )
    activation_checkpointing: bool = Field(False, description="Recompute activations to save memory.")
    seed: int = Field(17, ge=0, description="Seed of the order of sequences and of dropout.")


class Pretrain(Optimization):
    """Section `training.pretrain`: continual pretraining on packed text."""


class Instruct(Optimization):
    """Section `training.instruct`: supervised tuning with the model's chat template."""

    data: PathOrUri = Field("", description="JSON Lines file of {messages: [{role, content}, …]}.")
    sequence_length: int = Field(1024, ge=32, description="Longest conversation (tokens); longer ones are cut.")


class Training(Settings):
    """Section `training`."""

    pack: Pack = Pack()  # type: ignore[call-arg]
    pretrain: Pretrain = Pretrain()  # type: ignore[call-arg]
    instruct: Instruct = Instruct()  # type: ignore[call-arg]
    lora: Lora = Lora()  # type: ignore[call-arg]


class Benchmark(Settings):
    """Section `evaluation.multiple_choice[]`: multiple choice questions; the corpus is scanned for them as well."""

    name: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40, description="Name of the benchmark in reports."
    )
    path: PathOrUri = Field(description="A file or a folder, here or in a bucket (JSON, JSONL, Parquet, zip).")
    format: Literal["teleqna", "oranbench", "srsranbench", "open-telco", "generic"] = Field(
        "generic",
        description="How a row is written: as TeleQnA, ORAN-Bench, srsRANBench or Open-Telco write theirs, or "
        "`question`, `options` and `answer` in other ways.",
    )
    password_variable: str = Field(
        "TELEQNA_PASSWORD", description="Environment variable with the password of a zip archive."
    )
    max_questions: int = Field(0, ge=0, description="Questions that are asked, drawn by lot; 0: all.")


class Evaluation(Settings):
    """Section `evaluation`."""

    metrics: list[Literal["answer_perplexity", "semscore", "llm_eval"]] = Field(
        ["answer_perplexity", "semscore", "llm_eval"], description="What is measured for each model."
    )
    max_questions: int = Field(0, ge=0, description="Questions for answer perplexity; 0: all of them.")
    max_generated: int = Field(0, ge=0, description="Questions that a model answers in words, for SemScore; 0: all.")
    max_answer_tokens: int = Field(96, ge=4, description="Longest answer of a model (tokens).")
    batch_size: int = Field(8, ge=1, description="Questions that are answered at once.")
    multiple_choice: list[Benchmark] = Field(
        [], description="Sets of multiple choice questions that each model is asked."
    )
    rotations: int = Field(
        0,
        ge=0,
        description="Orders of its options in which such a question is asked; 0: as many as it has options.",
    )
    embedder: ModelName = Field(
        "sentence-transformers/all-mpnet-base-v2",
        description="Sentence embedder of SemScore: directory, hub name, package:…",
    )
    judge: LanguageModel | None = Field(None, description="The judge; empty: section `lm`.")
    bootstrap_samples: int = Field(2000, ge=100, description="Resamples of the paired bootstrap.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(17, ge=0, description="Seed of samples and resamples.")

    @field_validator("multiple_choice")
    @classmethod
    def _names_differ(cls, benchmarks: list[Benchmark]) -> list[Benchmark]:
        names = [benchmark.name for benchmark in benchmarks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two benchmarks are called {', '.join(twice)}; give each a name of its own")
        return benchmarks


class Gate(Settings):
    """Section `gate`: when a night's model becomes production."""

    candidate: Literal["instruct", "pretrained"] = Field(
        "instruct", description="The model of a run that becomes a version, and is served."
    )
    metric: Score = Field(
        "answer_perplexity.corpus",
        description="Score in which it must be better than production; on the first night, than the base model.",
    )
    split: Literal["all", "held-out", "train"] = Field(
        "all", description="Questions that count: all, or those about documents that training never saw, or saw."
    )
    minimum_gain: float = Field(
        0, ge=0, description="Gain that the whole interval must exceed (in the score's own unit)."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the paired interval.")
    minimum_questions: int = Field(30, ge=2, description="Fewer questions decide nothing.")
    losses: dict[Score, Annotated[float, Field(ge=0)]] = Field(
        {"semscore.mean": 0.05},
        description="Other scores, each with the greatest loss that is accepted, both against production and against "
        "the base model: small losses must not add up over nights.",
    )


class Nightly(Settings):
    """Section `nightly`: what the pipeline of that name does beside what the other sections say."""

    train_from: Literal["base", "production"] = Field(
        "base",
        description="Pretraining starts from the base model, or goes on from the pretrained model of the version in "
        "production.",
    )


class Notify(Settings):
    """Section `notify`: a message to a webhook when the gate has decided."""

    variable: str = Field(
        "TELELLM_WEBHOOK_URL",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the webhook's URL; where it is not set, no message is sent.",
    )
    format: Literal["json", "slack"] = Field("json", description="Everything as JSON, or text that Slack shows.")
    link: str = Field(
        "", description="Address under which a browser finds the store's files, for links; empty: their address there."
    )


class Retention(Settings):
    """Section `retention`: what a night removes before it begins; production loses nothing that it needs."""

    versions: int = Field(
        5, ge=1, description="Versions that are kept: the one in production, and those before it, to roll back to."
    )
    refused_days: int = Field(
        14, ge=0, description="Time for which versions are kept that are not among these, refused ones too (days)."
    )
    runs_days: int = Field(14, ge=0, description="Time for which a night's run and its outputs are kept (days).")
    unused_days: int = Field(
        7,
        ge=1,
        description="Time for which outputs and checkpoints are kept that no run and no version needs (days); it must "
        "be longer than the longest stage takes.",
    )


class Shards(Settings):
    """Section `cluster.shards`: the pods that share the shards of a corpus stage."""

    pods: int = Field(8, ge=1, le=1024, description="Pods of a stage; each takes an equal part of its shards.")
    cpus: float = Field(2, gt=0, description="CPU cores of a pod.")
    memory_gib: float = Field(8, gt=0, description="Memory of a pod (GiB).")
    retries: int = Field(3, ge=0, description="How often one pod's part is tried again.")


class Nodes(Settings):
    """Section `cluster.training`: the pods that train one model together."""

    nodes: int = Field(1, ge=1, le=1024, description="Pods, each on a node of its own where the cluster has enough.")
    gpus_per_node: int = Field(8, ge=0, description="GPUs of a pod, one process each; 0: trains on CPUs.")
    processes_per_node: int = Field(1, ge=1, description="Processes of a pod without GPUs.")
    cpus: float = Field(8, gt=0, description="CPU cores of a pod.")
    memory_gib: float = Field(64, gt=0, description="Memory of a pod (GiB).")
    restarts: int = Field(
        3, ge=0, description="Restarts in a row that reach no new training step before the job is given up."
    )
    collective_timeout_seconds: int = Field(
        600,
        ge=10,
        description="Processes that wait longer for one another end and start again (seconds); it must be longer than "
        "the first one needs to read the model.",
    )


class Cluster(Settings):
    """Section `cluster`: stages that run as jobs of a Kubernetes cluster, started from here or from Kubeflow."""

    enabled: bool = Field(
        False, description="Start jobs in the cluster that KUBECONFIG names; in a pod of a cluster it is always on."
    )
    namespace: str = Field("", description="Namespace of the jobs; empty: the kubeconfig's, or that of this pod.")
    stages: list[Literal["ingest", "clean", "screen", "tele-eval", "pretrain", "instruct"]] = Field(
        ["ingest", "clean", "screen", "pretrain", "instruct"],
        description="Stages that run as jobs; the others run where the pipeline's step runs.",
    )
    registry: str = Field("registry.local", min_length=1, description="Registry of the stages' images.")
    tag: str = Field("", description="Tag of the stages' images; empty: the version of telellm.")
    templates: PathOrUri = Field(
        "", description="Folder with pytorchjob.yaml and shards.yaml; empty: k8s/, as it came with telellm."
    )
    queue: str = Field("", description="Kueue's LocalQueue that admits the jobs; empty: no queue.")
    priority_class: str = Field("", description="PriorityClass of the pods; empty: that of the template.")
    node_selector: dict[str, str] = Field({}, description="Labels of the nodes that may run the pods.")
    shards: Shards = Shards()  # type: ignore[call-arg]
    training: Nodes = Nodes()  # type: ignore[call-arg]
    queue_seconds: int = Field(86_400, ge=1, description="Time within which all pods of a job must run (seconds).")
    run_seconds: int = Field(604_800, ge=1, description="Time that a job may run, without the queue (seconds).")
    retention_seconds: int = Field(
        0, ge=0, description="Time for which an ended job and its pods are kept to look at (seconds)."
    )


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
    try:
        return Recipe.model_validate(data, context={"folder": folder or Path()})
    except ValidationError as error:
        where = f"{source} with --set" if changes else source
        raise RecipeError("\n".join(_explain(mistake, where) for mistake in error.errors())) from None


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
        raise RecipeError(f"{source}: not valid YAML: {_short(' '.join(str(error).split()), 300)}") from None


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


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _apply(data: dict[str, Any], change: str) -> None:
    path, equals, value = change.partition("=")
    if not equals or not path:
        raise RecipeError(f'--set {change}: write --set section.field=value (value may be YAML, as in "[a, b]")')
    parsed = _read_yaml(value, f"--set {change}") if value else ""  # `field=` empties a field
    *parents, name = path.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise RecipeError(f'--set {change}: "{parent}" is not a section')
    data[name] = _from_here(parsed)


def _from_here(value: Any) -> Any:
    """A path given on the command line means one in the working folder."""
    if isinstance(value, list):
        return [_from_here(item) for item in value]
    if isinstance(value, dict):
        return {key: _from_here(item) for key, item in value.items()}
    return _Here(value) if isinstance(value, str) else value


def _near(path: Path) -> str:
    known = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f"\n  recipes there: {', '.join(known)}" if known else ""


def _explain(mistake: Any, source: str) -> str:
    """One message a mistake: file, field, value, alternatives."""
    location = [str(part) for part in mistake["loc"]]
    field, value = ".".join(location), mistake["input"]
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f'{source}: {field}: there is no field "{location[-1]}"{_alternatives(location[-1], known, "fields")}'
    if kind == "missing":
        return f"{source}: {field}: this field is missing{_describe(location)}"
    if kind == "literal_error":
        known = [part.strip(" '\"") for part in str(context["expected"]).replace(" or ", ",").split(",")]
        what = "name" if location[-1] == "[key]" else "value" if location[-1].isdigit() else location[-1]
        plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
        given = _short(str(value))
        return f'{source}: {field}: "{given}" is not a {what}{_alternatives(given, known, plural)}'
    shown = _short(repr(value)) if not isinstance(value, str) else f'"{_short(value)}"'
    return f"{source}: {field}: {shown}: {mistake['msg'].removeprefix('Value error, ')}{_describe(location)}"


def _alternatives(value: str, known: list[str], what: str) -> str:
    text = f"\n  known {what}: {', '.join(known)}" if known else ""
    if close := difflib.get_close_matches(value, known, 1):
        text += f'\n  did you mean "{close[0]}"?'
    return text


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
        elif current == dict[str, Source]:
            field, current = None, Source
        elif current == list[Benchmark]:
            field, current = None, Benchmark
        else:
            return field, None
    return field, current


def _fields_at(location: Iterable[str]) -> list[str]:
    _, current = _walk(location)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _describe(location: Iterable[str]) -> str:
    field, _ = _walk(location)
    return f"\n  {field.description}" if field is not None and field.description else ""
