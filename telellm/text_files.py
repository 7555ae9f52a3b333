"""Text files: general text that a recipe names, for replay in training and to see what a model forgets."""

from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from telellm.recipe import RecipeError
from telellm.store import Store

KINDS = (".md", ".parquet", ".txt")
COLUMNS = ("content", "text")
"""The column of a Parquet file that holds the text."""


def text_files(folder: str, field: str) -> tuple[Store, list[str]]:
    """Return a folder or bucket prefix as a store, and the names of its text files, sorted; `field` is named in errors.

    `package:MODULE/FOLDER` is a folder of an installed package. Raises `RecipeError` when it is not there or holds no
    such file.
    """
    if folder.startswith("package:"):
        folder = _in_package(folder, field)
    if "://" not in folder and not Path(folder).is_dir():
        raise RecipeError(f"{field}: {folder}: there is no such folder")
    store = Store.open(folder)
    names = [name for name in store.list("") if name.endswith(KINDS)]
    if not names:
        raise RecipeError(f"{field}: {folder}: no text is there; known files: {', '.join(KINDS)}")
    return store, names


def read_texts(store: Store, name: str) -> Iterator[str]:
    """Yield the texts of one file: the whole of a .md or .txt file, the rows of a .parquet file.

    Raises `RecipeError` when the file cannot be read or has no column of text.
    """
    data = store.read(name)
    if not name.endswith(".parquet"):
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{store.uri}/{name}: not UTF-8 text: {error}") from None
        return
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(BytesIO(data))
        column = next((known for known in COLUMNS if known in file.schema_arrow.names), None)
    except pyarrow.ArrowException as error:
        raise RecipeError(f"{store.uri}/{name}: not a Parquet file: {error}") from None
    if column is None:
        raise RecipeError(f"{store.uri}/{name}: no column of text; known names: {', '.join(COLUMNS)}")
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        yield from (text for text in batch.column(0).to_pylist() if text)


def text_digests(folder: str, field: str) -> list[str]:
    """Return the digests of a folder's text files; none for no folder."""
    if not folder:
        return []
    store, names = text_files(folder, field)
    return [f"{name} {sha256(store.read(name)).hexdigest()}" for name in names]


def _in_package(name: str, field: str) -> str:
    module, _, folder = name.removeprefix("package:").partition("/")
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"{field}: {name}: the package {module} is not installed")
    return str(Path(spec.submodule_search_locations[0]) / folder)
