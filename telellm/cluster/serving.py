"""Serving: lets the pods that serve a model start anew when the pointer to production moves.

The version stands in an annotation of the Deployment's pods: another version is another template, and Kubernetes
replaces the pods one by one, an old one only when its successor answers. The right that this takes is to patch that one
Deployment.
"""

import time
from collections.abc import Callable

from telellm import registry
from telellm.cluster.api import Api, ClusterError
from telellm.store import Store, StoreUnavailable, TornOutput

ANNOTATION = "telellm.io/version"
POLL_SECONDS = 30.0


def follow(store: Store, name: str, deployment: str, api: Api, say: Callable[[str], None]) -> None:
    """Follow the pointer of a model until the process is ended; what does not answer is asked again."""
    while True:
        try:
            if moved := turn(store, name, deployment, api):
                say(f"{deployment} starts anew with {name} {moved}")
        except (ClusterError, StoreUnavailable, TornOutput) as error:
            say(str(error))
        time.sleep(POLL_SECONDS)


def turn(store: Store, name: str, deployment: str, api: Api) -> str:
    """Write the version in production into the Deployment, if another one is there; returns it, "" without a change."""
    pointer = registry.production(store, name)
    if pointer is None:
        return ""
    path = f"/apis/apps/v1/namespaces/{api.namespace}/deployments/{deployment}"
    metadata = api.get(path)["spec"]["template"].get("metadata", {})
    if metadata.get("annotations", {}).get(ANNOTATION) == pointer.version:
        return ""
    api.patch(path, {"spec": {"template": {"metadata": {"annotations": {ANNOTATION: pointer.version}}}}})
    return pointer.version
