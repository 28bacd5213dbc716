"""Ship: what becomes of a finished run outside: will it load, merged, converted, how fast, many at once, its card, and
everything of it in a zip."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import address, chat, compare, findings, live, probing, run_choice, state, takeaway
from app.story import plain
from app.words import from_core, t
from core.base import stored_base
from core.errors import DeltalabError, NotFound
from core.export import loadable
from core.export.card import card, record_of
from core.export.folder import Adapter, read
from core.methods import METHODS
from core.units import bytes_text

if TYPE_CHECKING:
    from core.runs.store import Run

MOST = 200
LEVELS = {
    loadable.LOADS: (":material/check_circle:", "loads"),
    loadable.CARE: (":material/info:", "care"),
    loadable.FAILS: (":material/cancel:", "fails"),
}
"""A level -> its sign, and the key of its words."""


def render() -> None:
    """Draw the choice of a run and of what to do with it."""
    st.title(t("page.ship.title"), anchor=False)
    st.markdown(t("ship.intro"))
    runs = [r for r in state.store().runs(state.owner(), limit=MOST) if r.adapter is not None and not r.active]
    if not runs:
        st.markdown(t("ship.none"))
        with st.container(horizontal=True):
            st.page_link(state.page("start-here"), label=t("runs.start_here"), icon=":material/arrow_forward:")
            st.page_link(state.page("playground"), label=t("page.playground.title"), icon=":material/science:")
        _strangers()
        return
    run = _choice(runs)
    if run is None:
        return
    do = _section()
    st.header(t(f"ship.sections.{do}"), anchor=False)
    SECTIONS[do](run, runs)


def _choice(runs: list[Run]) -> Run | None:
    """The run that the address names, or the newest; the choice goes into the address."""
    by_id = {run.id: run for run in runs}
    wanted = st.query_params.get("run")
    if wanted is not None and wanted not in by_id:
        live.say(NotFound(t("ship.unknown"), t("ship.choose_yours")))
        wanted = None
    labels = compare.named(runs)
    ids = list(by_id)
    chosen = st.selectbox(
        t("runs.untitled"), ids, index=ids.index(wanted) if wanted else 0, format_func=labels.__getitem__, key="run",
        on_change=address.keep_in_link, args=("run", ""),
    )  # fmt: skip
    return by_id.get(chosen) if chosen else None


def _section() -> str:
    """Which of the sections is open; the choice goes into the address."""
    first = next(iter(SECTIONS))
    if "do" not in st.session_state:
        st.session_state["do"] = address.linked("do", list(SECTIONS), first)
    chosen = st.segmented_control(
        t("ship.what"), list(SECTIONS), format_func=lambda name: t(f"ship.sections.{name}"), key="do",
        on_change=address.keep_in_link, args=("do", first), required=True, label_visibility="collapsed",
    )  # fmt: skip
    return str(chosen)


def _go(section: str) -> None:
    """A button's callback: open another section."""
    st.session_state["do"] = section
    st.query_params["do"] = section


# --- will it load? ----------------------------------------------------------------------------------------------------


def _load(run: Run, _: list[Run]) -> None:
    started = compare.story(run, brief=True).started or {}
    try:
        assert run.adapter is not None
        adapter = read(run.adapter)
    except DeltalabError as error:
        live.say(error)
        return
    st.markdown(t("ship.load", size=bytes_text(adapter.size_bytes)))
    _verdicts(adapter, started.get("base") or {}, f"load-{run.id}", fixes=True)
    _strangers()


def _verdicts(adapter: Adapter, base: Mapping[str, Any], key: str, *, fixes: bool) -> None:
    """Each engine: the worst that its rules came to, what to do about it, and every rule with its source."""
    verdicts = loadable.check(adapter, base)
    for engine in loadable.ENGINES:
        mine = [v for v in verdicts if v.engine == engine]
        icon, level = LEVELS[loadable.worst(verdicts, engine)]
        with st.container(key=f"row-{key}-{engine.replace('.', '')}", gap="small"):
            st.markdown(f"{icon} **{engine}** {t(f'ship.level.{level}')}")
            for v in mine:
                if v.level != loadable.LOADS:
                    st.markdown(f"- {_told(v)}")
            offered = dict.fromkeys(v.action for v in mine if v.action and v.level != loadable.LOADS)
            if fixes and offered:
                with st.container(horizontal=True):
                    for action in offered:
                        st.button(
                            t(f"ship.sections.{action}"), key=f"{key}-{engine.replace('.', '')}-{action}",
                            icon=":material/arrow_forward:", on_click=_go, args=(action,),
                        )  # fmt: skip
            kept = [v for v in mine if v.level == loadable.LOADS]
            if kept:
                with st.expander(t("ship.kept", kept=len(kept), rules=len(mine))):
                    st.markdown("\n".join(f"- {_told(v)}" for v in kept))


