"""The verbs of the way as functions on a workspace: what the commands call, and what `import kaggle_hw4` offers.

Each can be called again: finished work is skipped, partial work goes on, work made from something else is refused
with the difference. Progress goes to stderr, where that is a terminal. What a user can mend is raised as an HW4Error
of kaggle_hw4.errors. Heavy imports happen in the calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaggle_hw4.competition import DEFAULT_SLUG, Competition, competition
from kaggle_hw4.workspace import Workspace

if TYPE_CHECKING:
    from kaggle_hw4.board import Board
    from kaggle_hw4.check import Finding
    from kaggle_hw4.data.store import Store
    from kaggle_hw4.diff import Report
    from kaggle_hw4.ensemble.blend import Added, Ensemble
    from kaggle_hw4.explain import Chain
    from kaggle_hw4.folds import Folds
    from kaggle_hw4.identification import Identification
    from kaggle_hw4.ledger import Row
    from kaggle_hw4.predictor import Predictor


@dataclass(frozen=True)
class Trained:
    """A finished training of a member (variant and seed) in `folder`; `fold` held out, None for a refit.

    `accuracy` (share) and `log_loss` (nats) of the `utterances` held out, named whole; None for a refit.
    """

    member: str
    fold: int | None
    folder: Path
    accuracy: float | None
    log_loss: float | None
    utterances: int


Names = str | Sequence[str]  # one name, or some


def _list(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def get_data(
    workspace: Workspace, source: Path | str | None = None, *, slug: str | None = None, dtype: str = "float16"
) -> "Store":
    """The packed data of the workspace, made once: from `source` (folder, zip, tar) or else downloaded from Kaggle.

    `slug` or address of the competition: default that of the data there, or ml2023springhw4. `dtype` of the stored
    frames. In the Store utterances are rows, and frames log-mels (frames, 40) of 10 ms.

    Raises:
        UsageError: no such competition, dtype or source.
        DataError: an archive that is damaged, or data there from something else.
        RefusedError, UnavailableError: Kaggle's, while downloading.
    """
    from kaggle_hw4.data.obtain import obtain

    return obtain(
        workspace, None if slug is None else competition(slug).slug, None if source is None else Path(source), dtype
    )


def open_split(workspace: Workspace, *, k: int | None = None, seed: int | None = None) -> tuple["Store", "Folds"]:
    """The data and its speaker-stratified split, which is made when there is none: 5 folds, seed 0 by default.

    Raises:
        DataError: no data, a split of another `k` or `seed` there, or a speaker with fewer than `k` utterances.
    """
    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.folds import make_folds

    store = open_store(workspace.store)
    return store, make_folds(store, workspace.folds_file, k=k, seed=seed)


def edition_of(workspace: Workspace) -> Competition:
    """The competition of the workspace's data; the default one before there is data."""
    from kaggle_hw4.data.store import open_store

    return competition(open_store(workspace.store).competition if workspace.store.exists() else DEFAULT_SLUG)


def check(workspace: Workspace) -> "list[Finding]":
    """What in the data will hurt: drift, twins, odd speakers. Raises DataError when something cannot be read."""
    from kaggle_hw4.check import check_data
    from kaggle_hw4.terminal import stage

    store, folds = open_split(workspace)
    with stage() as tick:
        return check_data(workspace, store, folds, tick)


