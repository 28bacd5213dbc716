"""What becomes of a run outside: checks, conversion, merged models, many adapters on one base, and a model card."""
