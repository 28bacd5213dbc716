"""Base models: folders of every family, what is refused and why, and the hub's real client against a local server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.base import describe_base, load_base, load_tokenizer, locate
from core.errors import BadInput, BaseUnavailable, DeltalabError, OutOfMemory
from tests.checkpoints import FAMILIES, WIDE, make_config, make_tokenizer, write
from tests.checkpoints import quantized as quantized_checkpoint
from tests.core.hub_support import COMMIT, Hub, serving


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        write(family, folder)
    return folder


@pytest.fixture
def copy(checkpoints, tmp_path):
    """A copy of a checkpoint to damage, as a function of the family."""

    def of(family: str = "llama") -> Path:
        return Path(shutil.copytree(checkpoints / family, tmp_path / family))

    return of


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    for key, value in values.items():
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value
    path.write_text(json.dumps(content))


# --- what works -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_every_family_loads(checkpoints, family):
    import torch

    base = load_base(str(checkpoints / family))
    assert base.name == family
    assert not base.model.training
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    ids = base.tokenizer("What is the job of Ana?", return_tensors="pt")["input_ids"]
    assert torch.isfinite(base.model(input_ids=ids).logits).all()
    assert base.facts["template"] == ("plain" if family in ("gpt2", "opt") else "own")
    assert len(base.notes) == (1 if family in ("gpt2", "opt") else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_facts_are_those_of_the_loaded_model(checkpoints, family):
    facts = describe_base(str(checkpoints / family))
    model = load_base(str(checkpoints / family)).model
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["stored_bytes"] == 4 * facts["parameters"]
    assert facts["biases"] == any(n.endswith(".bias") for n, _ in model.named_parameters())
    assert facts["tied_embeddings"] == (model.get_output_embeddings().weight is model.get_input_embeddings().weight)
    assert (facts["layers"], facts["width"], facts["heads"], facts["context"]) == (2, 32, 4, 256)
    assert facts["vocabulary"] == model.get_input_embeddings().weight.shape[0]
    assert (facts["model_type"], facts["kind"]) == (model.config.model_type, "folder")
    assert facts["architecture"] == type(model).__name__
    assert facts["fingerprint"] == load_base(str(checkpoints / family)).facts["fingerprint"]
    other = "opt" if family == "gpt2" else "gpt2"
    assert facts["fingerprint"] != describe_base(str(checkpoints / other))["fingerprint"]
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("family", FAMILIES)
def test_the_light_tokenizer_is_the_one_transformers_would_take(checkpoints, family):
    from transformers import AutoTokenizer

    mine, theirs = load_tokenizer(str(checkpoints / family)), AutoTokenizer.from_pretrained(checkpoints / family)
    text = "What is the job of Ana?  Ünïcode ✓\n\n12 + 3"
    assert mine(text)["input_ids"] == theirs(text)["input_ids"]
    assert mine.chat_template == theirs.chat_template
    assert (mine.eos_token_id, mine.bos_token_id, mine.pad_token_id) == (
        theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id
    )  # fmt: skip


def test_the_embedded_base_loads():
    from core.base import EMBEDDED_FOLDER

    if not (EMBEDDED_FOLDER / "model.safetensors").exists():
        pytest.skip("the embedded base has not been trained yet")
    base = load_base("embedded")
    assert (base.name, base.source, base.facts["kind"]) == ("embedded", "embedded", "embedded")
    assert base.facts["biases"], "BitFit needs biases to train"
    assert base.notes == ()


def test_weights_in_several_files(checkpoints, tmp_path):
    import torch

    whole = load_base(str(checkpoints / "gpt2")).model
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    make_tokenizer("gpt2").save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = load_base(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.model.parameters(), strict=True))
    assert again.facts["parameters"] == sum(p.numel() for p in whole.parameters())
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(BaseUnavailable, match=f"lacks 1 of .* weight files .*{victim.name}"):
        load_base(str(tmp_path))


def test_other_number_formats(checkpoints, tmp_path):
    import torch

    half = load_base(str(checkpoints / "qwen2"), dtype="bfloat16").model
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path)
    make_tokenizer("qwen2").save_pretrained(tmp_path)
    facts = describe_base(str(tmp_path))
    assert facts["stored_dtype"] == "bfloat16"
    assert facts["stored_bytes"] == 2 * facts["parameters"]
    assert {p.dtype for p in load_base(str(tmp_path)).model.parameters()} == {torch.float32}
    with pytest.raises(BadInput, match="float12"):
        load_base(str(tmp_path), dtype="float12")


def test_an_end_token_that_only_the_config_knows(copy):
    folder = copy("opt")
    change(folder / "tokenizer_config.json", eos_token=None)
    assert load_tokenizer(str(folder)).eos_token == "</s>"


def test_stored_constants_are_no_parameters(copy):
    from safetensors.torch import load_file, save_file

    folder = copy("gpt2")
    before = describe_base(str(folder))["parameters"]
    import torch

    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 256, 256)
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert describe_base(str(folder))["parameters"] == before


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("/no/such/folder", BaseUnavailable, "There is no folder /no/such/folder"),
        ("./here", BaseUnavailable, "There is no folder"),
        ("~/surely/not/here", BaseUnavailable, "There is no folder"),
        ("a/b/c", BaseUnavailable, "There is no folder a/b/c"),
        ("", BadInput, "neither a folder nor a hub id"),
        ("what is this?", BadInput, "neither a folder nor a hub id"),
        ("owner/na--me", BadInput, "not a valid hub id"),
        ("owner/name.git", BadInput, "not a valid hub id"),
        ("x" * 5000, BadInput, "not a valid hub id"),
    ],
)
def test_sources_that_name_nothing(source, error, words):
    for ask in (load_base, describe_base, load_tokenizer):
        with pytest.raises(error, match=re.escape(words)):
            ask(source)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def adapter(folder: Path) -> None:
    no_config(folder)
    (folder / "adapter_config.json").write_text("{}")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-Q4_K_M.gguf")


def flax(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def beheaded(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def garbled(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:40] = b"\xff" * 32
    path.write_bytes(bytes(data))


def not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04" + b"\x80" * 4000)


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")


def bad_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",\n "vocab_size": }')


def not_an_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def binary_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def encoder_unknown(folder: Path) -> None:
    change(folder / "config.json", model_type="mpnet", architectures=["MPNetForMaskedLM"])


def encoder_unnamed(folder: Path) -> None:
    from transformers import MPNetConfig

    MPNetConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4).save_pretrained(folder)
    change(folder / "config.json", architectures=None)


def t5(folder: Path) -> None:
    change(folder / "config.json", model_type="t5", is_encoder_decoder=True,
           architectures=["T5ForConditionalGeneration"])  # fmt: skip


def vision(folder: Path) -> None:
    change(folder / "config.json", model_type="llava", architectures=["LlavaForConditionalGeneration"])


def remote_code(folder: Path) -> None:
    change(folder / "config.json", model_type="mystery", auto_map={"AutoModelForCausalLM": "modeling.MysteryModel"})
    (folder / "modeling.py").write_text("raise SystemExit('remote code ran')")


def unknown_kind(folder: Path) -> None:
    change(folder / "config.json", model_type="llama9")


def no_kind(folder: Path) -> None:
    change(folder / "config.json", model_type=None)


def quantized(folder: Path) -> None:
    change(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def other_shape(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=96)


def more_layers(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=3)


def odd_config(folder: Path) -> None:
    change(folder / "config.json", hidden_size="wide")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nothing"}}')


def tokenizer_code(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", tokenizer_class="MysteryTokenizer",
           auto_map={"AutoTokenizer": ["tok.MysteryTokenizer", None]})  # fmt: skip
    (folder / "tok.py").write_text("raise SystemExit('remote code ran')")


def larger_tokenizer(folder: Path) -> None:
    tokenizer = make_tokenizer("llama")
    tokenizer.add_tokens(["one more"])
    tokenizer.save_pretrained(folder)


def index_outside(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../other.safetensors"}}')


def index_empty(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_config, "has no config.json"),
        (adapter, "an adapter, not a base"),
        (pickled, r"pickled weights only \(pytorch_model.bin\).*safe_serialization=True"),
        (no_weights, "has no weights"),
        (gguf, "GGUF"),
        (flax, "Flax"),
        (truncated, r"truncated: it has .* \(1000 bytes are missing\)"),
        (beheaded, "truncated"),
        (emptied, "truncated: it has 0 bytes"),
        (garbled, "damaged"),
        (not_safetensors, "damaged"),
        (pointer, "Git LFS pointer.*git lfs pull"),
        (bad_json, "config.json is not valid JSON .line 2"),
        (not_an_object, "does not hold a JSON object"),
        (binary_config, "cannot be read"),
        (encoder_unknown, "not a causal language model but a MPNetForMaskedLM.*an encoder .bert, roberta"),
        (encoder_unnamed, "not a causal language model but a mpnet"),
        (t5, "not a causal language model but a T5ForConditionalGeneration"),
        (vision, "not a causal language model but a Llava"),
        (remote_code, "needs Python code from its repository, which Deltalab never runs"),
        (unknown_kind, "does not know the architecture 'llama9'"),
        (no_kind, "names no model_type"),
        (quantized, r"quantized already \(by gptq\)"),
        (other_shape, "do not fit its config.json|cannot be loaded"),
        (more_layers, "do not fit its config.json: .* missing"),
        (odd_config, "hidden_size of llama is 'wide'; it should be a whole number"),
        (no_tokenizer, "has no tokenizer"),
        (broken_tokenizer, "tokenizer of llama cannot be loaded"),
        (tokenizer_code, "tokenizer of llama (needs Python code|cannot be loaded)"),
        (larger_tokenizer, "has 385 tokens, the model only 384"),
        (index_outside, "names no usable weight files"),
        (index_empty, "names no usable weight files"),
    ],
)
def test_folders_that_cannot_be_used_say_why(copy, damage, words, capfd):
    folder = copy("llama")
    damage(folder)
    with pytest.raises(BaseUnavailable, match=f"(?s){words}") as caught:
        load_base(str(folder))
    assert caught.value.advice, "an error without advice leaves people alone"
    assert "\n" not in str(caught.value)
    printed = capfd.readouterr()
    assert printed.out + printed.err == "", "the engine prints nothing"


def test_a_file_is_no_base(checkpoints):
    with pytest.raises(BaseUnavailable, match="is a file, not a folder"):
        load_base(str(checkpoints / "llama" / "config.json"))


def test_a_folder_has_no_revision(checkpoints):
    with pytest.raises(BadInput, match="no revisions"):
        load_base(str(checkpoints / "llama"), revision="main")


def test_a_model_larger_than_memory_is_refused_before_it_is_loaded(copy):
    """The header claims a matrix of 10 TB in a sparse file: real bytes on no disk, a real file all the same."""
    folder = copy("llama")
    rows = 80_000_000
    header = {"model.embed_tokens.weight": {"dtype": "F32", "shape": [rows, 32_768],
                                            "data_offsets": [0, rows * 32_768 * 4]}}  # fmt: skip
    text = json.dumps(header).encode()
    try:
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + rows * 32_768 * 4)
    except OSError as why:
        pytest.skip(f"this file system has no sparse files of 10 TB: {why}")
    with pytest.raises(OutOfMemory, match=r"9.54 TiB|9.5 TiB") as caught:
        load_base(str(folder))
    assert "free in memory" in caught.value.sentence


def test_describing_needs_no_torch(checkpoints):
    code = (
        "import sys\nfrom core.base import describe_base, load_tokenizer\n"
        f"assert describe_base({str(checkpoints / 'gemma')!r})['parameters'] > 0\n"
        "assert 'transformers' not in sys.modules\n"
        f"load_tokenizer({str(checkpoints / 'gemma')!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(checkpoints, tmp_path_factory) -> Iterator[str]:
    Hub.repos = {f"tiny/{family}": checkpoints / family for family in FAMILIES}
    Hub.repos["shop/Small.Model_1"] = checkpoints / "llama"
    for name, damage in {"pickle": pickled, "code": remote_code, "mpnet": encoder_unknown, "bare": no_config}.items():
        folder = Path(shutil.copytree(checkpoints / "llama", tmp_path_factory.mktemp(name) / name))
        damage(folder)
        Hub.repos[f"bad/{name}"] = folder
    for name in ("huge", "torn", "gated-files", "forbidden-files"):
        Hub.repos[f"bad/{name}"] = checkpoints / "llama"
    wide = write("qwen2", tmp_path_factory.mktemp("wide"), **WIDE)
    how = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    Hub.repos["shop/few-bits"] = quantized_checkpoint(wide, tmp_path_factory.mktemp("few") / "few", **how)
    Hub.claimed = {"bad/huge": {"model.safetensors": 10**18}}
    Hub.torn = {"bad/torn"}
    Hub.failures = {"bad/private": (401, "RepoNotFound"), "bad/gated": (403, "GatedRepo"), "bad/login": (401, ""),
                    "bad/disabled": (403, "DisabledRepo"), "bad/busy": (429, ""), "bad/teapot": (418, "")}  # fmt: skip
    Hub.file_failures = {"bad/gated-files": (403, "GatedRepo"), "bad/forbidden-files": (403, "")}
    with serving(Hub) as address:
        yield address


ASK = """
import json, sys
from core import base
out = []
for name, source, revision in json.load(sys.stdin):
    try:
        got = getattr(base, name)(source, revision=revision)
        if name == "load_base":
            got = {"facts": got.facts, "parameters": sum(p.numel() for p in got.model.parameters())}
        elif name == "load_tokenizer":
            got = {"tokens": len(got)}
        out.append({"ok": got, "torch": "torch" in sys.modules})
    except base.DeltalabError as error:
        out.append({"kind": error.kind, "sentence": error.sentence, "advice": error.advice})
