"""The verbs of the way as functions on a workspace: what the commands call, and what `import kaggle_hw4` offers.

Each can be called again: finished work is skipped, partial work goes on, work made from something else is refused
with the difference. Progress goes to stderr, where that is a terminal. What a user can mend is raised as an HW4Error
of kaggle_hw4.errors. Heavy imports happen in the calls.
"""

from kaggle_hw4.verbs.data import check, edition_of, get_data, open_split
from kaggle_hw4.verbs.predictor import export, identify
from kaggle_hw4.verbs.scoring import blend, diff, explain, get_board, send
from kaggle_hw4.verbs.training import Trained, predict, train

__all__ = [
    "Trained",
    "blend",
    "check",
    "diff",
    "edition_of",
    "explain",
    "export",
    "get_board",
    "get_data",
    "identify",
    "open_split",
    "predict",
    "send",
    "train",
]
