"""Write docs/chart.md and the comments of helm/telellm/values.yaml: both from values.schema.json."""

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm" / "telellm"
VALUES = CHART / "values.yaml"
TARGET = Path(__file__).with_name("chart.md")
KEY = re.compile(r"^( *)([A-Za-z][\w-]*):")
HEAD = """# The chart

`helm/telellm` turns a Kubernetes (1.30 or later, with a default StorageClass, and NVIDIA's device plugin on GPU nodes)
into the platform: a store, Kubeflow Pipelines with telellm's pipelines in it, the training operator, the nightly run.

```console
$ make chart           # compile the pipelines and package the chart: build/telellm-….tgz
$ helm install telellm build/telellm-0.1.0.tgz --namespace telellm --create-namespace -f my-values.yaml
$ helm test telellm --namespace telellm
```

Begin `my-values.yaml` from `values-small.yaml` (one node, no GPU) or `values-production.yaml` (sizes, and how they
were reckoned). Give each installation a namespace of its own: its NetworkPolicies deny what they do not name.

## What a cluster has already

| it has | values |
|---|---|
| an S3 store | `minio.enabled=false`, `store.endpoint`, `store.existingSecret`, `store.pipelines.existingSecret` |
| MySQL | `pipelines.mysql.enabled=false`, `pipelines.database.host`, `pipelines.database.existingSecret` |
| Kubeflow Pipelines | `pipelines.enabled=false`, `telellm.nightly.api`, `telellm.launcherAccounts=[pipeline-runner]` |
| Argo Workflows | `pipelines.definitions.argo=false` |
| the training operator | `trainingOperator.enabled=false` |
| Kueue | `kueue.enabled=true`, and `kueue.clusterQueue` if it has one for us |

An external store needs two buckets (`store.bucket`, `store.pipelines.bucket`) and for each a user that may list it and
read, write and delete in it. The user of the stages must also read where documents and base models lie.

## Images

`images` is the one table of all images. A `digest` there pins what runs: platform, steps of the pipelines, and jobs (by
`images.yaml` in the ConfigMap `telellm-job-templates`, which goes before what a recipe says). `telellm run` on a laptop
pins the same with a copy of that ConfigMap's files as the folder of `cluster.templates`.

## Secrets

Each is made once, at random, and kept: an upgrade looks up what the cluster holds. There is no default password.

| Secret | keys | in its place |
|---|---|---|
| `telellm-store` | AWS_ENDPOINT_URL, AWS_REGION, the two below, AWS_CA_BUNDLE | `store.existingSecret` |
| `telellm-pipelines-store` | AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY | `store.pipelines.existingSecret` |
| `telellm-minio-root` | rootUser, rootPassword | `minio.existingSecret` |
| `telellm-mysql` | username, password, root-password | `pipelines.mysql.existingSecret` |
| `telellm-lm` | api-key | `vllm.existingSecret` |
| `telellm-serving` | api-key | `serving.existingSecret` |
| none: it must be given | client-id, client-secret, cookie-secret | `authProxy.existingSecret` |

Steps of pipelines also get what you put into these, if they are there:

| Secret | key | who gets it |
|---|---|---|
| `telellm-lm` | api-key: of a language model's server that is not the chart's | screen, Tele-Eval, evaluate, studies |
| `telellm-reference` | api-key: of a reference model's server, as TELELLM_REFERENCE_KEY | evaluate references |
| `telellm-benchmarks` | TELEQNA_PASSWORD: of archived benchmarks | decontaminate, hold out, pack, evaluate, studies |
| `telellm-webhook` | TELELLM_WEBHOOK_URL: told what the nightly gate decided (`notify`) | promote |
| `telellm-hub` | HF_TOKEN, HF_ENDPOINT: your account at the model hub, a mirror's address | start, evaluate, studies |

**`helm template` and GitOps** (Argo CD, Flux without its Helm controller): a look-up returns nothing there, so each
rendering would make other passwords, and an installation that runs would lose its users. Make the Secrets yourself and
name them in the values of the last column; then the chart makes none. Pipelines that are compiled elsewhere, as
`telellm submit` does, ask for `telellm-store` by that name: keep it.

## What is done twice

Kubeflow's own cache is off in every pipeline: it knows neither the sources nor the store. Each stage looks for its
output in the store, by a digest of its code, its section of the recipe and the content of its inputs:

- curation of the same documents is never done twice, in whatever run; a run of the same name goes on where it stopped;
- the sources are listed in every run, and a file that is new or changed is read: a crawl is never taken for done;
- an output that was deleted, whole or in part, such as by `minio.lifecycle.runsDays`, is made again in its turn.

## Networks

With `networkPolicies.enabled` nothing goes in or out of the namespace's pods but what is needed:
`tests/unit/test_chart_network.py` has the table. Stages and vLLM (unless `vllm.offline`) reach
`networkPolicies.externalPorts` of `externalCidrs`: crawled pages, model hubs, the webhook that the nightly gate tells.
An external store, database, proxy, identity provider and Kubeflow are reached at the ports of their addresses, also in
other namespaces. A model server or a webhook in another namespace, or at another port, needs a rule in
`networkPolicies.extraEgress`. Prometheus is let in from the namespace `monitoring`, others by
`networkPolicies.metricsFrom`. The UI is reached by `kubectl port-forward`, from `ingress.controllerNamespace` and from
`networkPolicies.uiFrom`, and from no other namespace. A cluster whose network plugin does not enforce NetworkPolicies
takes no notice of them.

## Upgrading and removing

`helm upgrade` keeps Secrets, volumes, runs and the schedule; jobs that run go on. A pod is replaced when its image, its
configuration or what it reads from the values changes, and not because the chart has another version. Two jobs do their
work again at every release: `telellm-minio-setup-…` (buckets, users, rules) and `telellm-nightly-…` (the recurring run;
Kubeflow cannot change one, so one that differs is deleted and made anew; its past runs stay). A change of recipe, store
or images makes a new version of each preloaded pipeline: versions are called after the chart and a digest of the
pipeline.

`helm uninstall` leaves the volumes that the values keep (`minio.persistence.keep`, `pipelines.mysql.persistence.keep`,
`vllm.cache.keep`) and nothing else. The definitions of PyTorchJob, of Argo's workflows and of recurring runs go with
the chart, and with them all such objects in the whole cluster: set `trainingOperator.crd`,
`pipelines.definitions.argo` and `pipelines.definitions.scheduledWorkflows` to false where others use them.

`helm test` does what `telellm doctor` does; with `serving.enabled`, a second pod lets the served model list itself and
answer a question of Tele-Eval. The pods stay, with their logs (`helm test --logs`), until the next test or the end of
the chart; with `helm uninstall --no-hooks` delete them yourself: `kubectl delete pod telellm-test`.

## Without a way out

`make images-list` prints every image to mirror, also those that only a running pipeline asks for (with
`VALUES=my-values.yaml` only those in use). `make bundle` writes images, chart, compiled pipelines, lock and checksums
into one archive. On the other side nothing is needed but Python 3.9:

```console
$ tar -xf telellm-bundle.tar && cd telellm-bundle
$ REGISTRY_USER=me REGISTRY_PASSWORD=… ./load.sh registry.example.org/mirror
$ helm install telellm telellm-0.1.0.tgz -n telellm --create-namespace -f images.yaml \\
    --set global.imageRegistry=registry.example.org/mirror -f my-values.yaml
```

`load.sh` checks every file before it sends the first, sends what the registry has not, and goes on where it stopped.
Without the two variables it takes what `docker login` or `podman login` wrote down (not their credential helpers); a
private authority is `SSL_CERT_FILE=ca.pem`, a registry without TLS `http://…`. The images keep their digests, and
`images.yaml` pins them. They are an OCI layout (`images/`), which skopeo and crane read as well.

# Values

Made by `make docs` from `values.schema.json`. Helm refuses a key that is not here, by its name.
"""


