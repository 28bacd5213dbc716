"""The server: `streamlit run app/main.py` (or `deltalab serve`). Pages are in app/shell.py; this is what stands around.

One ASGI application: the guard (identity cookie, headers), three routes (app/api.py), Streamlit, and a lifespan that
starts the supervisor of training runs once per process. torch is never imported here: models live in workers.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

from app import index, live, search, state, uploads
from app.api import ROUTES
from app.identity import Guard
from app.words import t
from core.errors import DeltalabError

logger = logging.getLogger("deltalab.app")


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Start what lives as long as the server, and stop it with the server. Runs go on: they are their own processes."""
    from core.runs.pool import Supervisor

    # What every page needs is imported before the first visitor comes, then taken out of the collector's sight: a full
    # collection after each script run would cost more than the run.
    import pandas  # noqa: F401  # isort: skip
    import plotly.graph_objects  # noqa: F401  # isort: skip
    import app.views  # noqa: F401  # isort: skip

    uploads.sweep()
    threading.Thread(target=_warm, name="deltalab-warm", daemon=True).start()
    supervisor = Supervisor(state.store())
    supervisor.start()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        supervisor.stop()
        state.close()


def _warm() -> None:
    """Read the lessons and make the index of the search while nobody waits for them."""
    try:
        index.lessons()
        search.find("rank")
    except DeltalabError:
        logger.exception("a lesson cannot be read")


def failed(error: Exception) -> bool:
    """A page that could not be drawn: say it in words, and keep the details for the log. True: it has been said."""
    if isinstance(error, DeltalabError):
        live.say(error)
        return True
    logger.error("a page failed", exc_info=error)
    st.error(
        t("shell.mistake", kind=type(error).__name__),
        icon=":material/error:",
    )
    return True


app = st.App(
    Path(__file__).with_name("shell.py"),
    routes=ROUTES,
    middleware=[Middleware(Guard)],
    lifespan=lifespan,
    on_script_error=failed,
)
