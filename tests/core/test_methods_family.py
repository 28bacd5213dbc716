"""Each of the further methods beyond what every method promises: its own arithmetic, settings and refusals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from core.architecture import Architecture
from core.base import TOKENIZER, context_tokens
from core.config import RunConfig, problems
from core.errors import BadInput, Incompatible, Refused
from core.layers.dora import DirectionAndMagnitude
from core.layers.principal import PrincipalPair
from core.layers.vera import Projection
from core.methods import METHODS, adapters, ia3, last_k, lora, lora_plus, pissa, prompt_tuning, rslora, saved, vera
from core.methods.modules import ATTENTION, MLP, is_one_of
from core.optimizers import make_optimizer
from tests.checkpoints import FAMILIES, make_model, make_tokenizer
from tests.core.method_support import attach, ids, logits, train

# --- choosing layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_a_block_is_attention_or_mlp(family: str) -> None:
    table = Architecture.of(make_model(family))
    every = lora.targets(table, lora.Config())
    parts = [lora.targets(table, lora.Config(target_modules=part)) for part in ("attention", "mlp")]
    assert sorted(m.name for part in parts for m in part) == sorted(m.name for m in every)
    assert not set(parts[0]) & set(parts[1])


def test_the_longest_name_decides() -> None:
    """BERT's attention output ends as its MLP's output does."""
    assert is_one_of("encoder.layer.0.attention.output.dense", ATTENTION)
    assert not is_one_of("encoder.layer.0.attention.output.dense", MLP)
    assert is_one_of("encoder.layer.0.output.dense", MLP)
    assert not is_one_of("classifier", (*ATTENTION, *MLP))


def test_a_rank_pattern_sets_ranks_by_name() -> None:
    config = lora.Config(rank=4, rank_pattern="q_proj=2, down_proj = 12")
    table = Architecture.of(make_model("llama"))
    attached = attach("lora", "llama", rank=4, rank_pattern="q_proj=2, down_proj = 12")
    ranks = {path.rpartition(".")[2]: layer.rank for path, layer in attached.layers.items()}
    assert ranks == {"q_proj": 2, "k_proj": 4, "v_proj": 4, "o_proj": 4, "gate_proj": 4, "up_proj": 4, "down_proj": 12}
    assert attached.layers["model.layers.0.self_attn.q_proj"].scale == config.alpha / 2
    assert lora.count(table, config) == sum(p.numel() for p in attached.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("pattern", ["q_proj", "q_proj=", "=4", "q_proj=0", "q_proj=x", "q_proj=-1", "q_proj=2.5"])
def test_a_malformed_rank_pattern_is_a_problem_of_the_settings(pattern: str) -> None:
    config = RunConfig.from_dict({"method": "lora", "settings": {"rank_pattern": pattern}})
    assert any("rank_pattern must read like q_proj=4" in sentence for sentence in problems(config))


def test_a_rank_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(Incompatible, match="rank_pattern names fc9"):
        attach("lora", "llama", rank_pattern="fc9=4")


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "pissa", "qlora", "lora_plus"])
def test_a_rank_above_the_dimension_is_refused_with_the_highest(method: str) -> None:
    with pytest.raises(Incompatible, match="no change of it has a rank above 16, and 17 is asked for") as caught:
        attach(method, "llama", rank=17)
    assert "Set rank to 16 at most" in caught.value.advice
    with pytest.raises(Incompatible):
        METHODS[method].count(Architecture.of(make_model("llama")), METHODS[method].Config(rank=17))


# --- rsLoRA, LoRA+, DoRA, PiSSA, VeRA -----------------------------------------------------------------------------


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    attached = attach("rslora", "llama", rank=4, alpha=6)
    assert {layer.scale for layer in attached.layers.values()} == {6 / math.sqrt(4)}
    assert rslora.Config().alpha / math.sqrt(rslora.Config().rank) == lora.Config().alpha / lora.Config().rank


def test_lora_plus_gives_every_b_its_own_rate_and_is_lora_otherwise() -> None:
    attached = attach("lora_plus", "llama", rate_ratio=8.0)
    factors = attached.rate_factors()
    assert set(factors) == {n for n in attached.trainable_names() if n.endswith("lora_B.weight")}
    assert set(factors.values()) == {8.0}
    named = {n: p for n, p in attached.model.named_parameters() if p.requires_grad}
    optimizer, _ = make_optimizer("adamw", named.values(), 1e-3, 0.0, [factors.get(n, 1.0) for n in named])
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for n, p in named.items() if "lora_A" in n} == {1e-3}
    assert {rates[id(p)] for n, p in named.items() if "lora_B" in n} == {8e-3}
    # The first step of AdamW moves every number by its rate.
    before = {n: p.detach().clone() for n, p in named.items()}
    attached.model(input_ids=ids(), labels=ids()).loss.backward()
    optimizer.step()
    moved = {n: (p - before[n]).abs().max().item() for n, p in named.items() if "lora_B" in n}
    assert all(value == pytest.approx(8e-3, rel=1e-3) for value in moved.values())
    assert torch.equal(logits(attach("lora_plus", "llama").model), logits(attach("lora", "llama").model))
    assert lora_plus.read_config is not lora.read_config


def test_doras_rows_have_the_trained_lengths() -> None:
    torch.manual_seed(0)
    layer = DirectionAndMagnitude(torch.nn.Linear(12, 7).requires_grad_(False), rank=3, scale=2.0)
    with torch.no_grad():
        layer.lora_B.weight.normal_()
        layer.lora_magnitude_vector.weight.uniform_(1, 2)
    x = torch.randn(5, 12)
    expected = layer(x)
    plain = layer.merged()
    torch.testing.assert_close(plain(x), expected)
    torch.testing.assert_close(torch.linalg.norm(plain.weight, dim=1), layer.lora_magnitude_vector.weight)


def test_pissa_takes_the_principal_part_out_of_the_weight() -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(20, 30).requires_grad_(False)
    u, _, vt = torch.linalg.svd(base.weight, full_matrices=False)
    s = 0.7 ** torch.arange(20)  # falls off, as in trained weights
    whole = u @ torch.diag(s) @ vt
    for fast in (False, True):
        base.weight.copy_(whole)
        layer = PrincipalPair(base, rank=4, scale=0.5, fast=fast, keep_base=True)
        principal = u[:, :4] @ torch.diag(s[:4]) @ vt[:4]
        torch.testing.assert_close(layer.delta(), principal, rtol=1e-4, atol=1e-3 if fast else 1e-5)
        torch.testing.assert_close(base.weight + layer.delta(), whole, rtol=0, atol=1e-6)
        layer.enabled = False
        assert torch.equal(base.weight, whole)
        layer.enabled = True


def test_pissa_that_keeps_no_base_cannot_switch_off_and_says_so() -> None:
    attached = pissa.apply(make_model("llama"), pissa.Config(), keep_base=False)
    with pytest.raises(Refused, match="PiSSA moved a part of them"):
        attached.disable()


def test_veras_matrices_are_in_the_model_once_and_its_seed_gives_them_back() -> None:
    attached = attach("vera", "llama")
    projection = attached.model.vera_projection
    assert all(layer.shared[0] is projection for layer in attached.layers.values())
    again = Projection(projection.A.shape[1], projection.B.shape[0], 256, 0)
    assert torch.equal(projection.A, again.A)
    assert torch.equal(projection.B, again.B)
    assert not torch.equal(projection.A, Projection(projection.A.shape[1], projection.B.shape[0], 256, 1).A)
    attached.merge()
    assert not hasattr(attached.model, "vera_projection")


def test_a_vera_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    attach("vera", "llama", rank=8).save(tmp_path / "a")
    with pytest.raises(BadInput, match="has rank 8; this model has 256"):
        attach("vera", "llama").load(tmp_path / "a")
    assert vera.read_config(tmp_path / "a").rank == 8


# --- IA3, adapters, last k ----------------------------------------------------------------------------------------


def test_ia3_scales_keys_values_and_what_goes_into_the_mlps_second_matrix() -> None:
    attached = attach("ia3", "llama")
    places = {path.rpartition(".")[2]: layer.inputs for path, layer in attached.layers.items()}
    assert places == {"k_proj": False, "v_proj": False, "down_proj": True}
    with pytest.raises(Incompatible, match="feedforward_modules names up_proj"):
        attach("ia3", "llama", feedforward_modules="up_proj")
    chosen = ia3.targets(Architecture.of(make_model("llama")), ia3.Config("q_proj,up_proj", "up_proj"))
    assert [inputs for _, inputs in chosen] == [False, True] * 2


def test_pfeiffers_placement_is_half_of_houlsbys() -> None:
    table = Architecture.of(make_model("llama"))
    houlsby, pfeiffer = (adapters.Config(placement=place) for place in ("houlsby", "pfeiffer"))
    assert adapters.count(table, houlsby) == 2 * adapters.count(table, pfeiffer)
    assert {s.module.rpartition(".")[2] for s in adapters.sites(table, pfeiffer)} == {"down_proj"}


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_adapter_is_the_papers_formula(activation: str) -> None:
    from core.layers.bottleneck import Bottleneck

    torch.manual_seed(0)
    layer = Bottleneck(torch.nn.Linear(6, 10), 4, activation)
    torch.nn.init.normal_(layer.adapter_up.weight)
    x = torch.randn(3, 6)
    h = layer.base_layer(x)
    f = getattr(torch.nn.functional, activation)
    torch.testing.assert_close(layer(x), h + layer.adapter_up(f(layer.adapter_down(h))))


def test_last_k_trains_the_last_blocks_and_the_norm_above() -> None:
    names = attach("last_k", "llama", blocks=1).trainable_names()
    assert {n.rpartition(".")[0] for n in names if not n.startswith("model.layers.1.")} == {"model.norm"}
    assert not attach("last_k", "llama", blocks=1, final_norm=False).trainable_names()[-1].startswith("model.norm")
    with pytest.raises(Incompatible, match="has 2 blocks, and the last 3 are asked for"):
        attach("last_k", "llama", blocks=3)
    assert [s.module for s in last_k.sites(Architecture.of(make_model("gpt2")), last_k.Config(blocks=1))][-1] == (
        "transformer.ln_f"
    )


# --- tokens before the text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_trained_tokens_take_their_share_of_the_context(method: str) -> None:
    model = make_model("llama")
    before = context_tokens(model)
    config = METHODS[method].Config()
    METHODS[method].apply(model, config)
    assert before is not None
    assert context_tokens(model) == before - config.tokens


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_more_trained_tokens_than_half_the_context_are_refused(method: str) -> None:
    with pytest.raises(Incompatible, match="300 trained tokens would leave 0 of the 256 positions") as caught:
        attach(method, "llama", tokens=300)
    assert caught.value.advice == "Set tokens to 128 at most."


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_padded_row_computes_what_it_computes_alone(method: str) -> None:
    attached = attach(method, "llama_biased")
    train(attached)
    short = ids(1, (1, 4))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), short], dim=1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    positions = torch.tensor([[1, 1, 1, 0, 1, 2, 3]])
    with torch.no_grad():
        out = attached.model(input_ids=padded, attention_mask=mask, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(out[:, 3:], logits(attached.model, short), rtol=0, atol=2e-6)


def test_a_prompt_can_start_as_the_words_of_a_text() -> None:
    model = make_model("llama")
    tokenizer = make_tokenizer("llama")
    setattr(model, TOKENIZER, tokenizer)
    config = prompt_tuning.Config(tokens=7, start="text", text="Answer")
    first = prompt_tuning.first_vectors(model, config)
    words = tokenizer("Answer", add_special_tokens=False)["input_ids"]
    table = model.get_input_embeddings().weight
    assert torch.equal(first, table[[words[i % len(words)] for i in range(7)]])
    with pytest.raises(Incompatible, match="came without a tokenizer"):
        attach("prompt_tuning", "llama", start="text", text="Answer")
    config = RunConfig.from_dict({"method": "prompt_tuning", "settings": {"start": "text"}})
    assert any("text is empty" in sentence for sentence in problems(config))


def test_words_to_start_from_are_as_the_model_looks_them_up() -> None:
    """Gemma 3's embedding multiplies what it looks up by the square root of its width."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    model = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, sliding_window=32,
        )
    )  # fmt: skip
    torch.manual_seed(5)
    first = prompt_tuning.first_vectors(model, prompt_tuning.Config(tokens=3, start="vocabulary"))
    torch.manual_seed(5)
    words = torch.randint(64, (3,))
    embedding = model.get_input_embeddings()
    assert torch.equal(first, embedding(words))
    torch.testing.assert_close(first, embedding.weight[words] * 4)


