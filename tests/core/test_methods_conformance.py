"""What every method promises, for every method: one suite over METHODS, on tiny models of real families.

A new method is tested by being in METHODS. Tolerances are zero wherever the promise is exactness.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from core.architecture import Architecture
from core.config import RunConfig, problems
from core.errors import BadInput, DeltalabError, Incompatible, Refused
from core.methods import METHODS, attach_saved, saved_as, virtual
from tests.checkpoints import FAMILIES, make_model
from tests.core.method_support import attach, ids, logits, reference_base, train

BIASED = ("llama_biased", "gpt2", "opt")
EVERY = [(m, f) for m in METHODS for f in FAMILIES if m != "bitfit" or f in (*BIASED, "qwen2")]
MAIN = [(m, f) for m in METHODS for f in BIASED]
on_all = pytest.mark.parametrize(("method", "family"), EVERY)
on_main = pytest.mark.parametrize(("method", "family"), MAIN)
MERGING = [(m, f) for m, f in MAIN if METHODS[m].MERGES]
# Their folders hold the same thing, on purpose: an adapter trained in 4 bits, with two rates or a frozen A is a LoRA.
SAME_FOLDER = ({"lora", "qlora", "lora_plus", "lora_fa"},)
# Only what is drawn depends on the seed; these start from the base itself, or from a decomposition of it.
DRAWS_NOTHING = {name for name, module in METHODS.items() if module.BASE == "trained"} | {"ia3", "vera", "pissa"}


@on_all
def test_step_zero_computes_what_the_base_computes_exactly(method: str, family: str) -> None:
    start, base = logits(attach(method, family).model), logits(reference_base(method, family))
    if METHODS[method].START == "base":
        assert torch.equal(start, base)
    elif METHODS[method].START == "rounding":
        # What is taken out of W and added again: a few float32 units (1.2e-7) of logits of size 1.
        torch.testing.assert_close(start, base, rtol=0, atol=3e-6)
    else:
        assert METHODS[method].START == "other"
        assert not torch.allclose(start, base, atol=1e-6)


@on_all
def test_exactly_the_promised_parameters_train(method: str, family: str) -> None:
    attached = attach(method, family)
    model = attached.model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    names = attached.trainable_names()
    assert names
    assert names == [n for n, p in model.named_parameters() if p.requires_grad], "named, in the model's order"
    train(attached)
    for name, parameter in model.named_parameters():
        if name in names:
            assert parameter.grad is not None, name
            assert parameter.grad.dtype == parameter.dtype
            assert parameter.grad.abs().sum() > 0, f"{name} has no gradient"
            assert not torch.equal(parameter, before[name]), f"{name} did not move"
        else:
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), f"{name} is frozen and moved"
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


@on_all
def test_the_closed_form_is_the_attached_count(method: str, family: str) -> None:
    module = METHODS[method]
    architecture = Architecture.of(make_model(family))
    attached = attach(method, family)
    real = sum(p.numel() for p in attached.model.parameters() if p.requires_grad)
    # The table survives being written as JSON, which is how it reaches a page.
    table = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert table == architecture
    assert module.count(table, module.Config()) == real
    assert sum(site.trained for site in module.sites(table, module.Config())) == real


@on_main
def test_disable_gives_the_base_back_bit_for_bit_and_enable_undoes_it(method: str, family: str) -> None:
    attached = attach(method, family)
    train(attached)
    trained = logits(attached.model)
    base = logits(reference_base(method, family))
    assert not torch.equal(trained, base)
    for _ in range(2):
        attached.disable()
        attached.disable()  # twice is once
        assert torch.equal(logits(attached.model), base)
        attached.enable()
        attached.enable()
        assert torch.equal(logits(attached.model), trained)


@on_main
def test_training_goes_on_after_switching_off_and_on(method: str, family: str) -> None:
    switched, plain = attach(method, family), attach(method, family)
    optimizers = [
        torch.optim.AdamW([p for p in a.model.parameters() if p.requires_grad], lr=1e-2) for a in (switched, plain)
    ]
    for step in range(3):
        switched.disable()
        logits(switched.model)
        switched.enable()
        for attached, optimizer in zip((switched, plain), optimizers, strict=True):
            optimizer.zero_grad()
            attached.model(input_ids=ids(step), labels=ids(step)).loss.backward()
            optimizer.step()
    assert torch.equal(logits(switched.model), logits(plain.model))


@pytest.mark.parametrize(("method", "family"), MERGING)
def test_merged_equals_unmerged_and_leaves_a_plain_model(method: str, family: str) -> None:
    attached = attach(method, family)
    train(attached)
    before = logits(attached.model)
    merged = attached.merge()
    plain = make_model(family)
    assert merged is attached.model
    assert [(n, type(m)) for n, m in merged.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    assert [n for n, _ in merged.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert not any(p.requires_grad for p in merged.parameters())
    # x(W₀ + ΔW)ᵀ and xW₀ᵀ + xΔWᵀ differ by rounding: a few float32 units (1.2e-7) of logits of size 1.
    torch.testing.assert_close(logits(merged), before, rtol=0, atol=2e-6)
    if METHODS[method].BASE == "trained":
        assert torch.equal(logits(merged), before), "nothing is folded, so nothing is rounded"
    with pytest.raises(Refused):
        attached.merge()


@pytest.mark.parametrize("method", [m for m in METHODS if not METHODS[m].MERGES])
def test_what_cannot_be_merged_says_why_and_goes_on_working(method: str) -> None:
    attached = attach(method, "llama_biased")
    train(attached)
    before = logits(attached.model)
    with pytest.raises(Refused, match="cannot be merged") as caught:
        attached.merge()
    assert caught.value.advice
    assert torch.equal(logits(attached.model), before)


@pytest.mark.parametrize("method", [m for m in METHODS if not METHODS[m].CHECKPOINTS])
def test_a_run_that_cannot_recompute_is_refused_before_it_starts(method: str) -> None:
    config = RunConfig.from_dict({"method": method, "train": {"gradient_checkpointing": True}})
    assert any("gradient_checkpointing" in sentence for sentence in problems(config))


@on_main
def test_what_is_saved_and_loaded_computes_the_same_bits(method: str, family: str, tmp_path: Path) -> None:
    attached = attach(method, family)
    train(attached)
    folder = tmp_path / "adapter"
    attached.save(folder)
    assert saved_as(folder) == (method, METHODS[method].Config())
    assert METHODS[method].read_config(folder) == METHODS[method].Config()
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"], "nothing temporary stays"
    assert {p.suffix for p in folder.iterdir()} <= {".json", ".safetensors"}, "no pickles"

    again = attach(method, family, seed=8)
    again.load(folder)
    assert torch.equal(logits(again.model), logits(attached.model))
    assert torch.equal(logits(attach_saved(make_model(family), folder).model), logits(attached.model))
    # And the base under it is still the base.
    again.disable()
    assert torch.equal(logits(again.model), logits(reference_base(method, family)))


@on_main
def test_saving_while_switched_off_saves_the_change_all_the_same(method: str, family: str, tmp_path: Path) -> None:
    attached = attach(method, family)
    train(attached)
    trained = logits(attached.model)
    attached.disable()
    base = logits(attached.model)
    attached.save(tmp_path / "a")
    assert torch.equal(logits(attached.model), base), "still switched off"
    assert torch.equal(logits(attach_saved(make_model(family), tmp_path / "a").model), trained)


@pytest.mark.parametrize("method", METHODS)
def test_a_failure_while_saving_leaves_what_was_there(method: str, tmp_path: Path, monkeypatch) -> None:
    attached = attach(method, "opt")
    folder = tmp_path / "adapter"
    attached.save(folder)
    old = {p.name: p.read_bytes() for p in folder.iterdir()}
    train(attached)
    from core.methods import saved

    def fail(*args, **kwargs) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saved, "write_json", fail)  # the last file of every method
        with pytest.raises(OSError, match="No space"):
            attached.save(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == old
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    attached.save(folder)  # replaces it whole
    assert {p.name for p in folder.iterdir()} == set(old)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} != old


@pytest.mark.parametrize("again", [False, True])
def test_a_saved_folder_appears_by_one_rename(again: bool, tmp_path: Path, monkeypatch) -> None:
    """The folder that was written is the folder that appears (the same inode): nobody can read half a copy."""
    from core.methods import saved

    attached = attach("lora", "opt")
    if again:
        attached.save(tmp_path / "adapter")
    written: list[int] = []
    write_record = saved.write_record

    def watch(folder: Path, *rest) -> None:
        assert folder != tmp_path / "adapter"
        written.append(folder.stat().st_ino)
        write_record(folder, *rest)

    monkeypatch.setattr(saved, "write_record", watch)
    attached.save(tmp_path / "adapter")
    assert written == [(tmp_path / "adapter").stat().st_ino]


@pytest.mark.parametrize("method", METHODS)
def test_loading_something_else_is_refused_and_changes_nothing(method: str, tmp_path: Path) -> None:
    attached = attach(method, "opt")
    attached.save(tmp_path / "good")
    before = logits(attached.model)

    def refused(folder: Path) -> str:
        with pytest.raises(BadInput) as caught:
            attached.load(folder)
        assert torch.equal(logits(attached.model), before)
        sentence = caught.value.sentence
        assert sentence[0].isupper()
        assert sentence.endswith((".", '"', ")", "'")) or ":" in sentence
        return sentence

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    refused(tmp_path / "nowhere")

    other = METHODS[method].apply(make_model("llama_biased"), METHODS[method].Config())
    other.save(tmp_path / "other family")
    refused(tmp_path / "other family")

    wide = make_model("opt", hidden_size=64, word_embed_proj_dim=64)
    METHODS[method].apply(wide, METHODS[method].Config()).save(tmp_path / "wider")
    refused(tmp_path / "wider")

    weights = next((tmp_path / "good").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "good")
    weights.unlink()
    refused(tmp_path / "good")
    for name in ("adapter_model.bin", "pytorch_model.bin"):  # pickles are not looked at
        (tmp_path / "good" / name).write_bytes(b"not opened")
    refused(tmp_path / "good")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each method saves, by its name."""
    folder = tmp_path_factory.mktemp("saved")
    for name in METHODS:
        attach(name, "opt").save(folder / name)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_another_methods_folder_is_refused(method: str, saved: Path) -> None:
    attached = attach(method, "opt")
    same = next((names for names in SAME_FOLDER if method in names), {method})
    for name in METHODS:
        if name in same:
            attached.load(saved / name)
        else:
            with pytest.raises(BadInput):
                attached.load(saved / name)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_carries_an_adapter_is_refused(method: str) -> None:
    attached = attach("lora", "llama_biased")
    with pytest.raises(Incompatible, match="carries an adapter already"):
        METHODS[method].apply(attached.model, METHODS[method].Config())