def train(
    workspace: Workspace,
    variants: Names = "default",
    *,
    folds: str = "all",
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    budget: str | None = None,
    refit: bool = False,
    device: str = "auto",
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    deterministic: bool = False,
    logs: Sequence[str] = (),
    dry_run: bool = False,
) -> list[Trained]:
    """Train variants or sets of them on folds, and write their out-of-fold and test logits; gives what is finished.

        `folds` to hold out: `all`, or numbers as in `0,3`. `seeds`: default 0. `steps` of the optimiser: default each
        variant's own. `budget` as in `50m` plans variants, seeds and steps for a time. `refit` trains on all labels what
    is trained on every fold. `workers` are processes: default one per core on CPU, one per GPU. `engine` is
        `local` or `ray`, with the `address` of a cluster (default: one of its own here). `deterministic` asks for PyTorch's
        deterministic algorithms on a GPU. `logs` beside log.jsonl: `tensorboard`. The plan is told on stderr, and with
        `dry_run` that is all. Workers are spawned: a script calls this under `if __name__ == "__main__"`.

        Raises:
            UsageError: no such variant, fold or device, or options that contradict each other.
            DataError: no data, a folder of a run made from something else, or a training whose loss is not finite.
            UnavailableError: no Ray cluster answers.
            PendingError: the budget is used up before the end; checkpoints are written, the same call goes on.
    """
    import time
    from contextlib import closing

    from kaggle_hw4.jobs.command import open_engine, plan_training
    from kaggle_hw4.jobs.engine import run_plan
    from kaggle_hw4.jobs.work import Options
    from kaggle_hw4.terminal import say
    from kaggle_hw4.training.logs import check_logs
    from kaggle_hw4.training.session import announce
    from kaggle_hw4.views import plan_lines

    began = time.monotonic()
    check_logs(logs)
    store, split = open_split(workspace)
    chosen = open_engine(
        workspace,
        store,
        split,
        engine=engine,
        address=address,
        device=device,
        workers=workers,
        options=Options(deterministic, tuple(logs)),
    )
    with closing(chosen):
        plan, seconds = plan_training(
            workspace,
            store,
            split,
            names=_list(variants),
            fold=folds,
            seeds=None if seeds is None else list(seeds),
            steps=steps,
            budget=budget,
            refit=refit,
            engine=chosen,
        )
        say(plan_lines(plan, chosen.device))
        if plan.open and not dry_run:
            announce(workspace, [planned.job for planned in plan.open], store, split)
            run_plan(workspace, plan, chosen, None if seconds is None else began + seconds)
    return [found for planned in plan.jobs if (found := _trained(workspace, planned.job))]


def _trained(workspace: Workspace, job: Any) -> Trained | None:
    from kaggle_hw4.runs import run_of
    from kaggle_hw4.workspace import read_json

    run = run_of(workspace, job)
    if not run.finished:
        return None
    result = read_json(run.result, f"Write it anew: kaggle-hw4 predict {job.member}")
    fold = None if job.refit else job.fold
    return Trained(job.member, fold, run.folder, result["accuracy"], result["log_loss"], result["utterances"])


def predict(workspace: Workspace, names: Names = (), *, device: str = "auto") -> None:
    """Write the logits of trained members, variants or sets (default: all) again, from their weights.

    Raises:
        UsageError: no such member or device.
        DataError: a member that lacks folds, or weights that are damaged.
    """
    from kaggle_hw4.ensemble.members import choose_members
    from kaggle_hw4.jobs.plan import choose_device
    from kaggle_hw4.runs import REFIT, job_of, run_at
    from kaggle_hw4.terminal import progress_bar
    from kaggle_hw4.training.artefacts import predict_again

    store, split = open_split(workspace)
    target = choose_device(device)
    members = choose_members(workspace, split.k, _list(names))
    runs = [run_at(workspace, member, number) for member in members for number in range(split.k)]
    runs += [run for run in (run_at(workspace, member, REFIT) for member in members) if run.finished]
    with progress_bar("predicting") as update:
        for done, run in enumerate(runs):
            predict_again(workspace, job_of(run), store, split, target)
            update(done + 1, len(runs))


def blend(
    workspace: Workspace,
    names: Names = (),
    *,
    method: str | None = None,
    weights: str = "",
    added: "Sequence[Added]" = (),
) -> "Ensemble":
    """Blend members, variants or sets (default: all members) and write submissions/<name>.csv with its record.

    `method` equal, greedy or convex; None takes equal weights unless another is better in a paired test. `weights`
    by hand as in `a=.5,b=.5`. `added` members from elsewhere: (name, file of out-of-fold logits (train utterances,
    speakers), file of test logits (test utterances, speakers)), .npy, rows in the order of the index. Accuracies are
    shares, log losses nats.

    Raises:
        UsageError: an unknown method or member, or weights that make no sense.
        DataError: a member that lacks folds, or logits that are damaged or made from something else.
    """
    from kaggle_hw4.ensemble.blend import make_ensemble
    from kaggle_hw4.terminal import stage

    store, split = open_split(workspace)
    with stage() as tick:
        return make_ensemble(
            workspace, store, split, _list(names), method=method, by_hand=weights, added=list(added), tick=tick
        )