def test_random_tokens_are_as_large_as_the_embedding() -> None:
    model = make_model("llama")
    drawn = prompt_tuning.first_vectors(model, prompt_tuning.Config(tokens=200, start="random"))
    assert drawn.std().item() == pytest.approx(model.get_input_embeddings().weight.std().item(), rel=0.05)


def test_a_prefix_can_be_computed_while_it_trains(tmp_path: Path) -> None:
    attached = attach("prefix_tuning", "llama", projection=24)
    names = [n.removeprefix("trained_prompt.") for n in attached.trainable_names()]
    assert names == ["embedding.weight", *(f"transform.{i}.{part}" for i in (0, 2) for part in ("weight", "bias"))]
    table = Architecture.of(make_model("llama"))
    config = METHODS["prefix_tuning"].Config(projection=24)
    trained = sum(p.numel() for p in attached.model.parameters() if p.requires_grad)
    assert METHODS["prefix_tuning"].count(table, config) == trained
    train(attached)
    attached.save(tmp_path / "a")
    again = attach("prefix_tuning", "llama", seed=9, projection=24)
    again.load(tmp_path / "a")
    assert torch.equal(logits(again.model), logits(attached.model))
    with pytest.raises(BadInput):
        attach("prefix_tuning", "llama", tokens=3, projection=24).load(tmp_path / "a")


@pytest.mark.parametrize("method", ["lora", "lora_fa"])
def test_the_record_tells_what_trained_not_all_that_is_saved(method: str, tmp_path: Path) -> None:
    attached = attach(method, "llama")
    attached.save(tmp_path / "saved")
    parameters = dict(attached.model.named_parameters())
    trained = sum(parameters[name].numel() for name in attached.trainable_names())
    assert saved.read_record(tmp_path / "saved")["trainable"] == trained
    assert trained == sum(p.numel() for p in attached.model.parameters() if p.requires_grad)
