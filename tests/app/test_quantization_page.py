"""The quantization page: what it shows at once, what a link brings back, whose runs it compares, and its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import charts_quantization as figures
from app import state
from core.base import describe_base
from core.config import RunConfig, resolved
from core.quantization import matrices, pairs, summaries
from core.quantization.formats import FORMATS, SHOWN, normal_float
from core.runs import prober
from core.world import TASKS
from tests.app.filling import fill
from tests.app.test_views import button
from tests.app.test_views import words as escaped

LAYERS = {
    "base": "embedded", "format": "nf2", "block_size": 64, "tokens": 3604, "loss": 1.22, "skills": {"addition": 1.0},
    "matrices": True,
    "parts": [
        {"group": "matrix", "name": "layer 5 down_proj", "weights": 131072, "added": 0.04, "error": 0.005},
        {"group": "matrix", "name": "layer 0 q_proj", "weights": 65536, "added": -0.0001, "error": 0.0004},
        {"group": "kind", "name": "v_proj", "weights": 196608, "added": 0.03, "error": 0.004},
        {"group": "layer", "name": "layer 3", "weights": 589824, "added": 0.0001, "error": 0.004},
    ],
    "formats": [
        {"format": f, "double": d, "bits": b, "stored_bytes": 2e6, "loss": 1.22 + a, "skills": {"addition": 1.0},
         "added": a, "error": 0.001}
        for f, d, b, a in (("nf4", False, 4.5, 0.0037), ("nf4", True, 4.127, 0.0038), ("int8", False, 8.5, -0.0001),
                           ("nf2", False, 2.5, 1.6))
    ],
}  # fmt: skip


def words(page: Any) -> str:
    """What the page says, without the escapes of Markdown."""
    return escaped(page).replace("\\", "")


def page() -> None:
    from app.views import quantization

    quantization.render()


def percent(text: str) -> float:
    return float(text.removesuffix("\u00a0%"))


@pytest.fixture
def weight() -> np.ndarray:
    return matrices.read(matrices.of_base("embedded")[0], 2**14)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_it_is_there_at_once_and_without_torch(visit: Any) -> None:
    before = "torch" in sys.modules
    seen = visit(page)
    text = words(seen)
    for header in ("One block, one scale", "A matrix of your choice", "Smaller blocks", "Which layers suffer"):
        assert header in text
    assert "NF4: 16 levels, 0.08 apart where weights are dense, 0.30 at the ends" in text
    assert "published NF4 values (QLoRA, appendix E) to within 0.0000002" in text
    assert seen.selectbox(key="matrix").value == "model.layers.0.self_attn.q_proj.weight"
    assert [m.value for m in seen.metric][:1] == ["4.5"]
    assert "Recorded" in text
    assert {"all-quantization-start", "layers-quantized_layers-start", "train-both"} <= {b.key for b in seen.button}
    assert ("torch" in sys.modules) == before


def test_a_slider_answers_at_once_and_stands_in_the_link(visit: Any) -> None:
    seen = visit(page)
    before = percent(seen.metric[1].value)
    seen.select_slider(key="block").set_value("1024").run()
    assert not seen.exception
    assert seen.metric[0].value == "4.031"
    assert percent(seen.metric[1].value) > before
    seen.selectbox(key="format").set_value("int8").run()
    assert seen.metric[0].value == "8.031"
    assert {n: seen.query_params[n] for n in seen.query_params} in (
        {"block": "1024", "format": "int8"},
        {"block": ["1024"], "format": ["int8"]},
    )
    again = visit(page, block="1024", format="int8", matrix="model.layers.3.mlp.down_proj.weight", bits="3")
    assert again.metric[0].value == "8.031"
    assert again.selectbox(key="matrix").value == "model.layers.3.mlp.down_proj.weight"
    assert "NF3: 8 levels" in words(again)


def test_nonsense_in_a_link_is_ignored(visit: Any) -> None:
    seen = visit(page, block="77", format="nf9", matrix="nothing", bits="9", source="moon", part="x", duel="y")
    assert seen.metric[0].value == "4.5"


@pytest.mark.parametrize("name", SHOWN)
def test_every_format_can_be_looked_at(visit: Any, name: str) -> None:
    seen = visit(page, format=name)
    assert FORMATS[name].title in words(seen)
    assert ("One scale for each row" in words(seen)) == (name == "int8_row")


def test_a_folder_that_is_none_is_said_so(visit: Any, tmp_path: Path) -> None:
    seen = visit(page, source="folder", folder=str(tmp_path))
    assert "has no config.json" in seen.error[0].value
    assert "This needs a whole base" not in words(seen)


def test_a_file_of_ones_own(visit: Any, tmp_path: Path) -> None:
    from io import BytesIO

    seen = visit(page, source="file")
    assert "a CSV has a row" in words(seen)
    assert "This needs a whole base, not a matrix" in words(seen)
    content = BytesIO()
    np.save(content, np.random.default_rng(0).standard_normal((40, 64)))
    seen.file_uploader(key="matrix-file").set_value(("mine.npy", content.getvalue(), "application/octet-stream")).run()
    assert not seen.exception
    assert seen.selectbox(key="matrix").options == ["mine, 40 × 64"]
    assert seen.metric[0].value == "4.5"
    seen.file_uploader(key="matrix-file").set_value(
        ("mine.npy", b"\x80\x04 a pickle", "application/octet-stream")
    ).run()
    assert "is not a .npy file" in seen.error[0].value


def kept(probe: str, settings: dict[str, Any], result: dict[str, Any]) -> None:
    """A result where the measurement would leave it."""
    request, folder = prober.asked(state.store(), probe, [], settings, "alice")
    prober.prepare(folder, request)
    prober.keep(folder, result, 3.0)


def test_what_was_measured_is_shown(visit: Any, store: Any, tmp_path: Path) -> None:
    from core.probes import Subject, quantization

    known = {"base": "embedded", "weights": describe_base("embedded")["fingerprint"], "block_size": 64}
    kept("quantized_layers", {**known, "format": "nf2", "items": 40}, LAYERS)
    np.save(tmp_path / "m.npy", np.random.default_rng(0).standard_normal((64, 64)))
    config = quantization.Config(file=str(tmp_path / "m.npy"))
    result = quantization.measure(Subject((), tmp_path), config, lambda share, text: None)
    kept("quantization", known, result)
    text = words(visit(page))
    assert "Layer 5 down_proj suffers most: +0.040 nats a token; 1 of 2 not measurably" in text
    assert "Four bits (NF4) add 0.0037 nats a token; two bits add 1.60" in text
    assert "M errs most" in text
    assert "suffers most" not in words(visit(page, owner="bob")), "what one has measured is one's own"
    by_layer = words(visit(page, group="layer"))
    assert "In NF2, no part alone adds more to the loss than chance would" in by_layer


def test_own_runs_are_compared_where_they_differ_in_the_base_alone(visit: Any, store: Any) -> None:
    for method, reach in (("lora", 0.93), ("qlora", 0.83)):
        fill(store, "alice", resolved(pairs.config("json", "float32" if method == "lora" else "nf4", 0)), reach=reach)
    fill(store, "alice", RunConfig(method="qlora", seed=5), reach=0.5)
    fill(store, "bob", resolved(pairs.config("json", "nf4", 1)), reach=0.1)
    text = words(visit(page))
    assert "Your runs" in text
    assert "At equal steps, against LoRA: QLoRA, NF4 −10.0 points (1 pair)" in text
    assert "**Your runs** that differ" not in words(visit(page, owner="bob"))


def test_both_are_started_with_one_seed(visit: Any, store: Any) -> None:
    seen = visit(page, duel="facts", seed="7")
    button(seen, "train-both").click().run()
    assert not seen.exception
    runs = store.runs("alice")
    assert {r.config["method"] for r in runs} == {"lora", "qlora"}
    assert {(r.config["task"], r.config["seed"]) for r in runs} == {("facts", 7)}
    assert len({json.dumps(r.config["train"]) for r in runs}) == 1
    assert button(seen, "train-both").disabled
    assert len(store.runs("alice", cell="quantization")) == 2


# --- the figures ------------------------------------------------------------------------------------------------------


def test_every_figure_has_what_it_must(weight: np.ndarray) -> None:
    nf4 = FORMATS["nf4"]
    costs = summaries.costs(weight)
    found = [
        figures.levels(normal_float(3)),
        *(figures.spread(summaries.spread(weight, FORMATS[n], 64), FORMATS[n], 64) for n in SHOWN),
        *(figures.use(summaries.spread(weight, FORMATS[n], 64), FORMATS[n]) for n in SHOWN),
        figures.one_block(summaries.block(weight, nf4, 64), nf4),
        figures.curve(figures.cost_rows(costs), what="of a matrix"),
        figures.savings(summaries.savings(costs), "nf4"),
        *(figures.parts(LAYERS, group) for group in ("matrix", "kind", "layer")),
        figures.whole(LAYERS),
        figures.duel(pairs.means(pairs.pairs(pairs.recorded())), {n: t.title for n, t in TASKS.items()}),
    ]
    for chart in found:
        assert chart.title
        assert not chart.title.endswith(".")
        assert len(chart.alt) > 30
        assert not chart.table.empty
        layout = chart.figure.layout
        assert layout.xaxis.title.text
    assert "errs least" in found[14].title


def test_nothing_to_compare_is_said() -> None:
    empty = {"matrices": [], "curve": []}
    assert figures.matrices(empty, "nf4").title == "Nothing could be compared"
    assert "No format" in figures.curve([], what="of nothing").title


def test_the_derivation_s_table_can_be_followed() -> None:
    table = figures.derivation(normal_float(4))
    assert len(table) == 16
    assert list(table["side"]) == ["negative"] * 7 + ["zero"] + ["positive"] * 8
    assert table["difference"].abs().max() < 2.5e-7
    assert (table["level"] * table["quantile"].iloc[-1]).round(9).tolist() == table["quantile"].round(9).tolist()
