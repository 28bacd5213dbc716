"""The same step, faster: forms of a training step that compute what the plain one computes and take less time.

llama.py    Llama's decoder, forward and backward written out, for processors (float32)
graphed.py  a whole step captured once and replayed, for CUDA devices

All of them are switched off by one setting of a run, `fast_step`; then a step is PyTorch's and transformers' own
operations. None may change a result by more than the rounding of its sums (tests/core/test_fast.py compares).
"""
