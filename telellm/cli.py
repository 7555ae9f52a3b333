"""The command line: `telellm …`. Nothing heavy is imported before a command needs it."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from telellm import __version__

PIPELINES = ("corpus", "tele-eval", "adapt", "nightly", "study")
STAGES = (
    "ingest",
    "clean",
    "screen",
    "deduplicate",
    "decontaminate",
    "draft",
    "distinct",
    "tele-eval",
    "index",
    "pack",
    "pretrain",
    "instruct",
    "evaluate",
    "report",
    "study",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 the work failed, 2 the input is wrong."""
    options = _parser().parse_args(arguments)
    # as the first process of a container, a program that does not handle this signal never gets it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.debug:
        os.environ["TELELLM_DEBUG"] = "1"
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept: the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if options.debug:
            raise
        from telellm.runs import exit_code, message_of

        print(f"error: {message_of(error)}", file=sys.stderr)
        return exit_code(error)


def run(options: argparse.Namespace) -> int:
    """Run a pipeline on this machine."""
    from telellm.local import run_pipeline
    from telellm.recipe import load

    recipe = load(options.recipe, options.set)
    name = options.name or _run_name(options.pipeline, options.recipe, recipe.name)
    if options.pipeline == "nightly" and not options.name:
        from telellm.nights import name_night
        from telellm.store import Store

        name = name_night(Store.open(options.store), recipe.name, datetime.now(UTC).date())
    return run_pipeline(options.pipeline, recipe, options.store, name)


def _run_name(pipeline: str, path: Path, name: str) -> str:
    """Return the name of a run that was given none: studies of one corpus have the recipe's name and the file's."""
    return f"{name}-{path.stem}" if pipeline == "study" and path.stem != name else name


def stage(options: argparse.Namespace) -> int:
    """Run one stage."""
    from telellm.recipe import RecipeError, load
    from telellm.runs import find_stage, run_stage, start_run

    inputs = {}
    for text in options.input:
        name, equals, place = text.partition("=")
        known = (*find_stage(options.stage).inputs, *find_stage(options.stage).optional)
        if not equals or name not in known:
            raise RecipeError(
                f"--input {text}: write --input NAME=PLACE\n  inputs of {options.stage}: {', '.join(known)}"
            )
        inputs[name] = place
    address = options.run
    if not address:
        if not options.recipe:
            raise RecipeError("telellm stage: name a recipe with --recipe, or a run in its store with --run")
        recipe = load(options.recipe, options.set)
        address = start_run(recipe.to_yaml(), options.store, options.name or recipe.name)
    place = run_stage(options.stage, address, options.label, options.shards, options.key, **inputs)
    print(place)
    return 0


def plan(options: argparse.Namespace) -> int:
    """Show the resolved recipe, and what a run of it will take."""
    import json

    from telellm.plan import estimate
    from telellm.plan.show import describe
    from telellm.recipe import load
    from telellm.store import Store

    recipe = load(options.recipe, options.set)
    store = Store.open(options.store) if options.store else None
    found = estimate(
        recipe,
        store,
        pipeline=options.pipeline,
        tokens=round(options.tokens),
        gpu=options.gpu,
        utilization=options.utilization,
    )
    if options.json:
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        print(recipe.to_yaml())
        print("\n".join(describe(found)))
    return 0


def submit(options: argparse.Namespace) -> int:
    """Run a pipeline on a Kubeflow server."""
    from telellm.recipe import load
    from telellm.submit import submit

    recipe = load(options.recipe, options.set)
    # a night names itself
    name = options.name or (
        "" if options.pipeline == "nightly" else _run_name(options.pipeline, options.recipe, recipe.name)
    )
    return submit(options.pipeline, recipe, options.host, options.store, name)


def doctor(options: argparse.Namespace) -> int:
    """Check what runs need."""
    from telellm.doctor import diagnose
    from telellm.recipe import RecipeError, load

    if options.set and not options.recipe:
        raise RecipeError("telellm doctor: --set changes a recipe: name one")
    recipe = load(options.recipe, options.set) if options.recipe else None
    failed = 0
    if options.server:
        from telellm.serving.server_check import check_server
        from telellm.store import Store

        checks = check_server(options.server, Store.open(options.store), recipe, options.model)
    else:
        checks = diagnose(recipe, options.store, options.only)
    for check in checks:
        print(check)
        failed += check.state == "failed"
    return 1 if failed else 0


