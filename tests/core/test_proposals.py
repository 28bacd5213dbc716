"""Which models of the catalogue fit a device: held against the calculator, and the time against measured steps."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from core.catalog import architecture_of, gpu, model, models
from core.catalog.proposals import CPU_REACHED, Place, _pass_seconds, attached_place, fits, place_of
from core.cli import main
from core.config import RunConfig, TrainConfig
from core.errors import NotFound
from core.hardware import Card, Hardware, attached_light, cpu_flops
from core.memory.card import TOO_LARGE, totals
from core.memory.estimate import Sizes, find
from core.memory.setup import Device, Setup
from core.methods import METHODS
from core.units import GIB

CARD = "RTX 4090"


def run(method: str = "lora", **loop: object) -> RunConfig:
    return RunConfig(base="owner/name", method=method, train=TrainConfig(**loop))  # type: ignore[arg-type]


def with_card(name: str, memory_gib: float, capability: str | None = "9.0") -> Hardware:
    card = Card(name, round(memory_gib * GIB), capability)
    return dataclasses.replace(attached_light(), kind="cuda", name=name, cards=(card,))


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_each_takes_what_the_calculator_says(method, capsys):
    offer = fits(place_of(CARD), run(method, batch_size=8, max_length=128))
    assert len(offer.models) > 5
    for p in (offer.models[0], offer.models[-1]):
        asked = ["memory", "--model", p.name, "--method", method, "--batch", str(p.rows), "--seq", "128"]
        assert main([*asked, "--gpu", CARD, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert p.bytes == answer["process_bytes"]
        assert list(p.process_bytes) == [answer["process_range"][0], p.bytes, answer["process_range"][1]]
        assert p.verdict == answer["fits"] != TOO_LARGE


def test_what_is_not_proposed_does_not_fit_even_with_one_row():
    place, config = place_of("Tesla T4"), run(batch_size=8, max_length=128)
    there = {p.name for p in fits(place, config).models}
    left = 0
    for row in models():
        setup = Setup("lora", METHODS["lora"].Config(), 1, 128, device=place.device, precision=place.device.precision)
        made = find(row.name, setup) if row.is_decoder else None
        if made is not None and row.name not in there:
            left += 1
            # (The largest batch is told by the likely total, the verdict by the least.)
            assert totals(made.peak_bytes(Sizes.of(setup)), place.device).process[1] > place.memory_bytes
    assert left or not there


def test_a_batch_that_does_not_fit_is_cut_into_passes():
    offer = fits(place_of(CARD), run(batch_size=32, max_length=256))
    assert any(p.passes > 1 for p in offer.models)
    for p in offer.models:
        assert p.rows * p.passes == 32
        assert p.process_bytes[0] <= offer.place.memory_bytes
    names = [p.parameters for p in offer.models]
    assert names == sorted(names, reverse=True)


def test_more_memory_never_fits_less():
    small, large = (fits(place_of(n), run(batch_size=8, max_length=256)) for n in (CARD, "A100 80 GB SXM"))
    assert {p.name for p in small.models} < {p.name for p in large.models}


def test_a_method_that_was_not_traced_takes_its_relative_s_memory_and_says_so():
    offer = fits(place_of(CARD), run("ia3"))
    by_name = {p.name: p for p in offer.models}
    assert by_name["GPT-2"].traced == "lora"
    assert by_name["Llama-3.1-8B"].traced == "ia3"


def test_instruction_tuned_versions_have_the_shapes_of_the_row():
    assert model("HuggingFaceTB/SmolLM2-135M-Instruct") is model("SmolLM2-135M")
    ids = [i for row in models() for i in (row.hub, row.instruct) if row.is_decoder and i]
    assert len([i for i in ids if i.endswith("Instruct")]) > 10
    assert all(row.licence for row in models())


def test_the_attached_device_is_what_the_driver_names():
    known = attached_place(with_card("NVIDIA H100 80GB HBM3", 79.1))
    assert known.card is gpu("NVIDIA H100 80GB HBM3")
    assert known.memory_bytes <= round(79.1 * GIB)
    strange = attached_place(with_card("NVIDIA Nova 1", 30, "12.0"))
    assert strange.card is None
    offer = fits(strange, run())
    assert offer.models
    assert all(p.minutes is None for p in offer.models), "nobody knows how fast it is"
    assert attached_place(with_card("NVIDIA Old", 8, "7.5")).device == Device((7, 5))


def test_a_cpu_is_offered_small_models_with_a_time():
    place = Place("a laptop", 16 * GIB, "free now", Device(), flops=1e11)
    offer = fits(place, run(batch_size=8, max_length=128))
    assert {"SmolLM2-135M", "GPT-2"} <= {p.name for p in offer.models}
    for p in offer.models:
        assert p.minutes is not None
        assert p.minutes[0] < p.minutes[1] < p.minutes[2]


@pytest.mark.parametrize(("name", "words"), [("Nova 1", "no card called"), ("MI300X", "Nothing is known of training")])
def test_a_card_nobody_can_predict_for_is_refused(name, words):
    with pytest.raises(NotFound, match=words):
        place_of(name)


def test_the_command(capsys):
    assert main(["models", "--gpu", CARD, "--method", "qlora", "--set", "batch_size=4"]) == 0
    out = capsys.readouterr().out
    assert "QLoRA on RTX 4090" in out
    assert "HuggingFaceTB/SmolLM2-135M" in out
    assert "to be accepted" in out
    assert main(["models", "--gpu", CARD, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["models"][0]["bytes"] > answer["models"][-1]["bytes"]
    assert main(["models", "--gpu", "Nova 1"]) == 2
    assert main(["models", "--set", "batch_size=0"]) == 2


def test_it_imports_no_torch():
    code = (
        "import sys\nfrom core.catalog.proposals import attached_place, fits\nfrom core.config import RunConfig\n"
        "from core.hardware import attached_light\nfits(attached_place(attached_light()), RunConfig(base='a/b'))\n"
        "assert not {'torch', 'transformers', 'streamlit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.alone
def test_the_time_on_this_cpu_is_between_the_least_and_the_most():
    """LoRA steps of GPT-2's shape with random weights, against the prediction from one matrix product's rate."""
    import torch
    from transformers import AutoModelForCausalLM

    from core.catalog import config_of
    from core.methods import attach

    row, batch, length = model("GPT-2"), 2, 64
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(config_of(row))
    attached = attach(net, "lora", METHODS["lora"].Config())
    trained = [p for p in attached.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.randint(0, 1000, (batch, length))
    times = []
    for _ in range(4):
        began = time.perf_counter()
        attached.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    place = Place("here", 64 * GIB, "", Device(), flops=cpu_flops())
    setup = Setup("lora", METHODS["lora"].Config(), batch, length)
    seconds = _pass_seconds(row, place, setup)
    assert seconds is not None
    least, _, most = seconds
    assert least < min(times[1:]) < most, (times, seconds, architecture_of(row.name).total, CPU_REACHED)
