"""Will it load? Every rule has a folder that breaks it and one that keeps it; damaged folders are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.base import describe_base
from core.errors import BadInput
from core.export import loadable
from core.export.convert import convert
from core.export.folder import read
from core.export.loadable import (
    CARE,
    CONVERT,
    ENGINES,
    FAILS,
    LLAMA_CPP,
    LOADS,
    MERGE,
    OLLAMA,
    PEFT,
    RULES,
    VLLM,
    check,
    worst,
)
from core.methods import LORAS, METHODS
from core.methods.saved import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tests.core.ship_support import adapter, write

LLAMA = {"architecture": "LlamaForCausalLM", "tied_embeddings": False, "kind": "hub", "name": "owner/name"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write("llama_biased", tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory) -> Path:
    """A LoRA that every engine takes: the settings in its file are those of a base on the hub."""
    folder = adapter(base, tmp_path_factory.mktemp("plain") / "adapter", rank=4)
    edit(folder, base_model_name_or_path="owner/name")
    return folder


def edit(folder: Path, **changes: Any) -> Path:
    """Change fields of PEFT's file; None removes one."""
    path = folder / ADAPTER_CONFIG
    record = json.loads(path.read_text())
    for name, value in changes.items():
        record[name] = value
    path.write_text(json.dumps(record))
    return folder


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Rewrite the weights' file."""
    found = change(dict(load_file(folder / ADAPTER_WEIGHTS)))
    save_file({n: t.contiguous() for n, t in found.items()}, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return folder


def head_pair(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 32)
    found["base_model.model.lm_head.lora_B.weight"] = torch.zeros(384, 4)
    return found


def bare_names(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("base_model.model."): tensor for name, tensor in found.items()}


def with_base(**facts: Any) -> dict[str, Any]:
    return {**LLAMA, **facts}


def test_a_plain_lora_loads_everywhere(plain: Path) -> None:
    verdicts = check(read(plain), LLAMA)
    assert {e: worst(verdicts, e) for e in ENGINES} == dict.fromkeys(ENGINES, LOADS), verdicts
    assert all(not v.fix and v.action is None for v in verdicts)


# (engine, rule, how the folder differs, the base, what it comes to, what Deltalab offers)
Case = tuple[str, str, Callable[[Path], Path], dict[str, Any], str, str | None]
UNUSED: Callable[[Path], Path] = lambda folder: folder  # noqa: E731
CASES: list[Case] = [
    (PEFT, "method", lambda f: edit(f, peft_type="SOMETHING"), LLAMA, FAILS, None),
    (PEFT, "names of the tensors", lambda f: tensors(f, bare_names), LLAMA, FAILS, None),
    (PEFT, "start of the pairs", lambda f: edit(f, init_lora_weights="pissa"), LLAMA, FAILS, None),
    (PEFT, "tied embeddings", lambda f: tensors(f, head_pair), with_base(tied_embeddings=True), CARE, None),
    (PEFT, "name of the base", lambda f: edit(f, base_model_name_or_path="embedded"), LLAMA, CARE, None),
    (VLLM, "method", lambda f: edit(f, peft_type="IA3"), LLAMA, FAILS, CONVERT),
    (VLLM, "rank", lambda f: edit(f, r=48), LLAMA, CARE, CONVERT),
    (VLLM, "rank", lambda f: edit(f, r=640), LLAMA, FAILS, CONVERT),
    (VLLM, "DoRA", lambda f: edit(f, use_dora=True), LLAMA, FAILS, CONVERT),
    (VLLM, "bias", lambda f: edit(f, bias="all"), LLAMA, FAILS, CONVERT),
    (VLLM, "modules_to_save", lambda f: edit(f, modules_to_save=["lm_head"]), LLAMA, FAILS, MERGE),
    (VLLM, "scale by module", lambda f: edit(f, rank_pattern={"q_proj": 2}), LLAMA, FAILS, CONVERT),
    (VLLM, "names of the tensors", lambda f: tensors(f, lambda t: {**t, "odd.weight": torch.zeros(1)}), LLAMA, FAILS,
     MERGE),
    (VLLM, "embeddings and head", lambda f: tensors(f, head_pair), LLAMA, CARE, MERGE),
    (VLLM, "start of the pairs", lambda f: edit(f, init_lora_weights="olora"), LLAMA, FAILS, None),
    (VLLM, "architecture of the base", UNUSED, with_base(architecture="GPT2LMHeadModel"), FAILS, MERGE),
    (VLLM, "architecture of the base", UNUSED, with_base(architecture="NobodysForCausalLM"), CARE, None),
    (VLLM, "architecture of the base", UNUSED, {}, CARE, None),
    (LLAMA_CPP, "method", lambda f: edit(f, peft_type="VERA"), LLAMA, FAILS, CONVERT),
    (LLAMA_CPP, "DoRA", lambda f: edit(f, use_dora=True), LLAMA, FAILS, CONVERT),
    (LLAMA_CPP, "bias", lambda f: edit(f, bias="lora_only"), LLAMA, FAILS, CONVERT),
    (LLAMA_CPP, "modules_to_save", lambda f: edit(f, modules_to_save=["embed_tokens"]), LLAMA, FAILS, MERGE),
    (LLAMA_CPP, "names of the tensors", lambda f: tensors(f, lambda t: {**t, "odd.weight": torch.zeros(1)}), LLAMA,
     FAILS, MERGE),
    (LLAMA_CPP, "scale", lambda f: edit(f, use_rslora=True), LLAMA, FAILS, CONVERT),
    (LLAMA_CPP, "scale by module", lambda f: edit(f, alpha_pattern={"q_proj": 2}), LLAMA, FAILS, CONVERT),
    (LLAMA_CPP, "tied embeddings", lambda f: tensors(f, head_pair), with_base(tied_embeddings=True), FAILS, None),
    (LLAMA_CPP, "start of the pairs", lambda f: edit(f, init_lora_weights="loftq"), LLAMA, FAILS, None),
    (LLAMA_CPP, "architecture of the base", UNUSED, with_base(architecture="OPTForCausalLM"), FAILS, None),
    (LLAMA_CPP, "transposed matrices", UNUSED, with_base(architecture="GPT2LMHeadModel"), FAILS, MERGE),
    (LLAMA_CPP, "tokenizer of the base", UNUSED, with_base(kind="embedded"), FAILS, None),
    (LLAMA_CPP, "name of the base", lambda f: edit(f, base_model_name_or_path="mine"), LLAMA, CARE, None),
    (OLLAMA, "method", lambda f: edit(f, peft_type="LOHA"), LLAMA, FAILS, CONVERT),
    (OLLAMA, "DoRA", lambda f: edit(f, use_dora=True), LLAMA, FAILS, CONVERT),
    (OLLAMA, "bias", lambda f: edit(f, bias="all"), LLAMA, FAILS, CONVERT),
    (OLLAMA, "modules_to_save", lambda f: edit(f, modules_to_save=["lm_head"]), LLAMA, FAILS, MERGE),
    (OLLAMA, "projections", lambda f: tensors(f, head_pair), LLAMA, FAILS, MERGE),
    (OLLAMA, "alpha", lambda f: edit(f, lora_alpha=16.5), LLAMA, FAILS, CONVERT),
    (OLLAMA, "scale", lambda f: edit(f, use_rslora=True), LLAMA, FAILS, CONVERT),
    (OLLAMA, "scale by module", lambda f: edit(f, alpha_pattern={"q_proj": 2}), LLAMA, FAILS, CONVERT),
    (OLLAMA, "start of the pairs", lambda f: edit(f, init_lora_weights="corda"), LLAMA, FAILS, None),
    (OLLAMA, "architecture of the base", UNUSED, with_base(architecture="Qwen2ForCausalLM"), FAILS, None),
    (OLLAMA, "architecture of the base", UNUSED, with_base(architecture="GemmaForCausalLM"), CARE, None),
    (OLLAMA, "tokenizer of the base", UNUSED, with_base(kind="embedded"), FAILS, None),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{c[4]}")
def test_a_folder_that_breaks_the_rule(plain: Path, tmp_path: Path, case: Case) -> None:
    engine, rule, change, facts, level, action = case
    folder = change(Path(shutil.copytree(plain, tmp_path / "adapter")))
    found = [v for v in check(read(folder), facts) if (v.engine, v.rule) == (engine, rule)]
    assert [v.level for v in found] == [level]
    assert found[0].action == action
    assert found[0].sentence.endswith(".")
    assert found[0].source.startswith("https://")


def test_every_rule_is_broken_by_a_case_and_named_once() -> None:
    names = [(r.engine, r.name) for r in RULES]
    assert len(set(names)) == len(names)
    of_qlora = {(e, "quantized base") for e in ENGINES}
    assert set(names) == {(c[0], c[1]) for c in CASES} | of_qlora


def test_four_bits_are_care_for_everybody(base: Path, tmp_path: Path) -> None:
    found = check(read(adapter(base, tmp_path / "a", "qlora", rank=4)), LLAMA)
    assert {v.engine for v in found if v.rule == "quantized base" and v.level == CARE} == set(ENGINES)
    assert all("NF4" in v.sentence for v in found if v.rule == "quantized base")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_s_own_folder(base: Path, tmp_path: Path, method: str) -> None:
    """What the check says of it must be so: PEFT's verdict is held to PEFT, and the offered fix mends it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = adapter(base, tmp_path / "a", method)
    verdicts = check(read(folder), describe_base(str(base)))
    model = AutoModelForCausalLM.from_pretrained(base)
    if worst(verdicts, PEFT) == FAILS:
        with pytest.raises((ValueError, KeyError, TypeError, OSError)):
            PeftModel.from_pretrained(model, folder, local_files_only=True)
    else:
        PeftModel.from_pretrained(model, folder)
    fixes = {v.action for v in verdicts if v.engine == VLLM and v.level == FAILS}
    assert worst(verdicts, VLLM) == FAILS or method in set(LORAS) - {"dora"}
    if not METHODS[method].MERGES:
        assert fixes == {None}
    elif CONVERT in fixes:
        convert(str(base), folder, tmp_path / "b", rank=8)
        assert worst(check(read(tmp_path / "b"), describe_base(str(base))), VLLM) == LOADS


def test_peft_s_list_of_methods_is_peft_s() -> None:
    from peft import PeftType

    assert {t.value for t in PeftType} == loadable.PEFT_TYPES


def test_a_run_on_the_embedded_base_is_told_what_holds_for_it(tmp_path: Path) -> None:
    from core.base import EMBEDDED_FOLDER

    folder = adapter(EMBEDDED_FOLDER, tmp_path / "a", rank=4)
    verdicts = check(read(folder), describe_base("embedded"))
    assert worst(verdicts, PEFT) == CARE, "its base has no hub id"
    assert worst(verdicts, VLLM) == LOADS
    assert worst(verdicts, OLLAMA) == FAILS


# --- folders that cannot be read --------------------------------------------------------------------------------------


def broken(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "adapter"))


def test_a_truncated_file_is_refused(plain: Path, tmp_path: Path) -> None:
    path = broken(plain, tmp_path) / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="damaged or incomplete"):
        read(path.parent)


def test_a_file_of_something_else_is_refused(plain: Path, tmp_path: Path) -> None:
    path = broken(plain, tmp_path) / ADAPTER_WEIGHTS
    path.write_bytes(b"\xff" * 4000)
    with pytest.raises(BadInput, match="damaged or incomplete"):
        read(path.parent)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadInput, match="Git LFS pointer"):
        read(path.parent)


def test_a_pickle_is_refused_unread(plain: Path, tmp_path: Path) -> None:
    folder = broken(plain, tmp_path)
    (folder / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(BadInput, match=f"has no {ADAPTER_WEIGHTS}"):
        read(folder)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match="pickled weights only"):
        read(folder)


def test_a_folder_without_settings_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = broken(plain, tmp_path)
    (folder / ADAPTER_CONFIG).unlink()
    (folder / "deltalab.json").unlink()
    with pytest.raises(BadInput, match=r"has no adapter_config\.json"):
        read(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="a whole model, not an adapter"):
        read(folder)
    (folder / ADAPTER_CONFIG).write_text("[]")
    with pytest.raises(BadInput, match="not a JSON object"):
        read(folder)
    with pytest.raises(BadInput, match="There is no folder"):
        read(folder / "nowhere")


def test_a_stranger_s_folder_needs_no_record_of_ours(plain: Path, tmp_path: Path) -> None:
    folder = broken(plain, tmp_path)
    (folder / "deltalab.json").unlink()
    assert worst(check(read(folder), LLAMA), VLLM) == LOADS


def test_checking_imports_no_torch(plain: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from core.export.folder import read; from core.export.loadable import "
        f"check; check(read(Path({str(plain)!r})), {LLAMA!r}); "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
