"""Encoders against HF PEFT and transformers: the same logits, losses, gradients and folders, in both directions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

peft = pytest.importorskip("peft", reason="the oracle is PEFT (pip install -e '.[test]')")

from core.base import load_base  # noqa: E402
from core.classify import Classification, EncodedText, TextBatch, stack  # noqa: E402
from core.methods import METHODS, attach_saved, load_saved  # noqa: E402
from tests.checkpoints import make_encoder, make_encoder_tokenizer, write_encoder  # noqa: E402

FAMILIES = ("bert", "roberta", "distilbert")
# PEFT adds base(x) and s·B(Ax) in steps where ours does in one: float32 rounding (1.2e-7) of logits of size 1.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
IA3 = {
    "bert": (["key", "value", "layer.0.output.dense", "layer.1.output.dense"], "output.dense"),
    "roberta": (["key", "value", "layer.0.output.dense", "layer.1.output.dense"], "output.dense"),
    "distilbert": (["k_lin", "v_lin", "lin2"], "lin2"),
}
NORMS = {
    "bert": ["LayerNorm"],
    "roberta": ["LayerNorm"],
    "distilbert": ["LayerNorm", "sa_layer_norm", "output_layer_norm"],
}
LINEARS = {
    "bert": ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense", "pooler.dense"],
    "roberta": ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
}


def peft_config(method: str, family: str) -> Any:
    """PEFT's configuration of our defaults; which layers all-linear means on an encoder is spelt out."""
    task = {"task_type": "SEQ_CLS"}
    lora = task | {"r": 8, "lora_alpha": 16, "target_modules": LINEARS[family]}
    modules, feed = IA3[family]
    makers: dict[str, Any] = {
        "lora": lambda: peft.LoraConfig(**lora),
        "rslora": lambda: peft.LoraConfig(**lora | {"r": 16, "lora_alpha": 8}, use_rslora=True),
        "dora": lambda: peft.LoraConfig(**lora, use_dora=True),
        "vera": lambda: peft.VeraConfig(r=256, target_modules=LINEARS[family], d_initial=0.1, **task),
        "ia3": lambda: peft.IA3Config(
            target_modules=modules, feedforward_modules=[m for m in modules if m.endswith(feed)], **task
        ),
        "ln_tuning": lambda: peft.LNTuningConfig(target_modules=NORMS[family], **task),
    }
    return makers[method]()


METHODS_OF_PEFT = ("lora", "rslora", "dora", "vera", "ia3", "ln_tuning")
every = pytest.mark.parametrize(("method", "family"), [(m, f) for m in METHODS_OF_PEFT for f in FAMILIES])


def batch(labels: int = 3) -> TextBatch:
    """Texts of several lengths, so that there is padding; some of them pairs."""
    tokens = torch.Generator().manual_seed(5)
    rows = []
    for i, length in enumerate((5, 11, 8, 3)):
        ids = torch.randint(10, 300, (length,), generator=tokens).tolist()
        rows.append(EncodedText(ids, [0] * (length - 2) + [i % 2] * 2, i % labels))
    return stack(rows, 3)


def arguments(family: str) -> dict[str, torch.Tensor]:
    """The same batch as transformers is given it."""
    given = batch()
    found = {"input_ids": given.ids, "attention_mask": given.mask}
    return found | ({"token_type_ids": given.types} if family == "bert" else {})


def logits(model: Any, family: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**arguments(family)).logits


def theirs(method: str, family: str) -> Any:
    """PEFT's own adapter with everything that it trains drawn at random, so that it does something."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(make_encoder(family), peft_config(method, family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def test_these_are_the_layers_that_peft_itself_would_take() -> None:
    """all-linear on BERT; on the two others PEFT takes a part of the classification head too."""
    torch.manual_seed(0)
    model = peft.get_peft_model(
        make_encoder("bert"), peft.LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS")
    )
    all_linear = {n.partition(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    spelt = {n.partition(".lora_A")[0] for n, _ in theirs("lora", "bert").named_parameters() if "lora_A" in n}
    assert all_linear == spelt


@every
def test_what_peft_saves_we_load_with_the_same_logits_loss_and_gradients(
    method: str, family: str, tmp_path: Path
) -> None:
    model = theirs(method, family)
    model.save_pretrained(tmp_path / "a")
    attached = attach_saved(make_encoder(family), tmp_path / "a")
    torch.testing.assert_close(logits(attached.model, family), logits(model, family), **ROUNDING)

    given = batch()
    mine = Classification.loss_sum(object(), attached.model, given) / given.count  # type: ignore[arg-type]
    their = model(**arguments(family), labels=given.labels).loss
    assert mine.item() == pytest.approx(their.item(), rel=1e-6)
    mine.backward()
    their.backward()
    compared = 0
    grads = {ours(n): p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name in attached.trainable_names():
        grad = attached.model.get_parameter(name).grad
        assert grad is not None
        torch.testing.assert_close(grad, grads[name].view_as(grad), rtol=1e-4, atol=1e-7)
        compared += 1
    assert compared == len(grads)


def ours(name: str) -> str:
    """PEFT's parameter name in a live model -> ours."""
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
    name = name.replace(".ln_tuning_layers.default.", ".")
    return name.replace(".default.", ".").removesuffix(".default")


