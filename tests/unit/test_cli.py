"""The command line: help, exit codes, messages, compiled pipelines."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from telellm.attempts import NODE
from telellm.cli import STAGES, _parser, main
from telellm.commands import _run_name
from telellm.recipe import Cluster

ROOT = Path(__file__).resolve().parents[2]
TELELLM = [sys.executable, "-m", "telellm.cli"]
HEAVY = ("pydantic", "pyarrow", "kfp", "torch", "transformers", "minio", "yaml", "numpy", "datasets")
SMALL = "name: small\nmodel: {name: owner/model}\nsources:\n  one: {category: web, path: /nowhere}\n"


def telellm(*arguments, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TELELLM_")}
    return subprocess.run([*TELELLM, *map(str, arguments)], capture_output=True, text=True, env=clean | environment)


def subcommands():
    action = next(each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction))
    return action.choices


def test_help_lists_every_command_and_every_command_explains_itself(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for name, parser in subcommands().items():
        assert re.search(rf"^    {name} +\w", shown, re.MULTILINE), name
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert parser.description in " ".join(capsys.readouterr().out.split())
        for action in parser._actions:
            assert action.help, (name, action.dest)


def test_help_and_a_wrong_command_import_nothing_heavy():
    code = (
        "import sys\nfrom telellm.cli import main\n"
        "for words in (['--help'], ['run', '--help'], ['stage', 'nonsense'], []):\n"
        "    try: main(words)\n    except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_recipe_is_read_without_what_only_stages_need():
    code = (
        "import sys, pathlib\nfrom telellm.recipe import load\nload(pathlib.Path(sys.argv[1]))\n"
        "print([name for name in ('pyarrow', 'kfp', 'torch', 'minio', 'numpy') if name in sys.modules])"
    )
    recipe = str(ROOT / "recipes/quickstart.yaml")
    done = subprocess.run([sys.executable, "-c", code, recipe], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", "{tmp}/none.yaml"],
            "error: {tmp}/none.yaml: there is no such recipe\n  recipes there: {tmp}/small.yaml",
        ),
        (["run", "{tmp}/smal"], "did you mean {tmp}/small.yaml?"),
        (["run", "{tmp}/small.yaml", "--name", "a b/c"], '--name: "a b/c" is no name of a run'),
        (["run", "{tmp}/small.yaml", "--set", "sed=1"], 'there is no field "sed"'),
        (["run", "{tmp}/small.yaml", "--store", "ftp://x"], '"ftp" is not a kind of store; known kinds: file, s3'),
        (["run", "{tmp}/small.yaml", "--store", "{tmp}/store"], "sources.one.path: /nowhere does not exist"),
        (["report", "none", "--store", "{tmp}/store"], "there is no run none"),
        (["stage", "clean", "--recipe", "{tmp}/small.yaml", "--store", "{tmp}/store"], "input documents is missing"),
        (["stage", "clean", "--recipe", "{tmp}/small.yaml", "--input", "text=a"], "inputs of clean: documents"),
        (
            ["stage", "clean", "--recipe", "{tmp}/small.yaml", "--store", "{tmp}/store", "--input", "documents=../x"],
            "would leave the store",
        ),
        (["stage", "nonsense", "--recipe", "x"], "invalid choice: 'nonsense'"),
        (["stage", "clean", "--recipe", "x", "--shards", "2/2"], "is not I/N with 0 <= I < N"),
        (["compile", "corpus", "--out", "{tmp}/small.yaml/x"], "the folder cannot be made: Not a directory"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        ([], "run a pipeline on this machine"),
    ],
)
def test_what_the_user_got_wrong_is_2_and_one_message(arguments, said, tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    done = telellm(*(word.format(tmp=tmp_path) for word in arguments))
    assert done.returncode == 2, done.stderr
    assert said.format(tmp=tmp_path) in done.stderr and "Traceback" not in done.stderr


def test_work_that_fails_is_1_and_a_traceback_only_with_debug(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "file").write_text("")
    words = ["run", tmp_path / "small.yaml", "--store", tmp_path / "file/store"]
    done = telellm(*words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: store: ") and done.stderr.count("\n") == 1
    for debugging in (telellm(*words, "--debug"), telellm("--debug", *words)):
        assert "Traceback" in debugging.stderr and "StoreUnavailable" in debugging.stderr


def test_a_stage_prints_where_its_output_is_and_says_when_it_was_there(tmp_path):
    words = ["stage", "ingest", "--recipe", ROOT / "recipes/quickstart.yaml", "--store", tmp_path / "store"]
    words += ["--set", f"sources={{web: {{category: web, path: {ROOT}/samples/web}}}}"]
    first, second = telellm(*words), telellm(*words)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout and (tmp_path / "store" / first.stdout.strip() / "manifest.json").exists()
    assert "done before" in second.stderr and "done before" not in first.stderr


def test_ctrl_c_says_that_the_work_is_kept(tmp_path):
    import socket

    (tmp_path / "small.yaml").write_text(SMALL)
    with socket.socket() as silent:  # a server that accepts and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        environment = os.environ | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        process = subprocess.Popen(
            [*TELELLM, "run", str(tmp_path / "small.yaml"), "--store", "s3://bucket/x"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 130
    assert said.strip() == "stopped; what is finished is kept: the same command goes on from here"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The compiled pipelines by name."""
    folder = tmp_path_factory.mktemp("compiled")
    assert main(["compile", "--out", str(folder)]) == 0
    return {path.stem: (path.read_text(), *yaml.safe_load_all(path.read_text())) for path in folder.iterdir()}


