"""Print the packages of one or more extras, with all that they need, as lines of requirements.lock with their hashes.

    python images/requirements.py EXTRA...

"core" is what every extra has: the project's own dependencies. What needs what, the lock itself says (`# via`).
"""

import re
import sys
import tomllib
from pathlib import Path

ALONE = {"kfp"}
"""Packages of which an image holds no dependencies: in a component, Kubeflow's executor imports nothing but itself."""
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[^\]]*)\])?")


def normal(name: str) -> str:
    """Return a package's name as the lock writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct(extra: str, project: dict) -> set[str]:
    """Return the packages that an extra names, by way of other extras too; raises `ValueError` for one unknown."""
    extras = project["optional-dependencies"] | {"core": []}
    if extra not in extras:
        raise ValueError(f'"{extra}" is no extra of pyproject.toml\n  known extras: {", ".join(sorted(extras))}')
    names = set()
    for line in project["dependencies"] + extras[extra]:
        found = REQUIREMENT.match(line)
        if normal(found["name"]) == project["name"]:
            names.update(*(direct(other.strip(), project) for other in found["extras"].split(",")))
        else:
            names.add(normal(found["name"]))
    return names


def locked(text: str) -> dict[str, tuple[str, set[str]]]:
    """Return the lock's entries by name: the lines to install from, and the names that asked for the package."""
    entries = {}
    for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        lines = entry.splitlines()
        wanted = [line for line in lines if not line.lstrip().startswith("#")]
        asked = re.findall(r"^    #(?: via)? +(\S+)", entry, flags=re.MULTILINE)
        entries[normal(REQUIREMENT.match(entry)["name"])] = ("\n".join(wanted), {normal(name) for name in asked})
    return entries


def closure(names: set[str], lock: dict[str, tuple[str, set[str]]]) -> set[str]:
    """Return these packages and all that they need; raises `ValueError` for one that the lock lacks."""
    if missing := names - set(lock):
        raise ValueError(f"requirements.lock lacks {', '.join(sorted(missing))}; run: make lock")
    needed = set(names)
    while more := {name for name, (_, asked) in lock.items() if asked & (needed - ALONE)} - needed:
        needed |= more
    return needed


def requirements(extras: list[str], root: Path) -> list[str]:
    """Return the lock's entries for some extras, sorted by name."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lock = locked((root / "requirements.lock").read_text())
    names = closure(set().union(*(direct(extra, project) for extra in extras)), lock)
    return [lock[name][0] for name in sorted(names)]


if __name__ == "__main__":
    try:
        print("\n".join(requirements(sys.argv[1:] or ["core"], Path(__file__).parents[1])))
    except ValueError as error:
        sys.exit(f"error: {error}")
