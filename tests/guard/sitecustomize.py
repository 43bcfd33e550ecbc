"""Found through PYTHONPATH by every Python process that a test starts."""

import no_network  # noqa: F401 - its import is what it does
