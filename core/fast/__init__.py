"""The same step, faster: forms of a training step that compute what the plain one computes and take less time.

llama.py    Llama's decoder, forward and backward written out, for processors (float32 and bfloat16)
fused.py    Llama's decoder with our kernels between its own layers, for CUDA devices on which they were found faster
graphed.py  a whole step captured once and replayed, for CUDA devices

None may change a result by more than the rounding of its sums (in bfloat16: of its numbers; there the form is held to be
as near to float32 as the plain one is). One setting of a run, `fast_step`, switches off all that
follows; then a step goes through transformers' own model, operation by operation. What compares is in tests/core:

| what is faster | compared by |
|---|---|
| the written-out decoder | test_fast.py |
| the decoder with kernels | fused_in_interpreter.py (run by tests/kernels/test_triton.py), test_fast_gpu.py |
| captured steps | test_fast.py (replayed), test_fast_gpu.py (captured) |
| LoRA's layer with its backward pass by hand, NF4 decoded by our kernel, LoRA's gradients in one pass, LoRA over NF4 in one launch (core/layers, kernels/) | fused_in_interpreter.py, tests/kernels, tests/oracles |
| plain attention for short rows on a processor (core/train.py) | test_fast.py |
| AdamW's fused form (core/optimizers.py) | test_fast.py |

The kernels have a switch for a whole process too, `DELTALAB_KERNELS=0` (kernels/base.py). Not among them, because they
are no other way to the same result: logits only where a label is (what the loss is: core/evaluate.py, whose test
compares with all of them), and the knobs `length_buckets` and `precision`.
"""  # noqa: E501 (a table)
