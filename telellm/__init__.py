"""telellm: from a telecom operator's documents to a language model that knows telecommunications."""

__version__ = "0.1.0"
