"""Which model a calculator is about: one of the catalogue, a pasted config.json, a folder, or a hub id.

    model = model_choice.choose("vram")      # -> Model | None, with what is missing or wrong on the page

The catalogue's tables are at hand. Any other model is built without weights in the tracing process, which takes some
seconds the first time; until then the page shows how far it is (`watching` says whether to look again).
"""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import live, state
from app.choices import Choice, one_of, refused, words
from app.story import plain
from app.words import inside, t
from core.base import stored_base
from core.catalog import architecture_of, known, models
from core.config import EMBEDDED
from core.errors import DeltalabError
from core.few_bits import stored_by
from core.memory import fitter
from core.memory.importing import config as read_config
from core.units import count_text

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.few_bits import Stored
    from core.memory.compare import Lookup

CATALOGUE, PASTED, FOLDER, HUB = "catalogue", "config", "folder", "hub"
LOOK_SECONDS = 0.5
SOURCES = (CATALOGUE, PASTED, FOLDER, HUB)
DEFAULT = "Llama-3.1-8B"
EXAMPLE = '{"model_type": "llama", "hidden_size": 2048, …}'
MOST_IN_LINK = 8_000  # characters of a packed configuration
MOST_SAID = 40  # characters of what a link said and cannot be
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")


@dataclass(frozen=True)
class Model:
    """name: for people. source: what the tracing process loads: a name, a folder, a hub id, or a config.json's text.

    hub: what a script would load. table: its modules. context: tokens that it reads, None where nothing says. shipped:
    it comes with surrogates (is in the catalogue). stored: in which few bits its weights are, None for plain ones.
    """

    name: str
    source: str
    hub: str
    table: Architecture
    context: int | None
    shipped: bool
    stored: Stored | None = None


class _Packed(Choice):
    """A text that the address has packed; one that is too long for an address is left out of it."""

    def _to_link(self, value: Any, *, anew: bool = False) -> None:
        packed = pack(str(value)) if str(value or "").strip() else ""
        super()._to_link(packed if len(packed) <= MOST_IN_LINK else "", anew=anew)


def choices(page: str, decoders: bool) -> tuple[Choice, ...]:
    """From where, which of the catalogue, the pasted text (packed), the folder, the hub id."""
    return (
        Choice(page, "from", CATALOGUE, one_of(list(SOURCES))),
        Choice(page, "model", DEFAULT, one_of([EMBEDDED, *_names(decoders)])),
        _Packed(page, "config", "", _unpacked),
        Choice(page, "folder", "", words(400)),
        Choice(page, "hub", "", words(200)),
    )


def _names(decoders: bool) -> list[str]:
    return [row.name for row in models() if row.is_decoder or not decoders]


def pack(text: str) -> str:
    """A configuration as a piece of an address."""
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def _unpacked(text: str) -> str | None:
    """What `pack` was given; None for anything else, or what unpacks to more than a configuration."""
    if len(text) > MOST_IN_LINK:
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        opened = zlib.decompressobj()
        out = opened.decompress(raw, 200_000)
        return out.decode() if not opened.unconsumed_tail else None
    except (ValueError, zlib.error):
        return None


def choose(page: str, *, decoders: bool = True) -> Model | None:
    """The widgets, and the model; None while there is none, with a sentence or the progress in its place.

    Args:
        page: distinct per page.
        decoders: only causal language models, which are what can be traced.
    """
    place, named, pasted, folder, hub = choices(page, decoders)
    for one in (place, named, pasted, folder, hub):
        one.start()
    left, right = st.columns([2, 3], gap="medium", vertical_alignment="bottom")
    with left:
        st.segmented_control(
            t("model.from"),
            list(SOURCES),
            format_func=lambda name: t(f"model.sources.{name}"),
            required=True,
            default=place.first,
            **place.widget(),
        )
    kind = place.value or CATALOGUE
    with right:
        if kind == CATALOGUE:
            by_name = {row.name: row for row in models()}
            names = [*_names(decoders), EMBEDDED]
            st.selectbox(
                t("model.model"), names,
                format_func=lambda n: t("model.embedded_of_course") if n == EMBEDDED
                else f"{n} · {count_text(by_name[n].parameters)}",
                index=named.index(names), help=t("model.search"), **named.widget(),
            )  # fmt: skip
        elif kind == FOLDER:
            st.text_input(t("model.folder"), folder.first, **folder.widget())
        elif kind == HUB:
            st.text_input(t("model.sources.hub"), hub.first, placeholder=t("model.hub_example"), **hub.widget())
    try:
        if kind == CATALOGUE:
            return _named(str(named.value), page)
        if kind == PASTED:
            return _pasted(pasted, page)
        typed = str((folder if kind == FOLDER else hub).value or "").strip()
        if not typed:
            state.fitter().warm()
        return _named(typed, page) if typed else None
    except DeltalabError as error:
        live.say(error)
        return None