def report(options: argparse.Namespace) -> int:
    """Build the report of a run again."""
    from telellm.local import show_result
    from telellm.recipe import RecipeError
    from telellm.references import list_references
    from telellm.runs import open_run, run_stage
    from telellm.stage import read_notes
    from telellm.store import Store

    store = Store.open(options.store)
    notes = read_notes(store, options.run)
    address = f"{store.uri}/runs/{options.run}"
    _, _, recipe = open_run(address)
    if "study" in notes:
        from telellm.studies.work import list_trials

        store.delete(f"runs/{options.run}/report")
        run_stage("study", address, trials=list_trials(address))
        show_result(store, options.run)
        return 0
    scored = {label.removeprefix("evaluate-"): note["output"] for label, note in notes.items() if "evaluate-" in label}
    inputs = {role: place for role, place in scored.items() if not role.startswith("reference-")}
    names = recipe.evaluation.reference_models
    beside = {name: scored[f"reference-{name}"] for name in names if f"reference-{name}" in scored}
    if not inputs:
        raise RecipeError(f"the run {options.run} has no scores yet; run it to its end first: telellm run RECIPE")
    store.delete(f"runs/{options.run}/report")
    run_stage("report", address, **inputs, references=list_references(store, beside))
    show_result(store, options.run)
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a run's corpus or questions as JSON Lines."""
    from telellm.export import export
    from telellm.store import Store

    number = export(Store.open(options.store), options.what, options.run, options.out, all_fields=options.all_fields)
    print(f"{options.out}: {number:,} rows")
    return 0


def ask(options: argparse.Namespace) -> int:
    """Ask models a question."""
    from telellm.recipe import RecipeError
    from telellm.serving.ask import ask, find_documents
    from telellm.serving.named_models import resolve
    from telellm.store import Store

    *names, question = options.words
    if not names:
        raise RecipeError(
            f'telellm ask: name a model, then the question in quotes: telellm ask quickstart "{question}"'
        )
    store = Store.open(options.store)
    named = [model for name in names for model in resolve(name, store)]
    documents = find_documents(named, store, question) if options.with_documents else None
    answers = ask(named, question, documents, options.max_tokens)
    return 1 if any(answer.state == "failed" for answer in answers) else 0


def serve(options: argparse.Namespace) -> int:
    """Serve a model."""
    from telellm.serving.serve import serve
    from telellm.store import Store

    def say(text: str) -> None:
        _say(f"serve  {text}")

    arguments = [word for word in options.engine if word != "--"]
    return serve(options.model, Store.open(options.store), options.host, options.port, arguments, say, options.poll)


def models(options: argparse.Namespace) -> int:
    """Show the versions of models, and move the pointer to the one in production."""
    from telellm import registry
    from telellm.models import describe_models, describe_version
    from telellm.store import Store

    store, name = Store.open(options.store), options.name
    if options.action == "list":
        lines = list(describe_models(store, [name] if name else registry.models(store)))
        print("\n".join(lines) if lines else f"{store.uri} has no models yet; telellm run RECIPE --pipeline nightly")
        return 0
    if options.action == "show":
        print("\n".join(describe_version(store, name, options.version)))
        return 0
    if options.action == "fetch" and name.endswith((".yaml", ".yml")):
        from telellm.checks import fetch_models
        from telellm.recipe import load

        for line in fetch_models(load(Path(name))):
            print(line, flush=True)
        return 0
    if options.action == "fetch":
        from telellm.recipe import RecipeError
        from telellm.serving.production_files import fetch

        if options.to is None:
            raise RecipeError("telellm models fetch: name the folder for the model in production with --to DIR")

        print(fetch(store, name, options.to, options.wait, _say))
        return 0
    if options.action == "follow":
        from telellm.cluster.api import Api
        from telellm.cluster.serving import follow

        follow(store, name, options.deployment, Api(), _say)
        return 0
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    who = {"by": options.by or _user(), "why": options.why, "at": at}
    before = registry.production(store, name)
    if options.action == "promote":
        now = registry.promote(store, name, options.version, before=before.version if before else None, **who)
    else:
        now = registry.rollback(store, name, options.to, **who)
    if before is not None and now.version == before.version:
        print(f"{name} {now.version} is in production already")
    else:
        print(f"{name} {now.version} is in production (before: {before.version if before else 'none'})")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _user() -> str:
    """Return who moves a pointer: the account and the machine."""
    import getpass
    import socket

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # an account without a name, as in a container
        return f"{os.getuid()}@{socket.gethostname()}"