def send(
    workspace: Workspace,
    name: str,
    *,
    wait: bool = True,
    timeout: float = 600.0,
    dry_run: bool = False,
    force: bool = False,
) -> "Row | None":
    """Send a submission (in submissions/, or a file) to Kaggle at most once; gives its row of the ledger.

    A file sent before is not sent again unless `force`: its recorded score is given. `wait` for the score, `timeout`
    seconds at most. `dry_run` validates without a request, and gives None.

    Raises:
        UsageError: no such submission.
        DataError: not a valid submission to this competition.
        RefusedError, UnavailableError: Kaggle's.
        PendingError: no score in time, or whether it was sent is not known: the same call goes on.
    """
    from kaggle_hw4.data.store import open_store
    from kaggle_hw4.ensemble.submission import recorded_name
    from kaggle_hw4.submission_file import find_submission
    from kaggle_hw4.submit import submit
    from kaggle_hw4.terminal import say

    file = find_submission(workspace, name)
    store = open_store(workspace.store)
    return submit(
        store.competition,
        workspace,
        file,
        test_ids=store.test_ids,
        speakers=store.speakers,
        report=say,
        ensemble=recorded_name(workspace, file),
        wait=wait,
        timeout=timeout,
        dry_run=dry_run,
        force=force,
    )


def get_board(workspace: Workspace, *, sync: bool = False) -> "Board":
    """Cross-validation and leaderboard side by side; `sync` first asks Kaggle for scores, places and slots.

    Raises:
        DataError: the ledger or an artefact cannot be read.
        RefusedError, UnavailableError: Kaggle's.
    """
    from kaggle_hw4.board import read_board

    edition = edition_of(workspace)
    slots = None
    if sync:
        from kaggle_hw4.standing import look_up_standing
        from kaggle_hw4.submit import sync as sync_ledger
        from kaggle_hw4.terminal import say

        say(f"{len(sync_ledger(edition.slug, workspace))} submissions are new or changed")
        slots = look_up_standing(edition.slug, workspace)
    return read_board(workspace, edition, slots)


def diff(workspace: Workspace, a: str, b: str) -> "Report":
    """How two submissions, ensembles, members or runs (MEMBER/fold0) differ, and whether a score could tell them apart.

    Raises:
        UsageError: a name that stands for nothing.
        DataError: an artefact is damaged, or does not belong to this data.
    """
    from kaggle_hw4.diff import compare_namings

    return compare_namings(workspace, *open_split(workspace), a, b)


def explain(workspace: Workspace, name: str, *, verify: bool = False) -> "Chain":
    """Where a score comes from, link by link down to data and code; `verify` recomputes what can be recomputed.

    Raises:
        UsageError: there is no such submission.
        DataError: the ledger or a record cannot be read.
    """
    from kaggle_hw4.explain import explain as explain_chain
    from kaggle_hw4.terminal import stage

    with stage() as tick:
        return explain_chain(workspace, edition_of(workspace).slug, name, verify, tick)


def export(workspace: Workspace, names: Names = (), output: Path | str | None = None) -> "Predictor":
    """Write a predictor in one safetensors file, by default <workspace>/predictor.safetensors; gives it.

    One name may be an ensemble in submissions/; members, variants or sets (default: all members) are blended first.
    The predictor's logits are those of the ensemble: of every member with a weight all models, a refit among them.

    Raises:
        UsageError: an unknown member.
        DataError: what an ensemble cannot be made from, or a member from elsewhere.
    """
    from kaggle_hw4.ensemble.recorded import read_record
    from kaggle_hw4.ensemble.submission import record_of
    from kaggle_hw4.exporting import predictor_of
    from kaggle_hw4.terminal import stage

    chosen = _list(names)
    csv = workspace.submissions / f"{chosen[0]}.csv" if len(chosen) == 1 else None
    if csv is None or not record_of(csv).exists():
        csv = blend(workspace, chosen).file
    store, split = open_split(workspace)
    with stage() as tick:
        predictor = predictor_of(workspace, store, split, read_record(csv), tick)
    predictor.save(Path(output or workspace.predictor))
    return predictor


def identify(files: Sequence[Path | str], model: Path | str, *, top: int = 5) -> "list[Identification]":
    """Who speaks in each WAV file: the `top` most probable speakers of the predictor in the file `model`.

    Raises:
        DataError: no predictor, or a file that cannot be read or holds no sound; none is named then.
    """
    from kaggle_hw4.identification import identify_recordings
    from kaggle_hw4.predictor import Predictor
    from kaggle_hw4.terminal import progress_bar

    predictor = Predictor.load(Path(model))
    with progress_bar("listening") as update:
        return identify_recordings([Path(file) for file in files], predictor, top, update)
