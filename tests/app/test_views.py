"""Every view, drawn in a real script run: what it shows, what its buttons do, and that nobody sees another's."""

import json
from pathlib import Path

import pytest

from app import components, live, state
from app.views import VIEWS, playground
from core.config import RunConfig, with_settings
from core.export.link import parameters
from core.methods import METHODS
from core.runs.store import Run
from tests.app.filling import fill


def home():
    from app.views import home

    home.render()


def playground_page():
    from app.views import playground

    playground.render()


def runs_page():
    from app.views import runs

    runs.render()


def words(page) -> str:
    """Everything that a page says, in one string."""
    parts = [e.value for kind in ("title", "header", "subheader", "markdown", "caption", "error", "warning", "code")
             for e in getattr(page, kind)]  # fmt: skip
    return ("\n".join(map(str, parts)) + "\n".join(b.label for b in page.button)).replace("\u00a0", " ")


def button(page, key):
    return next(b for b in page.button if b.key == key)


# --- home -----------------------------------------------------------------------------------------------------------


def test_home_says_what_this_is(visit):
    page = visit(home)
    text = words(page)
    assert page.title[0].value == "Learn which delta to train, by training it"
    assert "needs no account" in text
    assert state.device_text() in text


def test_home_leads_to_the_first_lesson_and_back_to_where_one_was(visit, store):
    from app import index

    lesson = index.lessons()[0]
    page = visit(home)
    assert button(page, "continue").label == f"Begin: {lesson.navigation}"
    assert "steps" in words(page)
    store.set_progress("alice", lesson.state_name(next(c.id for c in lesson.cells if c.kind == "quiz")), {"tries": 1})
    assert button(visit(home), "continue").label == f"Continue: {lesson.navigation}"


def test_home_says_what_is_on(visit, store):
    fill(store, "alice", status="running", title="Mine")
    fill(store, "bob", status="running", title="Theirs")
    page = visit(home)
    links = [e.proto.label for e in page.get("page_link")]
    assert any(label.startswith("Now: Mine, step 20 of") for label in links)
    assert not any("Theirs" in label for label in links)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_no_runs_is_an_invitation(visit):
    assert "Nothing here yet" in words(visit(runs_page))


def test_the_list_says_what_each_run_was(visit, store):
    fill(store, "alice", with_settings(RunConfig(), {"rank": 2}), title="The first")
    fill(store, "alice", status="failed", title="Broken")
    fill(store, "alice", status="queued", title="Waiting")
    fill(store, "bob", title="Bob's")
    text = words(visit(runs_page))
    assert "The first" in text
    assert "finished · 0 % → 93 % · rank 2 · 61.4 k parameters trained" in text
    assert "failed" in text
    assert "queued, number 1" in text
    assert "Bob" not in text


def test_a_title_is_text_not_markdown(visit, store):
    run = fill(store, "alice", title="**bold** [x](http://evil) $y$")
    page = visit(runs_page)
    for text in (words(page), button(page, f"open-{run.id}").help):
        assert "[x](http://evil)" not in text
        assert r"\[x\](http\://evil)" in text


def test_open_shows_one_run(visit, store):
    run = fill(store, "alice")
    page = visit(runs_page)
    button(page, f"open-{run.id}").click().run()
    assert page.query_params["run"] in (run.id, [run.id])
    text = words(page)
    assert "**The task.** JSON (structure): 0 % → 93 %" in text
    assert [m.label for m in page.metric] == ["Exact match", "Trained parameters", "Training time", "Peak memory"]
    assert page.metric[0].value == "93 %"


@pytest.mark.parametrize("which", ["foreign", "unknown"])
def test_a_foreign_run_is_an_unknown_run(visit, store, which):
    run = fill(store, "bob", title="Bob's secret")
    page = visit(runs_page, run=run.id if which == "foreign" else "0123456789abcdef")
    assert "There is no run" in page.error[0].value
    assert "secret" not in words(page)


