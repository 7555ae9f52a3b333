"""Write the samples that are not about telecom, as the platform cleans them, to the general text that telellm measures.

    python samples/build_general.py

`truth/` says which they are. Texts written for this set alone (`general_*.txt`) are left as they are.
"""

import json
import tempfile
from pathlib import Path

from telellm.execution import execute
from telellm.recipe import load
from telellm.records import Document
from telellm.runs import find_stage
from telellm.stage import Output
from telellm.store import Store

HERE = Path(__file__).parent
TARGET = HERE.parent / "telellm" / "evaluation" / "general"


def main() -> None:
    recipe = load(HERE.parent / "recipes" / "quickstart.yaml")
    known = {}
    for path in (HERE / "truth").glob("*.json"):
        known |= json.loads(path.read_text()) if path.name != "contaminated.json" else {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        documents = execute(find_stage("ingest"), recipe, store, "general", {})
        documents = execute(find_stage("clean"), recipe, store, "general", {"documents": documents})
        for document in Output.find(store, documents).records(Document):
            if document.id in known and not known[document.id]["telecom"]:
                (TARGET / f"{document.id}.txt").write_text(document.content.strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
