"""The templates that administrators edit: what the launcher fills in, what it leaves, and what it refuses."""

from dataclasses import replace

import pytest
import yaml

from telellm import __version__
from telellm.cluster.templates import SHIPPED, Work, pod_job, pytorch_job, shards_job
from telellm.recipe import Cluster, RecipeError

WORK = Work("night-pretrain-0123456789", "s3://b/runs/night", "pretrain", "pretrain", ["telellm", "stage", "pretrain"])


def settings(**changes):
    return Cluster.model_validate({"registry": "registry.site:5000", **changes})


def edited(tmp_path, name, edit):
    """Copy the templates, one of them changed."""
    for file in ("pytorchjob.yaml", "shards.yaml"):
        body = yaml.safe_load((SHIPPED / file).read_text())
        if file == name:
            edit(body)
        (tmp_path / file).write_text(yaml.safe_dump(body))
    return settings(templates=str(tmp_path))


def test_training_gets_its_nodes_processes_gpus_and_resources():
    training = {"nodes": 3, "gpus_per_node": 4, "cpus": 16, "memory_gib": 200}
    body = pytorch_job(WORK, settings(training=training)).manifest
    assert body["metadata"]["name"] == WORK.name
    assert body["spec"]["nprocPerNode"] == "4"
    master, worker = (body["spec"]["pytorchReplicaSpecs"][role] for role in ("Master", "Worker"))
    assert (master["replicas"], worker["replicas"]) == (1, 2)
    assert master["restartPolicy"] == worker["restartPolicy"] == "ExitCode"
    assert master["template"] == worker["template"]
    container = master["template"]["spec"]["containers"][0]
    assert container["image"] == f"registry.site:5000/telellm/pretrain:{__version__}"
    assert container["command"] == ["telellm", "stage", "pretrain"]
    assert container["resources"]["limits"] == {"memory": "200Gi", "nvidia.com/gpu": 4}
    assert container["resources"]["requests"] == {"cpu": "16", "memory": "200Gi", "nvidia.com/gpu": 4}
    assert {"name": "OMP_NUM_THREADS", "value": "4"} in container["env"]


def test_one_node_has_no_worker_and_no_gpus_means_processes():
    body = pytorch_job(WORK, settings(training={"gpus_per_node": 0, "processes_per_node": 2})).manifest
    assert set(body["spec"]["pytorchReplicaSpecs"]) == {"Master"}
    assert body["spec"]["nprocPerNode"] == "2"
    assert "nvidia.com/gpu" not in str(body["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"])


