"""Kubeflow Pipelines in the chart: what it names is there, it may do little, and nothing of version 1 is left."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "telellm"
COMPONENTS = {
    "ml-pipeline",
    "ml-pipeline-persistenceagent",
    "ml-pipeline-scheduledworkflow",
    "ml-pipeline-ui",
    "metadata-envoy",
    "metadata-grpc",
    "mysql",
    "pipeline-runner",
    "workflow-controller",
}
OUTSIDE = (
    "minio.enabled=false",
    "store.endpoint=https://s3.example.org",
    "store.existingSecret=store",
    "store.pipelines.existingSecret=pipelines-store",
    "pipelines.mysql.enabled=false",
    "pipelines.database.host=db.example.org",
    "pipelines.database.existingSecret=db",
    "pipelines.database.tls=true",
)
PRIVATE = (
    "global.ca.configMap=company-ca",
    "global.proxy.http=http://proxy.example.org:3128",
    "global.imagePullSecrets={pull}",
    "pipelines.ui.replicas=2",
    "pipelines.argo.replicas=2",
)
GIVEN = {"store", "pipelines-store", "db", "company-ca"}
"""Objects that someone else makes."""
ALL = [(), OUTSIDE, PRIVATE]
V1 = ("cache", "metadata-writer", "viewer", "visualization", "deployer")

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")


@cache
def render(*values: str) -> tuple[dict[str, Any], ...]:
    command = ["helm", "template", "t", str(CHART), "--namespace", "there", "--kube-version", "1.34.0"]
    for value in values:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(item for item in yaml.safe_load_all(done.stdout) if item)


def refused(*values: str) -> str:
    command = ["helm", "template", "t", str(CHART), "--kube-version", "1.34.0"]
    for value in values:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return done.stderr


def component(item: dict[str, Any]) -> str:
    return str(item["metadata"].get("labels", {}).get("app.kubernetes.io/component"))


def own(*values: str) -> list[dict[str, Any]]:
    return [item for item in render(*values) if component(item) in COMPONENTS]


def named(kind: str, name: str, *values: str) -> dict[str, Any]:
    (found,) = [item for item in render(*values) if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def workloads(*values: str) -> list[dict[str, Any]]:
    return [item for item in own(*values) if item["kind"] in ("Deployment", "StatefulSet")]


def pods(*values: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in workloads(*values):
        yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(deployment: str, *values: str) -> dict[str, Any]:
    container = named("Deployment", deployment, *values)["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def argo(*values: str) -> dict[str, Any]:
    """Return the controller's configuration as the controller reads it."""
    data = named("ConfigMap", "workflow-controller-configmap", *values)["data"]
    return {key: yaml.safe_load(text) for key, text in data.items()}


def references(node: Any) -> Iterator[tuple[str, str, str | None]]:
    """Yield kind, name and key (if one is named) of what a pod takes from other objects."""
    if isinstance(node, list):
        for child in node:
            yield from references(child)
    elif isinstance(node, dict):
        for field, child in node.items():
            if field in ("secretKeyRef", "configMapKeyRef") and not child.get("optional"):
                yield "Secret" if field == "secretKeyRef" else "ConfigMap", child["name"], child["key"]
            elif field == "secret" and isinstance(child, dict) and "secretName" in child:
                yield "Secret", child["secretName"], None
            elif field in ("configMap", "configMapRef") and isinstance(child, dict) and "name" in child:
                yield "ConfigMap", child["name"], None
            elif field == "serviceAccountName":
                yield "ServiceAccount", child, None
            yield from references(child)


@pytest.mark.parametrize("values", ALL)
def test_what_a_pod_takes_from_other_objects_is_rendered(values: tuple[str, ...]) -> None:
    there = {(item["kind"], item["metadata"]["name"]): item for item in render(*values)}
    for name, pod in pods(*values):
        for kind, other, key in references(pod):
            if other in GIVEN:
                continue
            assert (kind, other) in there, f"{name}: there is no {kind} {other}"
            if key is not None:
                assert key in there[kind, other]["data"], f"{name}: {kind} {other} has no {key}"


