"""Coverage-guided fuzzing of everything that reads a file or an answer from elsewhere: `python -m fuzz TARGET`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tiny competitions are made there