def schema() -> dict[str, Any]:
    """Return the schema of the values, with every reference in its place."""
    whole = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        for part in node.pop("allOf", []):
            node = {**whole["definitions"][part["$ref"].rpartition("/")[2]], **node, "definition": True}
        if "definition" not in node:
            node["properties"] = {name: resolve(child) for name, child in node.get("properties", {}).items()}
        return node

    return resolve(whole)


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every value with its dotted path."""
    for name, child in node["properties"].items():
        where = f"{path}.{name}".strip(".")
        if is_section(child):
            yield from leaves(child, where)
        else:
            yield where, child


def is_section(node: dict[str, Any]) -> bool:
    """Say whether a value has described values of its own."""
    return bool(node.get("properties")) and "definition" not in node


def render() -> str:
    """Return the whole page."""
    defaults = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    return "\n".join([HEAD, *_sections(schema(), defaults, "")]).rstrip() + "\n"


def _sections(node: dict[str, Any], defaults: Any, path: str) -> Iterator[str]:
    inner, rows = [], []
    for name, child in node["properties"].items():
        if is_section(child):
            inner.append(name)
        else:
            rows.append(f"| `{name}` | {_kind(child)} | {_default(defaults.get(name))} | {child['description']} |")
    if path:
        yield f"## `{path}`\n\n{node['description']}\n"
    if rows:
        yield "| value | kind | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for name in inner:
        yield from _sections(node["properties"][name], defaults[name], f"{path}.{name}".strip("."))


def _kind(node: dict[str, Any]) -> str:
    if choices := node.get("enum"):
        return " or ".join(f"`{choice}`" for choice in choices)
    words = {"string": "text", "boolean": "true or false", "object": "mapping", "array": "list"}
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    bounds = [f"{sign} {node[key]}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in node]
    return ", ".join([" or ".join(words.get(kind, kind) for kind in kinds), *bounds])


def _default(value: Any) -> str:
    if value in ("", [], {}, None):
        return "empty"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def comment(text: str) -> str:
    """Return values.yaml with the description of each value above it."""
    root, lines, path = schema(), [], []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if found := KEY.match(line):
            depth = len(found[1]) // 2
            path = [*path[:depth], found[2]]
            node = _find(root, path)
            if node is not None:
                if depth == 0:
                    lines.append("")
                width = 118 - len(found[1])
                lines += [f"{found[1]}# {part}" for part in textwrap.wrap(node["description"], width)]
        lines.append(line)
    return "\n".join([f"# {root['description']} Made by `make docs`: comments.", *lines]) + "\n"


def _find(node: dict[str, Any], path: list[str]) -> dict[str, Any] | None:
    for name in path:
        if not is_section(node) or name not in node["properties"]:
            return None
        node = node["properties"][name]
    return node


if __name__ == "__main__":
    VALUES.write_text(comment(VALUES.read_text(encoding="utf-8")), encoding="utf-8")
    TARGET.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{VALUES}\n{TARGET}\n")
