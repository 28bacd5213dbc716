"""What the pages share, one of each per server process: store, talker, prober, fitter; who is asking, and on what."""

from __future__ import annotations

import datetime
import os
import zoneinfo
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import identity
from core.units import bytes_text

if TYPE_CHECKING:
    from core.hardware import Hardware
    from core.memory.fitter import Fitter
    from core.notebook.kernels import Kernels
    from core.notebook.permission import Permission
    from core.runs.prober import Prober
    from core.runs.store import Store
    from core.runs.talker import Talker

_OWNER = "_owner"  # session_state: an owner without a cookie (cookies blocked), or set by a test


def home() -> Path:
    """The data folder: $DELTALAB_HOME or the platform's."""
    return store().home


def store() -> Store:
    """The store of runs and progress; one per process (and per data folder, which tests change)."""
    return _store(os.environ.get("DELTALAB_STORE"), os.environ.get("DELTALAB_HOME"))


@lru_cache(maxsize=4)
def _store(url: str | None, folder: str | None) -> Store:
    from core.runs.store import Store

    return Store(url, Path(folder) if folder else None)


def talker() -> Talker:
    """The process that answers chats, started at the first question; torch never enters the server."""
    return _talker(store())


@lru_cache(maxsize=4)
def _talker(runs: Store) -> Talker:
    from core.runs.talker import Talker

    return Talker(runs)


def prober() -> Prober:
    """What measures finished runs, each time in a process of its own."""
    return _prober(store())


@lru_cache(maxsize=4)
def _prober(runs: Store) -> Prober:
    from core.runs.prober import Prober

    return Prober(runs)


def kernels() -> Kernels:
    """Where learners' code runs, each learner's in a process of their own."""
    return _kernels(store())


@lru_cache(maxsize=4)
def _kernels(runs: Store) -> Kernels:
    from core.notebook.kernels import Kernels

    return Kernels(runs.home)


def code_permission() -> Permission:
    """Whether learners may run code on this server, and why not."""
    from core.notebook.permission import permission

    return permission(reachable=identity.reachable())


@lru_cache(maxsize=1)
def fitter() -> Fitter:
    """What traces models that nobody has traced yet, in one warm process."""
    from core.memory.fitter import Fitter

    return Fitter()


def owner() -> str:
    """Who is asking: from the signed cookie, never from anything a page could be told by its visitor.

    A browser that refuses cookies gets a name that lasts as long as its tab.
    """
    if _OWNER not in st.session_state:
        named = identity.owner_in(st.context.cookies, identity.secret(home()))
        st.session_state[_OWNER] = named or identity.new_owner()
        st.session_state[_OWNER + "_kept"] = named is not None
    return str(st.session_state[_OWNER])


def kept() -> bool:
    """Whether the browser keeps the owner's cookie; without it runs are lost with the tab and curves do not move."""
    owner()
    return bool(st.session_state.get(_OWNER + "_kept", True))


def hardware() -> Hardware:
    """What this machine is, found without torch; asked once per process."""
    from core.hardware import attached_light

    return attached_light()


def device_text() -> str:
    """One line for the device chip, such as 'AMD EPYC 7B13, 2 cores, 16.0 GiB'."""
    from app.words import n

    found = hardware()
    if found.kind == "cuda":
        return found.chip()
    return f"{found.cpu}, {n('shared.cores', found.cores)}, {bytes_text(found.ram_bytes)}"


def device_chip() -> None:
    """The line that says what everything here runs on."""
    from app.words import t

    with st.container(key="device-chip"):
        st.caption(f":material/memory: {t('shared.runs_on', device=device_text())}")


def local_time(moment: float) -> datetime.datetime:
    """A moment (seconds since the epoch) in the visitor's time zone."""
    try:
        zone = zoneinfo.ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        zone = None  # a browser may name a zone that this machine's tables do not have
    return datetime.datetime.fromtimestamp(moment, zone)


def close() -> None:
    """Let go of the processes for chat, measurements and traces, and of the database; for the end of the server."""
    if fitter.cache_info().currsize:
        fitter().close()
    fitter.cache_clear()
    if _kernels.cache_info().currsize:
        kernels().close()
    _kernels.cache_clear()
    if _prober.cache_info().currsize:
        prober().close()
    _prober.cache_clear()
    if _talker.cache_info().currsize:
        talker().close()
    _talker.cache_clear()
    if _store.cache_info().currsize:
        store().close()
    _store.cache_clear()


def page(url_path: str) -> Any:
    """The page with that address ("" is home), for a link to it."""
    pages = st.session_state.get("_pages", {})
    if url_path in pages:
        return pages[url_path]
    return st.Page(_nowhere, title=url_path or "Course", url_path=url_path or None, default=not url_path)


def keep_pages(pages: dict[str, Any]) -> None:
    """Remember this session's pages by address, for `page`."""
    st.session_state["_pages"] = pages


def _nowhere() -> None:
    """Stands for a page while a single view is drawn without the navigation (in tests)."""
