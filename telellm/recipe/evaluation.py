"""Section `evaluation`: what is measured of each model."""

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from telellm.recipe.fields import ASIDE, ModelName, PathOrUri, Settings, named_twice
from telellm.recipe.models import LanguageModel, ReferenceModel
from telellm.records import CATEGORIES

SCORES = (
    "answer_perplexity.corpus",
    "answer_perplexity.question_mean",
    "semscore.mean",
    "llm_eval.accuracy",
    "general.perplexity",
    "general.bits_per_byte",
    "literature.perplexity",
    *(f"literature.perplexity.{category}" for category in CATEGORIES),
    "literature.bits_per_byte",
    *(f"literature.bits_per_byte.{category}" for category in CATEGORIES),
    "literature.terms.exact",
    "literature.terms.edit_distance",
    "literature.equations.exact",
    "literature.equations.edit_distance",
    "literature.next_sentence.accuracy",
)
"""Scores of models that every recipe may ask for; benchmarks have others, by their names."""
COMPLETED_TOKENS = {"terms": 12, "equations": 64}
"""What is written, at most, to complete a passage of literature (tokens)."""
MetricName = Literal["answer_perplexity", "semscore", "llm_eval", "general", "literature"]
METRICS: tuple[str, ...] = get_args(MetricName)
"""What `evaluation.metrics` may name; the names of its scores begin so."""
ROLES = ("base", "pretrained", "instruct", "production", "reference")
"""What a model is in a report; no reference model may be called so."""
ReferenceName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=24)]


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


class General(Settings):
    """Section `evaluation.general`: text that is not about telecommunications, to see what a model forgets."""

    text: PathOrUri = Field(
        "package:telellm/evaluation/general",
        description="Folder of general text (.md, .txt, .parquet), here or in a bucket, for its perplexity; corpus and "
        "replay text are scanned for it. As it is: 21 short texts that came with telellm. Empty: none.",
    )
    max_documents: int = Field(200, ge=0, description="Texts that are read, drawn by lot; 0: all.")
    max_characters: int = Field(4000, ge=100, description="Characters of each that are read, from its beginning.")


class Literature(Settings):
    """Section `evaluation.literature`: the documents of held-out questions, which training never sees, as text."""

    max_documents: int = Field(100, ge=0, description="Documents, drawn by lot and evenly over the categories; 0: all.")
    max_characters: int = Field(
        4000, ge=100, description="Characters of each whose perplexity is measured, from its beginning."
    )
    max_terms: int = Field(100, ge=0, description="Terms that are completed, over all documents; 0: none.")
    max_equations: int = Field(100, ge=0, description="Equations whose right side is completed; 0: none.")
    max_sentences: int = Field(100, ge=0, description="Places where the next sentence is chosen; 0: none.")
    options: int = Field(4, ge=2, le=16, description="Sentences of which one is the next.")
    context_characters: int = Field(
        600, ge=100, description="Characters before what is completed or chosen that the model reads."
    )


class GeneralTask(Settings):
    """Section `evaluation.forgetting[]`: a task of general ability, asked as lm-eval asks it; the corpus is scanned."""

    task: Literal["mmlu", "hellaswag", "arc_easy", "arc_challenge", "gsm8k"] = Field(
        description="Name of the task, in lm-eval and in reports.",
    )
    path: PathOrUri = Field(
        description="Folder of the data set as its publisher lays it out (Parquet, JSON, JSONL), here or in a bucket: "
        "a copy of cais/mmlu, Rowan/hellaswag, allenai/ai2_arc or openai/gsm8k. Nothing is fetched from the hub."
    )
    few_shot: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Examples before each question; empty: as many as in lm-eval (gsm8k 5, others 0).",
    )
    max_questions: int = Field(0, ge=0, description="Questions that are asked, drawn by lot; 0: all.")


class Evaluation(Settings):
    """Section `evaluation`."""

    metrics: list[MetricName] = Field(
        ["answer_perplexity", "semscore", "llm_eval", "general"],
        description="What is measured for each model, beside the benchmarks named below; literature takes longest.",
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
    forgetting: list[GeneralTask] = Field(
        [], description="Tasks of general ability that each model is asked, to see what it forgets."
    )
    general: General = General()  # type: ignore[call-arg]
    literature: Literature = Literature()  # type: ignore[call-arg]
    embedder: ModelName = Field(
        "sentence-transformers/all-mpnet-base-v2",
        description="Sentence embedder of SemScore: directory, hub name, package:…",
    )
    judge: LanguageModel | None = Field(None, description="The judge; empty: section `lm`.")
    reference_models: dict[ReferenceName, ReferenceModel] = Field(
        {},
        description="Models that are asked the same questions as they are, by a name of one's choice (lower case, "
        "digits, hyphens), such as vendor: the instruct model that the base model's vendor made. Each is compared with "
        "the adapted model. A study does not ask them.",
        json_schema_extra=ASIDE,
    )
    bootstrap_samples: int = Field(2000, ge=100, description="Resamples of the paired bootstrap.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(17, ge=0, description="Seed of samples and resamples.")

    @property
    def scores(self) -> list[str]:
        """The names of the scores that a recipe may speak of."""
        chosen = [f"multiple_choice.{benchmark.name}.accuracy" for benchmark in self.multiple_choice]
        tasks = [f"forgetting.{one.task}.accuracy" for one in self.forgetting]
        return [*SCORES, *chosen, *tasks]

    @field_validator("reference_models")
    @classmethod
    def _are_no_roles(cls, models: dict[str, ReferenceModel]) -> dict[str, ReferenceModel]:
        if taken := sorted(set(models) & set(ROLES)):
            raise ValueError(f"{', '.join(taken)} is the name of a model of the run; give the reference another")
        return models

    @field_validator("multiple_choice")
    @classmethod
    def _names_differ(cls, benchmarks: list[Benchmark]) -> list[Benchmark]:
        if twice := named_twice(benchmark.name for benchmark in benchmarks):
            raise ValueError(f"two benchmarks are called {', '.join(twice)}; give each a name of its own")
        return benchmarks

    @field_validator("forgetting")
    @classmethod
    def _tasks_differ(cls, tasks: list[GeneralTask]) -> list[GeneralTask]:
        if twice := named_twice(one.task for one in tasks):
            raise ValueError(f"{', '.join(twice)} is named twice; name each task once")
        return tasks
