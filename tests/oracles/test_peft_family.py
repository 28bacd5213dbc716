"""The other methods against HF PEFT: the same parameters, logits and gradients, and folders in both directions."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

peft = pytest.importorskip("peft", reason="the oracle of these methods is PEFT (pip install -e '.[test]')")

from core.architecture import Architecture  # noqa: E402
from core.base import REVISION  # noqa: E402
from core.errors import BadInput  # noqa: E402
from core.methods import METHODS, attach_saved, saved_as  # noqa: E402
from tests.checkpoints import make_model  # noqa: E402
from tests.core.method_support import attach, ids, logits, train  # noqa: E402
from tests.stock import peft_config  # noqa: E402

FAMILIES = ("llama", "gpt2", "opt", "qwen2")
# The same sums in another order: float32 rounding (1.2e-7) of logits of size 1.
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}

WRAPPING = ("rslora", "dora", "lora_plus", "vera", "ia3", "ln_tuning")
VIRTUAL = ("prompt_tuning", "p_tuning", "prefix_tuning")


def theirs(method: str, family: str, seed: int = 3) -> Any:
    """PEFT's model, its trained parameters moved off their start."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it corrects fan_in_fan_out for Conv1D, and says so
        wrapped = peft.get_peft_model(make_model(family), peft_config(method, family))
    with torch.no_grad():
        for _, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return wrapped.eval()


def ours(name: str) -> str:
    """The name of PEFT's trained parameter in a live model -> ours."""
    name = name.removeprefix("base_model.model.").replace(".ln_tuning_layers.default.", ".")
    name = name.replace("prompt_encoder.default.", "trained_prompt.").replace("mlp_head.", "encoder.")
    return name.replace(".default.", ".").removesuffix(".default").replace(".base_layer.", ".")


def trained_like(model: Any, method: str, family: str) -> Any:
    """Ours, with the values of PEFT's trained parameters."""
    attached = attach(method, family)
    mine = dict(attached.model.named_parameters())
    values = {ours(n): p for n, p in model.named_parameters() if p.requires_grad}
    assert sorted(values) == sorted(attached.trainable_names())
    with torch.no_grad():
        for name, value in values.items():
            assert mine[name].shape == value.shape, name
            mine[name].copy_(value)
    return attached


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", WRAPPING + VIRTUAL)
def test_the_same_values_give_the_same_logits_and_gradients(method: str, family: str) -> None:
    other = theirs(method, family)
    attached = trained_like(other, method, family)
    labels = ids().clone()
    labels[:, :4] = -100
    losses = []
    for model in (other, attached.model):
        loss = model(input_ids=ids(), labels=labels, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)
    seen = logits(other)[:, -ids().shape[1] :]  # PEFT leaves the logits of a soft prompt in place
    torch.testing.assert_close(logits(attached.model), seen, **ROUNDING)
    mine = dict(attached.model.named_parameters())
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            largest = parameter.grad.abs().max().item()
            torch.testing.assert_close(mine[ours(name)].grad, parameter.grad, rtol=1e-4, atol=2e-5 * largest)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", WRAPPING + VIRTUAL)
def test_what_we_save_peft_loads_with_the_same_logits(method: str, family: str, tmp_path: Path) -> None:
    attached = attach(method, family)
    train(attached)
    attached.save(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)  # no missing or left-over key goes unseen
        warnings.filterwarnings("ignore", "Unsupported layer type")  # PEFT of its own LN tuning
        loaded = peft.PeftModel.from_pretrained(make_model(family), tmp_path / "a").eval()
    seen = logits(loaded)[:, -ids().shape[1] :]
    torch.testing.assert_close(seen, logits(attached.model), **ROUNDING)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", WRAPPING + VIRTUAL)
def test_what_peft_saves_we_load_with_the_same_logits(method: str, family: str, tmp_path: Path) -> None:
    other = theirs(method, family)
    other.save_pretrained(tmp_path / "a")
    found = attach_saved(make_model(family), tmp_path / "a")
    seen = logits(other)[:, -ids().shape[1] :]
    torch.testing.assert_close(logits(found.model), seen, **ROUNDING)
    # Rates and encoders are not in PEFT's file: what is there is known by what it computes.
    known = {"lora_plus": "lora", "p_tuning": "prompt_tuning"}
    assert saved_as(tmp_path / "a")[0] == known.get(method, method)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", WRAPPING + VIRTUAL)
