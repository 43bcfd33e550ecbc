"""Where our submissions stand among the teams, and how many slots are left: asked of Kaggle by `board --sync`."""

from kaggle_hw4.kaggle_client import KaggleClient
from kaggle_hw4.ledger import Ledger, number
from kaggle_hw4.workspace import Workspace


def look_up_standing(slug: str, workspace: Workspace) -> int | None:
    """Record the place of every public score in the ledger; gives the slots left today, None when Kaggle does not say.

    A place counts the teams whose public score is higher; a late submission is none of theirs, and counts as one more
    when it is behind all. Raises as KaggleClient and Ledger do.
    """
    ledger, client = Ledger(workspace.ledger), KaggleClient(slug)
    scored = [(row, public) for row in ledger.all(slug) if (public := number(row.public)) is not None]
    if scored and (teams := client.leaderboard()):
        for row, public in scored:
            place = 1 + sum(score > public for score in teams)
            among = max(place, len(teams))
            if (place, among) != (row.place, row.teams):
                ledger.update(row.id, place=place, teams=among)
    limits = client.limits()
    return limits.allowed_now if limits else None
