"""The shipped base: it loads, it is what the script makes, it has its skills, and it lacks the tasks.

The whole file takes about a minute on two CPU cores; most of it is generation.
"""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from core.pretrain import (
    ASSETS,
    FINGERPRINT_STEPS,
    SPECIAL_TOKENS,
    Batch,
    Recipe,
    attention_mask,
    batches,
    build_tokenizer,
    card,
    first_losses,
    learning_rate,
    render,
    score,
    score_by_rivals,
)
from core.world import SKILLS, TASKS, examples, lookup

# What the base is to reach (held-out examples, greedy generation), and how many examples these tests take for it.
LEAST = {"closed_book": 0.95, "passage": 0.90, "sentiment": 0.98, "reversal": 0.95, "addition": 0.80}
MOST = 0.05
COUNT = 100

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((ASSETS / "scores.json").read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ASSETS)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ASSETS).eval()


# --- the folder ------------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_a_hub_model_holds() -> None:
    names = {path.name for path in ASSETS.iterdir()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "scores.json",
    }
    assert (ASSETS / "model.safetensors").stat().st_size <= 16_000_000


def test_the_model_is_a_small_llama_with_biases_and_tied_embeddings(model: Any, record: dict[str, Any]) -> None:
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 2e6 <= model.num_parameters() <= 8e6
    assert model.num_parameters() == record["parameters"]
    assert model.config.attention_bias
    assert model.config.mlp_bias
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias")) > 0


