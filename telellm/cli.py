"""The command line: `telellm …`. Nothing heavy is imported before a command needs it."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from telellm import __version__, commands

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
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(arguments)
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

        print(f"error: {_plain(message_of(error))}", file=sys.stderr)
        return exit_code(error)


def _plain(text: str) -> str:
    """Return a text without what moves a terminal: names of files and words of servers stand in messages."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


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
    words = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = words.add_parser(name, help=help, description=help)
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

    added = command("run", commands.run, "run a pipeline on this machine")
    added.add_argument("recipe", type=Path, help="a recipe (YAML)")
    added.add_argument(
        "--pipeline", choices=PIPELINES, default="adapt", help="default: adapt, from documents to the report"
    )
    with_recipe(added)

    added = command(
        "plan", commands.plan, "show the resolved recipe, and estimate tokens, steps, memory, hours and storage"
    )
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

    added = command("stage", commands.stage, "run one stage, as a container does; prints the place of its output")
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

    added = command("submit", commands.submit, "run a pipeline on a Kubeflow server, and follow it to its end")
    added.add_argument("pipeline", choices=PIPELINES, metavar="PIPELINE", help=", ".join(PIPELINES))
    added.add_argument("recipe", type=Path, help="a recipe (YAML)")
    added.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow's API or page")
    with_recipe(added)

    added = command("doctor", commands.doctor, "check what runs need: this machine, the store, the cluster")
    added.add_argument("recipe", type=Path, nargs="?", help="a recipe (YAML); its cluster section is checked too")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")
    added.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change a field of the recipe")
    added.add_argument("--only", choices=("store", "cluster"), default="", help="default: both")
    added.add_argument("--server", default="", metavar="URL", help="ask a model's server a question (…/v1)")
    added.add_argument("--model", default="", metavar="NAME", help="model of --server (default: the first it lists)")

    added = command(
        "export", commands.export, "write a run's corpus or questions as JSON Lines, with the paper's fields"
    )
    added.add_argument("what", choices=("corpus", "questions"), help="Tele-Data or Tele-Eval")
    added.add_argument("run", help="name of the run, or the place of the output in the store")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")
    added.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    added.add_argument("--all-fields", action="store_true", help="questions: also kind, evidence, split and clause")

    added = command("report", commands.report, "build the report of a run again")
    added.add_argument("run", help="name of the run")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")

    added = command("ask", commands.ask, "ask models a question; answers side by side")
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

    added = command(
        "serve", commands.serve, "serve a model at an OpenAI-compatible address; follow the one in production"
    )
    added.add_argument("model", metavar="MODEL", help="a name of the registry, a folder, hub name, package:…, s3://…")
    added.add_argument("--store", default="store", metavar="URI", help="folder or s3://bucket/prefix (default: store)")
    added.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    added.add_argument("--port", type=int, default=8000, help="default: 8000")
    added.add_argument("--poll", type=float, default=5.0, metavar="SECONDS", help="how often the pointer is read")
    added.add_argument("engine", nargs="*", metavar="-- OPTION", help="after --: options of `transformers serve`")

    added = command("models", commands.models, "show the versions of models; promote one, or roll back")
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

    added = command("compile", commands.compile_pipelines, "write the pipelines as Kubeflow YAML")
    added.add_argument("pipeline", nargs="?", choices=PIPELINES, help="default: all of them")
    added.add_argument("--out", type=Path, default=Path("compiled"), metavar="DIR", help="folder (default: compiled)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
