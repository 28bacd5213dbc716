"""The VRAM calculator's page: the answer at once, every choice in the link, advice that can be used, and bad input."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from app import charts_memory, model_choice, state
from app.calculator_panels import PANELS
from app.model_choice import pack
from core.catalog import architecture_of, gpu
from core.counting import experts_note
from core.memory import compare, fitter, rules, validation
from core.memory.card import other_kernels
from core.memory.compare import on
from core.memory.estimate import Sizes, find
from core.memory.setup import Setup
from core.memory.several import several
from core.memory.storage import storage
from core.methods import METHODS
from core.units import GIB
from tests.app.test_views import button
from tests.app.test_views import words as escaped
from tests.core import memory_support

MODEL, CARD = "Llama-3.1-8B", gpu("RTX 4090")


def words(page: Any) -> str:
    """What the page says, without the escapes of Markdown."""
    return escaped(page).replace("\\", "")


def page() -> None:
    from app.views import vram

    vram.render()


def setup_of(method: str = "qlora", **changes: Any) -> Setup:
    return on(Setup(method, METHODS[method].Config(), **{"batch": 1, "length": 1024, **changes}), CARD)


def metrics(seen: Any) -> dict[str, str]:
    return {m.label: m.value for m in seen.metric}


def now(seen: Any, kind: str, key: str) -> Any:
    """The widget of a choice: its key has a number behind it once a button has changed it."""
    return next(w for w in getattr(seen, kind) if w.key == key or str(w.key).rpartition(".")[0] == key)


# --- the answer -------------------------------------------------------------------------------------------------------


def test_the_answer_is_there_at_once_and_without_torch(visit: Any) -> None:
    before = "torch" in sys.modules
    seen = visit(page)
    text = words(seen)
    setup = setup_of()
    found = compare.answer(lambda asked: find(MODEL, asked), setup, CARD)
    assert found is not None
    assert "This step fits on RTX 4090" in text
    assert charts_memory.band(found.found).replace("\u00a0", " ") in text
    assert f"The peak is at **{found.ledger.peak_at}**" in text
    for label, fits, tight in (
        ("Largest batch that fits", found.batch, found.tight[0]),
        ("Longest rows that fit", found.length, found.tight[1]),
    ):
        assert fits is not None
        assert tight is not None
        told = metrics(seen)[label]
        assert told == (f"{fits:,}, tight up to {tight:,}" if tight > fits else f"{fits:,}")
    assert metrics(seen)["Trains"] == "21 M"
    terms = next(d.value for d in seen.dataframe if "Term" in d.value)
    assert list(terms["Term"]) == [t.name for t in found.ledger.terms]
    assert ("torch" in sys.modules) == before


def test_a_slider_answers_and_stands_in_the_link(visit: Any) -> None:
    seen = visit(page)
    seen.select_slider(key="vram-batch").set_value(4).run()
    assert not seen.exception
    assert "does not fit" in words(seen)
    assert "What to change" in words(seen)
    seen.selectbox(key="vram-card").set_value("A100 80 GB SXM").run()
    assert "This step fits on A100 80 GB SXM" in words(seen)
    found = {n: seen.query_params[n] for n in seen.query_params}
    assert {k: v[0] if isinstance(v, list) else v for k, v in found.items()} == {"batch": "4", "card": "A100 80 GB SXM"}


def test_a_link_restores_everything(visit: Any) -> None:
    link = {
        "model": "Qwen2.5-7B", "method": "lora", "card": "A100 80 GB SXM", "batch": "5", "length": "1500",
        "checkpointing": "on", "answers": "50", "lora.rank": "24", "show": "disk", "tasks": "7",
    }  # fmt: skip
    seen = visit(page, **link)
    assert seen.selectbox(key="vram-model").value == "Qwen2.5-7B"
    assert (seen.select_slider(key="vram-batch").value, seen.select_slider(key="vram-length").value) == (5, 1500)
    assert seen.number_input(key="vram-lora.rank").value == 24
    settings = METHODS["lora"].Config(rank=24)
    setup = on(
        Setup("lora", settings, 5, 1500, round(0.5 * 5 * 1499), checkpointing=True), gpu("A100 80 GB SXM")
    )  # fmt: skip
    made = find("Qwen2.5-7B", setup)
    assert made is not None
    assert charts_memory.size(made.peak_bytes(Sizes.of(setup))).replace("\u00a0", " ") in words(seen)
    kept = storage(architecture_of("Qwen2.5-7B"), "lora", settings, 7)
    assert metrics(seen)["All tasks"] == charts_memory.size(kept.total)


def test_nonsense_in_a_link_is_said_and_not_taken(visit: Any) -> None:
    seen = visit(page, model="GPT-9", method="galore", card="Voodoo 2", batch="-3", length="many", show="x", zero="9",
                 config="%%%", **{"qlora.rank": "0"})  # fmt: skip
    assert seen.selectbox(key="vram-model").value == MODEL
    assert "This step fits on RTX 4090" in words(seen)
    said = seen.warning[0].value.replace("\\", "")
    assert "card = Voodoo 2" in said
    assert "model = GPT-9" in said
    assert "qlora.rank = 0" in said
    seen.selectbox(key="vram-card").set_value("L4").run()
    assert "Voodoo" not in seen.warning[0].value, "a choice that is made is no longer the link's"
    assert not visit(page, card="L4").warning


def test_advice_can_be_used(visit: Any) -> None:
    seen = visit(page, batch="2")
    assert "Recompute activations" in words(seen)
    button(seen, "vram-use-0").click().run()
    assert not seen.exception
    assert now(seen, "toggle", "vram-checkpointing").value is True
    assert "This step fits on RTX 4090" in words(seen)
    assert seen.query_params["checkpointing"] in ("on", ["on"])
    assert "What would make it smaller" in str([e.label for e in seen.expander])


def test_exact_sizes_move_the_sliders(visit: Any) -> None:
    seen = visit(page)
    seen.number_input(key="vram-length-exactly").set_value(1501).run()
    assert now(seen, "select_slider", "vram-length").value == 1501
    assert seen.query_params["length"] in ("1501", ["1501"])


@pytest.mark.parametrize("panel", list(PANELS))
def test_every_panel_can_be_opened(visit: Any, panel: str) -> None:
    seen = visit(page, show=panel)
    assert not seen.error
    text = words(seen)
    expected = {
        "methods": "BitFit: Llama-3.1-8B has no bias vectors", "cards": "It surely fits from",
        "gpus": "One GPU is enough", "models": "On 24 GB:", "disk": "as whole models",
        "cost": "a model, not a measurement",
        "step": "Trace this step", "take": "load_in_4bit=True",
    }  # fmt: skip
    assert expected[panel] in text


def test_time_and_money_follow_what_is_typed(visit: Any) -> None:
    seen = visit(page, show="cost", examples="500", epochs="2", price="3.5", watts="100")
    assert "1,000 steps" in words(seen)
    assert "Price: yours" in words(seen)
    hours = metrics(seen)["Time"]
    seen.number_input(key="vram-price").set_value(7.0).run()
    assert metrics(seen)["Time"] == hours
    assert seen.query_params["price"] in ("7.0", ["7.0"])
    unknown = visit(page, show="cost", card="Apple M4 Max")
    assert "Price: none is known for this card" in words(unknown) or "is not in the catalogue" in words(unknown)


def test_the_model_of_time_stands_beside_its_error(visit: Any) -> None:
    off = validation.record()["speed"]["held_out"]
    text = words(visit(page, show="cost")).replace("\u00a0", " ")
    assert f"on {off['rows']} published speeds that took no part in it" in text
    assert f"off by {100 * off['mean_abs']:.0f} % on average and {100 * abs(off['worst']):.0f} % at worst" in text


def test_the_total_that_nobody_published_says_so(visit: Any) -> None:
    assert "that total is **not validated**" in words(visit(page))


def noted(method: str) -> None:
    """What is said beside the answer for a model with experts, of which no formula is shipped."""
    from types import SimpleNamespace

    from app.views import vram
    from core.catalog import architecture_of
    from core.memory.setup import Setup
    from core.methods import METHODS

    model = SimpleNamespace(table=architecture_of("Mixtral-8x7B"), source="Mixtral-8x7B")
    vram._notes(model, Setup(method, METHODS[method].Config(), 1, 1024))


def test_notes_are_the_ones_that_the_terminal_prints(visit: Any) -> None:
    """Of cards without bfloat16, of experts, and of other makers' cards."""
    name = "Llama-3.1-8B"
    setup = on(Setup("qlora", METHODS["qlora"].Config(), 1, 1024), gpu("Tesla T4"))
    half = compare.half_note(lambda asked: find(name, asked), setup)
    assert half in words(visit(page, model=name, method="qlora", card="Tesla T4"))
    assert other_kernels(gpu("MI300X")) in words(visit(page, card="MI300X"))
    for method in ("lora", "full"):
        note = experts_note(architecture_of("Mixtral-8x7B"), method)
        assert bool(note) == (method == "lora")
        assert note in words(visit(noted, kwargs={"method": method}))