@pytest.mark.parametrize("method", METHODS)
def test_a_model_with_nothing_to_train_is_refused(method: str) -> None:
    empty = torch.nn.Sequential(torch.nn.ReLU())
    with pytest.raises(Incompatible) as caught:
        METHODS[method].apply(empty, METHODS[method].Config())
    assert caught.value.advice
    with pytest.raises(Incompatible):
        METHODS[method].count(Architecture.of(empty), METHODS[method].Config())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_run_and_another_gives_another(method: str) -> None:
    runs = []
    for seed in (1, 1, 2):
        attached = attach(method, "llama_biased", seed=seed)
        train(attached)
        runs.append(logits(attached.model))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2]) == (method in DRAWS_NOTHING)


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].CHECKPOINTS])
def test_gradient_checkpointing_gives_the_same_gradients(method: str) -> None:
    grads = []
    for checkpointing in (False, True):
        attached = attach(method, "llama_biased")
        train(attached, steps=1)
        model = attached.model
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        model.zero_grad()
        model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name


@pytest.mark.parametrize("method", METHODS)
def test_training_in_bfloat16_autocast(method: str) -> None:
    """The trained parameters and their gradients stay in float32, and the loss falls as it does in float32."""
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        attached = attach(method, "llama_biased")
        optimizer = torch.optim.AdamW([p for p in attached.model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(6):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = attached.model(input_ids=ids(), labels=ids(), use_cache=False).loss
            loss.backward()
            optimizer.step()
        assert all(p.grad.dtype == torch.float32 for p in attached.model.parameters() if p.requires_grad)
        losses.append(loss.item())
    # bfloat16 keeps 8 bits: 0.4 % per operation, of a loss near 6.
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_base_in_bfloat16_trains_float32_adapters(method: str) -> None:
    model = make_model("llama_biased").to(torch.bfloat16)
    attached = METHODS[method].apply(model, METHODS[method].Config())
    before = logits(model)
    train(attached)
    assert logits(model).dtype == before.dtype
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    trained = logits(model)
    # Folding in rounds W to bfloat16 again: 0.4 % of weights of size 0.02, against logits of size 0.2.
    torch.testing.assert_close(logits(attached.merge()), trained, rtol=0, atol=0.02)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_generation_with_a_cache_agrees_with_the_whole_pass(method: str) -> None:
    attached = attach(method, "llama_biased")
    train(attached)
    model = attached.model
    prompt = ids(shape=(1, 5))
    out = model.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    for cut in range(5, 9):
        assert logits(model, out[:, :cut])[0, -1].argmax() == out[0, cut]


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_of_the_model_is_independent(method: str) -> None:
    attached = attach(method, "opt")
    twin = copy.deepcopy(attached.model)
    before = logits(twin)
    train(attached)
    assert torch.equal(logits(twin), before)


@pytest.mark.parametrize("method", METHODS)
def test_settings_make_the_round_through_a_record(method: str) -> None:
    config = RunConfig.from_dict({"method": method, "settings": {}})
    assert config.settings == METHODS[method].Config()
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("method", METHODS)
def test_the_module_says_what_it_is(method: str) -> None:
    module = METHODS[method]
    assert method == module.NAME
    assert module.SUMMARY.endswith(".")
    assert "arXiv:" in module.PAPER
    assert module.FORMULA
    assert module.INFERENCE.endswith(".")
    assert module.BASE in ("trained", "frozen", "quantized")
    assert module.START in ("base", "rounding", "other")
    rate, source = module.PUBLISHED
    assert 0 < rate < 1
    assert source
    assert len(set(module.RATES)) == len(module.RATES) > 1
    assert module.PATIENCE >= 1
    prompt = getattr(module, "PROMPT", None)
    assert prompt in (None, virtual.AS_TOKENS, virtual.AS_KEYS)
    puts_tokens = issubclass(getattr(module, "Attached", object), virtual.Attached)
    assert (prompt is not None) == puts_tokens, "who trains a prompt says so"
    assert prompt is None or module.Config().tokens > 0
    assert issubclass(Incompatible, DeltalabError)
    import dataclasses

    for field in dataclasses.fields(module.Config):
        assert field.metadata["doc"].endswith("."), field.name
        assert field.metadata["why"], field.name