PIPELINES = ("corpus", "tele-eval", "adapt", "nightly", "study")
NAMES = ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "CA_BUNDLE")


def test_every_pipeline_is_compiled(compiled):
    assert sorted(compiled) == sorted(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_compiled_pipeline_has_few_parameters_and_explains_them(compiled, name):
    specification = compiled[name][1]
    inputs = specification["root"]["inputDefinitions"]["parameters"]
    assert set(inputs) == {"recipe", "store", "name", "model", "changes"}
    assert all(len(parameter["description"]) > 10 for parameter in inputs.values())
    assert specification["pipelineInfo"]["name"] == name and specification["pipelineInfo"]["description"]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_compiled_pipeline_installs_nothing_and_calls_known_stages(compiled, name):
    text, specification, _ = compiled[name]
    assert not re.search(r"pip3? install|packages_to_install|apt-get|curl ", text)
    for label, executor in specification["deploymentSpec"]["executors"].items():
        image = executor["container"]["image"]
        assert re.fullmatch(r"\S+/telellm/[a-z-]+:\S+", image) and not image.endswith("latest"), (label, image)
    called = set(re.findall(r'run_stage\(\\?"([a-z-]+)\\?"', text))
    assert called and called <= set(STAGES)


@pytest.mark.parametrize("name", PIPELINES)
def test_kubeflow_caches_nothing_and_names_each_task_after_its_work(compiled, name):
    """A stage finds what is done by digest, so that a crawl is made anew and what was deleted too."""
    specification = compiled[name][1]
    graphs = [specification["root"], *specification["components"].values()]
    tasks = [task for graph in graphs if "dag" in graph for task in graph["dag"]["tasks"].values()]
    assert not [task["taskInfo"]["name"] for task in tasks if task.get("cachingOptions", {}).get("enableCache")]
    names = [task["taskInfo"]["name"] for task in tasks]
    assert len(set(names)) == len(names) and not [one for one in names if re.search(r"[_\d]", one)]
    if name == "adapt":
        assert {"evaluate-base", "evaluate-pretrained", "evaluate-instruct"} <= set(names)


FOR_SOME = {
    "api-key": "screen draft distinct check evaluate evaluate-production evaluate-references run-trials",
    "TELEQNA_PASSWORD": "decontaminate hold-out pack evaluate evaluate-production evaluate-references prepare-trials "
    "run-trials",
    "TELELLM_WEBHOOK_URL": "start-night promote",
    "HF_TOKEN": "start start-night begin-study evaluate evaluate-production evaluate-references",
    "HF_ENDPOINT": "start start-night begin-study evaluate evaluate-production evaluate-references",
}
"""Key of a secret → the tasks that read a language model, archived benchmarks, tell a webhook, or ask a model hub."""


@pytest.mark.parametrize("name", PIPELINES)
def test_on_a_cluster_every_task_has_the_stores_secret_and_a_cache(compiled, name):
    _, specification, platforms = compiled[name]
    kubernetes = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(kubernetes) == set(specification["deploymentSpec"]["executors"])
    for label, executor in kubernetes.items():
        keys = {pair["secretKey"] for secret in executor["secretAsEnv"] for pair in secret["keyToEnv"]}
        needed = {secret["secretName"] for secret in executor["secretAsEnv"] if not secret["optional"]}
        assert needed == {"telellm-store"}
        component = re.sub(r"^exec-|-\d+$", "", label)
        optional = {key for key, components in FOR_SOME.items() if component in components.split()}
        assert keys == {*(f"AWS_{name}" for name in NAMES), *optional}, label
        assert [mount["mountPath"] for mount in executor["emptyDirMounts"]] == ["/cache"], label
        node = {"name": NODE, "fieldPath": "metadata.annotations['workflows.argoproj.io/node-name']"}
        assert executor["fieldPathAsEnv"] == [node], label


def test_a_task_whose_stage_becomes_a_job_has_the_launchers_image(compiled):
    executors = compiled["adapt"][1]["deploymentSpec"]["executors"]
    for label, executor in executors.items():
        stage = label.removeprefix("exec-")
        image = executor["container"]["image"].rpartition("/")[2].partition(":")[0]
        assert (image == "launcher") == (stage in ("start", *Cluster().stages)), label


def test_the_arms_of_a_study_are_one_task_in_a_loop_that_gets_nothing_but_its_item(compiled):
    text, specification, platforms = compiled["study"]
    (loop,) = [task for task in specification["root"]["dag"]["tasks"].values() if "parameterIterator" in task]
    assert loop["iteratorPolicy"]["parallelismLimit"] == 4
    body = specification["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    assert list(body) == ["run-trials"]
    # kfp.local gives every input of a task in a loop the loop's item
    assert len(loop["inputs"]["parameters"]) == 1 and len(body["run-trials"]["inputs"]["parameters"]) == 1
    assert "exec-run-trials" in platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    tries = {name: "retryPolicy" in task for name, task in specification["root"]["dag"]["tasks"].items()}
    assert not tries["settle-study"] and tries["report-study"]
    assert len(text) < 64_000, "an arm more is an item more, not a task more"


@pytest.mark.parametrize(
    ("pipeline", "file", "name"),
    [("adapt", "methods", "telecom"), ("study", "methods", "telecom-methods"), ("study", "telecom", "telecom")],
)
def test_studies_of_one_corpus_are_runs_of_their_own(pipeline, file, name):
    assert _run_name(pipeline, Path(f"recipes/studies/{file}.yaml"), "telecom") == name


def test_one_pipeline_may_be_compiled_alone(tmp_path, capsys):
    assert main(["compile", "corpus", "--out", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "one/corpus.yaml")]
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["corpus.yaml"]


def test_a_message_moves_no_terminal_whatever_a_file_is_called(tmp_path):
    (tmp_path / "recipe\x1b[2J\x07.yaml").write_text("name: [")
    said = telellm("plan", tmp_path / "recipe\x1b[2J\x07.yaml")
    assert said.returncode == 2 and "recipe" in said.stderr
    assert not {"\x1b", "\x07"} & set(said.stderr)