def test_rename_and_delete(visit, store):
    run = fill(store, "alice")
    page = visit(runs_page, run=run.id)
    page.text_input(key=f"name-{run.id}").set_value("My best one")
    button(page, f"rename-{run.id}").click().run()
    assert store.get(run.id, "alice").title == "My best one"
    button(page, f"delete-{run.id}").click().run()
    assert store.runs("alice") == []
    assert "Nothing here yet" in words(page)


def test_compare_puts_runs_side_by_side(visit, store):
    one = fill(store, "alice", title="One")
    two = fill(store, "alice", RunConfig(method="bitfit"), reach=0.3, title="Two")
    theirs = fill(store, "bob", title="Theirs")
    page = visit(runs_page)
    page.multiselect(key="compare").set_value([one.id, two.id]).run()
    linked = visit(runs_page, compare=f"{one.id},{theirs.id},nonsense,{two.id}")
    assert linked.multiselect(key="compare").value == [one.id, two.id]
    assert "Best on the task: 93 %, One" in words(page).replace("\\", "")
    table = page.dataframe[0].value
    assert list(table["Task after"]) == ["93 %", "30 %"]


# --- the run panel --------------------------------------------------------------------------------------------------


def panel(run_id):
    from app import live, state

    live.run_panel(state.store().get(run_id, state.owner()), key="p", expect={"You predicted": 0.5})


def component_data(monkeypatch) -> list[dict]:
    """What the live component is given, while it is drawn as ever."""
    given: list[dict] = []
    real = components.component

    def watched(folder):
        def draw(**kwargs):
            given.append(json.loads(json.dumps(kwargs["data"], allow_nan=False)))
            return real(folder)(**kwargs)

        return draw

    monkeypatch.setattr(components, "component", watched)
    return given


@pytest.mark.parametrize("status", ["finished", "failed", "cancelled", "interrupted", "running", "queued"])
def test_a_run_in_every_state(visit, store, monkeypatch, status):
    given = component_data(monkeypatch)
    run = fill(store, "alice", status=status)
    page = visit(panel, kwargs={"run_id": run.id})
    (data,) = given
    assert data["status"] == status
    text = words(page)
    assert "**Your run**" in text
    if status in live.ACTIVE:
        assert data["api"] == f"/api/runs/{run.id}/events"
        assert "events" not in data
        assert button(page, "p-cancel").label == "Cancel"
        assert "What happened" not in text
    else:
        assert "api" not in data
        assert data["events"][0]["kind"] == "started"
        assert button(page, "p-again").label == "Run again"
        assert "What happened" in text
    if status == "failed":
        assert "The loss stopped being a number" in page.error[0].value
        assert "Lower the learning rate" in page.error[0].value
    if status == "finished":
        assert "You predicted 50 %; this run reached 93 %: 43 points more." in text


def test_a_run_without_held_out_items_says_so_everywhere(visit, store, monkeypatch):
    given = component_data(monkeypatch)
    run = fill(store, "alice", held_out=False)
    page = visit(panel, kwargs={"run_id": run.id})
    assert "Nothing was held out" in words(page)
    assert "0.00" not in words(page)
    assert [m.label for m in page.metric] == ["Trained parameters", "Training time", "Peak memory"]
    assert {e["loss"] for e in given[0]["events"] if e["kind"] == "evaluated"} == {None}
    page.session_state["p-numbers"] = True  # folded until then
    page.run()
    assert page.dataframe[0].value["Held-out loss"].isna().all()
    other = fill(store, "alice", title="Other", held_out=False)
    listed = visit(runs_page, compare=f"{run.id},{other.id}")
    assert "held-out loss" not in words(listed)
    assert "0.00" not in words(listed)
    assert list(listed.dataframe[0].value["Task after"]) == ["not scored", "not scored"]


def test_cancel(visit, store):
    run = fill(store, "alice", status="queued")
    page = visit(panel, kwargs={"run_id": run.id})
    button(page, "p-cancel").click().run()
    assert store.get(run.id, "alice").status == "cancelled"


def test_resume(visit, store):
    run = fill(store, "alice", status="cancelled")
    page = visit(panel, kwargs={"run_id": run.id})
    assert "p-resume" not in [b.key for b in page.button]
    (run.folder / "checkpoint.safetensors").write_bytes(b"\0")
    page = visit(panel, kwargs={"run_id": run.id})
    button(page, "p-resume").click().run()
    assert store.get(run.id, "alice").status == "queued"


