"""The engine of Deltalab: bases, methods, training, runs, calculators. Prints nothing and knows no user interface.

Importing `core` (and `core.config`, `core.methods`, `core.world`, `core.runs`) stays light: torch, transformers and
bitsandbytes are imported inside the functions that need them, so that a page which only does arithmetic opens at once.
"""

import os

# OpenMP's threads sleep while they wait for each other, instead of spinning. A step on a small model is thousands of
# short parallel loops; where anything else wants a core (a browser that draws the run's curve), a spinning thread holds
# the core that the awaited one needs. Twelve LoRA steps on the embedded base, on two cores beside one busy process:
# 4 s asleep, over 100 s spinning; on two idle cores there is no difference to be seen. OpenMP reads this once, when
# torch is imported, and child processes inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