def test_the_count_is_what_peft_prints(method: str, family: str) -> None:
    trained, _ = theirs(method, family).get_nb_trainable_parameters()
    module = METHODS[method]
    assert module.count(Architecture.of(make_model(family)), module.Config()) == trained


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", [m for m in WRAPPING if m != "ln_tuning"])
def test_the_merged_weights_are_pefts(method: str, family: str) -> None:
    other = theirs(method, family)
    merged = trained_like(other, method, family).merge().state_dict()
    for name, weight in other.merge_and_unload().state_dict().items():
        torch.testing.assert_close(merged[name], weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", VIRTUAL)
def test_generation_with_padding_is_that_of_each_row_alone(method: str) -> None:
    """Where PEFT counts the padding as positions, ours does not: a row answers as it does by itself."""
    attached = attach(method, "llama")
    train(attached)
    arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    short, long = ids(1, (1, 4)), ids(2, (1, 9))
    alone = attached.model.generate(short, **arguments)[0, 4:]
    both = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), short], dim=1), long])
    mask = torch.ones_like(both)
    mask[0, :5] = 0
    together = attached.model.generate(both, attention_mask=mask, **arguments)
    assert torch.equal(together[0, 9:], alone)


def test_pissa_starts_where_pefts_does_and_its_folder_is_lora_for_the_unchanged_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"r": 8, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    other = peft.get_peft_model(make_model("llama"), peft.LoraConfig(**settings, init_lora_weights="pissa"))
    attached = attach("pissa", "llama")
    mine = dict(attached.model.named_parameters())
    for name, parameter in other.named_parameters():
        if "lora_" in name:
            # A pair of singular vectors may have both signs turned.
            torch.testing.assert_close(mine[ours(name)].abs(), parameter.abs(), rtol=1e-3, atol=1e-4)
    train(attached)
    attached.save(tmp_path / "a")
    loaded = peft.PeftModel.from_pretrained(make_model("llama"), tmp_path / "a").eval()
    # Sums that cancel: rounding of weights of size 1 rather than of their small difference.
    torch.testing.assert_close(logits(loaded), logits(attached.model), rtol=1e-4, atol=1e-5)
    record = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (record["r"], record["lora_alpha"]) == (16, 16)


def test_pissa_of_another_machine_is_taken_over_exactly(tmp_path: Path) -> None:
    """Signs and degenerate directions are free in a decomposition: the start that was saved counts, not our own."""
    attached = attach("pissa", "llama")
    with torch.no_grad():
        for layer in attached.layers.values():  # the other machine turned the signs of all directions
            layer.lora_A.weight.neg_()
            layer.lora_B.weight.neg_()
            layer.start = (-layer.start[0], -layer.start[1])
    train(attached)
    attached.save(tmp_path / "a")
    found = attach_saved(make_model("llama"), tmp_path / "a")
    torch.testing.assert_close(logits(found.model), logits(attached.model), rtol=1e-5, atol=5e-6)
    found.disable()
    assert torch.equal(logits(found.model), logits(make_model("llama")))


def test_pefts_p_tuning_cannot_be_trained_on_and_says_so(tmp_path: Path) -> None:
    theirs("p_tuning", "llama").save_pretrained(tmp_path / "a")
    with pytest.raises(BadInput, match="not the encoder") as caught:
        attach("p_tuning", "llama").load(tmp_path / "a")
    assert "prompt_tuning" in caught.value.advice


