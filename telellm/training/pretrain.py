"""Pretrain: the base model goes on learning, on the corpus."""

from telellm.lm.models import model_digest
from telellm.recipe import Pretrain as PretrainSettings
from telellm.stage import Context, Output, stage
from telellm.training.launch import keep, train


@stage(
    sections=("training.pretrain", "training.lora", "model"),
    identity=lambda recipe: model_digest(recipe.model.name, recipe.model.revision),
)
def pretrain(context: Context, settings: PretrainSettings, packed: Output, model: Output | None = None) -> None:
    """Train a model on packed sequences, with attention kept inside each document; by default the recipe's base model.

    Writes `model/` (a Hugging Face directory), `adapter/` where low-rank updates were trained, and `log.jsonl`, a line
    a step: step, loss (nats), lr, grad (norm before clipping), tokens. With the method `none` it writes the model as it
    is. Source: Tele-LLMs (arXiv 2409.05314).
    """
    if settings.method == "none":
        keep(context, model)
        return
    train(context, "pretrain", packed.prefix, model.prefix if model else "")
