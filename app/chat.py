"""Talk to a model before and after its fine-tuning, and merged, side by side: the same words, up to three answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import live, state
from app.story import plain
from app.words import from_core, n, t
from core.base import CLASSIFICATION, kind_of_base
from core.config import EMBEDDED
from core.errors import DeltalabError
from core.few_bits import in_few_bits
from core.runs.sides import AFTER, BEFORE, MERGED, Ended, why_not_merged

if TYPE_CHECKING:
    from core.runs.store import Run

LONGEST = 96
SIDES = (BEFORE, AFTER, MERGED)
WHOM = {1: "it", 2: "both", 3: "all"}


@dataclass(frozen=True)
class How:
    """How the next question is asked: of which sides, how random, how long at most in tokens."""

    sides: tuple[str, ...] = (BEFORE, AFTER)
    temperature: float = 0.0
    longest: int = LONGEST
    seed: int = 0


@dataclass
class Answer:
    """What a side has said; end: how it came to its end, None while it has not (or was stopped)."""

    text: str = ""
    end: Ended | None = None


@dataclass
class Turn:
    """A question and its answers. wanted: the right one, where it is known. error: why there are none."""

    question: str
    wanted: str | None
    how: How
    answers: dict[str, Answer]
    error: tuple[str, str] | None = None

    def differ(self) -> bool | None:
        """Whether adapter and merged answered differently; None unless both came to their end."""
        both = [self.answers[side] for side in (AFTER, MERGED) if side in self.answers]
        if len(both) < 2 or any(a.end is None or a.end.error is not None for a in both):
            return None
        return both[0].text != both[1].text


@dataclass
class Talk:
    """What was said in one chat, as long as the tab lives."""

    turns: list[Turn] = field(default_factory=list)

    def messages(self, side: str, question: str, *, alone: bool) -> list[dict[str, str]]:
        """The question with what this side has heard and said before; alone: without it."""
        out: list[dict[str, str]] = []
        for turn in () if alone else self.turns:
            answer = turn.answers.get(side, Answer())
            failed = turn.error is not None or (answer.end is not None and answer.end.error is not None)
            if answer.text and not failed:
                out += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": answer.text}]
        return [*out, {"role": "user", "content": question}]


def suggested(run: Run) -> list[tuple[str, str | None]]:
    """Prompts to try, with the wanted answer: three held-out ones of the task, and one of an old skill."""
    task = run.config.get("task")
    if task is not None:
        from core.world import SKILLS, TASKS, examples

        if task in TASKS:
            asked = examples(task, "heldout", 7, 1)[4:]
            old = examples(next(iter(SKILLS)), "heldout", 1, 1) if run.config.get("base") == EMBEDDED else []
            return [(e.prompt, e.completion) for e in (*asked, *old)]
    looks = [e for _, e in state.store().events(run.id, state.owner(), kinds=("sampled",), limit=1)]
    return [(s["prompt"], s.get("reference") or None) for look in looks for s in look["samples"]][:4]


def section(run: Run, key: str, *, suggestions: Sequence[str] | None = None, knobs: bool = True) -> None:
    """A chat with a column for each side of a run: the base, the base with this run's change, the merged model.

    The answers stream at the same time. The history lasts as long as the tab; each side sees its own earlier answers,
    except on the embedded base, which knows single questions only, and on encoders, which give a label to each text.
    Errors are said in place of the answer.

    Args:
        run: a finished run of the visitor.
        key: distinct per page; also what the knobs' names in the URL begin with.
        suggestions: prompts to try, as buttons; held-out prompts of the run's task when None.
        knobs: offer a choice of sides, temperature and length; without them base and adapter answer, greedily.
    """
    if run.adapter is None:
        st.caption(t("chat.nothing"))
        return
    _chat(run, key, suggestions, knobs)


@st.fragment
def _chat(run: Run, key: str, suggestions: Sequence[str] | None, knobs: bool) -> None:
    talk: Talk = st.session_state.setdefault(f"{key}-{run.id}-talk", Talk())
    how = _knobs(run, key) if knobs else How()
    labels = gives_labels(run)
    offered = [(s, None) for s in suggestions] if suggestions else suggested(run)
    asked = _suggestions(offered, key, "text" if labels else "question")
    heard_other = False
    for turn in talk.turns:
        _told(run, turn, heard_other)
        heard_other = heard_other or bool(turn.differ())
    place = st.container()
    whom = WHOM.get(len(how.sides))
    typed = st.chat_input(
        t("chat.side_first") if whom is None else t(f"chat.{'give' if labels else 'ask'}.{whom}"),
        key=f"{key}-input",
        max_chars=2000,
        submit_mode="stop",
        disabled=whom is None,
    )
    if typed:
        asked = (str(typed), None)
    if asked is not None and whom is not None:
        with place:
            _answer(run, talk, Turn(*asked, how, {side: Answer() for side in how.sides}), heard_other)
    if talk.turns:
        st.button(
            t("chat.clear"),
            key=f"{key}-clear",
            icon=":material/delete_sweep:",
            type="tertiary",
            on_click=talk.turns.clear,
        )


def heading(run: Run) -> str:
    """What the section with the chat is called."""
    return t("chat.try_it") if gives_labels(run) else t("experiment.talk")


def gives_labels(run: Run) -> bool:
    """Whether the run's base is an encoder, which answers with labels and their probabilities."""
    return kind_of_base(run.config["base"], run.config.get("revision")) == CLASSIFICATION


