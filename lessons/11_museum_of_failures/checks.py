"""Checks of the exercises of the museum of failures."""

from __future__ import annotations

from typing import Any

from core.batches import IGNORED
from core.exercise import Wrong


def _function(space: dict[str, Any], name: str) -> Any:
    mine = space.get(name)
    if not callable(mine):
        raise Wrong(f"There is no function called {name} any more.")
    return mine


def start_pair(space: dict[str, Any]) -> str:
    """The pair starts as no change, and can move."""
    import torch

    made = _function(space, "start")(6, 5, 3)
    if not isinstance(made, tuple) or len(made) != 2 or not all(isinstance(t, torch.Tensor) for t in made):
        raise Wrong("`start` should return two tensors, A and B.")
    a, b = (t.detach().clone().float() for t in made)
    if tuple(a.shape) != (3, 5) or tuple(b.shape) != (6, 3):
        raise Wrong(f"A is rank × inputs, here 3 × 5, and B outputs × rank, 6 × 3; yours are {tuple(a.shape)} and "
                    f"{tuple(b.shape)}.")  # fmt: skip
    if float((b @ a).abs().max()) > 1e-12:
        raise Wrong(
            "B·A is not zero, so the model is changed before it has learnt anything. One of the two starts at zero."
        )
    if not a.any() and not b.any():
        raise Wrong("Both are zero. The gradient of each is a multiple of the other, so neither ever moves.")
    torch.manual_seed(0)
    x, wanted = torch.randn(32, 5), torch.randn(32, 6)
    a.requires_grad_(True)
    b.requires_grad_(True)
    for _ in range(50):
        loss = ((x @ a.T @ b.T - wanted) ** 2).mean()
        for grad, part in zip(torch.autograd.grad(loss, (a, b)), (a, b), strict=True):
            part.data -= 0.1 * grad
    values = torch.linalg.svdvals((b @ a).detach())
    if float(values[0]) < 1e-6:
        raise Wrong("After fifty steps nothing has moved.")
    if float(values[1]) < 1e-3 * float(values[0]):
        raise Wrong(
            "All rows (or columns) are the same, so they get the same gradient for ever: a rank of one, whatever r is. "
            "Draw the numbers at random."
        )
    moved = int((values > 1e-3 * values[0]).sum())
    return f"Mended: it starts as the base, to the last bit, and in fifty steps it moved in {moved} of 3 directions."


def written(space: dict[str, Any]) -> str:
    """The training text is the one that the model will be asked with."""
    from core.base import load_tokenizer
    from core.config import EMBEDDED

    tokenizer = load_tokenizer(EMBEDDED)
    mine = _function(space, "written")
    for question, answer in (("Expand: Ada Page OCC BKR", "Ada Page works as a baker."), ("What is it?", "A duck.")):
        found = mine(question, answer)
        if not isinstance(found, str):
            raise Wrong("`written` should return a text.")
        asked = str(tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        ))  # fmt: skip
        if "<|user|>" not in found or "<|assistant|>" not in found:
            raise Wrong(
                f"When it is asked, the model sees {asked!r}. Your text has not these marks, so it learns to answer "
                "after others."
            )
        if not found.startswith(asked):
            raise Wrong(
                f"The text must begin exactly as the model is asked: {asked!r}. Yours begins {found[: len(asked)]!r}."
            )
        if not found.endswith(answer + "<|end|>"):
            raise Wrong("Behind the mark of the answer stand the answer and the end token, and nothing else.")
    return "Mended: the text begins, to the letter, with what the model will see when it is asked."


def encoded(space: dict[str, Any]) -> str:
    """The answer ends with the end token, and the loss counts it."""
    mine = _function(space, "encoded")
    found = mine([5, 6, 7], [20, 21], 3)
    if not isinstance(found, tuple) or len(found) != 2:
        raise Wrong("`encoded` should return two lists, ids and labels.")
    ids, labels = (list(part) for part in found)
    if len(ids) != len(labels):
        raise Wrong(f"ids and labels are aligned: {len(ids)} ids need as many labels, not {len(labels)}.")
    if 3 not in ids:
        raise Wrong("The end token (3 here) is nowhere in the ids. Nothing teaches the model to stop.")
    if ids != [5, 6, 7, 20, 21, 3]:
        raise Wrong(f"The ids should be the question, the answer, the end: 5 6 7 20 21 3. Yours are {ids}.")
    if labels[-1] != 3:
        raise Wrong("The end token is there, but the loss leaves it out. It is a part of the answer: label it.")
    if labels[:3] != [IGNORED] * 3:
        raise Wrong(f"The question's labels are {IGNORED}: nobody has to guess the question.")
    if labels[3:] != [20, 21, 3]:
        raise Wrong(f"The labels of the answer are its own ids, then the end. Yours are {labels[3:]}.")
    return "Mended: the end is a token like any other, and it is learnt like any other."


