"""The chart's NetworkPolicies as Kubernetes reads them: exactly these flows, of all that could be.

A policy that selects a pod denies whatever none of its rules allows, at both ends of a flow.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from tests.unit.test_chart import NAMESPACE, Object, chart, containers, pods, pytestmark, rendered

__all__ = ["chart", "pytestmark", "rendered"]
Rendered = Callable[..., tuple[Object, ...]]


@dataclass(frozen=True)
class End:
    """One end of a flow: a pod, or an address that is none."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = NAMESPACE
    ports: Mapping[str, int] = field(default_factory=dict)
    """Named ports of its containers."""
    address: str = ""
    """Where it is no pod."""


def allows(policies: list[Object], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Say whether a flow is allowed at both of its ends."""
    return _passes(policies, "Egress", source, target, target, port, protocol) and _passes(
        policies, "Ingress", target, source, target, port, protocol
    )


def _passes(policies: list[Object], direction: str, end: End, peer: End, target: End, port: int, protocol: str) -> bool:
    chosen = [
        policy
        for policy in policies
        if not end.address
        and end.namespace == NAMESPACE
        and direction in policy["policyTypes"]
        and _selects(policy["podSelector"], end.labels)
    ]
    if not chosen:
        return True
    side = {"Egress": "to", "Ingress": "from"}[direction]
    return any(
        _is_peer(rule.get(side) or [], peer) and _is_port(rule.get("ports") or [], target, port, protocol)
        for policy in chosen
        for rule in policy.get(direction.lower()) or []
    )


def _is_peer(peers: list[Object], end: End) -> bool:
    if not peers:
        return True
    for peer in peers:
        assert set(peer) <= {"podSelector", "namespaceSelector", "ipBlock"}, peer
        if "ipBlock" in peer:
            if end.address and ip_address(end.address) in ip_network(peer["ipBlock"]["cidr"]):
                return True
        elif not end.address:
            known = {"kubernetes.io/metadata.name": end.namespace}
            there = (
                _selects(peer["namespaceSelector"], known)
                if "namespaceSelector" in peer
                else end.namespace == NAMESPACE
            )
            if there and _selects(peer.get("podSelector") or {}, end.labels):
                return True
    return False


def _is_port(entries: list[Object], target: End, port: int, protocol: str) -> bool:
    return not entries or any(
        entry.get("protocol", "TCP") == protocol and target.ports.get(entry["port"], entry["port"]) == port
        for entry in entries
    )


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
    rules = selector.get("matchExpressions") or []
    assert all(rule["operator"] == "Exists" for rule in rules)
    return (selector.get("matchLabels") or {}).items() <= labels.items() and all(
        rule["key"] in labels for rule in rules
    )


def ends(objects: tuple[Object, ...]) -> Iterator[End]:
    """Yield every kind of pod that there is, or will be, in the namespace."""
    seen = set()
    for _, labels, spec in pods(objects):
        name = labels["app.kubernetes.io/component"]
        if name not in seen:
            seen.add(name)
            ports = [port for container in containers(spec) for port in container.get("ports", [])]
            yield End(
                name,
                labels,
                ports={port.get("name", str(port["containerPort"])): port["containerPort"] for port in ports},
            )
    yield End("step", {"workflows.argoproj.io/workflow": "adapt-x"})
    yield End(
        "job", {"app.kubernetes.io/name": "telellm", "app.kubernetes.io/managed-by": "telellm"}, ports={"any": 29500}
    )
    yield End("stranger", {"app": "other"}, ports={"any": 8080})


def policies(objects: tuple[Object, ...]) -> list[Object]:
    return [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]


WITHIN = {
    "ml-pipeline 8888": "ml-pipeline-ui ml-pipeline-persistenceagent ml-pipeline-scheduledworkflow step nightly "
    "exporter test",
    "ml-pipeline 8887": "ml-pipeline-persistenceagent ml-pipeline-scheduledworkflow step",
    "ml-pipeline-ui 3000": "auth-proxy",
    "metadata-envoy 9090": "ml-pipeline-ui",
    "metadata-grpc 8080": "metadata-envoy step",
    "mysql 3306": "ml-pipeline metadata-grpc",
    "minio 9000": "minio-setup step job test exporter ml-pipeline ml-pipeline-ui",
    "vllm 8000": "step job",
    "job 29500": "job",
}
"""Pod and port → who in the namespace may reach it, with everything on; nobody reaches any other."""
ASKERS = {
    *("ml-pipeline", "ml-pipeline-ui", "ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow"),
    *("workflow-controller", "step", "test", "training-operator"),
}
"""Who asks the Kubernetes API server."""
PAGE = End("a page, a hub, a webhook", address="203.0.113.7")
API_SERVER = End("the API server", address="10.96.0.1")
MONITORING = End("Prometheus", {"app": "prometheus"}, namespace="monitoring")
INGRESS = End("the ingress controller", {"app": "nginx"}, namespace="ingress")
UI = "ml-pipeline-ui 3000"
NOBODY = ("networkPolicies.uiFrom=null", "ingress.enabled=false")
ELSEWHERE = End("a pod of another namespace", {"app": "other"}, namespace="elsewhere")


def test_exactly_the_needed_flows_within_the_namespace_are_allowed(rendered: Rendered) -> None:
    objects = rendered("all-on")
    there, rules = list(ends(objects)), policies(objects)
    found = {
        f"{target.name} {port}": {source.name for source in there if allows(rules, source, target, port)}
        for target in there
        for port in target.ports.values()
    }
    assert {where: who for where, who in found.items() if who} == {w: set(who.split()) for w, who in WITHIN.items()}


@pytest.mark.parametrize(
    ("name", "changes", "target", "port", "who"),
    [
        # what is not of this chart: pages, hubs, the webhook that the nightly gate tells, the identity provider
        ("all-on", (), PAGE, 443, {"step", "job", "vllm", "auth-proxy", *ASKERS}),
        ("all-on", (), PAGE, 80, {"step", "job", "vllm"}),
        ("all-on", ("vllm.offline=true",), PAGE, 80, {"step", "job"}),
        ("all-on", ("authProxy.issuer=", "authProxy.provider=github"), PAGE, 80, {"step", "job", "vllm"}),
        ("all-on", ("authProxy.issuer=", "authProxy.provider=github"), ELSEWHERE, 443, set()),
        (
            "all-on",
            ("authProxy.issuer=", "authProxy.provider=github"),
            PAGE,
            443,
            {"step", "job", "vllm", "auth-proxy", *ASKERS},
        ),
        ("all-on", ("networkPolicies.externalCidrs=null",), PAGE, 80, set()),
        ("all-on", (), PAGE, 22, set()),
        ("all-on", ("networkPolicies.apiServerCidr=10.96.0.1/32",), PAGE, 443, {"step", "job", "vllm", "auth-proxy"}),
        ("all-on", (), API_SERVER, 6443, ASKERS),
        ("all-on", (), End("extra", address="192.0.2.7"), 9999, {"step", "job"}),
        # what the values name by its address may be a Service of another namespace
        ("external-store", (), ELSEWHERE, 8443, {"step", "job", "test", "ml-pipeline", "ml-pipeline-ui"}),
        ("external-store", (), PAGE, 8443, {"step", "job", "test", "ml-pipeline", "ml-pipeline-ui"}),
        ("external-database", (), ELSEWHERE, 3307, {"ml-pipeline", "metadata-grpc"}),
        ("existing-kubeflow", ("networkPolicies.enabled=true",), ELSEWHERE, 8888, {"nightly"}),
        ("proxies", (), PAGE, 3128, {"step", "job", "vllm", "auth-proxy"}),
        ("all-on", ("authProxy.issuer=http://keycloak.identity:8080/realms/x",), ELSEWHERE, 8080, {"auth-proxy"}),
        ("all-on", (), ELSEWHERE, 443, {"auth-proxy"}),
        ("", (), ELSEWHERE, 443, set()),
    ],
)
def test_exactly_these_reach_what_is_not_of_the_chart(
    rendered: Rendered, name: str, changes: tuple[str, ...], target: End, port: int, who: set[str]
) -> None:
    objects = rendered(name, *changes)
    found = {end.name for end in ends(objects) if allows(policies(objects), end, target, port)}
    assert found == who


@pytest.mark.parametrize(
    ("name", "changes", "source", "reached"),
    [
        ("", (), ELSEWHERE, set()),
        ("", (), INGRESS, set()),
        ("", ("ingress.enabled=true", "ingress.host=a.b", "ingress.controllerNamespace=ingress"), INGRESS, {UI}),
        ("", ("ingress.enabled=true", "ingress.host=a.b", "ingress.controllerNamespace=ingress"), ELSEWHERE, set()),
        ("", ("networkPolicies.uiFrom[0].namespaceSelector.matchLabels.team=llm",), ELSEWHERE, set()),
        (
            "",
            (r"networkPolicies.uiFrom[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=elsewhere",),
            ELSEWHERE,
            {UI},
        ),
        ("all-on", (), ELSEWHERE, set()),
        ("all-on", (), INGRESS, {"auth-proxy 4180"}),
        ("all-on", (), End("documents", {"app": "sync"}, namespace="data"), {"minio 9000"}),
        (
            "all-on",
            NOBODY,
            MONITORING,
            {
                *("minio 9000", "vllm 8000", "exporter 9101", "training-operator 8080"),
                *("ml-pipeline 8888", "workflow-controller 9090"),
            },
        ),
        ("", NOBODY, MONITORING, set()),
        ("all-on", (*NOBODY, "networkPolicies.metricsFrom=null"), MONITORING, set()),
        # its webhook; pods do not have such addresses
        ("all-on", NOBODY, API_SERVER, {"training-operator 9443"}),
    ],
)
def test_exactly_this_is_reached_from_elsewhere(
    rendered: Rendered, name: str, changes: tuple[str, ...], source: End, reached: set[str]
) -> None:
    objects = rendered(name, *changes)
    assert reached == {
        f"{target.name} {port}"
        for target in ends(objects)
        for port in target.ports.values()
        if allows(policies(objects), source, target, port)
    }


@pytest.mark.parametrize("name", ["", "all-on"])
def test_every_pod_asks_for_names(rendered: Rendered, name: str) -> None:
    dns = End("dns", {"k8s-app": "kube-dns"}, namespace="kube-system")
    for end in ends(rendered(name)):
        for protocol in ("UDP", "TCP"):
            assert allows(policies(rendered(name)), end, dns, 53, protocol), end.name


def test_every_pod_has_a_policy_of_its_own(rendered: Rendered) -> None:
    objects = rendered("all-on")
    found = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
    assert found["telellm-default-deny"]["podSelector"] == {}
    assert found["telellm-default-deny"]["policyTypes"] == ["Ingress", "Egress"]
    for where, labels, _ in pods(objects):
        assert [n for n, spec in found.items() if spec["podSelector"] and _selects(spec["podSelector"], labels)], (
            f"{where} can do nothing"
        )