@pytest.mark.parametrize("values", ALL)
def test_what_a_container_mounts_is_a_volume_of_its_pod(values: tuple[str, ...]) -> None:
    for item in workloads(*values):
        pod = item["spec"]["template"]["spec"]
        volumes = [volume["name"] for volume in pod.get("volumes", [])]
        volumes += [claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])]
        assert len(volumes) == len(set(volumes))
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes)
            assert len({entry["name"] for entry in container.get("env", [])}) == len(container.get("env", []))


@pytest.mark.parametrize("values", ALL)
def test_a_role_and_its_account_are_rendered(values: tuple[str, ...]) -> None:
    there = {(item["kind"], item["metadata"]["name"]) for item in render(*values)}
    for item in own(*values):
        if item["kind"] == "RoleBinding":
            assert ("Role", item["roleRef"]["name"]) in there
            assert {(subject["kind"], subject["name"]) for subject in item["subjects"]} <= there
            assert {subject["namespace"] for subject in item["subjects"]} == {"there"}


@pytest.mark.parametrize("values", ALL)
def test_a_service_finds_the_pods_and_the_port_that_it_names(values: tuple[str, ...]) -> None:
    for item in own(*values):
        if item["kind"] == "Service":
            (workload,) = [
                other
                for other in workloads(*values)
                if item["spec"]["selector"].items() <= other["spec"]["template"]["metadata"]["labels"].items()
            ]
            ports = workload["spec"]["template"]["spec"]["containers"][0]["ports"]
            assert {port["targetPort"] for port in item["spec"]["ports"]} <= {port["name"] for port in ports}


def test_nothing_of_it_has_rights_in_the_whole_cluster() -> None:
    assert {item["kind"] for item in own()} & {"ClusterRole", "ClusterRoleBinding"} == set()


def test_no_role_has_a_wildcard_or_may_look_through_secrets() -> None:
    roles = [item for item in own() if item["kind"] == "Role"]
    assert len(roles) == 6
    for item in roles:
        for rule in item["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]
                assert rule["resourceNames"] == ["telellm-pipelines-store"]


def test_steps_have_the_rights_of_the_launcher_and_may_make_no_pods() -> None:
    bound = [
        item["roleRef"]["name"]
        for item in render()
        if item["kind"] == "RoleBinding" and "pipeline-runner" in [subject["name"] for subject in item["subjects"]]
    ]
    assert sorted(bound) == ["pipeline-runner", "telellm-launcher"]
    for name in bound:
        for rule in named("Role", name)["rules"]:
            if rule["resources"] == ["pods"]:
                assert not set(rule["verbs"]) & {"create", "update", "patch", "delete"}


@pytest.mark.parametrize("values", ALL)
def test_nothing_of_version_1_is_there(values: tuple[str, ...]) -> None:
    for item in own(*values):
        assert not any(word in item["metadata"]["name"] for word in V1)
    for name in ("ml-pipeline", "ml-pipeline-scheduledworkflow"):
        assert environment(name)["BLOCK_V1_PIPELINES"] == "true"


@pytest.mark.parametrize("values", ALL)
def test_every_pod_is_restricted_and_its_root_cannot_be_written(values: tuple[str, ...]) -> None:
    for name, pod in pods(*values):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]


def test_only_those_that_ask_the_kubernetes_api_have_a_token() -> None:
    with_token = {name for name, pod in pods() if pod["automountServiceAccountToken"]}
    assert with_token == {
        "ml-pipeline",
        "ml-pipeline-persistenceagent",
        "ml-pipeline-scheduledworkflow",
        "ml-pipeline-ui",
        "workflow-controller",
    }