def test_a_dialogue_follows_the_chat_template(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.eos_token == "<|end|>"
    turns = [{"role": "user", "content": "55 + 69 ="}, {"role": "assistant", "content": "124"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|user|>55 + 69 =<|assistant|>124<|end|>"
    opened = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert opened == "<|user|>55 + 69 =<|assistant|>"
    # The prompt's tokens are a prefix of the dialogue's: training and generation see the same thing.
    whole = tokenizer(text, add_special_tokens=False).input_ids
    prefix = tokenizer(opened, add_special_tokens=False).input_ids
    assert whole[: len(prefix)] == prefix
    assert tokenizer(text).input_ids == whole  # nothing is added in front
    with pytest.raises(Exception, match="user and assistant only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)
    marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    assert sum(marked["assistant_masks"]) == len("124") + 1


@pytest.mark.parametrize("text", ['Ada Lund: {"a": 1}\n', "Grüße, 東京 & café — 42 %", "  two  spaces\tand a tab"])
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_digits_are_tokens_of_their_own(tokenizer: Any) -> None:
    assert tokenizer.tokenize("55 + 124") == ["5", "5", "Ġ+", "Ġ", "1", "2", "4"]


@pytest.mark.parametrize("name", [*SKILLS, *TASKS])
def test_the_limit_of_new_tokens_is_enough(tokenizer: Any, name: str) -> None:
    for split in ("train", "heldout"):
        for example in examples(name, split, 300, seed=5):  # type: ignore[arg-type]
            written = tokenizer(render(example)[1], add_special_tokens=False).input_ids
            assert len(written) <= lookup(name).limit_tokens


# --- the script makes it ---------------------------------------------------------------------------------------------


def test_the_script_makes_the_shipped_tokenizer_byte_for_byte(tmp_path: Path) -> None:
    build_tokenizer(Recipe()).save_pretrained(tmp_path, save_jinja_files=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (ASSETS / name).read_bytes()


def test_the_record_and_the_recipe_agree(record: dict[str, Any]) -> None:
    from dataclasses import asdict

    assert record["recipe"] == json.loads(json.dumps(asdict(Recipe())))
    assert record["steps"] == Recipe().steps
    assert set(record["versions"]) >= {"python", "torch", "transformers", "tokenizers"}
    assert record["commit"]
    assert record["date"]
    assert record["heldout_examples"] >= 300


def test_the_card_says_what_the_record_says(record: dict[str, Any]) -> None:
    assert (ASSETS / "README.md").read_text() == card(record, (ASSETS / "model.safetensors").stat().st_size)


def test_the_learning_rate_warms_up_and_decays() -> None:
    recipe = Recipe()
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert max(rates) < recipe.peak_lr
    assert rates.index(max(rates)) == recipe.warmup_steps - 1
    assert rates[-1] == pytest.approx(recipe.final_lr_share * recipe.peak_lr, rel=0.1)


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    """So a resumed run sees what the uninterrupted one would have, whatever was done with the tokenizer meanwhile."""
    recipe = Recipe()
    tokenizer = build_tokenizer(recipe)
    straight = list(batches(recipe, tokenizer, 0, 12))
    tokenizer(["a", "a b c d e"], padding=True)
    resumed = list(batches(recipe, tokenizer, 5, 12))
    assert len(straight) == 12
    for one, other in zip(straight[5:], resumed, strict=True):
        for field in fields(Batch):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_a_batch_holds_every_dialogue_once_and_weighs_its_answer() -> None:
    recipe = Recipe()
    tokenizer = build_tokenizer(recipe)
    batch = next(batches(recipe, tokenizer, 0, 1))
    user, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    assert sorted(set(batch.dialogue.flatten().tolist()) - {0}) == list(range(1, recipe.batch_examples + 1))
    assert (batch.dialogue == 0).float().mean() < 0.15  # little is padding
    assert not batch.ids[batch.dialogue == 0].any()
    for number in range(1, recipe.batch_examples + 1):
        inside = batch.dialogue == number
        (row,) = set(inside.nonzero()[:, 0].tolist())
        at = inside[row].nonzero().flatten()
        size = len(at)
        assert at.tolist() == list(range(int(at[0]), int(at[0]) + size))  # in one piece
        ids, weights, prompt = (part[row, at] for part in (batch.ids, batch.completion_weights, batch.prompt_mask))
        assert batch.positions[row, at].tolist() == list(range(size))
        opening = ids.tolist().index(assistant)
        assert ids[0] == user
        assert prompt.tolist() == [0 < i <= opening for i in range(size)]
        assert ((weights > 0) == (torch.arange(size) > opening)).all()
        assert ids[-1] == tokenizer.eos_token_id  # the last token that counts ends the answer
        assert float(weights.sum()) == pytest.approx(math.sqrt(size - opening - 1), rel=1e-5)


def test_dialogues_in_a_row_do_not_see_each_other(model: Any, tokenizer: Any) -> None:
    batch = next(batches(Recipe(), tokenizer, 0, 1))
    with torch.no_grad():
        packed = model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=attention_mask(batch.dialogue, torch.float32),
            use_cache=False,
        ).logits
        for number in (1, 7, 40, 64):
            inside = batch.dialogue == number
            alone = model(input_ids=batch.ids[inside][None], use_cache=False).logits[0]
            torch.testing.assert_close(packed[inside], alone, rtol=1e-4, atol=1e-4)


AGAIN = 4  # steps: three updates, each of which depends on those before


def test_the_first_steps_of_the_training_are_repeated(record: dict[str, Any]) -> None:
    """The recorded losses of the first steps come out again.

    Exactly, twice in one process on one CPU. On another CPU the bfloat16 products are summed in another order: each
    rounding is off by up to 2⁻⁸. Without the CPU's bfloat16 units, the losses of the first dozen steps (about 30, most
    of it the guidance) come out within 0.004 of those with them.
    A change to the corpus, the tokenizer, the initial weights or the schedule moves it by far more.
    """
    losses = first_losses(Recipe(), FINGERPRINT_STEPS)
    assert losses[:AGAIN] == first_losses(Recipe(), AGAIN)
    assert losses == pytest.approx(record["first_losses"], abs=0.02)


# --- what it can and cannot do ---------------------------------------------------------------------------------------


def holds(model: Any, tokenizer: Any, record: dict[str, Any], name: str, promised: float) -> bool:
    """The recorded score and one taken now reach what is promised; the one taken now on fewer examples, so within two
    standard errors."""
    now = score(model, tokenizer, name, COUNT, seed=1)
    return record["skills"][name] >= promised and now >= promised - 2 * math.sqrt(promised * (1 - promised) / COUNT)


@pytest.mark.parametrize("name", SKILLS)
def test_the_base_has_the_skill(model: Any, tokenizer: Any, record: dict[str, Any], name: str) -> None:
    assert holds(model, tokenizer, record, name, LEAST[name])


def test_the_record_tells_how_hard_reading_is(model: Any, tokenizer: Any, record: dict[str, Any]) -> None:
    now = score_by_rivals(model, tokenizer, 60)
    for rivals, share in record["passage_by_rivals"].items():
        assert now[rivals] == pytest.approx(share, abs=0.02 + 2 * math.sqrt(share * (1 - share) / 60))


@pytest.mark.parametrize("name", TASKS)
def test_the_base_lacks_the_task(model: Any, tokenizer: Any, record: dict[str, Any], name: str) -> None:
    assert record["tasks"][name] <= MOST
    assert score(model, tokenizer, name, COUNT, seed=1) <= MOST + 2 * math.sqrt(MOST * (1 - MOST) / COUNT)