def test_one_of_several_gpus(visit: Any) -> None:
    seen = visit(page, method="full", card="A100 80 GB SXM", gpus="8", zero="3")
    assert "one of 8 GPUs" in words(seen)
    assert "This step fits on A100 80 GB SXM" in words(seen)
    assert "It surely fits from 2 GPUs on, with ZeRO-3" in words(
        visit(page, method="full", card="A100 80 GB SXM", show="gpus")
    )
    wrong = visit(page, gpus="3", tensor="2")
    assert "3 GPUs cannot be split into groups of 2" in wrong.error[0].value


def test_predicting_first_hides_the_answer_until_it_is_committed(visit: Any, store: Any) -> None:
    seen = visit(page, predict="on")
    assert "How much memory will the process take?" in words(seen)
    assert "This step fits" not in words(seen)
    seen.number_input(key="vram-guess").set_value(40.0).run()
    button(seen, "vram-commit").click().run()
    text = words(seen)
    assert "You said **40 GiB**" in text
    assert "Too high." in text
    assert "This step fits on RTX 4090" in text
    (kept,) = (v for k, v in store.progress("alice").items() if k.startswith("vram/"))
    assert kept["fair"] is True
    assert kept["log_ratio"] > 0.5
    assert "How much memory" in words(visit(page, owner="bob", predict="on")), "what alice guessed is alice's"


