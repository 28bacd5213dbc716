"""Talk to a model before and after its fine-tuning, side by side: the same words, two answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import live, state
from app.story import plain
from core.base import CLASSIFICATION, kind_of_base
from core.config import EMBEDDED
from core.errors import DeltalabError

if TYPE_CHECKING:
    from core.runs.store import Run

MOST_TOKENS = 96
SIDES = {"before": "Before: the base", "after": "After: with what it learnt"}
LABEL_SIDES = {"before": "Before: the head as it began", "after": "After: with what it learnt"}


@dataclass
class Turn:
    """A question and its two answers. wanted: the right answer, where it is known. error: why one is missing."""

    question: str
    wanted: str | None = None
    before: str = ""
    after: str = ""
    error: tuple[str, str] | None = None


@dataclass
class Talk:
    """What was said in one chat, as long as the tab lives."""

    turns: list[Turn] = field(default_factory=list)

    def messages(self, side: str, question: str, *, alone: bool) -> list[dict[str, str]]:
        """The question with what this side has heard and said before; alone: without it."""
        out: list[dict[str, str]] = []
        for turn in () if alone else self.turns:
            answer = getattr(turn, side)
            if answer and turn.error is None:
                out += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": answer}]
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


def chat_pair(run: Run, key: str, *, suggestions: Sequence[str] | None = None) -> None:
    """A chat with two columns, before (the base) and after (the base with this run's change).

    Both answers stream. The history lasts as long as the tab; each side sees its own earlier answers, except on the
    embedded base, which knows single questions only, and on encoders, which give a label to each text. Errors are said
    in place of the answer.

    Args:
        run: a finished run of the visitor.
        key: distinct per page.
        suggestions: prompts to try, as buttons; held-out prompts of the run's task when None.
    """
    if run.adapter is None:
        st.caption("There is nothing to talk to yet: the run has to finish first.")
        return
    _chat(run, key, suggestions)


@st.fragment
def _chat(run: Run, key: str, suggestions: Sequence[str] | None) -> None:
    talk: Talk = st.session_state.setdefault(f"{key}-talk", Talk())
    labels = gives_labels(run)
    offered = [(s, None) for s in suggestions] if suggestions else suggested(run)
    asked = _suggestions(offered, key, "text" if labels else "question")
    for turn in talk.turns:
        _told(turn, LABEL_SIDES if labels else SIDES)
    place = st.container()
    typed = st.chat_input(
        "Give both a text" if labels else "Ask both", key=f"{key}-input", max_chars=2000, submit_mode="stop"
    )
    if typed:
        asked = (str(typed), None)
    if asked is not None:
        with place:
            _answer(run, talk, *asked)
    if talk.turns:
        st.button(
            "Clear", key=f"{key}-clear", icon=":material/delete_sweep:", type="tertiary", on_click=talk.turns.clear
        )


def heading(run: Run) -> str:
    """What the section with the chat is called."""
    return "Try a text, before and after" if gives_labels(run) else "Talk to it, before and after"


def gives_labels(run: Run) -> bool:
    """Whether the run's base is an encoder, which answers with labels and their probabilities."""
    return kind_of_base(run.config["base"], run.config.get("revision")) == CLASSIFICATION


def _suggestions(offered: Sequence[tuple[str, str | None]], key: str, what: str) -> tuple[str, str | None] | None:
    """Buttons for what can be asked; the one that was pressed."""
    pressed = None
    own = "write a text of your own" if what == "text" else "ask in your own words"
    st.caption(f"Try one of these, or {own}:")
    with st.container(horizontal=True, gap="small", key=f"{key}-suggestions"):
        for i, (prompt, wanted) in enumerate(offered):
            short = prompt if len(prompt) <= 64 else prompt[:61].rstrip() + "…"
            if st.button(plain(short), key=f"{key}-suggestion-{i}", help=plain(prompt) if short != prompt else None):
                pressed = (prompt, wanted)
    return pressed


def _question(turn: Turn) -> None:
    st.markdown(f":material/chat: **{plain(turn.question)}**")
    if turn.wanted:
        st.caption(f"Wanted: {plain(turn.wanted)}")


def _told(turn: Turn, sides: Mapping[str, str]) -> None:
    """A turn of the past."""
    _question(turn)
    for column, side in zip(st.columns(2, gap="medium"), sides, strict=True):
        with column:
            st.caption(sides[side])
            _said(st.empty(), getattr(turn, side) or "(no answer)")
    if turn.error is not None:
        live.say(DeltalabError(*turn.error))


def _said(place: Any, text: str) -> None:
    """An answer, letter for letter."""
    place.code(text, language=None, wrap_lines=True)


def _answer(run: Run, talk: Talk, question: str, wanted: str | None) -> None:
    """Ask both sides and stream what they say; what was said is kept even if it is stopped midway."""
    turn = Turn(question, wanted)
    _question(turn)
    places = {}
    labels = gives_labels(run)
    for column, side in zip(st.columns(2, gap="medium"), SIDES, strict=True):
        with column:
            st.caption((LABEL_SIDES if labels else SIDES)[side])
            places[side] = st.empty()
            _said(places[side], "…")
    alone = labels or run.config.get("base") == EMBEDDED
    try:
        with st.spinner("Answering; the first answer waits for the model to load", show_time=True):
            for side, piece in state.talker().pair(
                run.id,
                talk.messages("after", question, alone=alone),
                MOST_TOKENS,
                state.owner(),
                before=talk.messages("before", question, alone=alone),
            ):
                setattr(turn, side, getattr(turn, side) + piece)
                _said(places[side], getattr(turn, side))
        for side in SIDES:
            if not getattr(turn, side):
                _said(places[side], "(no answer)")
    except DeltalabError as error:
        turn.error = (error.sentence, error.advice)
        live.say(error)
    finally:
        talk.turns.append(turn)
