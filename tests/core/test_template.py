"""Chat templates: which tokens the loss counts, on every family of tokenizer and many habits of templates."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.batches import IGNORED
from core.errors import BadInput, BaseUnavailable
from core.template import (
    Dialogue,
    Message,
    conversation,
    dialogue,
    encode,
    encode_all,
    pad_id,
    prompt_ids,
    template_of,
    token_texts,
    token_view,
)
from tests.checkpoints import FAMILIES, MISTRAL, QWEN2, make_tokenizer

ASK = "What is the job of Ana?"
TWO_TURNS = Dialogue(
    (
        Message("system", "Answer in a word."),
        Message("user", ASK),
        Message("assistant", "A baker."),
        Message("user", "And of Ben?"),
        Message("assistant", "A sailor – ünïcode ✓"),
    )
)
END = {"llama": "<|eot_id|>", "llama_biased": "<|eot_id|>", "gpt2": "<|endoftext|>", "opt": "</s>",
       "qwen2": "<|im_end|>", "mistral": "</s>", "gemma": "<end_of_turn>"}  # fmt: skip


def counted(tokenizer, encoded) -> str:
    return tokenizer.decode([i for i, label in zip(encoded.ids, encoded.labels, strict=True) if label != IGNORED])


def with_template(text: str, family: str = "qwen2"):
    tokenizer = make_tokenizer(family)
    tokenizer.chat_template = text
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_counts_the_answer_and_its_end(family):
    tokenizer = make_tokenizer(family)
    encoded = encode(tokenizer, dialogue(ASK, "Ana is a baker."))
    assert counted(tokenizer, encoded).lstrip() == "Ana is a baker." + END[family]
    assert len(encoded.ids) == len(encoded.labels)
    prompt = prompt_ids(tokenizer, ASK)
    assert encoded.ids[: len(prompt)] == prompt
    assert set(encoded.labels[: len(prompt)]) == {IGNORED}
    assert encoded.labels[len(prompt)] != IGNORED
    assert tokenizer.convert_tokens_to_ids(END[family]) in template_of(tokenizer).stop_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_of_a_conversation_counts(family):
    tokenizer = make_tokenizer(family)
    encoded = encode(tokenizer, TWO_TURNS)
    text = counted(tokenizer, encoded)
    assert text.replace(" ", "") == f"Abaker.{END[family]}Asailor–ünïcode✓{END[family]}"
    for turns in (TWO_TURNS.messages[:2], TWO_TURNS.messages[:4]):
        prompt = prompt_ids(tokenizer, turns)
        assert encoded.ids[: len(prompt)] == prompt
    assert "Answer in a word." in tokenizer.decode(encoded.ids), "the system text must not get lost"


def test_a_template_without_a_system_role_gets_the_text_before_the_first_question():
    tokenizer = make_tokenizer("gemma")
    assert template_of(tokenizer).folds_system
    assert f"user\nAnswer in a word.\n\n{ASK}<end_of_turn>" in tokenizer.decode(encode(tokenizer, TWO_TURNS).ids)
    assert "system" in template_of(tokenizer).sentence
    assert not template_of(make_tokenizer("qwen2")).folds_system


def test_the_plain_template_is_as_documented():
    tokenizer = make_tokenizer("gpt2")
    assert tokenizer.decode(encode(tokenizer, TWO_TURNS).ids) == (
        f"Answer in a word.\n\n### Question:\n{ASK}\n\n### Answer:\nA baker.<|endoftext|>\n\n"
        "### Question:\nAnd of Ben?\n\n### Answer:\nA sailor – ünïcode ✓<|endoftext|>"
    )
    assert not template_of(tokenizer).own
    assert "plain" in template_of(tokenizer).sentence
    # A tokenizer that writes a beginning-of-text token keeps it, once.
    opt = make_tokenizer("opt")
    assert prompt_ids(opt, ASK)[0] == opt.bos_token_id
    assert prompt_ids(opt, ASK).count(opt.bos_token_id) == 1


def test_many_at_once_equals_one_by_one():
    for family in ("llama", "gpt2", "mistral"):
        tokenizer = make_tokenizer(family)
        some = [TWO_TURNS, dialogue("a", "b"), dialogue(" a ", "\n\nb "), dialogue("", "x"), dialogue(ASK, "")]
        assert encode_all(tokenizer, some) == [encode(tokenizer, d) for d in some]
    assert encode_all(tokenizer, []) == []


@pytest.mark.parametrize("answer", ["\nLyon", " Lyon", "\n\n  Lyon", "\u00a0Lyon", "é", "  ", "\n"])
@pytest.mark.parametrize("family", ["gpt2", "opt", "mistral", "qwen2"])
def test_answers_whose_first_token_would_merge_with_the_prompt(family, answer):
    tokenizer = make_tokenizer(family)
    encoded = encode(tokenizer, dialogue(ASK, answer))
    prompt = prompt_ids(tokenizer, ASK)
    assert encoded.ids[: len(prompt)] == prompt, "training must see the very prefix that generation will see"
    assert encoded.labels[len(prompt)] != IGNORED
    text = counted(tokenizer, encoded)
    assert text.removeprefix(" " if family == "mistral" else "") == answer + END[family]


def test_a_header_without_a_generation_prompt_is_part_of_the_prompt():
    """A template that ignores add_generation_prompt but writes a header: the header is not for the model to say."""
    tokenizer = with_template(
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
        "{% endif %}{{ '\n' }}{% endfor %}"
    )
    encoded = encode(tokenizer, TWO_TURNS)
    assert counted(tokenizer, encoded) == " A baker.<|im_end|> A sailor – ünïcode ✓<|im_end|>"
    assert tokenizer.decode(prompt_ids(tokenizer, ASK)).endswith("?\nassistant:")


def test_a_template_that_drops_thinking_from_earlier_turns():
    """As Qwen 3: an empty thinking block in the last answer only. Earlier answers still count, without it."""
    tokenizer = with_template(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    encoded = encode(tokenizer, TWO_TURNS)
    assert counted(tokenizer, encoded) == ("A baker.<|im_end|><think>\n\n</think>\n\nA sailor – ünïcode ✓<|im_end|>")
    prompt = prompt_ids(tokenizer, TWO_TURNS.messages[:4])
    assert encoded.ids[: len(prompt)] == prompt


def test_a_generation_prompt_that_opens_a_thought_is_cut_to_what_answers_show():
    tokenizer = with_template(QWEN2.replace("<|im_start|>assistant\n' }}", "<|im_start|>assistant\n<think>\n' }}"))
    assert "<think>" in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False,
                                                      add_generation_prompt=True)  # fmt: skip
    encoded = encode(tokenizer, dialogue(ASK, "A baker."))
    assert counted(tokenizer, encoded) == "A baker.<|im_end|>"
    assert tokenizer.decode(prompt_ids(tokenizer, ASK)).endswith("<|im_start|>assistant\n")


def test_a_template_that_never_ends_an_answer_gets_the_end_token():
    tokenizer = with_template("{% for m in messages %}{{ m.role + '>' + m.content + '\n' }}{% endfor %}"
                              "{% if add_generation_prompt %}assistant>{% endif %}")  # fmt: skip
    assert counted(tokenizer, encode(tokenizer, dialogue(ASK, "A baker."))) == "A baker.<|im_end|>"
    assert template_of(tokenizer).append_end


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        # The question is written differently once it has been answered.
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", BaseUnavailable, "differently"),
        ("{{ messages[0].content }}", BaseUnavailable, "does not show the answers"),
        ("{{ raise_exception('No chat here') }}", BaseUnavailable, "No chat here"),
        ("{% for m in %}", BaseUnavailable, "cannot render"),
        ("{{ messages[0].content.nothing.more }}", BaseUnavailable, "cannot render"),
    ],
)
def test_templates_that_cannot_be_trained_with_say_so(text, error, words):
    with pytest.raises(error, match=words):
        encode(with_template(text), dialogue(ASK, "A baker."))


def test_a_template_that_rewrites_earlier_turns_is_refused():
    """Earlier questions are numbered by how many follow: no prompt is a prefix of the whole."""
    tokenizer = with_template(
        "{% if messages | length > 2 %}[{{ messages | length }}]{% endif %}{% for m in messages %}"
        "<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert counted(tokenizer, encode(tokenizer, dialogue(ASK, "A baker."))) == "A baker.<|im_end|>"
    with pytest.raises(BadInput, match="rewrites earlier turns"):
        encode(tokenizer, TWO_TURNS)


def test_a_template_that_changes_earlier_answers_is_refused():
    tokenizer = with_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(BadInput, match="changes the text of earlier answers"):
        encode(tokenizer, TWO_TURNS)


def test_a_conversation_the_template_refuses_says_why_in_its_words():
    roles = ("user", "user", "assistant")
    with pytest.raises(BadInput, match="must alternate"):
        encode(make_tokenizer("gemma"), Dialogue(tuple(Message(r, "x") for r in roles)))


def test_a_conversation_must_end_with_an_answer():
    with pytest.raises(BadInput, match="end with an assistant turn"):
        encode(make_tokenizer("llama"), Dialogue((Message("user", "x"),)))
    with pytest.raises(BadInput, match="end with an assistant turn"):
        encode(make_tokenizer("gpt2"), Dialogue(()))


def test_no_end_token_at_all_is_refused():
    for family in ("gpt2", "mistral"):
        tokenizer = make_tokenizer(family)
        tokenizer.eos_token = None
        if family == "mistral":
            tokenizer.chat_template = MISTRAL.replace("+ eos_token", "")
        with pytest.raises(BaseUnavailable, match="eos_token"):
            encode(tokenizer, dialogue(ASK, "x"))


def test_a_changed_template_is_probed_again():
    tokenizer = make_tokenizer("qwen2")
    assert template_of(tokenizer).own
    tokenizer.chat_template = None
    assert not template_of(tokenizer).own


def test_messages_in_any_form():
    tokenizer = make_tokenizer("qwen2")
    forms = (ASK, [Message("user", ASK)], [{"role": "user", "content": ASK}], Dialogue((Message("user", ASK),)))
    assert len({tuple(prompt_ids(tokenizer, form)) for form in forms}) == 1
    with pytest.raises(BadInput, match="'tool'"):
        conversation([{"role": "tool", "content": "x"}])
    with pytest.raises(BadInput, match="role"):
        conversation([{"content": "x"}])


def test_a_tokenizer_in_plain_python():
    """ByT5's tokenizer has no fast back end: bytes are tokens, and it appends an end token of its own accord."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    encoded = encode(tokenizer, dialogue(ASK, "Zürich"))
    assert counted(tokenizer, encoded) == "Zürich</s>"
    prompt = prompt_ids(tokenizer, ASK)
    assert encoded.ids[: len(prompt)] == prompt
    view = token_view(tokenizer, dialogue(ASK, "Zürich"))
    assert "".join(t for t, _ in view) == f"### Question:\n{ASK}\n\n### Answer:\nZürich</s>"
    assert "".join(t for t, counts in view if counts) == "Zürich</s>"