print(json.dumps(out))
"""


def ask(cases: list[tuple[str, str, str | None]], **env: str) -> list[dict[str, Any]]:
    """Ask the base module in a process of its own: the hub's client reads its environment when it is imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_"))}
    # No retries after a connection error, so that the test does not wait for them; no Xet: that is another protocol.
    clean |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", **env}
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(cases), capture_output=True, text=True, env=clean, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the engine prints nothing"
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


REFUSALS = [
    ("bad/unknown", None, "The hub knows no model bad/unknown, or it is private"),
    ("bad/private", None, "The hub knows no model bad/private, or it is private"),
    ("bad/gated", None, "bad/gated is gated"),
    ("bad/gated-files", None, "bad/gated-files is gated"),
    ("bad/forbidden-files", None, "not allowed to (HTTP 403)"),
    ("bad/login", None, "HTTP 401"),
    ("bad/disabled", None, "has been disabled on the hub|HTTP 403"),
    ("bad/busy", None, "too many requests"),
    ("bad/teapot", None, "the hub refused (HTTP 418)"),
    ("tiny/llama", "no-such-branch", "has no revision 'no-such-branch'"),
    ("bad/pickle", None, "pickled weights only (pytorch_model.bin)"),
    ("bad/code", None, "needs Python code from its repository"),
    ("bad/mpnet", None, "not a causal language model but a MPNetForMaskedLM"),
    ("bad/bare", None, "has no config.json"),
    ("bad/huge", None, "needs 888178 TiB on the disk|on the disk, and"),
]


