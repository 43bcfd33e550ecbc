"""What one training is and where it lies: a job (variant, seed, fold), its folder, its artefacts."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaggle_hw4.data.store import Store
from kaggle_hw4.errors import DataError, HW4Error, UsageError, first_line
from kaggle_hw4.folds import Folds
from kaggle_hw4.recipe import Variant
from kaggle_hw4.variants import variant
from kaggle_hw4.workspace import Workspace, check_fields, content_hash, parse_json, read_json, write_json

REFIT = -1  # as a fold: none is held out
LARGEST_LOGIT = 1e15  # the squares of larger ones leave single precision


@dataclass(frozen=True)
class Job:
    """One model to train: `name` is the variant's, `fold` the fold held out, or REFIT."""

    name: str
    variant: Variant
    seed: int
    fold: int

    @property
    def member(self) -> str:
        return member_name(self.name, self.seed)

    def __str__(self) -> str:
        return f"{self.member} {self.held_out}"

    @property
    def refit(self) -> bool:
        """Trained on all labels: without out-of-fold logits, or any cross-validation of its own."""
        return self.fold == REFIT

    @property
    def held_out(self) -> str:
        return "refit" if self.refit else f"fold {self.fold}"

    @property
    def torch_seed(self) -> int:
        """The same fold and seed see the same crops under every variant, so that variants compare in pairs."""
        return self.seed * 1000 + (999 if self.refit else self.fold)


def member_name(variant: str, seed: int) -> str:
    return f"{variant}-s{seed}"