def test_run_again_is_the_same_run_anew(visit, store):
    run = fill(store, "alice", with_settings(RunConfig(), {"rank": 3}), cell="x/y")
    page = visit(panel, kwargs={"run_id": run.id})
    button(page, "p-again").click().run()
    newest = store.runs("alice")[0]
    assert newest.id != run.id
    assert (newest.config, newest.cell, newest.status) == (run.config, "x/y", "queued")


def test_a_browser_without_cookies_is_told(visit, store, monkeypatch):
    given = component_data(monkeypatch)
    run = fill(store, "alice", status="running")
    monkeypatch.setattr(state, "kept", lambda: False)
    page = visit(panel, kwargs={"run_id": run.id})
    assert "api" not in given[0]
    assert given[0]["events"]
    assert "keeps no cookie" in words(page)


def test_a_recorded_run_is_never_passed_off_as_live(visit, tmp_path, monkeypatch):
    from core.events import to_dict
    from tests.app.filling import events

    given = component_data(monkeypatch)
    path = tmp_path / "json-lora.jsonl"
    first = {"kind": "provenance", "device": "A CPU", "date": "2026-11-20T10:00:00", "commit": "abcdef0123"}
    config = with_settings(RunConfig(), {"steps": 120})
    lines = [first, *(to_dict(e) for e in events(config))]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    def page_of(path):
        from pathlib import Path

        from app import live

        live.run_panel(live.recorded(Path(path)), key="r")

    page = visit(page_of, kwargs={"path": str(path)})
    text = words(page)
    assert "**Recorded**, not your run · A CPU · 2026-11-20 · commit abcdef0" in text
    assert "Your run" not in text
    assert {b.key for b in page.button} & {"r-cancel", "r-again", "r-resume"} == set()
    assert given[0]["status_line"] == "Finished: 120 steps in 22 s."
    assert live.outcome(live.recorded(path))["after"] == 0.93


@pytest.mark.parametrize("changed", [True, False])
def test_a_recording_from_a_modified_tree_says_so(changed):
    provenance = {"device": "A CPU", "date": "2026-11-20T10:00:00", "commit": "abcdef0123", "changed": changed}
    label = live.Recorded(Path("run.jsonl"), provenance | {"base": "0123456789abcdef"}, ()).label
    assert label == "A CPU · 2026-11-20 · commit abcdef0" + (" · from a modified tree" if changed else "")


def test_a_recording_made_outside_a_repository_names_the_version():
    provenance = {"device": "A CPU", "date": "2026-11-20T10:00:00", "commit": "version 0.1.0", "changed": False}
    assert live.Recorded(Path("run.jsonl"), provenance, ()).label == "A CPU · 2026-11-20 · version 0.1.0"


def test_older_settings_are_marked(visit, store):
    run = fill(store, "alice")

    def page_of(run_id, rank):
        from app import live, state
        from core.config import RunConfig, with_settings

        live.run_panel(
            state.store().get(run_id, state.owner()), key="p", stale=with_settings(RunConfig(), {"rank": rank})
        )

    assert "settings have changed" not in words(visit(page_of, kwargs={"run_id": run.id, "rank": 8}))
    assert "settings have changed" in words(visit(page_of, kwargs={"run_id": run.id, "rank": 4}))


# --- starting -------------------------------------------------------------------------------------------------------


def starter(times=1, rank=8):
    import streamlit as st

    from app import live
    from core.config import RunConfig, with_settings

    if st.button("Go", key="go"):
        for _ in range(times):
            live.start(with_settings(RunConfig(), {"rank": rank}), key="s", cell="c/d")


def test_a_double_click_is_one_run(visit, store):
    page = visit(starter, kwargs={"times": 2})
    button(page, "go").click().run()
    button(page, "go").click().run()
    (run,) = store.runs("alice")
    assert (run.cell, run.title) == ("c/d", "LoRA · JSON (structure)")


