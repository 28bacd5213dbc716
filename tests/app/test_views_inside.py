"""The page Inside, with real runs of a tiny base that were really measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import charts_inside, state
from core.probes.example import recorded
from core.probes.overlap import chance
from core.runs import prober
from core.runs.store import Run
from tests import checkpoints
from tests.app.test_charts import contrast
from tests.app.test_views import button, words
from tests.core import test_probes_runs
from tests.core.runs_support import wait_for
from tests.core.test_probes_runs import OWNER, Made

RUNS = {"lora": {"rank": 4}, "full": {}, "bitfit": {}, "prompt_tuning": {"tokens": 4}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_probes_runs, "RUNS", RUNS)
        patch.setattr("core.hardware.best_threads", lambda: 1)
        made = Made(tmp_path_factory.mktemp("inside"))
    yield made
    made.store.close()


@pytest.fixture
def draw(made: Made, monkeypatch: pytest.MonkeyPatch):
    """draw(**query) -> the page, drawn for the owner of the runs (or somebody else)."""
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("DELTALAB_HOME", str(made.store.home))
    monkeypatch.delenv("DELTALAB_STORE", raising=False)
    monkeypatch.setattr("core.hardware.best_threads", lambda: 1)

    def inside():
        from app.views import inside

        inside.render()

    def page(owner: str = OWNER, **query: str):
        page = AppTest.from_function(inside, default_timeout=60)
        page.session_state[state._OWNER] = owner
        for name, value in query.items():
            page.query_params[name] = value
        page.run()
        assert not page.exception, page.exception
        return page

    yield page
    state.close()


def measured(made: Made, name: str, *runs: Run, **settings: Any) -> dict[str, Any]:
    """Measured here, and kept where the page looks for it."""
    request, folder = prober.asked(made.store, name, [r.id for r in runs], settings, OWNER)
    found = prober.kept(folder)
    if found is None:
        prober.prepare(folder, request)
        prober.keep(folder, prober.measure(request, folder, lambda share, text: None), 1.0)
        found = prober.kept(folder)
    assert found is not None
    assert found.result is not None
    return found.result


def test_without_a_run_it_says_how_to_get_one(draw) -> None:
    page = draw(owner="newcomer")
    assert "There is no finished run" in page.info[0].value
    assert {link.proto.label for link in page.get("page_link")} == {"Start here", "Playground"}
    text = words(page)
    assert "**Recorded**, not your run · LoRA on JSON" in text
    results = recorded()["results"]
    for chart in (charts_inside.norms(results["spectrum"]), charts_inside.truncation(results["truncation"], "lora"),
                  charts_inside.overlaps(results["output"])):  # fmt: skip
        assert chart.title.replace("\u00a0", " ") in text.replace("\\", "")


def test_the_recorded_example_is_what_the_probes_return_now(made: Made) -> None:
    """Whoever changes what a probe returns records the example anew."""
    results = recorded()["results"]
    now = {
        "spectrum": measured(made, "spectrum", made.run["lora"]),
        "truncation": measured(made, "truncation", made.run["lora"]),
        "tokens": measured(made, "tokens", made.run["lora"], prompt=""),
        "output": measured(made, "overlap", made.run["lora"], made.run["full"], side="output"),
    }
    for name, found in now.items():
        assert set(found) == set(results[name]), name
        for part in ("modules", "layers", "rows", "items"):
            if isinstance(found.get(part), list):
                assert set(found[part][0]) == set(results[name][part][0]), (name, part)


def test_a_foreign_run_is_not_shown(made: Made, draw) -> None:
    page = draw(run="0123456789abcdef")
    assert "not among your finished ones" in page.warning[0].value
    assert page.selectbox(key="run").value in {r.id for r in made.run.values()}


def test_the_button_measures_and_the_page_shows_it(made: Made, draw) -> None:
    run = made.train("lora", {"rank": 2})
    page = draw(run=run.id)
    assert "Frobenius" not in words(page), "nothing is shown before it was measured"
    button(page, f"inside-{run.id}-spectrum-start").click().run()
    asked = ("spectrum", [run.id], {}, OWNER)
    wait_for(lambda: not state.prober().look(*asked).active, 120)  # type: ignore[union-attr]
    page.run()
    found = state.prober().look(*asked)
    assert found is not None
    assert found.result is not None, found
    text = words(page).replace("\\", "")
    assert charts_inside.norms(found.result).title.replace("\u00a0", " ") in text
    assert "Measured in" in text


def test_everything_about_a_lora_run(made: Made, draw) -> None:
    run, other = made.run["lora"], made.run["full"]
    spectrum = measured(made, "spectrum", run)
    truncation = measured(made, "truncation", run)
    tokens = measured(made, "tokens", run, prompt="")
    overlap = measured(made, "overlap", run, other, side="input")
    page = draw(run=run.id, other=other.id)
    assert page.selectbox(key="other").value == other.id
    text = words(page).replace("\\", "")
    for chart in (
        charts_inside.norms(spectrum),
        charts_inside.spectra(spectrum, 0),
        charts_inside.truncation(truncation, "lora"),
        charts_inside.truncation_loss(truncation, "lora"),
        charts_inside.tokens(tokens["items"][0], "lora"),
        charts_inside.divergences(tokens["items"][0], "lora"),
        charts_inside.overlaps(overlap),
        charts_inside.overlap_map(overlap, overlap["modules"][0]["name"]),
    ):
        assert chart.title.replace("\u00a0", " ") in text
        assert len(chart.alt) > 40
        assert not chart.table.empty
    assert tokens["items"][0]["prompt"] in text
    changed = draw(run=run.id, prompt="Say 99")
    assert "What follows was measured with other settings" not in words(changed), "a new visit has no last result"
    page.text_input(key="prompt").set_value("Say 99").run()
    assert "What follows was measured with other settings" in words(page)


def test_a_method_without_delta_says_so_and_shows_its_tensors_and_tokens(made: Made, draw) -> None:
    run = made.run["prompt_tuning"]
    measured(made, "spectrum", run)
    page = draw(run=run.id)
    text = words(page)
    assert "changes no weight of the base, so there is no ΔW" in text
    assert "How much of it the task needs" not in text
    assert "What became of each token" in text


def test_of_an_encoder_it_shows_what_became_of_each_label(made: Made, draw, tmp_path: Path) -> None:
    base = str(checkpoints.write_encoder("bert", tmp_path / "encoder"))
    data = tmp_path / "reviews.csv"
    kinds = ("dull", "fair", "great")
    data.write_text("text,label\n" + "".join(f"It was {kinds[n % 3]} {n}.,{kinds[n % 3]}\n" for n in range(42)))
    run = made.train("lora", {"rank": 2}, base=base, data=str(data))
    found = measured(made, "tokens", run, prompt="")
    text = words(draw(run=run.id)).replace("\\", "")
    assert "What became of each label" in text
    assert "What became of each token" not in text
    item = found["items"][0]
    chart = charts_inside.labels(item, "lora")
    assert chart.title.startswith(f"{item['answer']}: ")
    assert chart.title.replace("\u00a0", " ") in text
    assert list(chart.table["label"]) == list(kinds)
    assert chart.table["after_percent"].sum() == pytest.approx(100)
    assert all(kind in chart.alt for kind in kinds)
    assert "with its head as it began" in text


def test_vectors_alone_have_no_spectrum(made: Made, draw) -> None:
    run = made.run["bitfit"]
    found = measured(made, "spectrum", run)
    assert charts_inside.layers_with_matrices(found) == []
    assert "a vector has one direction" in words(draw(run=run.id))


# --- figures ----------------------------------------------------------------------------------------------------------


def test_parts_are_named_as_shortly_as_they_can_be_told_apart() -> None:
    assert charts_inside.short(["self_attn.q_proj", "mlp.up_proj"]) == {
        "self_attn.q_proj": "q_proj", "mlp.up_proj": "up_proj",
    }  # fmt: skip
    assert charts_inside.short(["attn.c_proj", "mlp.c_proj", "mlp.c_fc"]) == {
        "attn.c_proj": "attn.c_proj", "mlp.c_proj": "mlp.c_proj", "mlp.c_fc": "c_fc",
    }  # fmt: skip
    assert charts_inside.short(["self_attn.q_proj.bias"]) == {"self_attn.q_proj.bias": "q_proj.bias"}


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100 %"), (0.1234, "12 %"), (0.01234, "1.2 %"), (0.00012, "0.012 %"), (0, "0 %"),
                        (1e-9, "under 0.001 %")],
)  # fmt: skip
def test_percent(share: float, text: str) -> None:
    assert charts_inside.percent_text(share).replace("\u00a0", " ") == text


@pytest.mark.parametrize("share", [n / 20 for n in range(21)])
def test_numbers_in_a_heat_map_can_be_read(share: float) -> None:
    from plotly.colors import sample_colorscale, unlabel_rgb

    (colour,) = sample_colorscale(charts_inside.SCALE, [share])
    cell = "#" + "".join(f"{round(c):02x}" for c in unlabel_rgb(colour))
    assert contrast(charts_inside.readable_on(share), cell) >= 4.5


def scores(match: float) -> dict[str, Any]:
    return {"exact_match": match, "loss": 1 - match, "skills": {}}


def cut(*matches: float) -> dict[str, Any]:
    ranks = [*(0, 1, 2, 4)[: len(matches) - 1], 8]
    rows = [{"rank": k, "whole": k == 8, "kept": k / 8, **scores(m)} for k, m in zip(ranks, matches, strict=True)]
    enough = next(r["rank"] for r in rows if r["exact_match"] >= 0.99 * matches[-1])
    return {"base": scores(0.0), "rows": rows, "largest": 8, "enough": enough, "items": 4}


def test_titles_say_what_was_found() -> None:
    def title(*matches: float) -> str:
        return charts_inside.truncation(cut(*matches), "lora").title.replace("\u00a0", " ")

    assert title(0, 0.2, 1, 1, 1) == "Rank 2 of 8 is enough for the task, which the whole change gets 100 % right"
    assert title(0, 0.2, 0.3, 0.5, 0.9) == "The task needs the whole of it: 90 % right, but 50 % at rank 4"
    assert title(0, 0, 0) == "The run gets nothing right, cut or whole"


def test_the_alternative_that_lost_is_the_likeliest_other_token_before() -> None:
    row = {"text": "{", "before": {"p": 0.1, "rank": 2}, "after": {"p": 0.9, "rank": 1}, "kl": 1.5,
           "likeliest_before": [["{", 0.1, 0.9], [" Le", 0.6, 0.05]], "likeliest_after": [["{", 0.1, 0.9]]}  # fmt: skip
    item = {"tokens": [row], "first_before": 0, "first_after": 1, "kl": 1.5}
    told = charts_inside.tokens_table(item).iloc[0]
    assert (told["alternative"], told["alternative_before_percent"], told["alternative_after_percent"]) == (
        "␣Le",
        60,
        5,
    )
    assert charts_inside.tokens(item, "lora").title == "The likeliest choice at 0 of 1 tokens before, at all 1 after"
    assert list(charts_inside.alternatives_table(item, 1)["Token"]) == ["{", "␣Le"]


def test_an_overlap_map_stands_beside_chance() -> None:
    module = {"name": "a", "layer": 0, "part": "a", "dimensions": 20, "phi": [[0.5, 0.75], [0.6, 0.8]], "top": 0.8,
              "chance": chance(2, 2, 20)}  # fmt: skip
    chart = charts_inside.overlap_map({"modules": [module]}, "a")
    assert "75\u00a0%" in chart.title
    assert "10\u00a0%" in chart.title
    assert list(chart.table["chance"]) == [0.05, 0.1, 0.1, 0.1]
