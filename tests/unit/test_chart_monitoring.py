"""The chart's alerts and dashboard: PromQL that Prometheus takes, over figures that somebody shows."""

import json
import re
import runpy
from collections.abc import Callable, Iterator
from typing import Any

import promql_parser
import pytest

from tests.unit.test_chart import CHART, NAMESPACE, Object, chart, one, pytestmark, rendered

__all__ = ["chart", "pytestmark", "rendered"]
Rendered = Callable[..., tuple[Object, ...]]
SHOWN = {
    # metrics of version 2, /minio/v2/metrics/cluster
    "MinIO": {
        "minio_cluster_capacity_usable_free_bytes": {"server"},
        "minio_cluster_capacity_usable_total_bytes": {"server"},
        "minio_cluster_health_status": {"server"},
    },
    "kube-state-metrics": {
        "kube_pod_status_phase": {"pod", "phase", "uid"},
        "kube_pod_container_resource_requests": {"pod", "container", "node", "resource", "unit", "uid"},
    },
    "NVIDIA's dcgm-exporter": {"DCGM_FI_DEV_GPU_UTIL": {"pod", "container", "gpu", "exported_namespace"}},
    "Prometheus itself": {"up": set()},
    "Kueue": {"kueue_pending_workloads": {"cluster_queue", "status"}},
}
"""Who shows what to Prometheus, and its labels beside those of a target (namespace, …); ours: files/exporter.py."""
OURS = {"recipe", "name", "role", "metric", "category", "stage"}
TARGET = {"namespace", "job", "instance", "endpoint", "service"}
VARIABLES = {"$price": "2.5"}
"""Grafana puts these into an expression."""


def labels_of(metric: str) -> set[str] | None:
    """Return the labels that a figure may have; None: nobody shows it."""
    if metric in runpy.run_path(str(CHART / "files" / "exporter.py"))["HELP"]:
        return OURS | TARGET
    return next((labels[metric] | TARGET for labels in SHOWN.values() if metric in labels), None)


def selectors(expression: str) -> list[Any]:
    """Return every figure that an expression asks for; raises ValueError where Prometheus would refuse it."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def dashboard(objects: tuple[Object, ...]) -> list[Object]:
    return list(json.loads(one(objects, "ConfigMap", "telellm-dashboard")["data"]["telellm.json"])["panels"])


def alerts(objects: tuple[Object, ...]) -> list[Object]:
    return list(one(objects, "PrometheusRule", "telellm")["spec"]["groups"][0]["rules"])


def expressions(objects: tuple[Object, ...]) -> Iterator[tuple[str, str]]:
    """Yield where it stands and the expression."""
    for rule in alerts(objects):
        yield rule["alert"], rule["expr"]
    for panel in dashboard(objects):
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


@pytest.mark.parametrize("name", ["all-on", "values-production"])
def test_every_expression_is_promql_over_figures_and_labels_that_there_are(rendered: Rendered, name: str) -> None:
    seen = set()
    for where, expression in expressions(rendered(name, "serving.enabled=true", "serving.model=telecom")):
        found = selectors(expression)
        assert found, where
        for selector in found:
            known = labels_of(selector.name)
            assert known is not None, f"{where}: nobody shows {selector.name}"
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked <= known, f"{where}: {selector.name} has no {asked - known}"
            if selector.name != "kueue_pending_workloads":
                assert {"namespace", "exported_namespace"} & asked, f"{where}: shows other installations too"
            seen.add(selector.name)
    everybodys = {metric for metrics in SHOWN.values() for metric in metrics} - {"kueue_pending_workloads"}
    assert everybodys <= seen, "no longer asked for: take it from the table"


def test_an_expression_that_prometheus_would_refuse_is_found() -> None:
    for wrong in ("sum(telellm_score{", "rate(telellm_score)", "telellm_score{a=b}", "1 +"):
        with pytest.raises(ValueError):
            selectors(wrong)


def test_an_alert_says_what_happened_and_what_to_do(rendered: Rendered) -> None:
    found = alerts(rendered("all-on"))
    assert {rule["alert"] for rule in found} >= {
        *("TelellmNightlyFailed", "TelellmStoreNearlyFull", "TelellmRunStuckInQueue", "TelellmGateRefused"),
    }
    for rule in found:
        assert rule["annotations"]["summary"] and rule["annotations"]["description"], rule["alert"]
        for used in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            known = set.union(*(labels_of(selector.name) or set() for selector in selectors(rule["expr"])))
            assert used in known, f"{rule['alert']}: $labels.{used}"


def test_the_dashboard_is_of_this_namespace_and_shows_what_it_must(rendered: Rendered) -> None:
    panels = dashboard(rendered("all-on"))
    assert len({panel["id"] for panel in panels}) == len(panels)
    text = json.dumps(panels)
    assert "@NAMESPACE@" not in text and f'namespace=\\"{NAMESPACE}\\"' in text
    titles = " ".join(panel["title"] for panel in panels).lower()
    for shown in ("corpus", "training speed", "gpu use", "by night", "cost of a run"):
        assert shown in titles


def test_a_monitor_finds_a_port_of_a_service(rendered: Rendered) -> None:
    objects = rendered("all-on")
    for monitor in (o for o in objects if o["kind"] == "ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        services = [o for o in objects if o["kind"] == "Service" and labels.items() <= o["metadata"]["labels"].items()]
        ports = {port["name"] for service in services for port in service["spec"]["ports"]}
        assert monitor["spec"]["endpoints"][0]["port"] in ports, monitor["metadata"]["name"]
