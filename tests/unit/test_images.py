"""What each image may hold and is made of, and what `images/build.py` refuses. No docker is needed."""

import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import telellm
from telellm.runs import STAGES

ROOT = Path(__file__).parents[2]
DOCKERFILES = {file.parent.name: file.read_text() for file in sorted(ROOT.glob("images/*/Dockerfile"))}
WITH_TORCH = ("pack", "pretrain", "instruct", "evaluate")


def load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


requirements = load("images_requirements", "images/requirements.py")
imports = load("images_imports", "images/imports.py")
build = load("images_build", "images/build.py")
sbom = load("images_sbom", "images/tools/sbom.py")


def packages_of(*extras: str) -> set[str]:
    return {line.partition("==")[0] for line in requirements.requirements(list(extras), ROOT)}


def test_there_is_an_image_for_every_stage_and_for_what_they_share() -> None:
    assert set(DOCKERFILES) == {*STAGES, "base", "base-torch", "launcher", "minio", "tools"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_image_holds_every_package_that_its_stage_imports(stage: str) -> None:
    held = packages_of("tables", "pipelines", stage)
    names = {source.partition(".")[0] for source, _ in imports.imported(STAGES[stage])}
    names -= set(build.MAY_LACK.get(stage, []))
    distributions = packages_distributions()
    needed = {requirements.normal(distributions[name][0]) for name in names}
    assert needed <= held, f"add to the extra {stage} of pyproject.toml: {sorted(needed - held)}"


@pytest.mark.parametrize("stage", [*STAGES, "launcher"])
def test_only_stages_that_run_a_model_hold_torch(stage: str) -> None:
    held = packages_of("pipelines", stage)
    assert ("torch" in held) == (stage in WITH_TORCH)
    assert any(name.startswith("nvidia-") for name in held) == (stage in WITH_TORCH)


def test_the_imports_of_a_program_that_a_stage_starts_count_too() -> None:
    names = {source.partition(".")[0] for source, _ in imports.imported(STAGES["pretrain"])}
    assert {"torch", "datasets", "peft"} <= names


def test_the_image_in_which_a_study_begins_holds_what_its_plan_imports() -> None:
    held = packages_of("tables", "pipelines", "pack")
    names = {source.partition(".")[0] for source, _ in imports.imported("telellm.plan")}
    assert {requirements.normal(packages_distributions()[name][0]) for name in names} <= held


def test_imports_for_type_checkers_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(
        "from typing import TYPE_CHECKING\nfrom sample.b import c\nif TYPE_CHECKING:\n    import torch\n"
    )
    (package / "b.py").write_text('def c():\n    from minio import Minio\n    run([x, "-m", "sample.d", y])\n')
    (package / "d.py").write_text("import yaml as y, json\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert imports.imported("sample.a") == {("minio", "Minio"), ("yaml", "")}


def test_the_launcher_holds_kubernetes_and_kfp_but_no_library_of_a_stage() -> None:
    held = packages_of("launcher", "pipelines")
    assert {"kubernetes", "kfp", "minio", "pydantic", "pyyaml"} <= held
    assert not held & {"numpy", "pyarrow", "kfp-server-api", "google-cloud-storage"}


@pytest.mark.parametrize("extras", [["core"], ["tables", "pipelines"], *([stage] for stage in STAGES)])
def test_every_package_of_an_image_is_in_the_lock_with_its_hashes(extras: list[str]) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    for entry in requirements.requirements(extras, ROOT):
        first, *hashes = entry.splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==\S+ \\", first)
        assert hashes and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)
        assert entry in lock


def test_a_closure_holds_what_the_lock_says_was_asked_for() -> None:
    lock = requirements.locked(
        "a==1 \\\n    --hash=sha256:0\n    # via\n    #   telellm (pyproject.toml)\n"
        "b==1 \\\n    --hash=sha256:0\n    # via a\n"
        "c_d==1 \\\n    --hash=sha256:0\n    # via\n    #   b\n    #   kfp\n"
        "e==1 \\\n    --hash=sha256:0\n    # via kfp\n"
        "kfp==1 \\\n    --hash=sha256:0\n    # via a\n"
    )
    assert requirements.closure({"a"}, lock) == {"a", "b", "c-d", "kfp"}
    with pytest.raises(ValueError, match=r"lacks z; run: make lock"):
        requirements.closure({"z"}, lock)


def test_an_unknown_extra_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'"cleen" is no extra of pyproject.toml\n  known extras: .*clean'):
        requirements.requirements(["cleen"], ROOT)


