"""A language model to ask: one at an OpenAI-compatible endpoint, or one in this process."""

from telellm.lm.client import Choice, LanguageModelClient, language_model_digest, open_language_model

__all__ = ["Choice", "LanguageModelClient", "language_model_digest", "open_language_model"]
