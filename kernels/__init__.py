"""Kernels of Deltalab: the one list. Importing this package loads neither torch nor triton.

The name is also that of a package which transformers and bitsandbytes look for; they must find nothing of it here
(tests/kernels/test_name.py).

Each name is a file of this folder, and each file offers the same (`kernels.base` says what): the formula, a reference
in plain PyTorch, the kernels, the operation, cases to test it on and sizes to time it at.
"""

KERNELS: tuple[str, ...] = (
    "nf4",
    "lora_linear",
    "rms_norm",
    "rope",
    "swiglu",
    "linear_cross_entropy",
    "nf4_lora_linear",
    "lora_grads",
)
