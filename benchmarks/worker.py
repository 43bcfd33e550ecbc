"""A process of the benchmark: reads names of tasks, does a round of each and answers with its times.

python -m benchmarks.worker SIDE FOLDER SIZES DEVICE   (started by benchmarks.timing.Side)
"""

import json
import os
import sys
from pathlib import Path

import torch

from benchmarks.competition import Sizes
from benchmarks.floors import ceiling_tasks
from benchmarks.ours import packing_tasks, training_tasks
from benchmarks.reference import reference_tasks

SIDES = {"reference": [reference_tasks], "training": [training_tasks], "plain": [packing_tasks, ceiling_tasks]}


def main(side: str, folder: str, sizes: str, device: str) -> None:
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)  # as workers of `kaggle-hw4 train` do
    arguments = Path(folder), Sizes(**json.loads(sizes)), torch.device(device)
    tasks = {name: task for make in SIDES[side] for name, task in make(*arguments).items()}
    print(json.dumps([]), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(tasks[line.strip()]()), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
