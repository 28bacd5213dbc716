"""A dataclass becomes widgets: every knob with its doc line, its reason and its range, at most four in sight.

    config = form.run_form(RunConfig(method="lora", task="json"), key="first-run")
    if config is not None:      # the visitor pressed Run, and the settings make sense
        …

Each knob is in the URL once it differs from its default, so that a link reproduces what is seen. Moving a knob starts
nothing; only the button does.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.words import from_core, t
from core.config import RunConfig, TrainConfig, default_row, problems, warnings
from core.export import link as run_link
from core.methods import METHODS

PER_ROW = 2
"""Knobs side by side; on a phone they stand below each other by themselves."""


@dataclass(frozen=True)
class Knob:
    """One field of the method's or the loop's config, ready to be drawn.

    part: "settings" or "train". kind: the plain type. default: what the form shows untouched, with the sweep's finding
    filled in for a field that leaves it open. usual: whether that is the default of the field, too; a lesson may begin
    with another value, and then the reason for the default says nothing about it.
    """

    part: str
    name: str
    kind: type
    default: Any
    meta: dict[str, Any]
    usual: bool = True

    @property
    def label(self) -> str:
        """The field's name as words, with its unit where the name does not say it, in the visitor's language."""
        words = self.name.replace("_", " ")
        unit = self.meta.get("unit", "")
        told = not unit or unit in words
        return from_core(words[:1].upper() + words[1:] + ("" if told else f" ({unit})"))

    @property
    def short(self) -> str:
        """The same inside a line, without the unit: 'learning rate'."""
        name, label = self.name.replace("_", " "), self.label.partition(" (")[0]
        return name if label.lower() == name else label

    @property
    def why(self) -> str:
        """Why its default is what it is, after that default; "" when nothing is said, or another value is shown."""
        why = self.meta.get("why") if self.usual else ""
        return f"{t('form.default', value=shown(self.default))} {from_core(why)}" if why else ""

    def told(self, value: Any) -> str:
        """What it stands at, in words: 'Rank: 8, the default. Few directions are enough here.'"""
        if value != self.default or not self.why:
            return t("form.told", label=self.label, value=shown(value))
        return t("form.told_default", label=self.label, value=shown(value), why=from_core(self.meta["why"]))

    @property
    def help(self) -> str:
        """What the knob does, why its default is what it is, and its range."""
        parts = [from_core(self.meta["doc"])]
        if self.why:
            parts.append(self.why)
        low, high = self.meta.get("low"), self.meta.get("high")
        if low is not None and high is not None:
            parts.append(t("form.range", low=f"{low:g}", high=f"{high:g}"))
        return "\n\n".join(parts)


def shown(value: Any) -> str:
    """A knob's value for a person: 0.003 -> '0.003', 3e-05 -> '3e-5', True -> 'on'."""
    if isinstance(value, bool):
        return t("form.on" if value else "form.off")
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text.replace("e-0", "e-").replace("e+0", "e+")
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return str(value)


def knobs(defaults: RunConfig) -> list[Knob]:
    """Every knob of a run, the method's own first, in the order of the fields."""
    own = METHODS[defaults.method].Config
    settings = defaults.settings if defaults.settings is not None else own()
    out = []
    for part, value, plain in (("settings", settings, own()), ("train", defaults.train, TrainConfig())):
        kinds = typing.get_type_hints(type(value))
        for f in dataclasses.fields(value):
            if not f.metadata or not f.metadata["form"]:
                continue
            kind = next((a for a in typing.get_args(kinds[f.name]) if a is not type(None)), kinds[f.name])
            default, usual = getattr(value, f.name), getattr(plain, f.name)
            if None in (default, usual):
                swept = found_by_sweep(defaults, f.name)
                default, usual = swept if default is None else default, swept if usual is None else usual
            kind = typing.get_origin(kind) or kind
            out.append(Knob(part, f.name, kind, default, dict(f.metadata), default == usual))
    return out


def found_by_sweep(config: RunConfig, name: str) -> Any:
    """What core/defaults.toml says about a setting that the config leaves open; None when it says nothing."""
    return default_row(config).get(name)


def widget_key(key: str, config: RunConfig, knob: Knob) -> str:
    """The widget's key, which is also its name in the URL: see `core.export.link`."""
    return run_link.name_of(key, config.method, config.task, knob.part, knob.name)


def in_sight(every: Sequence[Knob], at_most: int, show: Sequence[str] | None) -> list[Knob]:
    """The knobs that are not folded away: the named ones, else the unfolded fields, at most so many."""
    if show is not None:
        by_name = {k.name: k for k in every}
        missing = [name for name in show if name not in by_name]
        if missing:
            raise ValueError(f"no knob is called {', '.join(missing)}; there are {', '.join(by_name)}")
        return [by_name[name] for name in show][:at_most]
    return [k for k in every if not k.meta.get("folded", True)][:at_most]


