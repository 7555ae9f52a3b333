"""Import all that a program of telellm may import, also what it imports only when it gets there.

    python imports.py MODULE... [--may-lack PACKAGE...]      prints JSON: the seconds it takes, the number of names

It follows the `import` statements from module to module, into functions too, and then carries out those of other
packages. So an image that lacks something fails here, before its stage is half done. A package stands for its modules.
"""

import argparse
import ast
import importlib.util
import json
import os
import pkgutil
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements that can run, also in functions; not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from statements(child)


def imported(module: str) -> set[tuple[str, str]]:
    """Return what telellm's modules import from other packages, from this one on: (module, name or "")."""
    root, found, seen, left = module.partition(".")[0], set(), set(), [module]
    while left:
        name = left.pop()
        spec = importlib.util.find_spec(name) if name not in seen else None
        seen.add(name)
        if spec is None or not spec.origin:
            continue
        tree = ast.parse(Path(spec.origin).read_text())
        pairs = [(program, "") for program in programs(tree)]
        for line in statements(tree):
            whole = isinstance(line, ast.Import)
            pairs += [(a.name, "") if whole else (line.module, a.name) for a in line.names]
        for source, attribute in pairs:
            if source.partition(".")[0] == root:
                left += [source, f"{source}.{attribute}"] if is_module(f"{source}.{attribute}") else [source]
            elif source.partition(".")[0] not in sys.stdlib_module_names:
                found.add((source, attribute))
    return found


def programs(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a command in the code starts: what follows "-m"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            words = [word.value if isinstance(word, ast.Constant) else None for word in node.elts]
            yield from (module for flag, module in pairwise(words) if flag == "-m" and isinstance(module, str))


def is_module(name: str) -> bool:
    """Say whether there is a module of that name."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def main() -> None:
    """Import everything; print how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module", nargs="+")
    parser.add_argument("--may-lack", nargs="*", default=[], help="packages of which the image makes no use")
    options = parser.parse_args()
    os.environ["_KFP_RUNTIME"] = "true"  # as in a component: Kubeflow's executor alone
    start = time.perf_counter()
    loaded = [importlib.import_module(module) for module in options.module]
    seconds = time.perf_counter() - start
    modules = [module.__name__ for module in loaded]
    for package in [module for module in loaded if hasattr(module, "__path__")]:
        modules += [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    names = set().union(*(imported(module) for module in modules if module.startswith("telellm")))
    names = {name for name in names if name[0].partition(".")[0] not in options.may_lack}
    start = time.perf_counter()
    for source, attribute in sorted(names):
        module = importlib.import_module(source)
        if attribute and not hasattr(module, attribute):
            importlib.import_module(f"{source}.{attribute}")
    print(json.dumps({"seconds": round(seconds + time.perf_counter() - start, 2), "names": len(names)}))


if __name__ == "__main__":
    main()
