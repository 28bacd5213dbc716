"""A teacher's settings in the link of a lesson: read, checked, told to the learner, and handed to the experiments."""

from __future__ import annotations

import streamlit as st

from app import classroom, identity, live, state
from app.classroom import Task
from app.story import plain
from app.words import t
from core.config import RunConfig, with_settings
from core.errors import BadInput

_SESSION = "_task-"


def settle(lesson: str) -> None:
    """Read what the address of this lesson carries, and say so above the lesson. It holds while the tab is open."""
    asked = st.query_params.get(classroom.PARAMETER)
    if asked:
        try:
            found = classroom.task_of(asked, identity.secret(state.home()))
        except BadInput as error:
            told = live.spoken(error.sentence, error.advice)
            st.warning(f"{t('teacher.bad_link')} {told}", icon=":material/link_off:")
        else:
            if found.lesson == lesson:
                st.session_state[_SESSION + lesson] = found
    task = of(lesson)
    if task is not None:
        st.info(f"{plain(task.note)} {t('teacher.set_up')}".strip(), icon=":material/school:")


def of(lesson: str) -> Task | None:
    """What a teacher has settled in the lesson at that address, for this visit; None for nothing."""
    found = st.session_state.get(_SESSION + lesson)
    return found if isinstance(found, Task) else None


def preset(config: RunConfig, task: Task | None) -> RunConfig:
    """An experiment's settings as the teacher wants them to begin; knobs that it does not have are left out, and so is
    everything when the engine refuses it."""
    if task is None:
        return config
    known = set(vars(config.settings)) | set(vars(config.train))
    try:
        return with_settings(config, {k: v for k, v in task.preset.items() if k in known})
    except BadInput:
        return config
