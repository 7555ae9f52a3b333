"""Import all that a program of telellm may import, also what it imports only when it gets there.

    python imports.py MODULE... [--may-lack PACKAGE...]      prints JSON: seconds, and how many names

It follows the `import` statements from module to module, into functions too, and then carries out those of other
packages. So an image that lacks something fails here, before its stage is half done.
"""

import argparse
import ast
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

IN_PROCESS = ("torch", "transformers", "huggingface_hub")
"""What a stage that asks a language model needs only when the model runs in its own process."""


def statements(node: ast.AST, inside: bool = True) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements that can run; those of functions too, if `inside`; those for type checkers never."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif inside or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(child, inside)


def imported(module: str, inside: bool = True) -> set[tuple[str, str]]:
    """Return what telellm's modules import from other packages, from this one on: (module, name or "")."""
    root, found, seen, left = module.partition(".")[0], set(), set(), [module]
    while left:
        name = left.pop()
        spec = importlib.util.find_spec(name) if name not in seen else None
        seen.add(name)
        if spec is None or not spec.origin:
            continue
        for line in statements(ast.parse(Path(spec.origin).read_text()), inside):
            whole = isinstance(line, ast.Import)
            for source, attribute in [(a.name, "") if whole else (line.module, a.name) for a in line.names]:
                if source.partition(".")[0] == root:
                    left += [source, f"{source}.{attribute}"] if is_module(f"{source}.{attribute}") else [source]
                elif source.partition(".")[0] not in sys.stdlib_module_names:
                    found.add((source, attribute))
    return found


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
    parser.add_argument("--may-lack", nargs="*", default=[])
    options = parser.parse_args()
    start = time.perf_counter()
    for module in options.module:
        importlib.import_module(module)
    own_seconds = time.perf_counter() - start
    names = sorted(set().union(*(imported(module) for module in options.module)))
    start = time.perf_counter()
    for source, attribute in names:
        if source.partition(".")[0] in options.may_lack:
            continue
        module = importlib.import_module(source)
        if attribute and not hasattr(module, attribute):
            importlib.import_module(f"{source}.{attribute}")
    print(json.dumps({"seconds": round(own_seconds + time.perf_counter() - start, 2), "names": len(names)}))


if __name__ == "__main__":
    main()
