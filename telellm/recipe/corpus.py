"""Sections `sources` and `corpus`: where documents come from, and how Tele-Data is made of them."""

from typing import Literal

from pydantic import Field

from telellm.recipe.fields import PathOrUri, Settings, Share


class Source(Settings):
    """Section `sources.<name>`: a folder or a bucket with raw documents."""

    category: Literal["arxiv", "standard", "wiki", "web"] = Field(
        description="What the documents are: LaTeX projects, specifications, a Wikipedia dump, or web archives."
    )
    path: PathOrUri = Field(description="A folder, a file, or s3://bucket/prefix with the raw files.")
    licence: str = Field("", description="Licence of the documents, kept in their metadata.")
    retrieved_at: str = Field("", description="When the files were collected (ISO date), where they do not say it.")


class Ingest(Settings):
    """Section `corpus.ingest`."""

    shard_files: int = Field(
        64, ge=1, description="Files of a shard, on average; of large files (64 MiB and more) each is a shard."
    )
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
