"""Page: how templates of this room are filled in."""

from pathlib import Path
from typing import TYPE_CHECKING

from telellm.progress import duration

if TYPE_CHECKING:
    from jinja2 import Template

ROOM = Path(__file__).parent


def page_template(name: str) -> "Template":
    """Return a template; what is filled into one of HTML is escaped, and a name that is not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ROOM),
        autoescape=name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "count": lambda number: f"{number:,}"}
    return environment.get_template(name)
