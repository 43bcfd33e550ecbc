"""What is compared with what, and what a run found: as JSON and as the table of docs/speed.md."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.competition import ARCHIVES, Sizes
from benchmarks.floors import Ceilings, Cost, batch_cost, inference_cost, packing_cost, step_cost
from benchmarks.reference import WORKERS
from kaggle_hw4.variants import variant

Turn = tuple[str, str]  # a side and a task of it
_CEILINGS: tuple[Turn, ...] = (("plain", "fp32"), ("plain", "bf16"), ("plain", "copy"))


@dataclass(frozen=True)
class Measure:
    """One comparison: a task of ours against the fastest of several ways, each a sequence of reference tasks."""

    title: str
    unit: str
    count: int  # units in one time
    ours: Turn
    ways: tuple[tuple[str, ...], ...]
    cost: Cost  # of one unit

    def turns(self) -> list[Turn]:
        return [*(("reference", task) for way in self.ways for task in way), self.ours]


def measures(lengths: np.ndarray, sizes: Sizes) -> dict[str, Measure]:
    """All comparisons by name; `lengths` are those of `write_competition`."""
    cost = batch_cost(variant("conformer-full"))
    ways = tuple((f"loader_{workers}_workers",) for workers in WORKERS)
    found = {"loader": Measure("a batch of crops", "batch", 1, ("training", "loader"), ways, cost)}
    for backbone in ("transformer", "conformer"):
        task, cost = f"{backbone}_step", step_cost(f"{backbone}-full", sizes.speakers)
        found[task] = Measure(f"training {backbone}-full", "step", 1, ("training", task), ((task,),), cost)
    for name, backbone in (("inference", "conformer"), ("inference_transformer", "transformer")):
        task, title = f"{backbone}_inference", f"inference with {backbone}-full"
        cost = inference_cost(f"{backbone}-full", lengths[-sizes.test :], sizes.speakers)
        found[name] = Measure(title, "utterance", sizes.test, ("training", task), ((task,),), cost)
    cost = packing_cost(lengths)
    found["pack"] = Measure("packing a folder", "file", sizes.files, ("plain", "pack"), (("load",),), cost)
    for kind in ARCHIVES:
        name, title, way = f"pack_{kind}", f"packing a {kind.replace('_', ' ')}", (f"unpack_{kind}", "load")
        found[name] = Measure(title, "file", sizes.files, ("plain", name), (way,), cost)
    return found


def turns(compared: dict[str, Measure]) -> list[Turn]:
    """Everything that is timed in a round, each once, reference and ours in turns."""
    return list(dict.fromkeys([*_CEILINGS, *(turn for measure in compared.values() for turn in measure.turns())]))


def report(samples: dict[Turn, list[float]], compared: dict[str, Measure], *, quick: bool) -> dict[str, Any]:
    """The figures of a run from its times: ratios, floors and ceilings of the medians, when `quick` of the minima."""
    kind = "min" if quick else "median"
    ceilings = Ceilings(*(1 / _summary([samples[turn]])[kind] for turn in _CEILINGS))
    ratios, seconds = {}, {}
    for name, measure in compared.items():
        ours = _summary([samples[measure.ours]], measure.count)
        ways = {way: _summary([samples["reference", task] for task in way], measure.count) for way in measure.ways}
        fastest = min(ways, key=lambda way: ways[way][kind])
        ratios[f"{name}_ratio"] = ways[fastest][kind] / ours[kind]
        floor = measure.cost.floor(ceilings)
        seconds[name] = {
            "title": measure.title,
            "per": measure.unit,
            "way": " + ".join(fastest),
            "reference": ways[fastest],
            "ours": ours,
            **asdict(measure.cost),
            "floor": floor,
            "share_of_floor": floor / ours[kind],
        }
    return {
        "statistic": kind,
        **ratios,
        "pack_us_per_file": 1e6 * seconds["pack"]["ours"][kind],
        "bf16": seconds["conformer_step"]["bf16"],  # what our steps are in
        "ceilings": asdict(ceilings),
        "seconds": seconds,
    }


def _summary(parts: list[list[float]], count: int = 1) -> dict[str, float]:
    """Seconds per unit of what consists of `parts` done one after the other."""
    return {"median": sum(map(median, parts)) / count, "min": sum(map(min, parts)) / count}


def table(found: dict[str, Any]) -> str:
    """The report of a run as Markdown."""
    kind, ceilings = found["statistic"], found["ceilings"]
    lines = [
        f"{found['processor']}, {found['cores']} cores, torch {found['torch']}, {found['threads']} thread; "
        f"{found['date']}, {kind} of {found['repeats']} rounds, load average {found['load_average']:.1f} at the start.",
        "",
        f"Ceilings: {ceilings['fp32_gflops']:.0f} GFLOP/s in fp32, {ceilings['bf16_gflops']:.0f} in bf16, "
        f"{ceilings['copy_gb_per_s']:.1f} GB/s copied.",
        "",
        "| | per | reference | ours | ratio | floor | share of the floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["seconds"].items():
        times = " | ".join(_time(seconds) for seconds in (row["reference"][kind], row["ours"][kind]))
        lines.append(
            f"| {row['title']} | {row['per']} | {times} | **{found[f'{name}_ratio']:.2f}** | "
            f"{_time(row['floor'])} | {row['share_of_floor']:.0%} |"
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