# --- other people's settings, and bad input ---------------------------------------------------------------------------


def test_an_adapter_s_configuration_is_taken_over(visit: Any) -> None:
    seen = visit(page)
    seen.text_area(key="vram-import").set_value(
        json.dumps({"peft_type": "LORA", "r": 64, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"],
                    "base_model_name_or_path": "Qwen/Qwen2.5-7B"})
    )  # fmt: skip
    button(seen, "vram-import-use").click().run()
    assert not seen.exception
    assert now(seen, "selectbox", "vram-method").value == "lora"
    assert now(seen, "selectbox", "vram-model").value == "Qwen2.5-7B"
    assert now(seen, "number_input", "vram-lora.rank").value == 64
    assert now(seen, "text_input", "vram-lora.target_modules").value == "q_proj,v_proj"
    assert "Taken over: model Qwen/Qwen2.5-7B, LoRA" in words(seen)
    seen.text_area(key="vram-import").set_value("per_device_train_batch_size: 0")
    button(seen, "vram-import-use").click().run()
    assert "per_device_train_batch_size is 0" in seen.error[0].value.replace("\\", "")


def test_training_arguments_are_taken_over(visit: Any) -> None:
    seen = visit(page)
    seen.text_area(key="vram-import").set_value(
        "micro_batch_size: 3\nsequence_len: 1024\ngradient_checkpointing: true\nwandb_project: x"
    )
    button(seen, "vram-import-use").click().run()
    assert now(seen, "select_slider", "vram-batch").value == 3
    assert now(seen, "select_slider", "vram-length").value == 1024
    assert now(seen, "toggle", "vram-checkpointing").value is True
    assert "Not used: wandb_project" in words(seen).replace("\\_", "_")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"model": "Llama-2-7B", "length": "8192"}, "reads at most 4,096 tokens; rows of 8,192"),
        ({"method": "bitfit"}, "has no bias vectors"),
        ({"method": "lora", "lora.rank": "1024", "model": "SmolLM2-135M", "lora.target_modules": "k_proj"},
         "no change of it has a rank above 192"),
        ({"method": "lora", "lora.target_modules": "nowhere"}, "has no module called 'nowhere'"),
        ({"method": "prefix_tuning", "checkpointing": "on"}, "does not work with gradient"),
        ({"card": "cpu", "gpus": "2", "zero": "1"}, "known for GPUs only"),
        ({"card": "Tesla T4", "precision": "bfloat16"}, "does not compute in bfloat16"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_sentence(visit: Any, query: dict[str, str], says: str) -> None:
    seen = visit(page, **query)
    assert says in seen.error[0].value.replace("\\", "")
    assert "GiB of" not in words(seen)


def test_what_the_page_has_no_room_for_is_not_said_to_be_taken_over(visit: Any) -> None:
    seen = visit(page)
    seen.text_area(key="vram-import").set_value(
        json.dumps({"num_train_epochs": 5, "per_device_train_batch_size": 8192, "gradient_accumulation_steps": 512,
                    "lora_r": 2048, "lora_dropout": "0.1"})
    )  # fmt: skip
    button(seen, "vram-import-use").click().run()
    told = words(seen).replace("\\", "")
    assert "Taken over: LoRA, 5 epochs." in told
    assert "Not used: rank = 2048, batch = 8192, accumulation = 512" in told
    assert seen.query_params["epochs"] == "5.0"
    assert seen.query_params["lora.dropout"] == "0.1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model_type": "llama", "hidden_size": 20', "not whole JSON"),
        ('{"hidden_size": 64}', "names no model_type"),
        (
            '{"model_type": "llama", "num_hidden_layers": 100000}',
            "num_hidden_layers of the pasted configuration is 100000",
        ),
        ("[" * 5000, "inside each other"),
    ],
)
def test_a_broken_configuration_is_a_sentence(visit: Any, text: str, says: str) -> None:
    seen = visit(page, **{"from": "config"})
    seen.text_area(key="vram-config").set_value(text).run()
    assert says in seen.error[0].value.replace("\\", "")