def test_shards_are_an_indexed_job_whose_indexes_are_tried_again_by_themselves():
    job = shards_job(WORK, settings(shards={"pods": 8, "cpus": 1.5, "memory_gib": 3, "retries": 2}), 5)
    spec = job.manifest["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 5, 5)
    assert spec["backoffLimitPerIndex"] == 2
    assert spec["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1.5", "memory": "3Gi"}


def test_a_stage_that_neither_trains_nor_has_shards_is_one_pod_with_gpus_only_to_evaluate():
    chosen = settings(evaluation={"gpus": 2, "cpus": 3, "memory_gib": 40, "retries": 1})
    for image, gpus in {"evaluate": {"nvidia.com/gpu": 2}, "pack": {}, "instruct": {}}.items():
        spec = pod_job(replace(WORK, image=image), chosen).manifest["spec"]
        assert (spec["completionMode"], spec["completions"], spec["backoffLimitPerIndex"]) == ("Indexed", 1, 1)
        resources = spec["template"]["spec"]["containers"][0]["resources"]
        assert resources["limits"] == resources["requests"] == {"cpu": "3", "memory": "40Gi", **gpus}


def test_queue_priority_and_nodes_come_from_the_recipe():
    chosen = settings(queue="night", priority_class="low", node_selector={"pool": "gpu"})
    for job in (pytorch_job(WORK, chosen), shards_job(WORK, chosen, 1)):
        assert job.manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
        text = yaml.safe_dump(job.manifest)
        assert "priorityClassName: low" in text and "pool: gpu" in text


def test_what_the_administrator_wrote_stays(tmp_path):
    def edit(body):
        pod = body["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
        pod["containers"][0]["env"] += [
            {"name": "OMP_NUM_THREADS", "value": "7"},
            {"name": "NCCL_DEBUG", "value": "INFO"},
        ]
        pod["containers"][0]["resources"] = {"limits": {"rdma/hca": 1}}
        pod["hostIPC"] = True

    body = pytorch_job(WORK, edited(tmp_path, "pytorchjob.yaml", edit)).manifest
    pod = body["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    variables = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert (variables["OMP_NUM_THREADS"], variables["NCCL_DEBUG"]) == ("7", "INFO")
    assert pod["containers"][0]["resources"]["limits"]["rdma/hca"] == 1
    assert pod["hostIPC"] is True


def container_of(body):
    return body["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda body: body["spec"].pop("pytorchReplicaSpecs"), "spec.pytorchReplicaSpecs is missing"),
        (lambda body: body["spec"]["pytorchReplicaSpecs"].pop("Master"), "pytorchReplicaSpecs.Master is missing"),
        (lambda body: container_of(body).update(name="torch"), "no container is called pytorch; containers: torch"),
        (lambda body: container_of(body).pop("envFrom"), "container pytorch gets no store credentials"),
        (lambda body: container_of(body)["volumeMounts"].pop(0), "mounts nothing at /cache"),
        (lambda body: body.update(kind="Job"), "this is Job of kubeflow.org/v1, not PyTorchJob"),
    ],
)
def test_a_template_that_lacks_what_the_launcher_needs_is_refused(tmp_path, edit, said):
    with pytest.raises(RecipeError) as caught:
        pytorch_job(WORK, edited(tmp_path, "pytorchjob.yaml", edit))
    assert str(caught.value).startswith(str(tmp_path / "pytorchjob.yaml")) and said in str(caught.value)


def test_a_template_that_is_no_yaml_or_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"cluster.templates: .* has no pytorchjob.yaml"):
        pytorch_job(WORK, settings(templates=str(tmp_path)))
    (tmp_path / "pytorchjob.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match=r"pytorchjob.yaml: cannot be read"):
        pytorch_job(WORK, settings(templates=str(tmp_path)))


def test_the_shipped_templates_pass_pod_security_restricted():
    for job in (pytorch_job(WORK, settings()), shards_job(WORK, settings(), 1)):
        spec = job.manifest["spec"]
        pod = spec["template"] if "template" in spec else spec["pytorchReplicaSpecs"]["Master"]["template"]
        pod = pod["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] and security["capabilities"]["drop"] == ["ALL"]


DIGEST = "@sha256:" + "ab" * 32


def test_an_image_that_the_site_pins_goes_before_the_recipes(tmp_path):
    pinned = edited(tmp_path, "", None)
    (tmp_path / "images.yaml").write_text(f"pretrain: registry.site:5000/mirror/pretrain:1.2{DIGEST}\n")
    containers = pytorch_job(WORK, pinned).manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    assert containers["containers"][0]["image"] == f"registry.site:5000/mirror/pretrain:1.2{DIGEST}"
    other = shards_job(replace(WORK, image="clean"), pinned, 1).manifest["spec"]["template"]["spec"]["containers"][0]
    assert other["image"] == f"registry.site:5000/telellm/clean:{__version__}"


@pytest.mark.parametrize("text", ["", "{}", "# nothing is pinned\n"])
def test_a_site_that_pins_nothing_leaves_the_recipe_its_images(tmp_path, text):
    unpinned = edited(tmp_path, "", None)
    (tmp_path / "images.yaml").write_text(text)
    pod = pytorch_job(WORK, unpinned).manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"registry.site:5000/telellm/pretrain:{__version__}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pretrain]", "this is no table"),
        ("pretrain: 7", "pretrain: 7 is no image"),
        ("pretrain: x@sha256:12", "pretrain: 'x@sha256:12' is no image"),
        ("pretrain: {", "cannot be read"),
    ],
)
def test_a_table_of_images_that_is_none_is_refused_with_its_file(tmp_path, text, said):
    wrong = edited(tmp_path, "", None)
    (tmp_path / "images.yaml").write_text(text)
    with pytest.raises(RecipeError, match=f"images.yaml: {said}"):
        pytorch_job(WORK, wrong)


def test_a_pod_that_scores_may_read_benchmarks_and_the_hub_and_ask_a_model():
    (container,) = yaml.safe_load((SHIPPED / "shards.yaml").read_text())["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one}
    assert {name: secret["name"] for name, secret in given.items()} == {
        "OPENAI_API_KEY": "telellm-lm",
        "TELEQNA_PASSWORD": "telellm-benchmarks",
        "HF_TOKEN": "telellm-hub",
        "HF_ENDPOINT": "telellm-hub",
    }
    assert all(secret["optional"] for secret in given.values())
