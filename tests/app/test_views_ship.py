"""The page Ship: verdicts and fixes, measurements and their figures, the card; and what may be taken away by whom."""

import io
import json
import zipfile

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import charts_ship, findings, identity, state
from app.api import ROUTES
from core.base import EMBEDDED_FOLDER
from core.config import RunConfig
from core.runs import prober
from tests.app import ship_results
from tests.app.filling import fill
from tests.app.test_live_api import cookie
from tests.app.test_views import button, words
from tests.core.ship_support import adapter, with_adapter


def ship_page():
    from app.views import ship

    ship.render()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """folders(method, **settings) -> an adapter on the embedded base, made once."""
    made = {}

    def make(method="lora", **settings):
        key = (method, repr(settings))
        if key not in made:
            made[key] = adapter(EMBEDDED_FOLDER, tmp_path_factory.mktemp("adapters") / "adapter", method, **settings)
        return made[key]

    return make


@pytest.fixture
def finished(store, folders):
    """finished(owner, method, **settings) -> a run whose adapter is a real one."""

    def make(owner="alice", method="lora", title="Mine", seed=7, **settings):
        run = fill(store, owner, RunConfig(), title=title, key=title)
        return with_adapter(store, run, folders(method, seed=seed, **settings), method, settings)

    return make


def kept(run, name, settings, result):
    """Put a result where a measurement would have left it."""
    _, folder = prober.asked(state.store(), name, [run.id], settings, run.owner)
    folder.mkdir(parents=True)
    prober.keep(folder, result, 1.0)


def test_without_a_run_it_leads_to_one(visit):
    page = visit(ship_page)
    assert "no finished run yet" in words(page)


def test_verdicts_name_the_rule_its_source_and_the_fix(visit, finished):
    run = finished(method="dora", rank=4)
    page = visit(ship_page, run=run.id)
    text = words(page)
    assert "**PEFT** loads, with care" in text
    assert "**vLLM** does not load as it is" in text
    assert "DoRA's lengths (use\\_dora) are not computed" in text
    assert "[Source](https://docs.vllm.ai/" in text
    button(page, f"load-{run.id}-vLLM-convert").click().run()
    assert page.query_params["do"] in ("convert", ["convert"])
    assert "singular values" in words(page)


def test_an_adapter_from_elsewhere_is_held_against_the_base_that_is_named(visit, folders, tmp_path):
    """Without its base half of the rules can say nothing; and what mends it is told as a command."""
    folder = folders(method="dora", rank=4)
    said = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/no/longer here"}
    page = visit(ship_page)
    page.file_uploader(key="ship-files").set_value(
        [
            ("adapter_config.json", json.dumps(said).encode(), "application/json"),
            ("adapter_model.safetensors", (folder / "adapter_model.safetensors").read_bytes(), "x"),
        ]
    ).run()
    assert not page.exception, page.exception
    text = words(page)
    assert "The base is not known here." in text
    assert "which is not to be had here" in text
    assert "deltalab convert FOLDER --out NEW" in text, text
    page.text_input(key="ship-base").set_value("embedded").run()
    text = words(page)
    assert "The base is not known here." not in text
    assert "LlamaForCausalLM is a base whose adapters it serves." in text
    assert "deltalab convert FOLDER --base embedded --out NEW" in text
    page.text_input(key="ship-base").set_value(str(tmp_path / "nothing")).run()
    assert "nothing" in page.error[0].value


def test_a_damaged_adapter_is_said(visit, store):
    run = fill(store, "alice")
    page = visit(ship_page, run=run.id)
    assert "damaged or incomplete" in page.error[0].value


def test_a_foreign_run_is_an_unknown_one(visit, store, finished):
    theirs = finished(owner="bob", title="Bob's secret")
    finished(title="Mine")
    page = visit(ship_page, run=theirs.id)
    assert "no finished run of that id" in page.error[0].value
    assert "secret" not in words(page)


@pytest.mark.parametrize("method", ["adapters", "prompt_tuning"])
def test_what_cannot_be_merged_says_why(visit, finished, method):
    run = finished(method=method)
    for do in ("merge", "convert"):
        page = visit(ship_page, run=run.id, do=do)
        assert "cannot become part of the weights" in words(page)
        assert not [b for b in page.button if b.key and b.key.endswith("-start")]


def test_bitfit_is_led_from_converting_to_merging(visit, finished):
    page = visit(ship_page, run=finished(method="bitfit").id, do="convert")
    assert "changed no matrix" in words(page)
    button(page, "convert-merge").click().run()
    assert "Folded into the weights" in words(page)


def test_how_many_texts_went_in_at_once_is_not_made_up(monkeypatch):
    monkeypatch.setattr(findings, "shown", lambda *drawn: None)
    result = ship_results.latency(labels=True)
    del result["batch"]
    with pytest.raises(KeyError, match="batch"):
        findings.show_latency(result, "x")


