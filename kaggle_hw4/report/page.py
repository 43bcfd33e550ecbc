"""The page: every picture and table that the workspace has the material for, and what is missing for the others."""

import base64
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from kaggle_hw4.check import Finding
from kaggle_hw4.errors import DataError, HW4Error
from kaggle_hw4.report import model_pictures, naming_pictures, score_pictures, training_pictures
from kaggle_hw4.report.material import Material
from kaggle_hw4.report.svg import STYLE, as_svg
from kaggle_hw4.report.tables import Table, headline, member_table, provenance, speaker_table, submission_table
from kaggle_hw4.workspace import Workspace, atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Material], "tuple[Figure, str]"]

# Section, then its pictures: key, title, what draws it.
_PICTURES: dict[str, list[tuple[str, str, Draw]]] = {
    "Scores": [
        ("leaderboard", "Cross-validation and leaderboard", score_pictures.leaderboard),
        ("weights", "Weights, and the ensemble without each member", score_pictures.weights),
        ("correlation", "Correlation of errors", score_pictures.error_correlation),
        ("reliability", "As right as sure?", naming_pictures.reliability),
    ],
    "Data and training": [
        ("loss", "Training loss", training_pictures.loss_curves),
        ("accuracy", "Accuracy on held-out utterances", training_pictures.accuracy_curves),
        ("folds", "Members and folds", training_pictures.fold_map),
        ("lengths", "Lengths of training and test utterances", naming_pictures.lengths),
    ],
    "Who is confused": [
        ("length", "Accuracy by length", naming_pictures.accuracy_by_length),
        ("speaker", "Accuracy by speaker", naming_pictures.speaker_accuracy),
        ("confused", "Speakers taken for each other", naming_pictures.confusions),
        ("confused-mels", "What was confused", naming_pictures.confused_spectrograms),
    ],
    "What the models hear": [
        ("map", "Map of the speakers", model_pictures.speaker_map),
        ("listening-0", "Where they listen", partial(model_pictures.listening, which=0)),
        ("listening-1", "Where they listen: another speaker", partial(model_pictures.listening, which=1)),
        ("listening-2", "Where they listen: a third", partial(model_pictures.listening, which=2)),
    ],
}
_TABLES: list[tuple[str, Callable[[Material], Table]]] = [
    ("Submissions", submission_table),
    ("Members", member_table),
    ("Speakers", speaker_table),
]


@dataclass(frozen=True)
class Picture:
    """`sentence` says what to see."""

    key: str
    title: str
    sentence: str
    svg: Markup


@dataclass
class Page:
    """What the template shows. `missing` says for (cause, remedy) what is not shown."""

    material: Material
    sections: dict[str, list[Picture]] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    missing: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def lacks(self, what: str, error: HW4Error) -> None:
        self.missing.setdefault((error.cause, error.remedy), []).append(what)

    def summary(self) -> dict[str, Any]:
        """What is shown and what is missing, for `--json`."""
        pictures = [picture for pictures in self.sections.values() for picture in pictures]
        return {
            "pictures": [{"key": p.key, "title": p.title, "sentence": p.sentence} for p in pictures],
            "tables": [table.key for table in self.tables],
            "missing": [
                {"cause": cause, "remedy": remedy, "without_it": what} for (cause, remedy), what in self.missing.items()
            ],
        }


def write_report(workspace: Workspace, output: Path, tick: Callable[[str], None]) -> dict[str, Any]:
    """Write the report of a workspace to `output`; gives what it shows, and what is missing.

    Raises:
        DataError: `output` cannot be written.
    """
    try:
        with atomic_path(output) as temporary:
            temporary.touch()  # what cannot be written is said before the work is done
            page = make_page(Material(workspace, tick))
            temporary.write_text(render(page), encoding="utf-8", errors="replace")  # a path need not be UTF-8
    except DataError as error:
        raise DataError(error.cause, "Name another file with --output FILE.") from error
    return {"file": str(output), "bytes": output.stat().st_size} | page.summary()


def make_page(material: Material) -> Page:
    """Draw and tabulate all that the workspace has the material for."""
    import matplotlib

    page = Page(material)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A picture has a box for what its font lacks, as in a name; a line for each letter on stderr helps nobody.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        for section, pictures in _PICTURES.items():
            for key, title, draw in pictures:
                material.tick(f"drawing: {title}")
                try:
                    figure, sentence = draw(material)
                except HW4Error as error:
                    page.lacks(title, error)
                else:
                    svg = as_svg(figure, key, f"{title}. {sentence}")
                    page.sections.setdefault(section, []).append(Picture(key, title, sentence, svg))
    for name, make in _TABLES:
        try:
            page.tables.append(make(material))
        except HW4Error as error:
            page.lacks(f"{name} (table)", error)
    try:
        page.findings = material.findings
    except HW4Error as error:
        page.lacks("Data checks", error)
    for problem in material.problems:
        page.lacks("what these trainings came to", problem)
    return page


def render(page: Page) -> str:
    """The page as HTML: one file that asks for nothing from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("kaggle_hw4.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    material = page.material
    sentence, tiles = headline(material)
    script = _source("sort.js")
    # Only this script may run, whatever else gets into the page.
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template("report.html").render(
        page=page,
        sentence=sentence,
        tiles=tiles,
        edition=material.edition,
        provenance=provenance(material),
        made=datetime.now(UTC),
        style=Markup(_source("style.css")),
        script=Markup(script),
        script_hash=script_hash,
    )


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
