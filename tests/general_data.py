"""Small directories in the layouts and schemas of MMLU, HellaSwag, ARC and GSM8K; the rows are made up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

Rows = Sequence[Mapping[str, Any]]


def mmlu(subject: str, number: int) -> dict[str, Any]:
    choices = ["three rivers", "a hill", "some valleys and lakes", f"{number} deserts"]
    place = number % 3
    question = f" What lies in valley {number} of {subject}? "
    return {"question": question, "subject": subject, "choices": choices[place:] + choices[:place], "answer": place}


HELLASWAG: Rows = [
    {
        "ind": number,
        "activity_label": activity,
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}".strip(),
        "endings": endings,
        "source_id": f"made~{number}",
        "split": "val",
        "split_type": "indomain",
        "label": str(label),
    }
    for number, (activity, first, second, endings, label) in enumerate(
        [
            (
                "Baking bread",
                "[header] How to bake bread [title] Mix flour and water.",
                "",
                ["Put it into  the oven.", "Throw it at the [substeps] wall.", "Drink it [step] at once.", "Wait."],
                0,
            ),
            (
                "Rowing",
                "A man sits in a boat.",
                "he",
                ["sings to a fish.", "rows across the lake.", "paints the moon.", "eats an oar."],
                1,
            ),
            (
                "Tying a knot",
                "Lay the rope into a loop. [step]",
                "",
                ["Pull the end through it.", "Boil the rope.", "Sell it.", "Cut the loop into eight pieces of rope."],
                3,
            ),
        ]
    )
]
ARC: Rows = [
    {
        "id": f"Made_{number}",
        "question": question,
        "choices": {"text": list(texts), "label": list(labels[: len(texts)])},
        "answerKey": key,
    }
    for number, (question, texts, labels, key) in enumerate(
        [
            ("What melts ice?", ["cold", "heat from a fire", "darkness", "sound"], "ABCD", "B"),
            ("Which of these is a metal?", ["wood", "iron", "glass", "wool", "paper"], "12345", "2"),
            ("Why does a leaf fall?", ["weight", "it is green", "it is told to"], "ABC", "A"),
        ]
    )
]
GSM8K: Rows = [
    {"question": f"Ann has {number} pens and buys {price}. How many has she?", "answer": answer}
    for number, price, answer in (
        (3, 4, "She has 3 + 4 = <<3+4=7>>7 pens.\n#### 7"),
        (1000, 234, "She has 1000 + 234 = <<1000+234=1234>>1,234 pens.\n#### 1,234"),
        (9, 1, "She has 10 pens.\n#### 10"),
    )
]


def write_general_data(folder: Path) -> Path:
    """Write all of them, a folder each; of some tasks as Parquet, of others as JSON Lines."""
    subjects = ("college_biology", "anatomy")
    _parquet(folder / "mmlu" / "all" / "test-00000-of-00001.parquet", [mmlu(s, n) for s in subjects for n in range(4)])
    _parquet(
        folder / "mmlu" / "all" / "dev-00000-of-00001.parquet", [mmlu(s, n) for s in subjects for n in range(9, 12)]
    )
    _parquet(folder / "mmlu" / "anatomy" / "test-00000-of-00001.parquet", [mmlu("anatomy", n) for n in range(4)])
    unlabelled = [{**row, "label": ""} for row in HELLASWAG]
    data = folder / "hellaswag" / "data"
    for split, rows in (("train", HELLASWAG[::-1]), ("validation", HELLASWAG), ("test", unlabelled)):
        _parquet(data / f"{split}-00000-of-00001.parquet", rows)
    for config, rows in (("ARC-Easy", ARC[:2]), ("ARC-Challenge", ARC[1:])):
        for split in ("train", "validation", "test"):
            _parquet(folder / "ai2_arc" / config / f"{split}-00000-of-00001.parquet", rows)
    _parquet(folder / "gsm8k" / "main" / "test-00000-of-00001.parquet", GSM8K[:2])
    _parquet(folder / "gsm8k" / "main" / "train-00000-of-00001.parquet", GSM8K[2:])
    return folder


def _parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
