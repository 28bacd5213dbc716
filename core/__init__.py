"""The engine of Deltalab: bases, methods, training, runs, calculators. Prints nothing and knows no user interface.

Importing `core` (and `core.config`, `core.methods`, `core.world`, `core.runs`) stays light: torch, transformers and
bitsandbytes are imported inside the functions that need them, so that a page which only does arithmetic opens at once.
"""