def test_the_hub_says_no_in_many_ways(hub, tmp_path):
    """One process asks for everything that fails, through the hub's real client."""
    got = ask([("load_base", repo, revision) for repo, revision, _ in REFUSALS],
              HF_ENDPOINT=hub, HF_HOME=str(tmp_path), HF_HUB_DOWNLOAD_TIMEOUT="5")  # fmt: skip
    for (repo, _, words), answer in zip(REFUSALS, got, strict=True):
        assert answer.get("kind") == "base_unavailable", (repo, answer)
        assert any(part in answer["sentence"] for part in words.split("|")), (repo, answer)
        assert answer["advice"], repo
        assert "\n" not in answer["sentence"] + answer["advice"]
    said = {repo: answer for (repo, _, _), answer in zip(REFUSALS, got, strict=True)}
    assert "HF_TOKEN" in said["bad/gated"]["advice"]
    assert "HF_HOME" in said["bad/huge"]["advice"]
    assert not list(tmp_path.rglob("pytorch_model.bin")), "a pickle must not even be fetched"
    assert not list(tmp_path.rglob("modeling.py"))


ASKED_FIRST = [
    ("describe_base", "shop/few-bits", None),
    ("describe_base", "shop/Small.Model_1", None),
    ("load_tokenizer", "shop/Small.Model_1", None),
    ("load_base", "shop/few-bits", None),
    ("load_base", "shop/Small.Model_1", None),
    ("load_base", "tiny/gpt2", "main"),
    ("describe_base", "shop/Small.Model_1", None),
]