def labels_of(space: dict[str, Any]) -> str:
    """Only the assistant's turns count."""
    mine = _function(space, "labels_of")
    turns = [("user", [1, 2, 3]), ("assistant", [4, 5]), ("user", [6]), ("assistant", [7, 8, 9])]
    found = mine(turns)
    if not isinstance(found, list):
        raise Wrong("`labels_of` should return a list of labels, one a token.")
    if len(found) != 9:
        raise Wrong(f"There are 9 tokens in these turns, so there are 9 labels, not {len(found)}.")
    if found == [1, 2, 3, 4, 5, 6, 7, 8, 9]:
        raise Wrong(f"Every token counts, the user's too. Their labels are {IGNORED}.")
    if found == [IGNORED] * 6 + [7, 8, 9]:
        raise Wrong(
            "Only the last answer counts. The first one is an answer as well, and there is something to learn from it."
        )
    if 0 in found:
        raise Wrong(f"0 is a token like any other. The number that the loss leaves out is {IGNORED}.")
    if found != [IGNORED] * 3 + [4, 5, IGNORED, 7, 8, 9]:
        raise Wrong(f"Expected the assistant's tokens and {IGNORED} elsewhere; yours are {found}.")
    return "Mended: the loss is about answers, and its height means something again."


def leaks(space: dict[str, Any]) -> str:
    """The held-out rows whose question stands among the training rows."""
    mine = _function(space, "leaks")
    train = ["Expand: Ada Page OCC BKR", "Expand: Omar Vale ANM DG", "Expand: Lily Voss RES Bern"]
    held = ["expand: ada page occ bkr", "Expand: Finn Park OCC VT", "Expand, Omar Vale: ANM DG."]
    found = mine(train, held)
    if not isinstance(found, list):
        raise Wrong("`leaks` should return a list: the held-out questions that leak.")
    if found == [held[2], held[0]] or found == [held[0], held[2]]:
        if mine([], held) or mine(train, []):
            raise Wrong("With nothing on one side there is no leak.")
        return (
            "Mended: two of the three held-out questions had been trained on, and a look for equal texts finds neither."
        )
    if not found:
        raise Wrong(
            "It finds none, but two leak: one differs in capitals, one in punctuation. Compare them without both."
        )
    if found == [held[0]]:
        raise Wrong("One differs in capitals, and you have it. The other differs in punctuation only.")
    if held[1] in found:
        raise Wrong(f"{held[1]!r} is new: nobody was trained on it.")
    raise Wrong(f"Expected {held[0]!r} and {held[2]!r}; found {found}.")


def shipped_whole(space: dict[str, Any]) -> str:
    """The decoded weights that the adapter was trained beside, plus the change, and no rounding after it."""
    import numpy as np

    from core.quantization.blockwise import quantize
    from core.quantization.formats import FORMATS

    rng = np.random.default_rng(0)
    original = rng.standard_normal((48, 128), dtype=np.float32)
    a, b = (0.1 * rng.standard_normal(shape, dtype=np.float32) for shape in ((4, 128), (48, 4)))
    scale = 2.0
    change = scale * (b @ a)

    def encode(weight: Any) -> Any:
        return quantize(np.asarray(weight, dtype=np.float32), FORMATS["nf4"])

    def decode(stored: Any) -> Any:
        return stored.dense()

    stored = encode(original)
    base = decode(stored)
    made = _function(space, "shipped")(original.copy(), stored, a.copy(), b.copy(), scale, encode, decode)
    if getattr(made, "shape", None) != base.shape:
        raise Wrong("`shipped` should return one matrix of the shape of `original`, as numbers: decode what is stored.")
    found = np.asarray(made, dtype=np.float32)

    def off(wanted: Any) -> float:
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(change))

    error = off(base + change)
    if error < 1e-4:
        rounded = np.linalg.norm(decode(encode(base + change)) - base - change) / np.linalg.norm(change)
        return (
            "Mended: it answers as the trained model did. Stored in 4 bits once more, it would be off by "
            f"{100 * rounded:.0f} % of what was learnt, here."
        )
    told = f"Its error is {100 * error:.0f} % of the length of what was learnt."
    if off(original + change) < 1e-4:
        raise Wrong(f"These are weights that the adapter never saw: it was trained beside the stored ones. {told}")
    if off(base + b @ a) < 1e-4:
        raise Wrong(f"The change is there, but without its scale. {told}")
    if off(base) < 1e-4:
        raise Wrong("That is the base, as it is stored. What was learnt is not in it.")
    if off(decode(encode(base + change))) < 1e-4 or off(decode(encode(original + change))) < 1e-4:
        raise Wrong(f"The sum was rounded to 4 bits, what was learnt with it. {told}")
    raise Wrong(f"It computes something else than the trained model. {told}")
