"""Checks of the exercises on the smallest methods: BitFit, and folding IA3's scale into a layer."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong


def _function(space: dict[str, Any], name: str) -> Any:
    found = space.get(name)
    if not callable(found):
        raise Wrong(f"There is no function called {name} yet.")
    return found


def only_biases(space: dict[str, Any]) -> str:
    """Biases train, all else is frozen, the numbers are counted, and a model without biases is refused."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from core.architecture import is_bias
    from core.base import load_base

    own = _function(space, "only_biases")
    model = load_base("embedded").model
    answer = own(model)
    if answer is None:
        raise Wrong("only_biases(model) returns nothing yet; it should return how many numbers train.")
    loose = [n for n, p in model.named_parameters() if p.requires_grad and not is_bias(n)]
    if loose:
        raise Wrong(f"{len(loose)} tensors that are no biases still train, such as {loose[0]}. Freeze them first.")
    frozen = [n for n, p in model.named_parameters() if is_bias(n) and not p.requires_grad]
    if frozen:
        raise Wrong(f"{len(frozen)} biases do not train, such as {frozen[0]}.")
    tensors = sum(is_bias(n) for n, _ in model.named_parameters())
    count = sum(p.numel() for n, p in model.named_parameters() if is_bias(n))
    if answer == tensors:
        raise Wrong(f"{answer} is the number of tensors. Count the numbers in them: parameter.numel().")
    if answer != count:
        raise Wrong(f"You return {answer}, and the biases of this model have {count:,} numbers.")
    bare = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2,
        )
    )  # fmt: skip
    try:
        got = own(bare)
    except ValueError:
        total = sum(p.numel() for p in model.parameters())
        return f"{count:,} of {total:,} numbers train, {100 * count / total:.2f} %, and a Llama is refused."
    raise Wrong(f"A Llama without biases got {got!r} back. There is nothing to train: raise ValueError.")


def fold_the_scale(space: dict[str, Any]) -> str:
    """The folded layer computes what the scaled one does; rows are scaled, and the bias with them."""
    import torch

    own = _function(space, "folded")
    torch.manual_seed(0)
    for out, into in ((5, 3), (4, 4)):
        weight, bias, scale = torch.randn(out, into), torch.randn(out), torch.rand(out) + 0.5
        x = torch.randn(7, into)
        wanted = scale * (x @ weight.t() + bias)
        try:
            answer = own(weight.clone(), bias.clone(), scale.clone())
        except RuntimeError as error:
            raise Wrong(
                f"The shapes do not fit ({error}). W is (out, in) and l is (out,): each entry of l belongs to a row."
            ) from None
        if not (isinstance(answer, tuple | list) and len(answer) == 2):
            raise Wrong("folded(W, b, l) returns two tensors: the new W and the new b.")
        new_weight, new_bias = answer
        if tuple(new_weight.shape) != (out, into) or tuple(new_bias.shape) != (out,):
            raise Wrong("The new W and b must have the shapes of the old ones.")
        if torch.allclose(x @ new_weight.t() + new_bias, wanted, atol=1e-5):
            continue
        right_weight = torch.allclose(new_weight, scale[:, None] * weight, atol=1e-5)
        if right_weight:
            raise Wrong("The matrix is right. The bias stands inside the bracket, so it is scaled too.")
        if out == into and torch.allclose(new_weight, weight * scale, atol=1e-5):
            raise Wrong("That scales the columns, which belong to inputs. Each entry of l belongs to an output: a row.")
        raise Wrong("It computes something else. The scale multiplies: nothing is added to W or b.")
    return "The scaled layer is a plain layer again, and costs nothing extra when it answers."