def metaspace_tokenizer():
    """A tokenizer that puts a space before a text, as SentencePiece models do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])  # fmt: skip
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    inner.train_from_iterator(
        ["Ana is a baker", "### Question: What is it", "### Answer: Lyon"] * 4,
        trainers.BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("answer", ["Lyon", " Lyon", "\nLyon", "é"])
def test_a_tokenizer_that_puts_a_space_before_a_text(answer):
    tokenizer = metaspace_tokenizer()
    encoded = encode(tokenizer, dialogue("What is it", answer))
    prompt = prompt_ids(tokenizer, "What is it")
    assert encoded.ids[: len(prompt)] == prompt
    assert counted(tokenizer, encoded).lstrip(" ") == answer.lstrip(" ") + "</s>"
    assert tokenizer.decode(encoded.ids) == f"### Question:\nWhat is it\n\n### Answer:\n{answer}</s>"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_token_view_shows_the_whole_text(family):
    tokenizer = make_tokenizer(family)
    view = token_view(tokenizer, TWO_TURNS)
    encoded = encode(tokenizer, TWO_TURNS)
    assert len(view) == len(encoded.ids)
    assert "".join(text for text, _ in view) == tokenizer.decode(encoded.ids)
    assert [counts for _, counts in view] == [label != IGNORED for label in encoded.labels]


def test_a_character_of_several_tokens_stands_at_the_last():
    tokenizer = make_tokenizer("gpt2")
    ids = tokenizer("✓")["input_ids"]
    assert len(ids) == 3
    assert token_texts(tokenizer, ids) == ["", "", "✓"]


def test_padding_without_a_padding_token():
    assert pad_id(make_tokenizer("gpt2")) == make_tokenizer("gpt2").eos_token_id
    assert pad_id(make_tokenizer("opt")) == make_tokenizer("opt").pad_token_id


def test_encoding_needs_no_torch():
    """The web server shows token views: a fast tokenizer must do without torch."""
    code = (
        "import sys\n"
        "from tests.checkpoints import make_tokenizer\n"
        "from core.template import token_view, dialogue\n"
        "for f in ('gemma', 'gpt2'): assert token_view(make_tokenizer(f), dialogue('a', 'b'))\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