def test_a_pasted_model_is_worked_out_and_its_link_holds_it(visit: Any, store: Any) -> None:
    """In the tracing process, with progress; the answer is that of the model itself."""
    import time

    text = json.dumps(memory_support.config_of("llama").to_dict())
    seen = visit(page, **{"from": "config", "config": pack(text), "method": "lora", "length": "128"})
    assert json.loads(seen.text_area(key="vram-config").value) == json.loads(text)
    deadline = time.monotonic() + 90
    while "This step fits" not in words(seen) and time.monotonic() < deadline:
        assert not seen.error, seen.error[0].value
        assert model_choice.watching  # (an AppTest has no clock: it asks again by itself)
        time.sleep(0.3)
        seen.run()
    assert "This step fits on RTX 4090" in words(seen)
    assert state.fitter().look(fitter.TABLE, "nothing") is None


# --- the figures ------------------------------------------------------------------------------------------------------


def test_every_figure_has_what_it_must() -> None:
    table, setup = architecture_of(MODEL), setup_of(batch=2)

    def lookup(asked: Setup) -> Any:
        return find(MODEL, asked)

    found = compare.answer(lookup, setup, CARD)
    assert found is not None
    rows = {m: storage(table, m, METHODS[m].Config(), 10) for m in ("full", "lora")}
    timeline = [{"event": e, "bytes": b * GIB, "section": s} for e, b, s in
                ((0, 5, "batch"), (3, 7, "layer 0 forward"), (6, 9, "head backward"), (9, 6, "optimizer"))]  # fmt: skip
    charts = [
        charts_memory.step(found.ledger, found.found, CARD, "a model", "RTX 4090"),
        charts_memory.methods(compare.methods(table, lookup, setup, CARD), CARD, "RTX 4090", "qlora"),
        charts_memory.all_cards(compare.all_cards(table, lookup, setup), "RTX 4090"),
        charts_memory.several(several(table, lookup, setup, CARD), CARD, "RTX 4090"),
        charts_memory.frontier(compare.frontier(setup), 2, 2048),
        charts_memory.disk(rows, "lora"),
        charts_memory.course(timeline, "head backward"),
    ]
    for chart in charts:
        assert chart.title
        assert not chart.title.endswith(".")
        assert len(chart.alt) > 30
        assert not chart.table.empty
        assert chart.figure.layout.xaxis.title.text
    assert charts[0].table["bytes"].sum() == found.found.process[1], "the bar is the whole process"
    assert "The peak, 9.0\u00a0GiB, is at head backward" in charts[6].title
    assert "logits and loss" in charts_memory.step_legend(charts[0])
    told = charts_memory.terms_table(rules.rules(table, setup, found.ledger))
    assert set(told["Difference"]) > {"none"}


def test_hours_are_told_as_people_do() -> None:
    assert [charts_memory.hours(h).replace("\u00a0", " ") for h in (0.001, 0.05, 3.4, 100)] == [
        "4 s", "3 min", "3.4 h", "4.2 days",
    ]  # fmt: skip
