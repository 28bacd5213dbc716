"""A data folder of its own for every test of the app, and a page that is drawn alone."""

import pytest

from app import state
from app.cells import parts
from tests.app import once  # noqa: F401


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store; the app's pages use the same one."""
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DELTALAB_STORE", raising=False)
    monkeypatch.delenv("DELTALAB_SECRET", raising=False)
    yield state.store()
    state.close()


def near(app, *numbers):
    """What the browser does when these parts of a long lesson come near; AppTest has no components that could ask."""
    app.session_state[parts._OPEN]["drawn"].update(numbers)
    app.run()


def whole(app, lesson):
    """The page of a lesson with all its parts."""
    numbers = range(len(parts.split(lesson.cells)))
    if len(numbers) > 1:
        near(app, *numbers)
    return app


@pytest.fixture
def visit(store):
    """visit(function, owner="alice", **query) -> an AppTest that has drawn `function` (imports inside) once."""
    from streamlit.testing.v1 import AppTest

    def draw(function, *, owner="alice", kwargs=None, **query):
        page = AppTest.from_function(function, default_timeout=30, kwargs=kwargs)
        page.session_state[state._OWNER] = owner
        for name, value in query.items():
            page.query_params[name] = value
        page.run()
        assert not page.exception, page.exception
        return page

    return draw
