"""Section `training`: packing, continual pretraining and instruction tuning."""

from typing import Literal

from pydantic import Field, model_validator

from telellm.recipe.fields import ModelName, PathOrUri, Settings, Share


class Pack(Settings):
    """Section `training.pack`."""

    sequence_length: int = Field(1024, ge=32, description="Tokens in a training sequence.")
    categories: list[Literal["arxiv", "standard", "wiki", "web"]] = Field(
        [], description="Categories of documents that are trained on; empty: all."
    )
    share: float = Field(
        1,
        gt=0,
        le=1,
        description="Share of the documents' characters that is trained on, of each category alike; a smaller share is "
        "part of every larger one.",
    )
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

    method: str = Field("full", description="How it is trained, if it is.")
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

    method: Literal["full", "lora", "none"] = Field(
        "full", description="Train every weight, or low-rank updates, or nothing: the base model stays as it is."
    )


class Instruct(Optimization):
    """Section `training.instruct`: supervised tuning with the model's chat template, or a chat vector."""

    method: Literal["full", "lora", "chat-vector", "none"] = Field(
        "full",
        description="Train every weight, or low-rank updates, on conversations; or train nothing and add what the "
        "vendor's instruct model differs by from the base model; or leave the pretrained model as it is.",
    )
    vendor: ModelName = Field(
        "", description="With `chat-vector`: the instruct model that its vendor made of the same base model."
    )
    vendor_revision: str = Field("main", description="Revision of the vendor's model on the hub.")
    vector_scale: float = Field(1, description="With `chat-vector`: what the difference is multiplied by.")
    data: PathOrUri = Field("", description="JSON Lines file of {messages: [{role, content}, …]}.")
    sequence_length: int = Field(1024, ge=32, description="Longest conversation (tokens); longer ones are cut.")

    @model_validator(mode="after")
    def _has_vendor(self) -> "Instruct":
        if self.method == "chat-vector" and not self.vendor:
            raise ValueError("method chat-vector needs `vendor`: the vendor's instruct model of the same base model")
        return self


class Training(Settings):
    """Section `training`."""

    pack: Pack = Pack()  # type: ignore[call-arg]
    pretrain: Pretrain = Pretrain()  # type: ignore[call-arg]
    instruct: Instruct = Instruct()  # type: ignore[call-arg]
    lora: Lora = Lora()  # type: ignore[call-arg]
