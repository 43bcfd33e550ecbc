"""The facts of the competition: slug, file names, columns, baselines."""

import re
from dataclasses import dataclass, field

from kaggle_hw4.errors import UsageError

N_MELS = 40
ID_COLUMN, LABEL_COLUMN = "Id", "Category"
DAILY_SLOTS = 5  # submissions; new ones are given at 00:00 UTC
PUBLIC_SHARE = 0.5  # of the test rows; the others are scored privately
TABLE_NAMES = ("metadata.json", "testdata.json", "mapping.json")


@dataclass(frozen=True)
class Competition:
    """One edition. `baselines` are the course's public-score lines, weakest first."""

    slug: str
    baselines: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://www.kaggle.com/competitions/{self.slug}"

    @property
    def rules_url(self) -> str:
        return f"{self.url}/rules"


EDITIONS = {
    edition.slug: edition
    for edition in (
        Competition("ml2023springhw4", {"simple": 0.66025, "medium": 0.81750, "strong": 0.88500, "boss": 0.93000}),
        Competition("ml2022spring-hw4", {"simple": 0.60824, "medium": 0.70375, "strong": 0.77750, "boss": 0.86500}),
    )
}
DEFAULT_SLUG = "ml2023springhw4"


def competition(name: str) -> Competition:
    """The competition with this slug, or whose Kaggle address is given; an unknown one has no baselines.

    Raises UsageError for what can be neither.
    """
    slug = name.split("?")[0].split("#")[0].rstrip("/")
    for part in ("/competitions/", "/c/"):
        if part in slug:
            slug = slug.split(part, 1)[1].split("/")[0]
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", slug):
        raise UsageError(f"{name!r} is no competition", f"Give a slug such as {DEFAULT_SLUG}, or its Kaggle address.")
    return EDITIONS.get(slug, Competition(slug))