def _pasted(choice: Choice, page: str) -> Model | None:
    st.text_area(
        t("model.config"), height=180, value=choice.first, **choice.widget(),
        placeholder=EXAMPLE,
    )  # fmt: skip
    text = str(choice.value or "")
    if not text.strip():
        state.fitter().warm()  # (what is pasted next is traced; until then torch can be imported)
        st.caption(t("model.config_why"))
        return None
    record = read_config(text)
    name = str(record.get("_name_or_path") or t("model.pasted", kind=record["model_type"]))[:80]
    stored = stored_by(record, name)
    return _built(name, json.dumps(record, sort_keys=True), "path/or/hub-id", _context(record), page, stored)


def _named(source: str, page: str) -> Model | None:
    """A model of the catalogue by its name or hub id; a folder; or anything on the hub."""
    row = known(source)
    if row is not None:
        return Model(row.name, row.name, row.hub, architecture_of(row.name), row.context_tokens, True)
    place = Path(source).expanduser()
    context = None
    if place.is_dir() and (place / "config.json").is_file():
        with contextlib.suppress(OSError, ValueError, RecursionError):  # the tracing process says what is wrong with it
            context = _context(json.loads((place / "config.json").read_text(encoding="utf-8")))
    name = t("model.embedded") if source == EMBEDDED else place.name if place.is_dir() else source
    return _built(name, source, source, context, page, stored_base(source))


def _context(record: Any) -> int | None:
    """How many tokens a configuration allows; None where it does not say."""
    parts = [record, *(v for v in record.values() if isinstance(v, dict))] if isinstance(record, dict) else []
    return next((p[n] for p in parts for n in LENGTHS if isinstance(p.get(n), int) and p[n] > 1), None)


def _built(name: str, source: str, hub: str, context: int | None, page: str, stored: Stored | None) -> Model | None:
    """A model whose table of modules comes from the tracing process; None while it is on its way."""
    work = state.fitter().look(fitter.TABLE, source)
    if work is None:
        work = state.fitter().ask(fitter.TABLE, source, owner=state.owner())
    if work.status == fitter.FINISHED:
        return Model(name, source, hub, work.result, context, False, stored)
    if work.error is not None:
        live.say(work.error)
        st.button(t("plan.again"), key=f"{page}-again", icon=":material/refresh:", on_click=_again, args=(source,))
        return None
    watch(page)
    st.progress(work.share, text=f"{t('model.building', name=name)}: {inside(work.text)}")
    return None


def _again(source: str) -> None:
    """The button's callback."""
    try:
        state.fitter().ask(fitter.TABLE, source, owner=state.owner())
    except DeltalabError as error:
        live.say(error)


# --- looking again while something is on ------------------------------------------------------------------------------


def lookup(model: Model) -> Lookup:
    """The formulas of the model's steps, as far as they are known already."""
    return lambda asked: state.fitter().surrogate(model.source, asked)


def watch(page: str) -> None:
    """Something that this page shows is being worked out: draw the page again soon."""
    st.session_state[f"{page}-watch"] = True


def unwatch(page: str) -> None:
    """Nothing is, as far as is known when a drawing begins."""
    st.session_state[f"{page}-watch"] = False


def redrawn(page: str, draw: Callable[[], None]) -> None:
    """Draw a calculator as a fragment: anew at each change, and twice a second while something is worked out for it."""

    def drawn() -> None:
        watched = watching(page)
        unwatch(page)
        above = st.container()
        draw()
        if refused(page):
            said = ", ".join(f"{name} = {text[:MOST_SAID]}" for name, text in sorted(refused(page).items()))
            above.warning(plain(t("model.link_refused", said=said)), icon=":material/link_off:")
        if watching(page) != watched:
            st.rerun()  # from now on with the looking, or without it

    st.fragment(drawn, run_every=LOOK_SECONDS if watching(page) else None)()


def watching(page: str) -> bool:
    """Whether the last drawing left something open."""
    return bool(st.session_state.get(f"{page}-watch"))
