"""Every step of a pipeline finds in its image what its code imports, and Kubeflow can hold what is compiled."""

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from pipelines import components
from telellm.runs import STAGES
from telellm.studies.trials import JOBS as JOBS_OF_TRIALS
from tests.unit.test_images import WITH_TORCH, packages_of, requirements

ROOT = Path(__file__).parents[2]
JOBS = ("ingest", "clean", "screen", "pretrain", "instruct")
"""Stages that the launcher names, divides and puts together, and whose work jobs do."""


def steps_of() -> dict[str, list[Callable[..., Any]]]:
    """Return image → the functions of the components that run in it."""
    found: dict[str, list[Callable[..., Any]]] = {}
    tree = ast.parse(inspect.getsource(components))
    for node in tree.body:
        for made in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            if isinstance(made, ast.Call) and ast.unparse(made.func) == "component":
                body = inspect.unwrap(getattr(components, node.name))
                found.setdefault(ast.literal_eval(made.args[0]), []).append(body)
    return found


STEPS = steps_of()


def imports_of(body: Callable[..., Any]) -> list[str]:
    """Return the import statements of a component's function."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(body)))
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def stages_in(image: str) -> list[str]:
    """Return the stages whose code an image imports."""
    text = "".join(inspect.getsource(body) for body in STEPS[image])
    named = [stage for stage in STAGES if f'run_stage("{stage}"' in text]
    started = {"launcher": JOBS, "study": JOBS_OF_TRIALS, "index": ("index",)}
    return [*named, *started.get(image, ())]


def test_every_component_is_looked_at() -> None:
    assert {"launcher", "study", "pack", *STAGES} - set(STEPS) == set(JOBS)
    assert {body.__name__ for body in STEPS["launcher"]} >= {"start", "start_night", "promote", *JOBS}


@pytest.mark.parametrize("image", sorted(STEPS))
def test_a_step_finds_in_its_image_what_it_imports(image: str) -> None:
    extras = ("launcher",) if image == "launcher" else ("tables", image)
    held = packages_of("pipelines", *extras)
    lacks = [
        name
        for name, packages in packages_distributions().items()
        if not {requirements.normal(package) for package in packages} & {*held, "telellm"}
    ]
    assert ("torch" in lacks, "pyarrow" in lacks) == (image not in WITH_TORCH, image == "launcher")
    lines = [line for body in STEPS[image] for line in imports_of(body)]
    assert any("telellm" in line for line in lines)
    code = f"import sys; sys.modules.update(dict.fromkeys({lacks!r}))\n" + "\n".join(lines)
    code += f"\nfrom telellm.runs import find_stage\nfor name in {stages_in(image)!r}: find_stage(name)\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_pipeline_is_small_enough_for_what_kubeflow_makes_of_it(tmp_path: Path) -> None:
    """It stores a specification several times over in one object, which may have 1.5 MiB; ConfigMaps may have 1 MiB."""
    from kfp import compiler

    from pipelines import PIPELINES

    for name, pipeline in PIPELINES.items():
        file = tmp_path / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        assert file.stat().st_size < 120_000, name


def test_what_people_see_of_a_run_is_named_after_what_it_is() -> None:
    shown = {
        body.__name__: names
        for bodies in STEPS.values()
        for body in bodies
        if (names := [name for name, one in inspect.signature(body).parameters.items() if "Output" in str(one)])
    }
    assert shown == {
        "decontaminate": ["steps"],
        "check": ["tele_eval"],
        "report": ["report", "questions", "model_card", "scores"],
        "report_study": ["report", "scores"],
    }