def test_results_are_drawn_with_their_numbers(visit, finished):
    run = finished(rank=4)
    kept(run, "merge", {"items": 100, "keep": "none"}, ship_results.merge())
    kept(run, "convert", {"most": 64, "rank": 0}, ship_results.convert())
    kept(run, "latency", {"new_tokens": 24, "batch": 1}, ship_results.latency())
    text = words(visit(ship_page, run=run.id, do="merge"))
    assert "Stored in NF4 after merging it loses 10 points of the task" in text
    assert "**1.5 times** as much" in text
    page = visit(ship_page, run=run.id, do="convert")
    text = words(page)
    assert "At rank 4 nothing of the matrices is lost. Above 2 the narrower matrices" in text
    assert "`model.norm.weight`" in text
    assert list(page.dataframe[0].value["Right, %"]) == [20, 85, 90]
    text = words(visit(ship_page, run=run.id, do="latency")).replace("\\", "")
    assert "Slowest per token: LoRA, unmerged, 1.40 × the base" in text
    assert "the base takes 3.0 ms for a further token" in text
    other = finished(title="Other", rank=4)
    kept(other, "latency", {"new_tokens": 24, "batch": 1}, ship_results.latency(labels=True))
    text = words(visit(ship_page, run=other.id, do="latency")).replace("\\", "")
    assert "Slowest to a label: LoRA, unmerged, 1.40 × the base" in text
    assert "the base takes 6.0 ms for a pass that gives labels; texts at once: 1" in text
    assert "token" not in text[text.index("Slowest to a label") :].casefold()
    page = visit(ship_page, run=run.id, do="merge")
    page.selectbox(key="merge-keep").set_value("nf4").run()
    assert "Merge and measure" in words(page), "other settings are another question"


def test_hot_swap_is_measured_and_shown(visit, finished, monkeypatch):
    """The button, a real measurement, the result on the page. (In a process of its own: test_views_inside.py, and
    tests/browser/test_ship.py.)"""

    def here(self, *asked):
        request, folder = prober.asked(self.store, *asked)
        prober.prepare(folder, request)
        prober.keep(folder, prober.measure(request, folder, lambda share, text: None), 1.0)
        return prober.kept(folder)

    monkeypatch.setattr(prober.Prober, "start", here)
    one, two = finished(title="One", rank=4, seed=1), finished(title="Two", rank=4, seed=2)
    page = visit(ship_page, run=two.id, do="swap")
    assert "Choose at least one more run" in words(page)
    page.multiselect(key=f"swap-others-{two.id}").set_value([one.id]).run()
    button(page, f"ship-{two.id}-swap-start").click().run()
    found = state.prober().look("swap", [two.id, one.id], {}, "alice")
    assert found.status == "finished", (found.sentence, found.folder)
    page.run()
    text = words(page)
    assert [m.value for m in page.metric][1] == "100 %"
    assert "the logits are the same to the bit" in text
    assert "times less than 2 models apart" in text


def test_only_runs_that_can_share_a_base_are_offered_for_switching(visit, finished):
    plain, four = finished(title="Plain"), finished(method="qlora", title="Four")
    finished(method="vera", title="VeRA")
    page = visit(ship_page, run=plain.id, do="swap")
    assert [o.partition(" ")[0] for o in page.multiselect(key=f"swap-others-{plain.id}").options] == ["VeRA"]
    assert len(visit(ship_page, run=plain.id, do="latency").multiselect[0].options) == 2
    page = visit(ship_page, run=four.id, do="swap")
    assert not page.multiselect
    assert "Choose at least one more run" in words(page)


def test_the_card_is_shown_and_downloads(visit, finished):
    run = finished(title="My *card*")
    page = visit(ship_page, run=run.id, do="card")
    text = words(page)
    assert r"### My \*card\*" in text
    assert "#### How to load it" in text
    assert "license: unknown" in text


def test_what_was_made_is_its_owner_s_alone(store, finished):
    client = TestClient(identity.Guard(Starlette(routes=ROUTES)), base_url="http://localhost")
    run = finished()
    where = f"merge-{'a' * 16}"
    made = run.folder / "probes" / where / "merged"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    address = f"/api/runs/{run.id}/made/{where}/merged.zip"
    answer = client.get(address, headers=cookie("alice"))
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["merged/README.md", "merged/config.json"]
        assert archive.read("merged/README.md").startswith(b"---\nlibrary_name: transformers\n")
    assert client.get(address, headers=cookie("bob")).status_code == 404
    assert client.get(address).status_code == 404
    for odd in (f"{where}/other", "..%2f..%2fadapter/x", f"{where}/..", "merge-zz/merged"):
        assert client.get(f"/api/runs/{run.id}/made/{odd}.zip", headers=cookie("alice")).status_code == 404


def test_the_figures_say_their_finding():
    lossless = charts_ship.merging(ship_results.merge(nf4=0.9))
    assert lossless is not None
    assert lossless.title.startswith("Merging costs nothing")
    assert "merged, in bfloat16: 89 %." in lossless.alt
    rank = charts_ship.conversion(ship_results.convert())
    assert rank.title == "Rank 4 answers as well as what was trained (90 %), within two points"
    assert list(rank.table["left_out_percent"]) == [70, 40, 0]
    swap = charts_ship.memory(ship_results.swap())
    assert swap.title == "2 runs on one base hold 1.8 times less than 2 models apart"
    nothing = ship_results.merge()
    for row in nothing["rows"]:
        row["exact_match"] = None
    assert charts_ship.merging(nothing) is None