def stages_of(text: str) -> list[tuple[str, list[str]]]:
    """Return a Dockerfile's FROM lines, each with the instructions below it, continuation lines joined."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        if line.startswith("FROM "):
            found.append((line, []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_base_is_an_argument_with_a_pinned_default(name: str) -> None:
    head, *stages = stages_of(DOCKERFILES[name])
    arguments = dict(line.removeprefix("ARG ").split("=", 1) for line in head[1])
    used = [re.match(r"FROM \$\{(\w+)\}( AS \w+)?$", line) for line, _ in stages]
    assert all(used), "every FROM names an argument"
    for match in used:
        assert match
        image, _, tag = arguments[match[1]].rpartition(":")
        assert image and tag != "latest", match[1]
    assert arguments.get("VERSION", telellm.__version__) == telellm.__version__


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_as_the_user_10001_and_takes_nothing_from_the_tools(name: str) -> None:
    _, lines = stages_of(DOCKERFILES[name])[-1]
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001"
    assert not [line for line in lines if line.startswith(("COPY --from=tools", "ADD "))]


@pytest.mark.parametrize("name", [*STAGES, "launcher"])
def test_code_is_the_last_layer(name: str) -> None:
    _, lines = stages_of(DOCKERFILES[name])[-1]
    layers = [line for line in lines if line.startswith(("RUN ", "COPY "))]
    assert layers[-1] == "COPY telellm /opt/telellm/telellm"
    assert not [line for line in layers[:-1] if "telellm/telellm" in line]
    assert f"/opt/requirements/{name}.txt" in " ".join(layers)


@pytest.mark.parametrize("name", sorted(set(DOCKERFILES) - {"tools"}))
def test_an_image_says_what_it_is(name: str) -> None:
    labels = re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', DOCKERFILES[name])
    assert {"title", "description", "version", "revision", "source"} <= {label for label, _ in labels}
    assert dict(labels)["title"] == f"telellm {name}"


def test_samples_and_tests_are_never_sent_to_docker() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored and not allowed & {"samples", "tests", ".git"}
    copied = {
        word.partition("/")[0]
        for text in DOCKERFILES.values()
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
        for word in line.split()
    }
    assert copied == allowed


def test_images_are_built_after_those_they_are_made_from() -> None:
    assert build.order(["pretrain"]) == ["tools", "base", "base-torch", "pretrain"]
    everything = build.order(list(DOCKERFILES))
    assert sorted(everything) == sorted(DOCKERFILES)
    assert all(
        everything.index(parent) < everything.index(name) for name in everything for parent in build.parents(name)
    )
    with pytest.raises(build.Failed, match=r'"pretrian" is no image\n  known images: .*pretrain'):
        build.order(["pretrian"])


def test_a_bill_of_materials_names_what_debian_python_and_go_put_in(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u1\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    modules = tmp_path / "modules"
    modules.write_text(
        "/out/mc: go1.26.8\n\tpath\tgithub.com/minio/mc\n\tmod\ttelellm\t(devel)\t\n"
        "\tdep\tgithub.com/minio/mc\tv0.1.0\th1:x=\n"
    )
    program = [sys.executable, str(ROOT / "images/tools/sbom.py"), "clean", "--debian", str(status)]
    bill = json.loads(subprocess.check_output(program))
    purls = {part["purl"] for part in bill["components"]}
    assert f"pkg:pypi/minio@{importlib.metadata.version('minio')}" in purls
    assert "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64" in purls
    assert not [purl for purl in purls if "gone" in purl]
    bill = json.loads(subprocess.check_output([*program, "--go", str(modules)]))
    purls = {part["purl"] for part in bill["components"]}
    assert {"pkg:golang/github.com/minio/mc@v0.1.0", "pkg:golang/stdlib@1.26.8"} <= purls
    assert not [purl for purl in purls if "pypi" in purl]


DOCKER = """#!/bin/sh
case "$*" in
  "build --help") ;;
  build*images/{broken}/*) echo "no such package: nonesuch"; exit 1 ;;
  build*) ;;
  image*telellm/base:*) echo 2000000 ;;
  image*telellm*) echo {bytes} ;;
  image*) echo 1000000 ;;
  *entrypoint=cat*) echo '{{"components": [{parts}]}}' ;;
  *entrypoint=python*-c*) echo 5000000000 ;;
  *entrypoint=python*) echo '{{"seconds": 0.1}}' ;;
  *entrypoint=sh*) {confined} ;;
esac
"""


@pytest.fixture
def run_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run images/build.py with a docker that answers as told."""

    def run(*names: str, num_bytes: int = 2_000_000, broken: str = "-", confined: str = ":") -> tuple[int, str]:
        docker = tmp_path / "docker"
        parts = ", ".join(["{}"] * 60)
        docker.write_text(DOCKER.format(bytes=num_bytes, broken=broken, confined=confined, parts=parts))
        docker.chmod(0o755)
        monkeypatch.setenv("DOCKER", str(docker))
        monkeypatch.setattr(build, "BUILD", tmp_path / "build")
        monkeypatch.setattr(sys, "argv", ["build.py", *names])
        code = build.main()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_sizes_are_written_down(run_build: Any, tmp_path: Path) -> None:
    code, printed = run_build("clean")
    assert code == 0, printed
    figures = {image["name"]: image for image in json.loads((tmp_path / "build/images.json").read_text())["images"]}
    assert figures["clean"]["bytes_beyond_base"] == 1_000_000
    assert figures["clean"]["limit_bytes"] == 350_000_000
    assert (tmp_path / "build/sbom/clean.cdx.json").exists()


@pytest.mark.parametrize(("name", "limit_mb"), [("clean", 350), ("launcher", 100), ("pretrain", 5400)])
def test_an_image_over_its_limit_fails(run_build: Any, name: str, limit_mb: int) -> None:
    assert run_build(name, num_bytes=(limit_mb + 1) * 1_000_000)[0] == 0
    code, printed = run_build(name, num_bytes=(limit_mb + 2) * 1_000_000)
    assert code == 1
    assert f"{name}: {limit_mb + 1} MB beyond its base, more than {limit_mb}" in printed


def test_an_image_that_cannot_be_built_fails_with_what_docker_said(run_build: Any) -> None:
    code, printed = run_build("clean", broken="base")
    assert code == 1
    assert "base: docker build ended with code 1" in printed and "no such package: nonesuch" in printed


def test_an_image_that_writes_outside_its_volumes_fails(run_build: Any) -> None:
    code, printed = run_build("clean", confined="echo writes to /etc; exit 1")
    assert code == 1
    assert "clean: docker run ended with code 1" in printed and "writes to /etc" in printed


def test_an_image_is_installed_from_a_list_that_the_tools_make() -> None:
    found = re.findall(r"list ([a-z]\S*) |for stage in ([^;]+);", DOCKERFILES["tools"])
    made = {name for one, many in found for name in (one, *many.split())}
    for name, text in DOCKERFILES.items():
        assert set(re.findall(r"/opt/requirements/([a-z-]+)\.txt", text)) <= made, name