@pytest.mark.parametrize("bias", ["lora_only", "all"])
@pytest.mark.parametrize("family", ["llama_biased", "gpt2", "opt"])
def test_lora_with_biases_is_pefts(bias: str, family: str, tmp_path: Path) -> None:
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "bias": bias}
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = peft.get_peft_model(make_model(family), peft.LoraConfig(**settings)).eval()
    attached = attach("lora", family, bias=bias)
    trained, _ = other.get_nb_trainable_parameters()
    config = METHODS["lora"].Config(bias=bias)
    assert METHODS["lora"].count(Architecture.of(make_model(family)), config) == trained
    assert sum(p.numel() for p in attached.model.parameters() if p.requires_grad) == trained
    train(attached)
    trained_logits = logits(attached.model)
    attached.save(tmp_path / "a")
    loaded = peft.PeftModel.from_pretrained(make_model(family), tmp_path / "a").eval()
    torch.testing.assert_close(logits(loaded), trained_logits, **ROUNDING)
    assert torch.equal(logits(attach_saved(make_model(family), tmp_path / "a").model), trained_logits)
    # PEFT warns that its own disable does not give the base back with biases; ours does.
    attached.disable()
    assert torch.equal(logits(attached.model), logits(make_model(family)))
    attached.enable()
    torch.testing.assert_close(logits(attached.merge()), trained_logits, rtol=0, atol=2e-6)


def test_a_rank_pattern_is_pefts(tmp_path: Path) -> None:
    pattern = {"q_proj": 2, "down_proj": 12}
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(3)
    other = peft.get_peft_model(make_model("llama"), peft.LoraConfig(**settings, rank_pattern=pattern)).eval()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    other.save_pretrained(tmp_path / "a")
    found = attach_saved(make_model("llama"), tmp_path / "a")
    torch.testing.assert_close(logits(found.model), logits(other), **ROUNDING)
    assert saved_as(tmp_path / "a")[1].rank_pattern in ("q_proj=2,down_proj=12", "down_proj=12,q_proj=2")
    found.save(tmp_path / "b")
    again = peft.PeftModel.from_pretrained(make_model("llama"), tmp_path / "b").eval()
    torch.testing.assert_close(logits(again), logits(other), **ROUNDING)


# --- LoRA-FA ----------------------------------------------------------------------------------------------------------


def lora_fa_beside_pefts(monkeypatch: pytest.MonkeyPatch, *, orthogonal: bool) -> tuple[Any, Any, Any]:
    """Ours; PEFT's LoRA with the same A and with B at zero; and PEFT's optimizer of LoRA-FA for it.

    orthogonal: A with rows that are orthogonal, each of length 1/s.
    """
    from peft.optimizers import create_lorafa_optimizer, lorafa

    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)  # it would round the gradient to 8 bits
    attached = attach("lora_fa", "llama")
    config = attached.config
    torch.manual_seed(3)
    settings = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    other = peft.get_peft_model(
        make_model("llama"), peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, **settings)
    ).eval()
    mine = dict(attached.model.named_parameters())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_A" in name:
                if orthogonal:
                    torch.nn.init.orthogonal_(parameter).mul_(config.rank / config.alpha)
                mine[ours(name)].copy_(parameter)
    optimizer = create_lorafa_optimizer(other, r=config.rank, lora_alpha=config.alpha, lr=1e-2)
    # Its ε stands in another place than AdamW's.
    optimizer.param_groups[0]["eps"] = 1e-30
    return attached, other, optimizer


def test_lora_fa_moves_as_pefts_optimizer_does_where_its_projection_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    attached, other, optimizer = lora_fa_beside_pefts(monkeypatch, orthogonal=True)
    mine = {n: p for n, p in attached.model.named_parameters() if p.requires_grad}
    assert sorted(mine) == sorted(ours(n) for n, p in other.named_parameters() if p.requires_grad), "B alone trains"
    plain = torch.optim.AdamW(mine.values(), lr=1e-2, weight_decay=0.0, eps=1e-30)
    for step in range(3):
        for model, by in ((attached.model, plain), (other, optimizer)):
            by.zero_grad()
            model(input_ids=ids(step), labels=ids(step), use_cache=False).loss.backward()
            by.step()
        for name, parameter in other.named_parameters():
            if parameter.requires_grad:
                largest = parameter.grad.abs().max().item()
                torch.testing.assert_close(mine[ours(name)].grad, parameter.grad, rtol=1e-4, atol=1e-4 * largest)
                # AdamW divides a gradient by its size: where that is nearly nothing, rounding decides the direction.
                seen = parameter.grad.abs() > 1e-3 * largest
                torch.testing.assert_close(mine[ours(name)][seen], parameter[seen], rtol=0, atol=1e-4)