def with_steps(variant: Variant, steps: int | None) -> Variant:
    """The variant at another length; the warm-up never takes more than a tenth of it."""
    if steps in (None, variant.steps):
        return variant
    return replace(variant, steps=steps, warmup=min(variant.warmup, max(1, steps // 10)))


def job_of(run: "Run") -> Job:
    """The job recorded in a run's folder. Raises DataError when there is none."""
    record = run.read_record()
    try:
        return _job(record)
    except (TypeError, ValueError, UsageError) as error:  # the last where its recipe is one that is refused
        raise DataError(f"{run.record} is not a record of a run: {first_line(error)}", run.train_again) from error


def _job(record: Any) -> Job:
    check_fields(record, variant=str, recipe=dict, seed=int, fold=int)
    return Job(record["variant"], Variant(**record["recipe"]), record["seed"], record["fold"])


def train_command(jobs: list[Job], fold: str = "--fold all") -> str:
    """The command that trains these jobs as they were begun; several, where they differ in seeds or steps."""
    seeds: dict[tuple[str, str], dict[int, None]] = {}
    for job in jobs:
        seeds.setdefault((job.name, _steps_option(job)), {})[job.seed] = None
    variants: dict[str, str] = {}
    for (name, steps), some in seeds.items():
        options = ("".join(f" --seed {seed}" for seed in some) if any(some) else "") + steps
        variants[options] = f"{variants.get(options, '')} --variant {name}"
    return " && ".join(f"kaggle-hw4 train {fold}{names}{options}" for options, names in variants.items())


def finishing_command(workspace: Workspace, members: list[str]) -> str:
    """The command that trains these members on every fold, as they were begun."""
    first = (sorted((workspace.runs / member).glob("fold*/run.json"))[:1] for member in members)
    return train_command([job_of(Run(path.parent)) for paths in first for path in paths])


def splits_of(workspace: Workspace, store: Store) -> set[str]:
    """The hashes of the splits of this data that trainings begun here were made on."""
    found = set()
    for record in workspace.runs.glob("*/*/run.json"):
        if (run := Run(record.parent)).started:
            with suppress(DataError):  # it is named where it is used
                made_from = run.read_record()
                if isinstance(made_from, dict) and made_from.get("data") == store.hash:
                    found.add(str(made_from.get("folds")))
    return found


def _steps_option(job: Job) -> str:
    try:
        registered = variant(job.name)
    except UsageError:  # one of a script's own
        registered = None
    return "" if job.variant == registered else f" --steps {job.variant.steps}"


@dataclass(frozen=True)
class Run:
    """The folder `runs/<member>/fold<k>` of a job, or `runs/<member>/refit`.

    `run.json` says what it was made from, `log.jsonl` how it went, `checkpoint.pt` where to go on
    (`checkpoint.previous.pt` if that is damaged);
    at the end `weights.safetensors`, `oof.npy` (validation utterances of the fold, speakers) and
    `test.npy` (test utterances, speakers), float32 logits, and last `result.json`. A refit
    has no `oof.npy`, and no accuracy in `result.json`.
    """

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.folder / "checkpoint.previous.pt"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def oof(self) -> Path:
        return self.folder / "oof.npy"

    @property
    def test(self) -> Path:
        return self.folder / "test.npy"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def lock(self) -> Path:
        """Held by the process that works in the folder."""
        return self.folder / ".lock"

    @property
    def started(self) -> bool:
        """There is work in the folder that would be lost."""
        return any(path.exists() for path in (self.checkpoint, self.previous_checkpoint, self.weights, self.result))

    @property
    def finished(self) -> bool:
        return self.result.exists()

    @property
    def train_again(self) -> str:
        """What to do about a folder whose record, result or weights are damaged: the command as it was begun."""
        fold = "--refit" if self.folder.name == "refit" else f"--fold {self.folder.name.removeprefix('fold')}"
        name, _, seed = self.folder.parent.name.rpartition("-s")
        command = f"kaggle-hw4 train {fold}" + (f" --variant {name} --seed {seed}" if name and seed.isdigit() else "")
        for path in (self.record, *sorted(self.folder.parent.glob("*/run.json"))):  # another fold's says as much
            with suppress(HW4Error, KeyError, TypeError, ValueError):  # a variant of one's own may not be known here
                command = train_command([_job(read_json(path, ""))], fold)
                break
        return f"Delete {self.folder} and train it again: {command}"

    def read_record(self) -> Any:
        """What `run.json` holds. Raises DataError when it is missing or damaged."""
        return read_json(self.record, self.train_again)

    def read_result(self) -> Any:
        """What `result.json` holds. Raises DataError when it is missing or damaged."""
        return read_json(self.result, self.train_again)

    def log_lines(self) -> list[dict[str, Any]]:
        """What was logged so far; a line cut by a kill ends the list."""
        lines: list[dict[str, Any]] = []
        if self.log.exists():
            for text in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
                if (line := log_line(text)) is None:
                    break
                lines.append(line)
        return lines


def log_line(text: str) -> dict[str, Any] | None:
    """A line of a log; None for what is none, such as one cut by a kill."""
    try:
        return check_fields(parse_json(text), step=int)
    except ValueError:
        return None


def run_of(workspace: Workspace, job: Job) -> Run:
    return run_at(workspace, job.member, job.fold)


def run_at(workspace: Workspace, member: str, fold: int) -> Run:
    return Run(workspace.runs / member / ("refit" if fold == REFIT else f"fold{fold}"))


def identity(job: Job, store: Store, folds: Folds) -> dict[str, Any]:
    """All that decides the result of a job, and `hash`, which names it."""
    made_from = {
        "variant": job.name,
        "recipe": job.variant.recipe(),
        "seed": job.seed,
        "fold": job.fold,
        "data": store.hash,
        "dtype": store.dtype,
        "folds": folds.hash,
    }
    return made_from | {"hash": content_hash(made_from)}


def claim(run: Run, expected: dict[str, Any]) -> None:
    """Record what a job is made from, or check that the work that lies there was made from the same.

    Raises:
        DataError: it was made from something else; the differences are named.
    """
    if not run.started:
        write_json(run.record, expected)
    check_identity(run, expected)


def check_place(workspace: Workspace, run: Run) -> None:
    """Raises DataError for a run whose folder was copied or renamed: it would count as another."""
    job = job_of(run)
    if run_of(workspace, job) != run:
        raise DataError(
            f"{run.folder} holds {job}: it was copied or renamed", f"Move it out of {workspace.runs}, or back."
        )


def check_identity(run: Run, expected: dict[str, Any], remedy: str = "") -> None:
    """Raises DataError when a run was made from something else than `expected`; the differences are named."""
    found = run.read_record()
    if found != expected:
        cause = f"{run.folder} was made from something else: {_difference(found, expected)}"
        raise DataError(cause, remedy or _as_it_was(run, found, expected))


def _as_it_was(run: Run, found: Any, expected: dict[str, Any]) -> str:
    if (steps := _other_steps(found, expected)) is not None:
        return f"To go on with what is there: --steps {steps}. Or use another --root."
    if isinstance(found, dict) and found | {"dtype": expected["dtype"], "hash": expected["hash"]} == expected:
        return (
            f"Delete the packed data and pack it as it was: by the same `kaggle-hw4 data` command, with --dtype "
            f"{found['dtype']}. Or use another --root."
        )
    return f"Use another --root, or delete {run.folder.parent} to train it anew."


def _other_steps(found: Any, expected: dict[str, Any]) -> int | None:
    """The steps of a run that differs from what is expected in its length alone."""
    length = ("steps", "warmup")
    with suppress(KeyError, TypeError, AttributeError):
        there, ours = (
            {key: value for key, value in record.items() if key not in ("recipe", "hash")}
            | {"recipe": {key: value for key, value in record["recipe"].items() if key not in length}}
            for record in (found, expected)
        )
        if there == ours:
            return int(found["recipe"]["steps"])
    return None


def _difference(found: Any, expected: dict[str, Any]) -> str:
    def flat(record: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in record.items() if k not in ("recipe", "hash")} | record.get("recipe", {})

    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
        return "run.json is not a record of a run"
    there, asked = flat(found), flat(expected)
    keys = [key for key in there | asked if there.get(key) != asked.get(key)]
    named = ", ".join(f"{key} {there.get(key)} there, {asked.get(key)} now" for key in keys)
    return named or "its recipe does not have its hash"