def _knobs(run: Run, key: str) -> How:
    """The choices that the URL keeps; moving one asks nothing."""
    method = str(run.config["method"])
    why = why_not_merged(method)
    sides = st.segmented_control(
        t("chat.sides"),
        [side for side in SIDES if side != MERGED or why is None],
        selection_mode="multi",
        default=[BEFORE, AFTER],
        format_func=lambda side: t(f"chat.side.{side}"),
        key=f"{key}-sides",
        help=t("chat.sides_help"),
        bind="query-params",
    )
    if why is not None:
        st.caption(f"{t('chat.no_merged')} {from_core(why)}")
    elif not sides:
        st.caption(t("chat.choose_side"))
    elif MERGED in sides and in_few_bits(run.config):
        st.caption(f"{t('chat.four_bits')} {t('chat.decoded')}")
    chosen = tuple(side for side in SIDES if side in sides)
    if gives_labels(run):
        return How(chosen)
    columns = st.columns(3, gap="medium")
    temperature = columns[0].slider(
        t("chat.temperature"),
        0.0, 1.5, 0.0, 0.1,
        key=f"{key}-temperature",
        help=t("chat.temperature_help"),
        bind="query-params",
    )  # fmt: skip
    longest = columns[1].slider(
        t("chat.longest"), 16, 512, LONGEST, 16,
        key=f"{key}-longest", help=t("chat.longest_help"), bind="query-params",
    )  # fmt: skip
    seed = 0
    if temperature > 0:
        seed = columns[2].number_input(
            t("shared.seed"), 0, 2**31 - 1, 0, 1,
            key=f"{key}-seed",
            help=t("chat.seed_help"),
            bind="query-params",
        )  # fmt: skip
    return How(chosen, float(temperature), int(longest), int(seed or 0))


def _suggestions(offered: Sequence[tuple[str, str | None]], key: str, what: str) -> tuple[str, str | None] | None:
    """Buttons for what can be asked; the one that was pressed."""
    pressed = None
    st.caption(t("chat.try_text" if what == "text" else "chat.try_question"))
    with st.container(horizontal=True, gap="small", key=f"{key}-suggestions"):
        for i, (prompt, wanted) in enumerate(offered):
            short = prompt if len(prompt) <= 64 else prompt[:61].rstrip() + "…"
            if st.button(plain(short), key=f"{key}-suggestion-{i}", help=plain(prompt) if short != prompt else None):
                pressed = (prompt, wanted)
    return pressed


