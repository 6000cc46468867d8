"""Self-contained HTML pages, of reports and of studies, from the templates in Resources/Report."""

from __future__ import annotations

import datetime
from typing import Any

from ..resources import RESOURCES


def render(template: str, **values: Any) -> str:
    """The page: `template` filled with `values` and with the time of writing; text is escaped, `Markup` is not."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(RESOURCES / "Report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    return environment.get_template(template).render(**values, written=written)
