"""Commands: what each word of the command line does. Nothing heavy is imported before a command needs it."""

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path


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
    from itertools import chain

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
    elif options.only:
        checks = diagnose(recipe, options.store, options.only)
    else:
        from telellm.machine import check_machine, check_recipe

        own = check_recipe(recipe) if recipe is not None and not recipe.cluster.enabled else ()
        checks = chain(check_machine(recipe, options.store), own, diagnose(recipe, options.store))
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
    from telellm.recipe import RecipeError

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--out {options.out}: the folder cannot be made: {error.strerror}") from None
    for name in [options.pipeline] if options.pipeline else known:
        target = options.out / f"{name}.yaml"
        compiler.Compiler().compile(known[name], str(target))
        print(target)
    return 0
