"""Components written for Deltalab: one folder each. `live` is plain JavaScript; `editor` is built from CodeMirror 6 and
editor/source by `make editor`, and what was built is in the repository, so that nobody needs node to run Deltalab.

A component's module is served once by `/assets/{folder}/{version}/{file}` (see app/api.py) and cached by the browser
for good; what travels over the websocket is a loader of two lines. (Streamlit's own packaged assets need a manifest in
an importable package of the project's name; inline code would be sent again with every change of the data.)
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

FOLDER = Path(__file__).resolve().parent
FILES = {
    "live": ("live.js", "live.css"), "editor": ("editor.js", "editor.css"), "page": ("page.js",), "part": ("part.js",),
}  # fmt: skip
"""Which files of which component are served; nothing else is."""


@lru_cache
def version(folder: str) -> str:
    """A digest of a component's files: the address changes when they do."""
    content = b"".join((FOLDER / folder / name).read_bytes() for name in FILES[folder])
    return hashlib.sha256(content).hexdigest()[:12]


def root() -> str:
    """What stands before every address of this server: "" or "/base"."""
    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{base}" if base else ""


def loader(folder: str) -> str:
    """The module that Streamlit is given: it imports the served one."""
    address = json.dumps(f"{root()}/assets/{folder}/{version(folder)}/{FILES[folder][0]}")
    return f"const url = new URL({address}, document.baseURI);\nexport default (await import(url)).default;"


@lru_cache
def component(folder: str) -> Any:
    """The mounting command of a component; call it with key=, data= and on_…_change=."""
    return st.components.v2.component(f"deltalab_{folder}", html='<div class="root"></div>', js=loader(folder))
