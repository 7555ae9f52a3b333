"""Print an image's software bill of materials (CycloneDX 1.6, JSON): what Debian, Python and Go put into it.

    python sbom.py IMAGE [--debian STATUS] [--go LIST]

Python packages are those of the running interpreter. STATUS is dpkg's own list; LIST is what `go version -m` prints.
"""

import argparse
import json
import re
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import quote


def python_packages() -> list[dict]:
    """Return the interpreter's packages."""
    found = []
    for package in distributions():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
        licence = package.metadata["License-Expression"] or package.metadata["License"] or ""
        found.append(component("pypi", name, package.version, licence.partition("\n")[0][:80]))
    return found


def debian_packages(status: str) -> list[dict]:
    """Return what dpkg has installed."""
    found = []
    for entry in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.+)$", entry, flags=re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            package = component("deb/debian", fields["Package"], fields["Version"])
            package["purl"] += f"?arch={fields['Architecture']}"
            found.append(package)
    return found


def go_modules(listing: str) -> list[dict]:
    """Return the modules of Go programs, the compiler's standard library among them."""
    found = {("stdlib", version) for version in re.findall(r": go([\d.]+)$", listing, flags=re.MULTILINE)}
    found |= set(re.findall(r"^\t(?:mod|dep)\t(\S+)\t(v\S+)", listing, flags=re.MULTILINE))
    return [component("golang", name, version) for name, version in sorted(found)]


def component(kind: str, name: str, version: str, licence: str = "") -> dict:
    """Return one entry, with its package URL."""
    entry = {"type": "library", "name": name, "version": version}
    entry["purl"] = entry["bom-ref"] = f"pkg:{kind}/{quote(name, safe='/')}@{quote(version, safe='')}"
    return entry | ({"licenses": [{"license": {"name": licence}}]} if licence else {})


def main() -> None:
    """Print the bill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--debian", type=Path, default=Path("/var/lib/dpkg/status"))
    parser.add_argument("--go", type=Path)
    options = parser.parse_args()
    parts = debian_packages(options.debian.read_text())
    parts += go_modules(options.go.read_text()) if options.go else python_packages()
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": f"telellm/{options.image}"}},
        "components": sorted(parts, key=lambda part: part["purl"]),
    }
    print(json.dumps(bill, indent=1))


if __name__ == "__main__":
    main()
