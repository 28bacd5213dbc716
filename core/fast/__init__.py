"""The same step, faster: forms of a training step that compute what the plain one computes and take less time.

llama.py    Llama's decoder, forward and backward written out, for processors (float32)
graphed.py  a whole step captured once and replayed, for CUDA devices

Both are switched off by one setting of a run, `fast_step`; then a step goes through transformers' own model, operation
by operation, with the methods' own layers in it (core/layers). The Triton kernels in those have a switch of their own,
`DELTALAB_KERNELS=0` (kernels/base.py). None may change a result by more than the rounding of its sums
(tests/core/test_fast.py compares).
"""
