"""Where our submissions stand among the teams, and how many slots are left: asked of Kaggle by `board --sync`."""

from kaggle_hw4.kaggle_client import KaggleClient
from kaggle_hw4.ledger import Ledger
from kaggle_hw4.workspace import Workspace


def look_up_standing(slug: str, workspace: Workspace) -> int | None:
    """Record the place of every public score in the ledger; gives the slots left today, None when Kaggle does not say.

    A place counts the teams whose public score is higher. Raises as KaggleClient and Ledger do.
    """
    ledger, client = Ledger(workspace.ledger), KaggleClient(slug)
    rows = [row for row in ledger.all(slug) if row.public]
    if rows and (teams := client.leaderboard()):
        for row in rows:
            place = 1 + sum(score > float(row.public or 0) for score in teams)
            if (place, len(teams)) != (row.place, row.teams):
                ledger.update(row.id, place=place, teams=len(teams))
    limits = client.limits()
    return limits.allowed_now if limits else None
