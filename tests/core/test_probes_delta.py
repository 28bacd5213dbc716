"""ΔW of every method, and the arithmetic of its spectrum and of overlaps: known matrices, known answers."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from core.methods import METHODS
from core.probes import overlap, spectrum
from core.probes.delta import Change, changes, place, tensors, without
from tests.core.method_support import attach, logits, reference_base, train

MERGING = [m for m in METHODS if METHODS[m].MERGES]
FAMILIES = ("llama_biased", "gpt2")
# More than LoRA's eight directions on tiny matrices of 32 × 32 would be all of them.
SETTINGS = {m: {"rank": 4} for m in METHODS if hasattr(METHODS[m].Config, "rank") and m != "vera"}


def trained(method: str, family: str = "llama_biased"):
    attached = attach(method, family, **SETTINGS.get(method, {}))
    train(attached)
    return attached


def matrix(values: list[float], shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """A random matrix with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(n, len(values), generator=generator, dtype=torch.float64))[0] for n in shape
    )
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.t()


# --- ΔW ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", MERGING)
def test_delta_is_merged_minus_base_for_every_parameter(method: str, family: str) -> None:
    attached = trained(method, family)
    found = {c.name: c for c in changes(attached)}
    base = dict(reference_base(method, family).named_parameters())
    merged = dict(attached.merge().named_parameters())
    moved = {n for n in merged if not torch.equal(merged[n], base[n])}
    assert moved, "a test of nothing"
    assert moved <= set(found)
    for name, change in found.items():
        flip = family == "gpt2" and merged[name].dim() == 2 and "wte" not in name and "wpe" not in name
        was, now = ((t.t() if flip else t).detach() for t in (base[name], merged[name]))
        assert torch.equal(change.base, was), f"{name}: W₀ is the base's own"
        # The merged weight was rounded to float32 once, W₀ + ΔW (PiSSA: twice, on the way out and back in).
        room = 4 * 2.0**-24 * float(now.abs().max())
        torch.testing.assert_close(change.delta(), now.double() - was.double(), rtol=0, atol=room)


@pytest.mark.parametrize("method", ["full", "bitfit", "ln_tuning", "last_k"])
def test_what_trains_in_place_is_exact(method: str) -> None:
    attached = trained(method)
    base = dict(reference_base(method, "llama_biased").named_parameters())
    now = dict(attached.model.named_parameters())
    for change in changes(attached):
        assert torch.equal(change.delta(), (now[change.name].double() - base[change.name].double()).detach())
        assert change.error == 0


@pytest.mark.parametrize("method", ["lora", "rslora", "qlora", "lora_plus", "vera"])
def test_a_product_is_taken_without_the_rounding_of_a_merged_weight(method: str) -> None:
    attached = trained(method)
    found = {c.path: c for c in changes(attached)}
    assert set(found) == set(attached.layers)
    for path, layer in attached.layers.items():
        left, right = layer.pair()
        assert torch.equal(found[path].delta(), left.double() @ right.double())
        u, s, vt = found[path].svd
        assert len(s) <= left.shape[1]
        torch.testing.assert_close(u @ torch.diag(s) @ vt, found[path].delta(), rtol=0, atol=1e-15)


def test_pissa_changed_by_twice_its_rank_and_lora_by_its_rank() -> None:
    for method, most in (("lora", 4), ("pissa", 8)):
        assert {c.rank for c in changes(trained(method))} == {most}


def test_the_rounding_of_a_merged_weight_is_no_direction() -> None:
    """DoRA whose lengths follow its direction is LoRA: of its rank, though merging rounds every number of W."""
    attached = attach("dora", "llama_biased", rank=2)
    with torch.no_grad():
        for layer in attached.layers.values():
            layer.lora_B.weight.normal_(generator=torch.Generator().manual_seed(3))
            layer.lora_magnitude_vector.weight.copy_(layer.length())
    found = list(changes(attached))
    assert {c.rank for c in found} == {2}
    assert max(len(c.svd[1]) for c in found) == 32
    assert all(float(c.svd[1][2]) > 0 for c in found), "there is rounding, or this tests nothing"


@pytest.mark.parametrize("method", list(METHODS))
def test_looking_changes_nothing(method: str) -> None:
    attached = trained(method)
    before = logits(attached.model)
    state = copy.deepcopy(attached.model.state_dict())
    assert bool(list(changes(attached))) == METHODS[method].MERGES
    assert torch.equal(logits(attached.model), before)
    assert all(torch.equal(value, state[name]) for name, value in attached.model.state_dict().items())
    attached.disable()
    assert torch.equal(logits(attached.model), logits(reference_base(method, "llama_biased")))


@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_has_a_delta_or_a_sentence_that_says_why_not(method: str) -> None:
    sentence = without(method)
    if METHODS[method].MERGES:
        assert sentence is None
        return
    assert sentence is not None
    assert sentence.startswith(f"{METHODS[method].TITLE} changes no weight of the base, so there is no ΔW")
    attached = trained(method)
    rows = tensors(attached)
    assert [r["name"] for r in rows] == attached.trainable_names()
    for row in rows:
        value = attached.model.get_parameter(row["name"])
        assert row["norm"] == pytest.approx(value.detach().norm().item(), rel=1e-6)
        assert row["norm"] > 0