def _question(turn: Turn) -> None:
    st.markdown(f":material/chat: **{plain(turn.question)}**")
    facts = [t("chat.wanted", text=plain(turn.wanted))] if turn.wanted else []
    if turn.how.temperature > 0:
        facts.append(t("chat.how", temperature=f"{turn.how.temperature:g}", seed=turn.how.seed))
    if facts:
        st.caption("  \n".join(facts))


def _places(run: Run, turn: Turn) -> dict[str, tuple[Any, Any]]:
    """Where each side's answer goes, and what is known of it."""
    places = {}
    for column, side in zip(st.columns(len(turn.answers), gap="medium"), turn.answers, strict=True):
        with column:
            began = side == BEFORE and gives_labels(run)
            st.caption(t("chat.heading.head" if began else f"chat.heading.{side}"))
            places[side] = (st.empty(), st.empty())
    return places


def _told(run: Run, turn: Turn, heard_other: bool) -> None:
    """A turn of the past."""
    _question(turn)
    _close(run, turn, _places(run, turn), heard_other)
    if turn.error is not None:
        live.say(DeltalabError(*turn.error))


def _said(place: Any, text: str) -> None:
    """An answer, letter for letter."""
    place.code(text, language=None, wrap_lines=True)


def _close(run: Run, turn: Turn, places: dict[str, tuple[Any, Any]], heard_other: bool) -> None:
    """The answers as they are in the end, each with what was measured of it."""
    for side, (place, below) in places.items():
        answer = turn.answers[side]
        _said(place, answer.text or t("chat.no_answer"))
        if answer.end is not None and answer.end.error is not None:
            with below:
                live.say(answer.end.error)
        elif turn.error is None:
            facts = [] if gives_labels(run) and answer.end is not None else [_facts(answer, turn.how)]
            if side == MERGED:
                facts.append(_compared(turn, heard_other))
            below.caption("  \n".join(fact for fact in facts if fact))


def _facts(answer: Answer, how: How) -> str:
    """Tokens and speed of an answer, and whether it is whole."""
    end = answer.end
    if end is None:
        return t("chat.stopped")
    parts = [n("chat.tokens", end.tokens)]
    if end.tokens_per_second is not None:
        parts.append(t("chat.speed", rate=f"{end.tokens_per_second:.3g}"))
    if not end.complete:
        parts.append(t("chat.cut_longest" if end.tokens == how.longest else "chat.cut_context"))
    return " · ".join(parts)


def _compared(turn: Turn, heard_other: bool) -> str:
    """Whether merging changed the answer, and why it may."""
    differ = turn.differ()
    if differ is None:
        return ""
    if not differ:
        return t("chat.same")
    return f"{t('chat.differs')} {t('chat.heard_other' if heard_other else 'chat.rounded')}"


def _answer(run: Run, talk: Talk, turn: Turn, heard_other: bool) -> None:
    """Ask the sides and stream what they say; what was said is kept even if it is stopped midway."""
    _question(turn)
    places = _places(run, turn)
    for place, _ in places.values():
        _said(place, "…")
    alone = run.config.get("base") == EMBEDDED or gives_labels(run)
    try:
        with st.spinner(t("chat.answering"), show_time=True):
            for side, said in state.talker().sides(
                run.id,
                {side: talk.messages(side, turn.question, alone=alone) for side in turn.answers},
                turn.how.longest,
                state.owner(),
                temperature=turn.how.temperature,
                seed=turn.how.seed,
            ):
                if isinstance(said, Ended):
                    turn.answers[side].end = said
                else:
                    turn.answers[side].text += said
                    _said(places[side][0], turn.answers[side].text)
    except DeltalabError as error:
        turn.error = (error.sentence, error.advice)
    finally:
        talk.turns.append(turn)
    _close(run, turn, places, heard_other)
    if turn.error is not None:
        live.say(DeltalabError(*turn.error))
