"""Blockwise quantization, written to be read: code books, storing and reading, errors, and matrices to try it on.

    from core.quantization import blockwise, formats
    stored = blockwise.quantize(weight, formats.FORMATS["nf4"], block_size=64, double=True)
    stored.dense()              # the weight as a layer would compute with it
    stored.bits_per_weight      # 4.127…

numpy alone, so that a page can do it without torch. It is a reference, held to bitsandbytes bit for bit
(tests/oracles/test_quantization_bnb.py), and not what training uses: that is bitsandbytes itself
(core/layers/four_bit.py).
"""