@every
def test_what_we_save_peft_loads_with_the_same_logits(method: str, family: str, tmp_path: Path) -> None:
    theirs(method, family).save_pretrained(tmp_path / "a")
    attached = attach_saved(make_encoder(family), tmp_path / "a")
    attached.save(tmp_path / "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)  # no missing or left-over key goes unseen
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # of its own LN tuning, to every LayerNorm
        loaded = peft.PeftModel.from_pretrained(make_encoder(family, seed=0), tmp_path / "b").eval()
    assert type(loaded).__name__ == "PeftModelForSequenceClassification"
    torch.testing.assert_close(logits(loaded, family), logits(attached.model, family), **ROUNDING)


@pytest.mark.parametrize("family", FAMILIES)
def test_bitfit_is_the_model_of_transformers_with_its_biases_and_its_classifier_trained(family: str) -> None:
    attached = METHODS["bitfit"].apply(make_encoder(family), METHODS["bitfit"].Config())
    plain = make_encoder(family)
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or "classifier" in name)
    optimizers = [
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for model in (attached.model, plain)
    ]
    given = batch()
    for _ in range(3):
        mine = Classification.loss_sum(object(), attached.model, given) / given.count  # type: ignore[arg-type]
        their = plain(**arguments(family), labels=given.labels).loss
        assert mine.item() == pytest.approx(their.item(), rel=1e-6)
        mine.backward()
        their.backward()
        for name, parameter in plain.named_parameters():
            grad = attached.model.get_parameter(name).grad
            assert (grad is None) == (parameter.grad is None), name
            if grad is not None:
                torch.testing.assert_close(grad, parameter.grad, rtol=1e-5, atol=1e-8)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(logits(attached.model, family), logits(plain, family))


def test_pefts_folder_and_a_pretrained_encoder_make_a_classifier(tmp_path: Path) -> None:
    """As from the hub: an encoder without a head, and an adapter that brings one. PEFT's folder names no labels."""
    base = write_encoder("roberta", tmp_path, seed=4)
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(9)  # another head than ours starts with
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    wrapped = peft.get_peft_model(model, peft_config("lora", "roberta")).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    wrapped.save_pretrained(tmp_path / "adapter")
    loaded, attached = load_saved(str(base), tmp_path / "adapter", precision="float32", device="cpu")
    assert loaded.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert attached is not None
    torch.testing.assert_close(logits(attached.model, "roberta"), logits(wrapped, "roberta"), **ROUNDING)


def test_padding_changes_no_logits_and_texts_are_encoded_as_transformers_does(tmp_path: Path) -> None:
    from core.classify import encode_texts, label_logits
    from core.labelled import LabelledText

    for family in ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "electra", "albert"):
        base = load_base(str(write_encoder(family, tmp_path, labels=3)))
        tokenizer = make_encoder_tokenizer(family)
        texts = [("Ana owns a cat.", None), ("Is the film good? Yes, it was a joy.", None), ("Ben.", None)]
        pairs = [("Ana owns a cat.", "Who?"), ("Ben", "Is the film good?"), ("x", "")]
        for given in (texts, pairs):
            rows = [LabelledText(a, b, base.labels[0]) for a, b in given]
            made = stack(encode_texts(base.tokenizer, rows, base.labels), tokenizer.pad_token_id)
            second = [b for _, b in given] if given is pairs else None
            wanted = tokenizer([a for a, _ in given], second, padding=True, return_tensors="pt")
            assert torch.equal(made.ids, wanted["input_ids"])
            assert torch.equal(made.mask, wanted["attention_mask"])
            with torch.no_grad():
                together = label_logits(base.model, made)
                for i, row in enumerate(rows):
                    alone = label_logits(base.model, stack(encode_texts(base.tokenizer, [row], base.labels), 0))
                    torch.testing.assert_close(together[i], alone[0], rtol=1e-5, atol=2e-6)
