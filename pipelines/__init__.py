"""Kubeflow pipelines: the same definitions run on a cluster (compiled) and on this machine (`telellm run`)."""

from pipelines.adapt import adapt
from pipelines.corpus import corpus
from pipelines.nightly import nightly
from pipelines.study import study
from pipelines.tele_eval import tele_eval

PIPELINES = {"corpus": corpus, "tele-eval": tele_eval, "adapt": adapt, "nightly": nightly, "study": study}
"""Name on the command line and in Kubeflow → pipeline."""
