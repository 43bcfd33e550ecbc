"""From a workspace to a predictor: the models of an ensemble, its weights and temperatures, and its model card."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from kaggle_hw4.data.store import Store
from kaggle_hw4.ensemble.recorded import recorded_blend
from kaggle_hw4.errors import DataError
from kaggle_hw4.folds import Folds
from kaggle_hw4.predictor import Part, Predictor
from kaggle_hw4.runs import job_of, run_at
from kaggle_hw4.training.artefacts import trained_model
from kaggle_hw4.version import code_version
from kaggle_hw4.workspace import Workspace

_USE = (
    "Names which of the speakers it was trained on is heard in a recording of speech. It was made for a competition "
    "of a university course, to learn and to compare methods."
)
_LIMITS = (
    "It always names one of its speakers, also when somebody else or nobody speaks. The accuracy is that on recordings "
    "like those of the competition; probabilities are calibrated on these. It must not be used to identify people "
    "who do not want it, nor to decide anything about them."
)
_LICENCE = (
    "The code of kaggle-hw4 is under the MIT licence. The weights were trained on the competition's data, which stems "
    "from VoxCeleb2: its rules and terms apply to what is done with them."
)


def predictor_of(
    workspace: Workspace, store: Store, folds: Folds, record: dict[str, Any], tick: Callable[[str], None]
) -> Predictor:
    """The predictor whose logits are those of a recorded ensemble: the models of every member with a weight.

    Raises:
        DataError: a member from elsewhere, of which there are only logits; weights, logits or records that are
            missing, damaged, or not those that the ensemble was made from.
    """
    used = [member for member in record["members"] if member["beta"]]
    foreign = [member["name"] for member in used if "oof_file" in member["parts"][0]]
    if foreign:
        raise DataError(
            f"{record['name']} has members from elsewhere, of which only logits are known: {', '.join(foreign)}",
            "Export an ensemble without them.",
        )
    tick("checking logits")
    recorded_blend(workspace, store, folds, record)
    parts, trainings = [], []
    for member in used:
        tick(f"reading {member['name']}")
        jobs = [job_of(run_at(workspace, member["name"], part["fold"])) for part in member["parts"]]
        states = [trained_model(workspace, job, store, folds).state_dict() for job in jobs]
        parts.append(Part(member["name"], jobs[0].variant, member["beta"], states))
        trainings.append(
            {key: member[key] for key in ("name", "weight", "temperature", "accuracy", "log_loss", "refit")}
        )
    return Predictor(store.speakers, store.dtype, parts, _card(store, folds, record, trainings))


def _card(store: Store, folds: Folds, record: dict[str, Any], members: list[dict[str, Any]]) -> dict[str, Any]:
    """What somebody should know who is handed the file; recipes and speakers are in the configuration beside it."""
    return {
        "name": record["name"],
        "intended_use": _USE,
        "limits": _LIMITS,
        "licence": _LICENCE,
        "competition": store.competition,
        "speakers": len(store.speakers),
        "data": store.hash,
        "folds": folds.hash,
        "out_of_fold": {key: record[key] for key in ("accuracy", "interval", "log_loss", "utterances")},
        "method": record["method"],
        "members": members,
        "input": "log-mels (frames, 40) of the competition's front end, 10 ms each: 16 kHz, peak -3 dB, no silence",
        "output": "logits (speakers,), whose softmax is calibrated out of fold for one model of each member",
        "versions": {
            "kaggle-hw4": code_version(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchaudio", "numpy")},
        },
    }