def _told(v: loadable.Verdict) -> str:
    """A verdict as a line of Markdown; what a folder brought into it stays plain text."""
    source = f"[{t('ship.source')}]({v.source})"
    return f"**{v.rule[:1].upper()}{v.rule[1:]}.** {plain(v.sentence)} {plain(v.fix)} {source}".replace("  ", " ")


def _strangers() -> None:
    """The check for a folder that was made elsewhere: its two files are looked at and not kept."""
    with st.expander(t("ship.strangers")):
        files = st.file_uploader(
            t("ship.files"), type=["json", "safetensors"],
            accept_multiple_files=True, key="ship-files",
        )  # fmt: skip
        if not files:
            st.caption(t("ship.files_why"))
            return
        with tempfile.TemporaryDirectory() as between:
            folder = Path(between) / "adapter"
            folder.mkdir()
            for file in files:
                if Path(file.name).name in ("adapter_config.json", "adapter_model.safetensors"):
                    (folder / Path(file.name).name).write_bytes(file.getvalue())
            try:
                adapter = read(folder)
            except DeltalabError as error:
                live.say(error)
                return
        base, facts = _named_base(adapter)
        _verdicts(adapter, facts, "load-files", fixes=False)
        _mend(adapter, facts, base)


def _mend(adapter: Adapter, facts: Mapping[str, Any], base: str) -> None:
    """What the terminal does about the verdicts on a folder that is not here."""
    offered = {v.action for v in loadable.check(adapter, facts) if v.action and v.level != loadable.LOADS}
    if not offered:
        return
    said = f" --base {shlex.quote(base)}" if base else ""
    st.markdown(t("ship.files_mend"))
    lines = [f"deltalab {action} FOLDER{said} --out NEW" for action in sorted(offered)]
    st.code("\n".join(lines), language=None, wrap_lines=True)


def _named_base(adapter: Adapter) -> tuple[str, Mapping[str, Any]]:
    """The base that the visitor names ("": none), and what is known of it, or of the one that the files name."""
    named = str(
        st.text_input(
            t("ship.files_base"), key="ship-base", placeholder=adapter.base or run_choice.HUB_EXAMPLE, max_chars=300,
            help=t("ship.files_base_help"),
        )
        or ""
    ).strip()  # fmt: skip
    base = named or adapter.base
    if not base:
        return "", {}
    with st.spinner(t("playground.looking"), show_time=True):
        facts = run_choice.facts_of(base)
    if "error" not in facts:
        return named, facts
    if named:
        live.say(DeltalabError(*facts["error"]))
    else:
        st.caption(t("ship.files_base_unknown", base=plain(base)))
    return named, {}


# --- merge ------------------------------------------------------------------------------------------------------------


def _merge(run: Run, _: list[Run]) -> None:
    if _cannot_merge(run):
        return
    st.markdown(t("ship.merge"))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        keep = st.selectbox(
            t("ship.merge_keep"), ["none", "float32", "bfloat16", "nf4"], key="merge-keep", width=240,
            format_func=lambda f: t(f"ship.keep.{f if f in ('none', 'nf4') else 'form'}", form=f),
        )  # fmt: skip
        items = st.number_input(t("ship.items"), 1, 1000, 100, key="merge-items", width=160)
    probing.section(
        "merge", [run], {"items": int(items), "keep": keep}, key=f"ship-{run.id}",
        show=lambda result: _merged(result, run), label=t("ship.merge_start"), takes=t("ship.half_minute"),
    )  # fmt: skip


def _merged(result: dict[str, Any], run: Run) -> None:
    findings.show_merge(result, "ship")
    kept = result["kept"]
    if kept:
        _download(run, kept, t("ship.merged_download", form=kept["format"], size=bytes_text(kept["bytes"])))
        st.caption(t("ship.adapter_alone", size=bytes_text(result["adapter_bytes"])))


# --- convert ----------------------------------------------------------------------------------------------------------


def _convert(run: Run, _: list[Run]) -> None:
    method = run.config["method"]
    if _cannot_merge(run):
        return
    if getattr(METHODS[method], "VECTORS", False):
        st.markdown(t("ship.no_matrix", method=METHODS[method].TITLE))
        st.button(
            t("ship.sections.merge"),
            key="convert-merge",
            icon=":material/arrow_forward:",
            on_click=_go,
            args=("merge",),
        )
        return
    st.markdown(t("ship.convert"))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rank = st.number_input(t("ship.convert_rank"), 0, 1024, 0, key="convert-rank", width=240)
        most = st.number_input(t("ship.convert_most"), 1, 1024, 64, key="convert-most", width=200)
    probing.section(
        "convert", [run], {"most": int(most), "rank": int(rank)}, key=f"ship-{run.id}",
        show=lambda result: _converted(result, run), label=t("ship.convert_start"), takes=t("ship.a_minute"),
    )  # fmt: skip


