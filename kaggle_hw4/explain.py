"""`kaggle-hw4 explain`: the chain from a score back to file, weights, logits, checkpoints, folds, data and code."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kaggle_hw4.data.store import Store, data_hash, open_store
from kaggle_hw4.difference import read_rows
from kaggle_hw4.ensemble.blend import fit_all, weights_hash
from kaggle_hw4.ensemble.honest import Temperatures
from kaggle_hw4.ensemble.pool import Pool
from kaggle_hw4.ensemble.recorded import Blend, read_record, recorded_blend, recorded_member
from kaggle_hw4.ensemble.submission import has_record
from kaggle_hw4.errors import DataError, UsageError
from kaggle_hw4.folds import Folds, load_folds
from kaggle_hw4.ledger import Ledger, Row
from kaggle_hw4.runs import REFIT, Run, job_of, run_at, with_steps
from kaggle_hw4.submission_file import offer, submission_named
from kaggle_hw4.variants import variant
from kaggle_hw4.version import code_version
from kaggle_hw4.workspace import Workspace, content_hash, file_hash

State = Literal["recorded", "matches", "differs", "not checked"]

# Weights refitted must come out so near (they are fitted to a tolerance), logits predicted anew on another machine
# so near to the largest.
_WEIGHT_REACH, _LOGIT_REACH = 2e-3, 0.02


@dataclass(frozen=True)
class Link:
    """One link of the chain: `what` it is, its recorded `hash` ("" where none is), and what `--verify` found."""

    link: str
    what: str
    hash: str
    state: State = "recorded"
    found: str = ""


@dataclass(frozen=True)
class Chain:
    """The links from the score to the code that made it."""

    name: str
    links: list[Link]

    @property
    def broken(self) -> Link | None:
        """The first link that does not match."""
        return next((link for link in self.links if link.state == "differs"), None)

    def as_json(self) -> dict[str, Any]:
        broken = self.broken
        return {"name": self.name, "links": [vars(link) for link in self.links], "broken": broken and broken.link}


class _Unknown(Exception):
    """Why a link cannot be checked."""


def explain(
    workspace: Workspace, slug: str, name: str, verify: bool, tick: Callable[[str], None] = lambda what: None
) -> Chain:
    """The chain of a submission or its file; `verify` recomputes what can be recomputed.

    Raises:
        UsageError: there is no such submission.
        DataError: the ledger or a record cannot be read.
    """
    rows = Ledger(workspace.ledger).all(slug)
    asked = [row for row in rows if name == str(row.ref)]
    named = asked or [row for row in rows if name == row.name]
    ours = [row for row in named if row.csv_hash]
    csv = submission_named(workspace, name) or next(
        # The workspace may have been moved, or copied: what lies in it comes first.
        # A file named like a submission made elsewhere need not be what was sent.
        (path for row in ours for file in (row.name, row.file) if (path := submission_named(workspace, file))),
        None,
    )
    if csv is None and not named:
        there = sorted({row.name for row in rows} | {path.stem for path in workspace.submissions.glob("*.csv")})
        raise UsageError(f"no submission {name!r}, and no such file", offer(there))
    hash = file_hash(csv) if csv else ""
    sent = asked or [row for row in rows if row.csv_hash and row.csv_hash == hash] or named
    return Chain(csv.stem if csv else sent[0].name, _Walk(workspace, csv, hash, sent, verify, tick).links())


class _Walk:
    """Goes along the chain, and checks each link against the next when asked to."""

    def __init__(
        self,
        workspace: Workspace,
        csv: Path | None,
        hash: str,
        sent: list[Row],
        verify: bool,
        tick: Callable[[str], None],
    ) -> None:
        self.workspace, self.csv, self.hash, self.sent = workspace, csv, hash, sent
        self.verify, self.tick = verify, tick

    def links(self) -> list[Link]:
        found = [self._score(row) for row in self.sent] or [Link("score", "not sent", "")]
        if self.csv is None:
            return [*found, Link("file", "made elsewhere, or gone: the chain ends here", "")]
        if not has_record(self.workspace, self.csv):
            return [*found, Link("file", f"{self.csv}, made elsewhere: the chain ends here", self.hash)]
        self.record = read_record(self.csv)
        members = self.record["members"]
        found.append(self._link("file", str(self.csv), self.record["csv"], self._check_file))
        weights = ", ".join(f"{m['name']} {m['weight']:.3f}" for m in members if m["weight"])
        found.append(
            self._link("weights", f"{self.record['method']}: {weights}", self.record["weights"], self._check_weights)
        )
        for member in members:
            found.append(self._link(f"logits {member['name']}", *self._logits(member)))
        for member in members:
            if self._is_ours(member):
                found.append(self._link(f"checkpoints {member['name']}", *self._checkpoints(member)))
                found.append(self._link(f"variant {member['name']}", *self._variant(member)))
        folds, data = self.record["folds"], self.record["data"]
        found.append(self._link("folds", "folds/folds.json", folds, self._check_folds))
        found.append(self._link("data", "data/store", data, self._check_data))
        code = self.record["code"]
        other = "" if code == code_version() else f"this is {code_version()}"
        found.append(Link("code", f"kaggle-hw4 {code}", "", "not checked" if self.verify else "recorded", other))
        return found

    def _link(self, link: str, what: str, hash: str, check: Callable[[], str]) -> Link:
        if not self.verify:
            return Link(link, what, hash)
        self.tick(f"checking {link}")
        try:
            problem = check()
        except _Unknown as reason:
            return Link(link, what, hash, "not checked", str(reason))
        except DataError as error:
            problem = error.cause
        return Link(link, what, hash, "differs" if problem else "matches", problem)

    def _score(self, row: Row) -> Link:
        scores = f"public {row.public or 'not known'}, private {row.private or 'not known'} (ref {row.ref})"
        if not self.verify:
            return Link("score", scores, row.csv_hash)
        if not row.csv_hash:
            return Link("score", scores, "", "not checked", "made elsewhere: Kaggle does not tell which rows were sent")
        if row.csv_hash == self.hash:
            return Link("score", scores, row.csv_hash, "matches")
        return Link("score", scores, row.csv_hash, "differs", f"the file now has the hash {self.hash or '(none)'}")

    def _check_file(self) -> str:
        if self.hash != self.record["csv"]:
            return f"the file now has the hash {self.hash}"
        store, folds = self._store(), self._folds()
        predicted = self._blend(store, folds).test(folds.k).argmax(1)
        ours = {name: store.speakers[i] for name, i in zip(store.test_ids, predicted, strict=True)}
        there = read_rows(self.csv or Path())
        differ = sum(there.get(name) != speaker for name, speaker in ours.items())
        return f"logits and weights give other speakers in {differ:,} of {len(ours):,} rows" if differ else ""

    def _check_weights(self) -> str:
        if weights_hash(self.record) != self.record["weights"]:
            return "the record was edited: its hash of the weights is another"
        store, folds = self._store(), self._folds()
        blend, method = self._blend(store, folds), self.record["method"]
        labels = store.labels[store.train_rows]
        pool = Pool.of(blend.members, [labels[folds.validation_rows(fold)] for fold in range(folds.k)])
        temperatures = Temperatures.fitted(pool, self.tick)
        hand = np.array([m["weight"] for m in self.record["members"]]) if method == "by hand" else None
        pool = pool.scaled(1 / temperatures.full)
        again = fit_all(pool, temperatures, None if method == "by hand" else method, hand, self.tick)[-1]
        for m, weight, temperature in zip(self.record["members"], again.shown, temperatures.full, strict=True):
            if abs(m["weight"] - weight) > _WEIGHT_REACH or abs(m["temperature"] / temperature - 1) > _WEIGHT_REACH:
                recorded = f"{m['weight']:.4f} with temperature {m['temperature']:.4f}"
                return f"{m['name']} has weight {recorded}; fitted again {weight:.4f} with {temperature:.4f}"
        return ""

    def _logits(self, member: dict[str, Any]) -> tuple[str, str, Callable[[], str]]:
        def check() -> str:
            now = recorded_member(self.workspace, self._store(), self._folds(), member)
            return "" if now.made_from == member["made_from"] else "they are not those that the weights were fitted to"

        first = member["parts"][0]
        what = first["oof_file"] if "oof_file" in first else _models(member)
        return what, member["made_from"], check

    def _checkpoints(self, member: dict[str, Any]) -> tuple[str, str, Callable[[], str]]:
        runs, what = self._runs(member), f"weights of {_models(member)}"
        try:
            recorded = [_weights_of(run) for run in runs]
        except DataError as error:
            return what, "", _found(error)

        def check() -> str:
            from kaggle_hw4.training.artefacts import spot_check

            for run, hash in zip(runs, recorded, strict=True):
                if hash is None or not run.weights.exists():
                    raise _Unknown(f"{run.weights} is not there")
                if file_hash(run.weights) != hash:
                    return f"{run.weights} is not the file that was written"
            store, folds = self._store(), self._folds()
            try:
                store.frames  # noqa: B018 (looks at all of them: logits of others say nothing about the weights)
            except DataError as error:
                raise _Unknown(f"the data cannot be used: {error.cause}") from error
            for run in runs:
                off = spot_check(self.workspace, job_of(run), store, folds)
                if off > _LOGIT_REACH:
                    return f"{run.weights} gives other test logits than {run.test}, off by {100 * off:.0f} %"
            return ""

        return what, "" if None in recorded else content_hash(recorded), check

    def _variant(self, member: dict[str, Any]) -> tuple[str, str, Callable[[], str]]:
        name, _, seed = member["name"].rpartition("-s")
        try:
            job = job_of(self._runs(member)[0])
        except DataError as error:
            return name, "", _found(error)

        def check() -> str:
            try:
                now = with_steps(variant(name), job.variant.steps).recipe()
            except UsageError:
                raise _Unknown("there is no such variant here: one of a script's own") from None
            changed = [key for key, value in job.variant.recipe().items() if now.get(key) != value]
            return f"the registry now has another {', '.join(changed)}" if changed else ""

        return f"seed {seed}, {job.variant.steps:,} steps", content_hash(job.variant.recipe()), check

    def _check_folds(self) -> str:
        found = load_folds(self._store(), self.workspace.folds_file).hash
        return "" if found == self.record["folds"] else f"the split there is {found}"

    def _check_data(self) -> str:
        store = open_store(self.workspace.store)
        if store.hash != self.record["data"]:
            return f"the data there is {store.hash}"
        if data_hash(store.index, store.speakers) != store.hash:
            return "the index names other utterances than its hash says"
        try:
            store.frames  # noqa: B018 (looks at all of them)
        except DataError as error:
            return error.cause
        return ""

    def _store(self) -> Store:
        try:
            store = open_store(self.workspace.store)
        except DataError as error:
            raise _Unknown(f"the data cannot be opened: {error.cause}") from error
        if store.hash != self.record["data"]:
            raise _Unknown("the data is another")
        return store

    def _folds(self) -> Folds:
        try:
            folds = load_folds(self._store(), self.workspace.folds_file)
        except DataError as error:
            raise _Unknown(f"the split cannot be read: {error.cause}") from error
        if folds.hash != self.record["folds"]:
            raise _Unknown("the split is another")
        return folds

    def _blend(self, store: Store, folds: Folds) -> Blend:
        try:
            return recorded_blend(self.workspace, store, folds, self.record)
        except DataError as error:
            raise _Unknown(f"logits: {error.cause}") from error

    def _runs(self, member: dict[str, Any]) -> list[Run]:
        return [run_at(self.workspace, member["name"], part["fold"]) for part in member["parts"]]

    @staticmethod
    def _is_ours(member: dict[str, Any]) -> bool:
        return "oof_file" not in member["parts"][0]


def _found(error: DataError) -> Callable[[], str]:
    """The check of a link whose files cannot be read: it finds why."""
    return lambda: error.cause


def _weights_of(run: Run) -> str | None:
    """The recorded hash of a run's weights; None where there is none. Raises DataError: its result is damaged."""
    result = run.read_result() if run.finished else None
    return result.get("weights") if isinstance(result, dict) else None


def _models(member: dict[str, Any]) -> str:
    """`5 folds`, `5 folds and the refit`."""
    refit = any(part["fold"] == REFIT for part in member["parts"])
    return f"{len(member['parts']) - refit} folds{' and the refit' if refit else ''}"