def test_the_biases_beside_a_pair_are_part_of_the_change() -> None:
    attached = attach("lora", "llama_biased", rank=4, bias="lora_only")
    train(attached)
    vectors = [c for c in changes(attached) if not c.matrix]
    assert vectors
    assert all(c.name.endswith(".bias") and "base_layer" not in c.name for c in vectors)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.layers.3.self_attn.q_proj.weight", (3, "self_attn.q_proj")),
        ("transformer.h.11.mlp.c_fc.bias", (11, "mlp.c_fc.bias")),
        ("model.layers.2.mlp.experts.7.up_proj.weight", (2, "mlp.experts.7.up_proj")),
        ("model.embed_tokens.weight", (None, "model.embed_tokens")),
    ],
)
def test_where_a_parameter_sits(name: str, wanted: tuple[int | None, str]) -> None:
    assert place(name) == wanted


# --- the spectrum -----------------------------------------------------------------------------------------------------


def test_a_known_matrix_has_its_known_spectrum() -> None:
    values = [4.0, 2.0, 1.0]
    whole = matrix(values, (20, 12))
    left, right = matrix([1.0] * 3, (20, 3), 1), matrix(values, (3, 12), 2)
    for change in (Change("a", torch.zeros(20, 12), whole=whole), Change("a", torch.zeros(20, 12), (left, right))):
        told = spectrum.described(change, directions=2)
        assert change.rank == told["rank"] == 3
        assert told["values"][:3] == pytest.approx(values)
        assert told["norm"] == pytest.approx(math.sqrt(21))
        assert told["stable_rank"] == pytest.approx(21 / 16)
        p = [4 / 7, 2 / 7, 1 / 7]
        assert told["effective_rank"] == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)))
        assert dict(map(tuple, told["shares"]))[1] == pytest.approx(16 / 21)
        assert (told["half"], told["most"]) == (1, 2)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_equal_singular_values_are_k_effective_directions(k: int) -> None:
    assert spectrum.effective_rank([2.5] * k + [0.0] * 4) == pytest.approx(k)
    assert spectrum.stable_rank([2.5] * k) == pytest.approx(k)
    assert spectrum.directions_for(1.0, [6.25] * k) == k


def test_nothing_changed_is_no_direction() -> None:
    told = spectrum.described(Change("a", torch.ones(4, 3), whole=torch.zeros(4, 3)), 8)
    assert (told["norm"], told["rank"], told["effective_rank"], told["stable_rank"]) == (0, 0, 0, 0)
    assert (told["half"], told["shares"], told["amplification"]) == (0, [], None)


def test_a_layer_is_its_matrices_side_by_side() -> None:
    energies = {"a": [9.0, 1.0], "b": [8.0, 2.0]}
    rows = [{"name": n, "layer": 5, "norm": 3.0, "base_norm": 4.0, "rank": 2, "full": 7} for n in energies]
    (told,) = spectrum.layers_of(rows, energies)
    assert told["norm"] == pytest.approx(math.sqrt(18))
    assert told["relative"] == pytest.approx(0.75)
    assert (told["half"], told["most"], told["trained"], told["full"]) == (2, 3, 4, 14)


def test_amplification_of_a_direction_that_the_base_has() -> None:
    """W₀ has 0.5 in the direction in which ΔW has 3: six times as much."""
    base = matrix([8.0, 0.5], (10, 6))
    u, _, vt = torch.linalg.svd(base, full_matrices=False)
    change = Change("a", base, whole=3.0 * torch.outer(u[:, 1], vt[1]))
    told = spectrum.amplification(change, 4)
    assert told["directions"] == 1
    assert told["factor"] == pytest.approx(6)
    assert told["own"] == pytest.approx(8)
    assert told["chance"] == pytest.approx(math.sqrt(64.25 / 60))


def test_the_strongest_of_a_wide_matrix_are_found_nearly_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.randn(60, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole += matrix([60.0, 50.0, 40.0, 30.0], (60, 50))  # trained weights have such a head over such a bulk
    exact = spectrum.strongest(whole, 4)
    assert torch.equal(exact, torch.linalg.svdvals(whole)[:4])
    monkeypatch.setattr(spectrum, "WIDE", 10)
    before = torch.get_rng_state()
    torch.testing.assert_close(spectrum.strongest(whole, 4), exact, rtol=1e-4, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


# --- overlap ----------------------------------------------------------------------------------------------------------


def basis(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def test_the_same_directions_overlap_by_one_and_orthogonal_ones_by_nothing() -> None:
    both = basis(12, 8, 0)
    one, other = both[:, :4], both[:, 4:]
    same = overlap.similarity(one, one)
    assert [same[i][i] for i in range(4)] == pytest.approx([1.0] * 4)
    assert same[0][3] == pytest.approx(1.0), "the smaller lies in the larger"
    assert max(map(max, overlap.similarity(one, other))) < 1e-20
    turned = one @ basis(4, 4, 5)
    assert overlap.similarity(one, turned)[-1][-1] == pytest.approx(1.0), "subspaces, not their bases"


def test_phi_is_the_papers_formula() -> None:
    one, other = basis(9, 3, 1), basis(9, 5, 2)
    found = overlap.similarity(one, other)
    for i in range(1, 4):
        for j in range(1, 6):
            nuclear = torch.linalg.norm(one[:, :i].t() @ other[:, :j]) ** 2 / min(i, j)
            assert found[i - 1][j - 1] == pytest.approx(float(nuclear), rel=1e-12)


@pytest.mark.parametrize(("i", "j", "n"), [(4, 4, 32), (2, 8, 16)])
def test_chance_is_what_random_subspaces_have(i: int, j: int, n: int) -> None:
    draws = [overlap.similarity(basis(n, i, seed), basis(n, j, 1000 + seed))[-1][-1] for seed in range(400)]
    mean = sum(draws) / len(draws)
    spread = math.sqrt(sum((d - mean) ** 2 for d in draws) / len(draws) / len(draws))
    assert abs(mean - overlap.chance(i, j, n)) < 4 * spread