def _converted(result: dict[str, Any], run: Run) -> None:
    findings.show_convert(result, "ship")
    kept = result["kept"]
    if kept:
        _download(run, kept, t("ship.converted_download", rank=kept["rank"], size=bytes_text(kept["bytes"])))
        st.caption(t("ship.left_out", share=f"{100 * kept['error']:.1f}", size=bytes_text(result["adapter_bytes"])))


# --- latency and hot-swap ---------------------------------------------------------------------------------------------


def _latency(run: Run, runs: list[Run]) -> None:
    st.markdown(t("ship.latency"))
    others = _others(run, runs, "latency", most=5)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        new = 24
        if not chat.gives_labels(run):
            new = st.number_input(t("ship.new_tokens"), 2, 512, new, key="latency-new", width=160)
        batch = st.number_input(t("ship.at_once"), 1, 64, 1, key="latency-batch", width=160)
    probing.section(
        "latency", [run, *others], {"new_tokens": int(new), "batch": int(batch)}, key=f"ship-{run.id}",
        show=partial(findings.show_latency, key="ship"), label=t("ship.latency_start"), takes=t("ship.half_minute"),
    )  # fmt: skip


def _swap(run: Run, runs: list[Run]) -> None:
    st.markdown(t("ship.swap"))
    others = _others(run, [r for r in runs if _stored(r) == _stored(run)], "swap", most=7)
    if not others:
        st.caption(t("ship.one_more"))
        return
    probing.section(
        "swap", [run, *others], {}, key=f"ship-{run.id}", show=partial(findings.show_swap, key="ship"),
        label=t("ship.swap_start"), takes=t("ship.half_minute"),
    )  # fmt: skip


def _stored(run: Run) -> tuple[Any, ...] | None:
    """How the run quantized its base; None where it did not (one that is stored in few bits has one form for all).
    Adapters on one base need one form of it."""
    if stored_base(run.config["base"], run.config.get("revision")) is not None:
        return None
    settings = run.config["settings"]
    return (settings["quant_type"], settings["double_quantization"]) if run.config["method"] == "qlora" else None


def _others(run: Run, runs: list[Run], key: str, *, most: int) -> list[Run]:
    """Further runs of the same base, chosen by the visitor."""
    base = (run.config["base"], run.config.get("revision"))
    same = {r.id: r for r in runs if r.id != run.id and (r.config["base"], r.config.get("revision")) == base}
    if not same:
        return []
    labels = compare.named(list(same.values()))
    chosen: list[str] = st.multiselect(
        t("ship.others"), list(same), format_func=labels.__getitem__, key=f"{key}-others-{run.id}",
        max_selections=most, placeholder=t("ship.choose_runs"),
    )  # fmt: skip
    return [same[i] for i in chosen]


# --- the card ---------------------------------------------------------------------------------------------------------


def _card(run: Run, _: list[Run]) -> None:
    try:
        text = card(record_of(state.store(), run.id, state.owner()))
    except DeltalabError as error:
        live.say(error)
        return
    st.markdown(t("ship.card"))
    st.download_button(
        t("ship.card_download"), text.encode(), "README.md", "text/markdown", key="card-download",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    front, body = text.removeprefix("---\n").split("---\n", 1)
    with st.container(border=True, key="card"):
        # Without colours: those of the highlighter stand off neither background enough to be read.
        shown = body.replace("```python", "```text")
        st.markdown(shown.replace("\n# ", "\n### ", 1).replace("\n## ", "\n#### "))
    with st.expander(t("ship.front_matter")):
        st.code(front, language=None, wrap_lines=True)


# --- what sections share ----------------------------------------------------------------------------------------------


def _cannot_merge(run: Run) -> bool:
    """Say so, where the run's change cannot become part of the weights."""
    method = METHODS[run.config["method"]]
    if method.MERGES:
        return False
    st.markdown(t("ship.cannot_merge", method=method.TITLE, told=from_core(method.INFERENCE)))
    return True


def _download(run: Run, kept: Mapping[str, Any], label: str) -> None:
    address = f"/api/runs/{run.id}/made/{kept['where']}/{kept['folder']}.zip"
    st.link_button(label, address, icon=":material/download:")


SECTIONS: dict[str, Callable[[Run, list[Run]], None]] = {
    "load": _load,
    "merge": _merge,
    "convert": _convert,
    "latency": _latency,
    "swap": _swap,
    "card": _card,
    "take": lambda run, _: takeaway.section(run),
}
"""name in the address -> what draws it; one line more, and its title in the locales, is one section more."""