def steps_of(knob: Knob, key: str = "") -> list[float]:
    """The stops of a logarithmic slider: 1, 2, 3 and 5 times each power of ten in a sensible range, and the default.

    Args:
        key: the widget's; a value between the stops that a link names is a stop too.
    """
    high = knob.meta.get("high") or 1.0
    stops = {float(f"{m}e{e}") for e in range(-6, math.ceil(math.log10(high)) + 1) for m in (1, 2, 3, 5)}
    if knob.default:
        stops.add(float(knob.default))
    linked = st.query_params.get(key) if key else None
    if linked is not None:
        try:
            value = float(linked)
        except ValueError:
            value = 0.0  # nonsense in a link: the widget ignores it
        if 0 < value <= high:
            stops.add(value)
    return sorted(s for s in stops if s <= high)


def _draw(knob: Knob, key: str, *, locked: bool) -> Any:
    """One widget; returns its value as the field's type."""
    meta = knob.meta
    _follow_default(knob, key)
    common: dict[str, Any] = {"key": key, "help": knob.help, "disabled": locked, "bind": "query-params"}
    if knob.kind is bool:
        return st.toggle(knob.label, value=bool(knob.default), **common)
    if meta.get("choices"):
        options = list(meta["choices"])
        return st.selectbox(knob.label, options, index=options.index(knob.default), **common)
    if knob.kind is int:
        low, high = meta.get("low"), meta.get("high")
        return st.number_input(
            knob.label,
            min_value=None if low is None else int(low),
            max_value=None if high is None else int(high),
            value=int(knob.default),
            step=1,
            **common,
        )
    if knob.kind is float and meta.get("log"):
        stops = steps_of(knob, key)
        return st.select_slider(knob.label, stops, value=float(knob.default), format_func=shown, **common)
    if knob.kind is float:
        low, high = meta.get("low"), meta.get("high")
        return st.number_input(
            knob.label,
            min_value=None if low is None else float(low),
            max_value=None if high is None else float(high),
            value=float(knob.default),
            step=0.01 if high is not None and high <= 1 else 0.1,
            format="%g",
            **common,
        )
    text = ",".join(knob.default) if isinstance(knob.default, (tuple, list)) else str(knob.default)
    value = st.text_input(knob.label, value=text, **common)
    if knob.kind is tuple:
        return tuple(part.strip() for part in (value or "").split(",") if part.strip())
    return (value or "").strip()


def _follow_default(knob: Knob, key: str) -> None:
    """Where the default changes with what else is chosen (another base has other rates), an untouched knob follows."""
    kept = f"_{key}-default"
    before = st.session_state.get(kept)
    if before is not None and before != knob.default and st.session_state.get(key) == before:
        st.session_state[key] = float(knob.default) if knob.kind is float else knob.default
    st.session_state[kept] = knob.default


def assemble(defaults: RunConfig, values: dict[str, Any]) -> RunConfig:
    """`defaults` with the values of knobs, by name, in the method's and the loop's config."""
    own = METHODS[defaults.method].Config
    settings = defaults.settings if defaults.settings is not None else own()
    mine = {f.name for f in dataclasses.fields(settings)}
    return dataclasses.replace(
        defaults,
        settings=dataclasses.replace(settings, **{n: v for n, v in values.items() if n in mine}),
        train=dataclasses.replace(defaults.train, **{n: v for n, v in values.items() if n not in mine}),
    )


def run_form(
    defaults: RunConfig,
    key: str,
    at_most: int = 4,
    *,
    show: Sequence[str] | None = None,
    lock: Sequence[str] = (),
    hide: Sequence[str] = (),
    label: str = "",
    busy: bool = False,
    ready: bool = True,
    per_row: int = PER_ROW,
) -> RunConfig | None:
    """Widgets for the knobs of a run, and the Run button.

    Args:
        defaults: what the form starts from; base, data or task and method are taken as they are.
        key: distinct per page; also the prefix of the knobs in the URL.
        at_most: knobs in sight; the rest is folded under "More settings", and drawn when that is opened.
        show: which knobs are in sight, by name ("rank", "learning_rate" …); the unfolded fields of the method's and the
            loop's config when None.
        lock: knobs shown but not changeable: their defaults hold, whatever the address says.
        hide: knobs that are not shown; their defaults hold.
        label: the button's text; "Run" when empty.
        busy: a run of this form is active: the button is disabled and says so.
        ready: False disables the button without a word (the page says what is missing).
        per_row: knobs side by side.

    Returns:
        the config when Run was pressed and it has no problems; else None (problems are shown beside the button).
    """
    every = [knob for knob in knobs(defaults) if knob.name not in hide]
    visible = in_sight(every, at_most, None if show is None else [name for name in show if name not in hide])
    values: dict[str, Any] = {}
    told = all(knob.usual for knob in visible)  # else a missing reason would point at the knob that a lesson has turned
    for row in range(0, len(visible), per_row):
        columns = st.columns(per_row, gap="medium")
        for column, knob in zip(columns, visible[row : row + per_row], strict=False):
            with column:
                values[knob.name] = _draw(knob, widget_key(key, defaults, knob), locked=knob.name in lock)
                if knob.why and told:
                    st.caption(knob.why)
    folded = [k for k in every if k not in visible]
    seed = defaults.seed
    if folded:
        more = st.expander(t("form.more"), key=f"{key}-more", on_change="rerun")
        keys = [*(widget_key(key, defaults, knob) for knob in folded), f"{key}-seed"]
        # Nobody opens most of them, and a lesson with several forms would wait for two hundred widgets. Once drawn they
        # stay, or what was set there would be lost.
        if more.open or any(one in st.session_state or one in st.query_params for one in keys):
            with more:
                columns = st.columns(per_row, gap="medium")
                for i, knob in enumerate(folded):
                    with columns[i % per_row]:
                        values[knob.name] = _draw(knob, keys[i], locked=knob.name in lock)
                seed = _seed(defaults, key, locked="seed" in lock)
        else:
            values |= {knob.name: knob.default for knob in folded}
    if "seed" in lock:
        seed = defaults.seed
    on_paper(key, [k.told(values[k.name]) for k in every if k in visible or values[k.name] != k.default])
    config = dataclasses.replace(assemble(defaults, _unlocked(values, lock)), seed=int(seed))
    wrong = problems(config)
    for sentence in wrong:
        st.error(from_core(sentence), icon=":material/error:")
    for sentence in warnings(config):
        st.caption(f":material/warning: {_readable(from_core(sentence))}")
    pressed = st.button(
        t("form.running") if busy else label or t("form.run"),
        key=f"{key}-run",
        type="primary",
        icon=":material/hourglass_top:" if busy else ":material/play_arrow:",
        disabled=busy or not ready or bool(wrong),
    )
    return config if pressed else None