def test_a_click_after_the_end_is_a_new_run(visit, store):
    page = visit(starter)
    button(page, "go").click().run()
    store.cancel(store.runs("alice")[0].id, "alice")
    button(page, "go").click().run()
    assert [r.status for r in store.runs("alice")] == ["queued", "cancelled"]


def test_a_refusal_is_said(visit, store):
    for i in range(store.max_active):
        store.create("alice", RunConfig(), key=str(i))
    page = visit(starter)
    button(page, "go").click().run()
    assert "is the limit" in page.error[0].value


# --- playground -----------------------------------------------------------------------------------------------------


def test_the_playground_starts_a_run(visit, store):
    page = visit(playground_page)
    assert len(page.selectbox(key="method").options) == len(METHODS)
    page.selectbox(key="method").set_value("bitfit")
    page.radio(key="task").set_value("persona").run()
    assert store.runs("alice") == []
    button(page, "knob-run").click().run()
    (run,) = store.runs("alice")
    assert (run.config["method"], run.config["task"], run.cell) == ("bitfit", "persona", playground.CELL)
    assert page.query_params["run"] in (run.id, [run.id])
    assert button(page, "knob-run").disabled


def test_a_link_reproduces_the_playground(visit, store):
    config = with_settings(RunConfig(method="qlora", task="facts"), {"rank": 5, "steps": 33})
    page = visit(playground_page, **parameters(config))
    button(page, "knob-run").click().run()
    made: Run = store.runs("alice")[0]
    assert made.config["method"] == "qlora"
    assert made.config["task"] == "facts"
    assert made.config["settings"]["rank"] == 5
    assert made.config["train"]["steps"] == 33


def test_the_newest_run_is_there_after_a_reload(visit, store):
    run = fill(store, "alice", title="Mine")
    assert "Mine" in words(visit(playground_page))
    older = words(visit(playground_page, run=run.id))
    assert "Mine" in older
    assert "secret" not in words(visit(playground_page, run=fill(store, "bob", title="secret").id))


def test_other_settings_than_the_runs_are_marked(visit, store):
    fill(store, "alice", RunConfig())
    page = visit(playground_page)
    assert "made with other settings" not in words(page)
    page.number_input(key="knob-lora-rank").set_value(3).run()
    assert "made with other settings" in words(page)
    assert len(store.runs("alice")) == 1


def test_a_base_that_is_not_there_is_said_and_cannot_be_run(visit):
    page = visit(playground_page, base="folder", folder="/nowhere/at/all")
    assert "/nowhere/at/all" in page.error[0].value
    assert button(page, "knob-run").disabled


def test_an_own_file_is_reported_before_it_is_trained_on(visit, store):
    page = visit(playground_page, task="own")
    assert button(page, "knob-run").disabled
    rows = [{"prompt": f"Say {i}", "completion": f"Done {i}."} for i in range(30)] + [
        {"prompt": "Say 1", "completion": "Done 1."},
        {"prompt": "Empty", "completion": ""},
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    page.file_uploader(key="upload").set_value(("mine.jsonl", content, "application/json")).run()
    text = words(page)
    assert page.metric[0].value == "32"
    assert "repeats" in text
    assert "empty answer" in text
    button(page, "knob-run").click().run()
    (run,) = store.runs("alice")
    assert run.config["task"] is None
    assert (run.folder / run.config["data"]).read_bytes() == content


def test_a_broken_file_is_refused_with_its_line(visit):
    page = visit(playground_page, task="own")
    page.file_uploader(key="upload").set_value(("mine.jsonl", b'{"prompt": "a", "completion": "b"}\n{oops', "x")).run()
    assert "Line 2" in page.error[0].value
    assert button(page, "knob-run").disabled


# --- the shell ------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation(visit):
    def shell():
        import runpy
        from pathlib import Path

        import app

        runpy.run_path(str(Path(app.__file__).parent / "shell.py"))

    from app import index

    page = visit(shell)
    assert {v.url_path for v in VIEWS} | {lesson.url_path for lesson in index.lessons()} == set(
        page.session_state["_pages"]
    )
    assert page.title[0].value == "Learn which delta to train, by training it"