@pytest.fixture(scope="module")
def fetched(hub, tmp_path_factory) -> tuple[str, list[dict[str, Any]]]:
    """The hub's cache, empty before, and the answers to ASKED_FIRST by one process (importing torch takes seconds)."""
    home = str(tmp_path_factory.mktemp("fetched"))
    return home, ask(ASKED_FIRST, HF_ENDPOINT=hub, HF_HOME=home)


def test_a_checkpoint_in_few_bits_comes_from_the_hub(fetched):
    """Its facts before a weight is fetched, then the base itself, through the hub's real client."""
    first, _, _, loaded, *_ = fetched[1]
    facts = first["ok"]
    assert not first["torch"]
    assert facts["few_bits"]["quant_type"] == facts["stored_dtype"] == "nf4"
    assert loaded["ok"]["facts"]["few_bits"] == facts["few_bits"]
    assert loaded["ok"]["facts"]["parameters"] == facts["parameters"]


def test_fetch_once_then_offline(hub, fetched, checkpoints):
    """Describe, fetch and load from the hub; then the same with the network switched off, and with no network."""
    home, (_, described, tokens, _, loaded, other, again) = fetched
    parameters = describe_base(str(checkpoints / "llama"))["parameters"]
    assert described["ok"]["parameters"] == loaded["ok"]["parameters"] == parameters
    assert not described["torch"]
    assert not tokens["torch"]
    assert tokens["ok"]["tokens"] == 384
    assert loaded["ok"]["facts"]["revision"] == other["ok"]["facts"]["revision"] == COMMIT
    assert loaded["ok"]["facts"]["kind"] == "hub"
    # Known once the weights are here; the rest was known before.
    assert (described["ok"]["fingerprint"], len(again["ok"]["fingerprint"])) == (None, 16)
    assert again["ok"] == described["ok"] | {"fingerprint": again["ok"]["fingerprint"]}
    cases = [
        ("load_tokenizer", "shop/Small.Model_1", None),
        ("describe_base", "shop/Small.Model_1", None),
        ("load_base", "tiny/llama", None),
        ("load_base", "shop/Small.Model_1", "v2"),
    ]
    seen = len(Hub.requests)
    loads = [("load_base", "tiny/gpt2", None)]
    for env, words, more in (
        ({"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub}, "HF_HUB_OFFLINE forbids fetching it", loads),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached", []),  # nobody listens on the discard port
    ):
        tokens, facts, unknown, revision, *from_cache = ask([*cases, *more], HF_HOME=home, **env)
        assert tokens["ok"]["tokens"] == 384
        assert facts["ok"]["parameters"] == parameters
        for answer in (unknown, revision):
            assert answer["kind"] == "base_unavailable"
            assert words in answer["sentence"]
            assert "embedded" in answer["advice"]
        assert [answer["ok"] for answer in from_cache] == [other["ok"]] * len(more)
    assert len(Hub.requests) == seen, "nothing may be asked of the hub when it is switched off"


def test_a_fetch_that_broke_off_is_completed_later(hub, tmp_path):
    (broken,) = ask([("load_base", "bad/torn", None)], HF_ENDPOINT=hub, HF_HOME=str(tmp_path))
    assert "broke off while bad/torn was fetched" in broken["sentence"]
    (offline,) = ask([("load_base", "bad/torn", None)], HF_ENDPOINT=hub, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "not in the local cache" in offline["sentence"]
    Hub.torn.discard("bad/torn")
    try:
        (whole,) = ask([("load_base", "bad/torn", None)], HF_ENDPOINT=hub, HF_HOME=str(tmp_path))
    finally:
        Hub.torn.add("bad/torn")
    assert whole["ok"]["parameters"] > 0


def test_a_disk_that_becomes_full(hub, tmp_path):
    """A real file system of 64 KiB below the cache, where this system lets an ordinary process mount one."""
    small = tmp_path / "small"
    small.mkdir()
    inner = f'mount -t tmpfs -o size=64k tmpfs {small} && exec {sys.executable} -c "$ASK"'
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"ASK": ASK, "HF_ENDPOINT": hub, "HF_HOME": str(small), "HF_HUB_DISABLE_XET": "1"}
    Hub.claimed["tiny/mistral"] = {"model.safetensors": 10}  # so that the check beforehand sees no problem
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner],
            input=json.dumps([("load_base", "tiny/mistral", None)]), env=env, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no unshare on this system")
    finally:
        del Hub.claimed["tiny/mistral"]
    if done.returncode != 0 and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    (answer,) = json.loads(done.stdout)
    assert "disk became full" in answer["sentence"], (answer, done.stderr)
    assert "HF_HOME" in answer["advice"]


def test_a_base_is_named_by_folder_before_hub(checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoints)
    assert locate("llama").kind == "folder"
    (tmp_path / "owner").mkdir()
    shutil.copytree(checkpoints / "llama", tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert locate("owner/name").folder.resolve() == (tmp_path / "owner" / "name").resolve()


def test_every_refusal_is_a_deltalab_error():
    assert issubclass(BaseUnavailable, DeltalabError)
    assert make_config("llama").model_type == "llama"
