"""HTML pages: one file each, made of the templates of this package, with all texts escaped."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

import jinja2

FOLDER = "invertune_plugin.benchmark.report"


def render_page(template: str, **values: object) -> str:
    """A page as HTML; texts in the values are untrusted.

    Args:
        template: file name in ``templates/``.
        values: for the template.
    """
    return _environment().get_template(template).render(**values)


def script(name: str) -> str:
    """The text of a script in ``templates/``."""
    return files(FOLDER).joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def script_hash(text: str) -> str:
    """What a content security policy calls a script, so that no other one runs."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