def on_paper(key: str, lines: Sequence[str]) -> None:
    """What widgets say, in words, for the printed page: there is nothing to press on it (app/theme shows it there)."""
    if lines:
        with st.container(key=f"{key}-on-paper"):
            st.markdown("\n".join(f"- {line}" for line in lines))


def common_knobs(defaults: RunConfig, key: str, names: Sequence[str]) -> dict[str, Any]:
    """Widgets for knobs that several runs share, without a button.

    Args:
        defaults: the first of the runs; it says what the knobs show untouched.
        key: distinct per page; also the prefix of the knobs in the URL.
        names: of fields of its configs, or "seed".

    Returns:
        the knobs that do not stand at their default, name -> value.
    """
    changed: dict[str, Any] = {}
    told: list[str] = []
    for row in range(0, len(names), PER_ROW):
        for column, name in zip(st.columns(PER_ROW, gap="medium"), names[row : row + PER_ROW], strict=False):
            with column:
                if name == "seed":
                    value, default = _seed(defaults, key, locked=False), defaults.seed
                    told.append(t("form.told", label=t("shared.seed"), value=value))
                else:
                    knob = next(k for k in knobs(defaults) if k.name == name)
                    value, default = _draw(knob, widget_key(key, defaults, knob), locked=False), knob.default
                    if knob.why:
                        st.caption(knob.why)
                    told.append(knob.told(value))
                if value != default:
                    changed[name] = value
    on_paper(key, told)
    return changed


def changed_knobs(defaults: RunConfig, key: str, names: Sequence[str]) -> dict[str, Any]:
    """What `common_knobs` would return now, without drawing anything."""
    now = config_of(defaults, key)
    own = {f.name for f in dataclasses.fields(now.settings)} if now.settings is not None else set()
    values = {n: now.seed if n == "seed" else getattr(now.settings if n in own else now.train, n) for n in names}
    usual = {k.name: k.default for k in knobs(defaults)} | {"seed": defaults.seed}
    return {name: value for name, value in values.items() if value != usual[name]}


def _seed(defaults: RunConfig, key: str, *, locked: bool) -> int:
    return int(
        st.number_input(
            t("shared.seed"),
            min_value=0,
            max_value=2**31 - 1,
            value=defaults.seed,
            step=1,
            key=f"{key}-seed",
            help=t("form.seed_help"),
            bind="query-params",
            disabled=locked,
        )
    )


def _unlocked(values: dict[str, Any], lock: Sequence[str]) -> dict[str, Any]:
    """The values that count: those of knobs that can be moved."""
    return {name: value for name, value in values.items() if name not in lock}


def _readable(sentence: str) -> str:
    """A warning that begins with a field's name, with the name as words."""
    first, _, rest = sentence.partition(" ")
    return f"{first.replace('_', ' ').capitalize()} {rest}"


def config_of(defaults: RunConfig, key: str, fixed: Sequence[str] = ()) -> RunConfig:
    """The config that the form with this key shows now, without drawing anything: for a stale mark or a calculation.
    fixed: knobs that are locked or hidden there."""
    values: dict[str, Any] = {}
    for knob in (k for k in knobs(defaults) if k.name not in fixed):
        value = st.session_state.get(widget_key(key, defaults, knob), knob.default)
        if knob.kind is tuple and isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        values[knob.name] = value
    seed = defaults.seed if "seed" in fixed else st.session_state.get(f"{key}-seed", defaults.seed)
    return dataclasses.replace(assemble(defaults, values), seed=int(seed))


def link(config: RunConfig, key: str) -> dict[str, str]:
    """Query parameters that make the form with this key show `config`: only what differs from the form's defaults."""
    return run_link.settings(config, key)