def test_pefts_lora_fa_projects_the_gradient_and_the_papers_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """G is the gradient of the whole weight. The paper's is s·G·Aᵀ; PEFT's makes s·g·A the part of G in A's rows."""
    attached, other, optimizer = lora_fa_beside_pefts(monkeypatch, orthogonal=False)
    full = make_model("llama").requires_grad_(True)
    for model in (attached.model, other, full):
        model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
    optimizer.step()
    scale = attached.config.alpha / attached.config.rank
    for path, layer in attached.layers.items():
        a, g = layer.lora_A.weight.detach(), full.get_submodule(path).weight.grad
        close = {"rtol": 1e-4, "atol": 1e-5 * g.norm().item()}
        torch.testing.assert_close(layer.lora_B.weight.grad, scale * g @ a.T, **close)
        # The first step's mean is a tenth of what it was given.
        given = optimizer.state[f"base_model.model.{path}.lora"]["exp_avg_B"] / 0.1
        in_rows = a.T @ torch.linalg.inv(a @ a.T) @ a
        torch.testing.assert_close(scale * given @ a, g @ in_rows, rtol=1e-3, atol=1e-4 * g.norm().item())
        turned = torch.nn.functional.cosine_similarity(given.flatten(), layer.lora_B.weight.grad.flatten(), dim=0)
        assert turned < 0.99, path


@pytest.mark.parametrize("method", ["lora", "ia3", "vera", "ln_tuning", "prompt_tuning"])
def test_the_revision_of_the_base_that_was_asked_for_is_pefts(method: str, tmp_path: Path) -> None:
    for asked in (None, "v2"):
        attached = attach(method, "llama_biased")
        setattr(attached.model, REVISION, asked)
        attached.save(tmp_path / str(asked))
        assert peft.PeftConfig.from_pretrained(tmp_path / str(asked)).revision == asked


ENCODER_DECODERS = {
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    "bart": {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128},
}  # fmt: skip
COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 8, "target_modules": "all-linear"}),
    "dora": ("LoraConfig", {"r": 8, "target_modules": "all-linear", "use_dora": True}),
    "prompt_tuning": ("PromptTuningConfig", {"num_virtual_tokens": 20}),
    "p_tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 20, "encoder_hidden_size": 128}),
    "prefix_tuning": ("PrefixTuningConfig", {"num_virtual_tokens": 10}),
    "ia3": ("IA3Config", {}),
}


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize("method", COUNTED)
def test_an_encoder_decoder_is_counted_as_peft_prints_it(method: str, family: str) -> None:
    """Trained tokens stand before both of its texts."""
    from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM

    config = CONFIG_MAPPING[family](vocab_size=100, **ENCODER_DECODERS[family])
    name, settings = COUNTED[method]
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = Architecture.of(AutoModelForSeq2SeqLM.from_config(config))
        stock = getattr(peft, name)(task_type="SEQ_2_SEQ_LM", **settings)
        printed, _ = peft.get_peft_model(AutoModelForSeq2SeqLM.from_config(config), stock).get_nb_trainable_parameters()
    assert METHODS[method].count(table, METHODS[method].Config()) == printed


def test_a_prefix_has_the_size_of_the_keys_where_peft_s_does_not_fit() -> None:
    """T5-3B's keys have 128 numbers a head, not d_model over heads: PEFT counts by the latter, and cannot run it."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {**ENCODER_DECODERS["t5"], "d_kv": 32}
    config = T5Config(vocab_size=100, decoder_start_token_id=0, **sizes)
    model = T5ForConditionalGeneration(config)
    table = Architecture.of(model)
    stock = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(model, stock)
    assert theirs.get_nb_trainable_parameters()[0] == 10 * 2 * 2 * 64
    assert METHODS["prefix_tuning"].count(table, METHODS["prefix_tuning"].Config()) == 10 * 2 * 2 * 4 * 32
    with pytest.raises(RuntimeError):
        theirs(input_ids=torch.ones(1, 5, dtype=torch.long), labels=torch.ones(1, 3, dtype=torch.long))
