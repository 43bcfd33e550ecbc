"""Verbs about submissions and scores: blend, send, board, diff, explain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kaggle_hw4.verbs.data import Names, edition_of, listed, open_split
from kaggle_hw4.workspace import Workspace

if TYPE_CHECKING:
    from kaggle_hw4.board import Board
    from kaggle_hw4.diff import Report
    from kaggle_hw4.ensemble.blend import Added, Ensemble
    from kaggle_hw4.explain import Chain
    from kaggle_hw4.ledger import Row


def blend(
    workspace: Workspace,
    names: Names = (),
    *,
    method: str | None = None,
    weights: str = "",
    added: "Sequence[Added]" = (),
) -> "Ensemble":
    """Blend members, variants or sets, and write submissions/<name>.csv with its record.

    Without `names` all members of the workspace; one that is begun and lacks a fold is refused, not left out.
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
            workspace, store, split, listed(names), method=method, by_hand=weights, added=list(added), tick=tick
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
