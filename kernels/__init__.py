"""Kernels of Deltalab: none yet. Importing this package loads neither torch nor triton.

The name is also that of a package which transformers and bitsandbytes look for; they must find nothing of it here.
"""

KERNELS: tuple[str, ...] = ()