@pytest.mark.parametrize("agent", ["persistenceagent", "scheduledworkflow"])
def test_an_agent_shows_itself_to_the_api_server_with_a_token_for_it_alone(agent: str) -> None:
    pod = named("Deployment", f"ml-pipeline-{agent}")["spec"]["template"]["spec"]
    (token,) = [volume for volume in pod["volumes"] if volume["name"] == "token"]
    (source,) = token["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    assert source["serviceAccountToken"]["path"] == f"{agent}-sa-token"
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["token"] == "/var/run/secrets/kubeflow/tokens"


def test_recurring_runs_keep_the_time_zone_of_the_nightly_run() -> None:
    zone = environment("ml-pipeline-scheduledworkflow", "telellm.nightly.timeZone=Europe/Berlin")
    assert zone["CRON_SCHEDULE_TIMEZONE"] == "Europe/Berlin"


def test_the_api_server_does_not_start_without_these() -> None:
    names = set(environment("ml-pipeline"))
    assert names >= {
        "POD_NAMESPACE",
        "DBCONFIG_MYSQLCONFIG_USER",
        "DBCONFIG_MYSQLCONFIG_PASSWORD",
        "OBJECTSTORECONFIG_ACCESSKEY",
        "OBJECTSTORECONFIG_SECRETACCESSKEY",
        "ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_HOST",
        "ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_PORT",
    }
    config = json.loads(named("ConfigMap", "telellm-kfp-api-server")["data"]["config.json"])
    assert {"DBDriverName", "DBConfig", "InitConnectionTimeout"} <= set(config)
    assert config["DBConfig"]["ConMaxLifeTime"]
    assert config["DBConfig"]["MySQLConfig"]["DBName"]


def test_images_of_a_run_come_from_the_table_with_their_digests() -> None:
    digest = "sha256:" + "a" * 64
    values = (
        "global.imageRegistry=registry.example.org/mirror",
        f"images.kfp-driver.digest={digest}",
        f"images.kfp-launcher.digest={digest}",
        f"images.argoexec.digest={digest}",
    )
    server = environment("ml-pipeline", *values)
    for part in ("driver", "launcher"):
        image = server[f"V2_{part.upper()}_IMAGE"]
        assert re.fullmatch(rf"registry\.example\.org/mirror/kubeflow/kfp-{part}:2\.17\.0@{digest}", image)
    controller = named("Deployment", "workflow-controller", *values)["spec"]["template"]["spec"]["containers"][0]
    image = f"registry.example.org/mirror/argoproj/argoexec:v4.0.5@{digest}"
    assert f"--executor-image={image}" in controller["args"]


@pytest.mark.parametrize("values", ALL)
def test_all_who_use_the_store_are_told_the_same(values: tuple[str, ...]) -> None:
    host, port, secure = ("s3.example.org", "443", True) if values is OUTSIDE else ("", "9000", False)
    host = host or "telellm-minio.there.svc.cluster.local"
    secret = "pipelines-store" if values is OUTSIDE else "telellm-pipelines-store"

    server = environment("ml-pipeline", *values)
    assert (server["OBJECTSTORECONFIG_HOST"], server["OBJECTSTORECONFIG_PORT"]) == (host, port)
    assert server["OBJECTSTORECONFIG_SECURE"] == str(secure).lower()
    assert server["OBJECTSTORECONFIG_ACCESSKEY"]["secretKeyRef"] == {"name": secret, "key": "AWS_ACCESS_KEY_ID"}

    ui = environment("ml-pipeline-ui", *values)
    assert (ui["MINIO_NAMESPACE"], ui["MINIO_HOST"], ui["MINIO_PORT"]) == ("", host, port)
    assert ui["MINIO_SSL"] == str(secure).lower()

    store = argo(*values)["artifactRepository"]["s3"]
    assert (store["endpoint"], store["insecure"]) == (f"{host}:{port}", not secure)
    assert store["accessKeySecret"]["name"] == secret
    assert store["keyFormat"] == ui["ARGO_KEYFORMAT"]

    launcher = named("ConfigMap", "kfp-launcher", *values)["data"]
    assert launcher["defaultPipelineRoot"] == "minio://telellm-pipelines/v2/artifacts"
    for provider in yaml.safe_load(launcher["providers"]).values():
        assert provider["default"]["disableSSL"] is not secure
        assert provider["default"]["endpoint"].startswith("https://" if secure else "http://")
        assert provider["default"]["credentials"] == {
            "fromEnv": False,
            "secretRef": {
                "secretName": secret,
                "accessKeyKey": "AWS_ACCESS_KEY_ID",
                "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
            },
        }
    assert set(yaml.safe_load(launcher["providers"])) == {"minio", "s3"}


@pytest.mark.parametrize("values", ALL)
def test_every_pod_of_a_run_is_restricted_whatever_its_image(values: tuple[str, ...]) -> None:
    config = argo(*values)
    pod = json.loads(config["workflowDefaults"]["spec"]["podSpecPatch"])["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for part in ("executor", "mainContainer"):
        security = config[part]["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["runAsNonRoot"] is True
    server = environment("ml-pipeline", *values)
    assert server["DEFAULT_SECURITY_CONTEXT_RUN_AS_USER"] == str(pod["runAsUser"])
    assert server["DEFAULT_SECURITY_CONTEXT_RUN_AS_NON_ROOT"] == "true"


def test_a_large_user_number_stays_a_number() -> None:
    values = ("pipelines.runs.user=1000650000", "pipelines.runs.group=1000650000")
    assert environment("ml-pipeline", *values)["DEFAULT_SECURITY_CONTEXT_RUN_AS_USER"] == "1000650000"
    assert '"runAsUser":1000650000' in argo(*values)["workflowDefaults"]["spec"]["podSpecPatch"]


def test_pods_of_runs_reach_a_store_behind_a_private_authority() -> None:
    patch = json.loads(argo(*PRIVATE)["workflowDefaults"]["spec"]["podSpecPatch"])
    (volume,) = patch["volumes"]
    assert volume["configMap"] == {"name": "company-ca"}
    assert [container["name"] for container in patch["containers"]] == ["main", "wait"]
    for container in patch["containers"]:
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"]
        # where steps have their own
        assert mount["mountPath"] != "/etc/telellm/ca"
        assert container["env"] == [{"name": "SSL_CERT_DIR", "value": f"/etc/ssl/certs:{mount['mountPath']}"}]
    server = environment("ml-pipeline", *PRIVATE)
    assert (server["CABUNDLE_CONFIGMAP_NAME"], server["CABUNDLE_KEY_NAME"]) == ("company-ca", "ca.crt")
    assert server["HTTP_PROXY"] == "http://proxy.example.org:3128"
    assert "ml-pipeline" in server["NO_PROXY"].split(",")


def test_an_external_database_replaces_the_charts() -> None:
    assert not [item for item in own(*OUTSIDE) if component(item) == "mysql"]
    config = json.loads(named("ConfigMap", "telellm-kfp-api-server", *OUTSIDE)["data"]["config.json"])
    assert config["DBConfig"]["MySQLConfig"]["Host"] == "db.example.org"
    assert config["DBConfig"]["MySQLConfig"]["ExtraParams"] == {"tls": "true"}
    metadata = named("Deployment", "metadata-grpc-deployment", *OUTSIDE)["spec"]["template"]["spec"]["containers"][0]
    assert "--mysql_config_host=db.example.org" in metadata["args"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("pipelines.mysql.enabled=false",), "pipelines.database.host: empty"),
        (("pipelines.mysql.enabled=false", "pipelines.database.host=db"), "pipelines.database.existingSecret: empty"),
        (("pipelines.database.host=db",), "set one of the two"),
        (("pipelines.cronTimeZone=UTC",), "cronTimeZone"),
    ],
)
def test_a_contradiction_is_refused_by_name(values: tuple[str, ...], words: str) -> None:
    assert words in refused(*values)


def test_the_metadata_server_goes_with_one_switch() -> None:
    names = {item["metadata"]["name"] for item in own("pipelines.metadata.enabled=false")}
    assert not {name for name in names if name.startswith(("metadata-grpc-d", "metadata-grpc-s", "metadata-envoy"))}


def test_everything_goes_with_one_switch() -> None:
    assert own("pipelines.enabled=false") == []


def test_definitions_are_those_without_which_the_controllers_do_not_start() -> None:
    found = {item["metadata"]["name"]: item for item in own() if item["kind"] == "CustomResourceDefinition"}
    assert set(found) == {
        "workflows.argoproj.io",
        "workflowtemplates.argoproj.io",
        "cronworkflows.argoproj.io",
        "workflowtasksets.argoproj.io",
        "workflowtaskresults.argoproj.io",
        "workflowartifactgctasks.argoproj.io",
        "scheduledworkflows.kubeflow.org",
    }
    status = {name for name, item in found.items() if "subresources" in item["spec"]["versions"][0]}
    assert status == {"workflowtasksets.argoproj.io", "workflowartifactgctasks.argoproj.io"}
    off = ("pipelines.definitions.argo=false", "pipelines.definitions.scheduledWorkflows=false")
    assert not [item for item in own(*off) if item["kind"] == "CustomResourceDefinition"]


@pytest.mark.parametrize("values", ALL)
def test_a_network_policy_allows_every_flow_that_a_component_needs(values: tuple[str, ...]) -> None:
    policies = [item for item in render(*values) if item["kind"] == "NetworkPolicy" and component(item) in COMPONENTS]
    by_component = {component(item): item["spec"] for item in policies}
    expected = COMPONENTS - ({"mysql"} if values is OUTSIDE else set())
    assert set(by_component) == expected

    def names(peers: list[dict[str, Any]]) -> set[str]:
        found = {
            peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component") for peer in peers
        }
        runs = any("matchExpressions" in peer.get("podSelector", {}) for peer in peers)
        return {name for name in found if name} | ({"pipeline-runner"} if runs else set())

    for name, policy in by_component.items():
        for rule in policy["egress"]:
            ports = {port["port"] for port in rule.get("ports", [])}
            for other in names(rule["to"]) & set(by_component):
                assert any(
                    name in names(entry["from"]) and ports <= {port["port"] for port in entry["ports"]}
                    for entry in by_component[other]["ingress"]
                ), f"{name} may ask {other}, which does not let it in"


def test_the_database_starts_with_the_password_of_its_secret(tmp_path: Path) -> None:
    script = named("ConfigMap", "telellm-mysql")["data"]["prepare.sh"]
    for folder in ("begin", "mysql", "bin"):
        (tmp_path / folder).mkdir()
    server = tmp_path / "bin" / "mysqld"
    server.write_text('#!/bin/sh\nfor a in "$@"; do case "$a" in --datadir=*) mkdir "${a#*=}";; esac; done\n')
    server.chmod(0o755)
    script = script.replace("/var/lib/mysql", str(tmp_path / "mysql")).replace("/begin/", f"{tmp_path}/begin/")
    settings = {"DB_USER": "kubeflow", "DB_PASSWORD": "it's \\ \"$HOME`", "ROOT_PASSWORD": "r", "DATABASES": "one two"}
    for _ in range(2):
        environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", **settings}
        subprocess.run(["bash", "-c", script], env=environ, check=True)
    lines = (tmp_path / "begin" / "begin.sql").read_text().splitlines()
    assert lines == [
        "CREATE DATABASE IF NOT EXISTS `one`;",
        "CREATE DATABASE IF NOT EXISTS `two`;",
        "CREATE USER IF NOT EXISTS 'kubeflow'@'%' IDENTIFIED WITH mysql_native_password BY 'it\\'s \\\\ \"$HOME`';",
        "ALTER USER 'kubeflow'@'%' IDENTIFIED WITH mysql_native_password BY 'it\\'s \\\\ \"$HOME`';",
        "GRANT ALL PRIVILEGES ON `one`.* TO 'kubeflow'@'%';",
        "GRANT ALL PRIVILEGES ON `two`.* TO 'kubeflow'@'%';",
        "ALTER USER 'root'@'localhost' IDENTIFIED BY 'r';",
    ]
    assert [item.name for item in (tmp_path / "mysql").iterdir()] == ["data"]


def test_the_api_server_waits_until_its_user_may_read_its_bucket(tmp_path: Path) -> None:
    """The very command, with a stand-in for telellm that is let in at the second time."""
    pod = named("Deployment", "ml-pipeline")["spec"]["template"]["spec"]
    (wait,) = [container for container in pod["initContainers"] if container["name"] == "wait-for-store"]
    variables = {entry["name"]: entry.get("value") or entry["valueFrom"]["secretKeyRef"] for entry in wait["env"]}
    assert variables["AWS_ACCESS_KEY_ID"] == {"name": "telellm-pipelines-store", "key": "AWS_ACCESS_KEY_ID"}
    assert variables["AWS_ENDPOINT_URL"] == "http://telellm-minio.there.svc.cluster.local:9000"
    for name, text in {
        "telellm": f'echo "$@" >>{tmp_path}/asked; test $(wc -l <{tmp_path}/asked) = 2',
        "sleep": "true",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(wait["command"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == 0
    assert (tmp_path / "asked").read_text() == "models list --store s3://telellm-pipelines\n" * 2
    pod = named("Deployment", "ml-pipeline", *OUTSIDE)["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["initContainers"]] == ["wait"]