def compile_pipelines(options: argparse.Namespace) -> int:
    """Write the pipelines as Kubeflow YAML."""
    from kfp import compiler

    from pipelines import PIPELINES as known

    options.out.mkdir(parents=True, exist_ok=True)
    for name in [options.pipeline] if options.pipeline else known:
        target = options.out / f"{name}.yaml"
        compiler.Compiler().compile(known[name], str(target))
        print(target)
    return 0


def _shards(text: str) -> tuple[int, int]:
    first, _, number = text.partition("/")
    if not first.isdigit() or not number.isdigit() or int(first) >= int(number):
        raise argparse.ArgumentTypeError(f'"{text}" is not I/N with 0 <= I < N')
    return int(first), int(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="telellm",
        description="From a telecom operator's documents to a language model that knows telecommunications.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"telellm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(command=function)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return added

    def with_recipe(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)"
        )
        added.add_argument(
            "--name",
            default="",
            help="name of the run (default: the recipe's; nightly: with the date; study: with the file's)",
        )
        added.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change a field of the recipe")

    added = command("run", run, "run a pipeline on this machine")
    added.add_argument("recipe", type=Path, help="a recipe (YAML)")
    added.add_argument(
        "--pipeline", choices=PIPELINES, default="adapt", help="default: adapt, from documents to the report"
    )
    with_recipe(added)

    added = command("plan", plan, "show the resolved recipe, and estimate tokens, steps, memory, hours and storage")
    added.add_argument("recipe", type=Path, help="a recipe (YAML)")
    added.add_argument("--pipeline", choices=("adapt", "nightly"), default="adapt", help="default: adapt")
    added.add_argument("--store", default="", metavar="URI", help="store with earlier runs, whose figures are taken")
    added.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change a field of the recipe")
    added.add_argument(
        "--tokens", type=float, default=0, metavar="N", help="size of the corpus, where it is known (2.5e9)"
    )
    added.add_argument(
        "--gpu", default="", metavar="NAME", help="kind of GPU, such as A100 (default: this one, or H100)"
    )
    added.add_argument(
        "--utilization", type=float, default=0.4, metavar="SHARE", help="share of the GPU's peak (default: 0.4)"
    )
    added.add_argument("--json", action="store_true", help="print JSON, the recipe among it")

    added = command("stage", stage, "run one stage, as a container does; prints the place of its output")
    added.add_argument("stage", choices=STAGES, metavar="NAME", help=", ".join(STAGES))
    added.add_argument("--recipe", type=Path, help="a recipe (YAML)")
    added.add_argument("--run", default="", metavar="ADDRESS", help="in place of a recipe: STORE/runs/NAME")
    with_recipe(added)
    added.add_argument(
        "--input", action="append", default=[], metavar="NAME=PLACE", help="place of an input in the store"
    )
    added.add_argument("--label", default="", help="name of the step within the run")
    added.add_argument("--shards", type=_shards, metavar="I/N", help="only every N-th shard, from the I-th on")

    added.add_argument("--key", default="", help="digest of the work, where a job of the cluster does it")

    added = command("submit", submit, "run a pipeline on a Kubeflow server, and follow it to its end")
    added.add_argument("pipeline", choices=PIPELINES, metavar="PIPELINE", help=", ".join(PIPELINES))
    added.add_argument("recipe", type=Path, help="a recipe (YAML)")
    added.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow's API or page")
    with_recipe(added)

    added = command("doctor", doctor, "check what runs need: this machine, the store, the cluster")
    added.add_argument("recipe", type=Path, nargs="?", help="a recipe (YAML); its cluster section is checked too")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")
    added.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change a field of the recipe")
    added.add_argument("--only", choices=("store", "cluster"), default="", help="default: both")
    added.add_argument("--server", default="", metavar="URL", help="ask a model's server a question (…/v1)")
    added.add_argument("--model", default="", metavar="NAME", help="model of --server (default: the first it lists)")

    added = command("export", export, "write a run's corpus or questions as JSON Lines, with the paper's fields")
    added.add_argument("what", choices=("corpus", "questions"), help="Tele-Data or Tele-Eval")
    added.add_argument("run", help="name of the run, or the place of the output in the store")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")
    added.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    added.add_argument("--all-fields", action="store_true", help="questions: also kind, evidence, split and clause")

    added = command("report", report, "build the report of a run again")
    added.add_argument("run", help="name of the run")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")

    added = command("ask", ask, "ask models a question; answers side by side")
    added.add_argument(
        "words",
        nargs="+",
        metavar='MODEL… "QUESTION"',
        help="models (a run, a recipe, RUN#NAME of its reference models, a name of the registry, a folder, hub name, "
        "package:…, s3://…, the URL of an endpoint), and last the question",
    )
    added.add_argument("--with-documents", action="store_true", help="give them passages of the corpus, and show these")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")
    added.add_argument("--max-tokens", type=int, default=120, metavar="N", help="longest answer (default: 120)")

    added = command("serve", serve, "serve a model at an OpenAI-compatible address; follow the one in production")
    added.add_argument("model", metavar="MODEL", help="a name of the registry, a folder, hub name, package:…, s3://…")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")
    added.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    added.add_argument("--port", type=int, default=8000, help="default: 8000")
    added.add_argument("--poll", type=float, default=5.0, metavar="SECONDS", help="how often the pointer is read")
    added.add_argument("engine", nargs="*", metavar="-- OPTION", help="after --: options of `transformers serve`")

    added = command("models", models, "show the versions of models; promote one, or roll back")
    actions = added.add_subparsers(
        required=True,
        dest="action",
        metavar="list|show|promote|rollback|fetch|follow",
        help="what to do; each has its own --help",
    )

    def action(name: str, help: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help, description=help)
        added.add_argument(
            "--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)"
        )
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        added.add_argument("name", metavar="NAME", nargs="?" if name == "list" else None, help="name of the recipe")
        if name in ("promote", "rollback"):
            added.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the history")
            added.add_argument("--by", default="", metavar="WHO", help="default: this account and machine")
        return added

    action("list", "list versions, newest first, with what became of each")
    added = action("show", "show where a version comes from, what the gate said of it, and the history of production")
    added.add_argument("version", metavar="VERSION", nargs="?", default="", help="default: the one in production")
    added = action("promote", "put a version that passed the gate into production")
    added.add_argument("version", metavar="VERSION", help="see telellm models list")
    added = action(
        "fetch",
        "put the model in production into a folder, checked by digest; of a recipe's file, bring its models here",
    )
    added.add_argument("--to", type=Path, metavar="DIR", help="folder; of a recipe, models come into the cache")
    added.add_argument("--wait", action="store_true", help="wait until there is a version in production")
    added = action("follow", "let a Deployment of the cluster start anew when production moves")
    added.add_argument("--deployment", default="telellm-serving", metavar="NAME", help="default: telellm-serving")
    added = action("rollback", "put the version before back into production")
    added.add_argument("--to", default="", metavar="VERSION", help="an earlier version than the one before")

    added = command("compile", compile_pipelines, "write the pipelines as Kubeflow YAML")
    added.add_argument("pipeline", nargs="?", choices=PIPELINES, help="default: all of them")
    added.add_argument("--out", type=Path, default=Path("compiled"), metavar="DIR", help="folder (default: compiled)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
