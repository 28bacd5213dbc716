"""`python -m core.cli` is `deltalab`."""

from core.cli import main

raise SystemExit(main())
