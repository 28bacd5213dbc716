"""`python -m core.cli` is `deltalab` but for what is about lessons: that is the app's (`python -m app.command`)."""

from core.cli import main

raise SystemExit(main())
