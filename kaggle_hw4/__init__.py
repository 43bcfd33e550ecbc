"""kaggle-hw4: a workbench for Kaggle's speaker identification competition `ml2023springhw4`.

The ten names of the main way; each function is what the command of the same purpose calls:

    get_data (`data`), train, blend (`ensemble`), send (`submit`), get_board (`board`), export, identify
    Workspace: where artefacts lie
    Variant, register: a recipe, and how it gets a name

They are imported when they are asked for: `import kaggle_hw4` loads nothing heavy. `check`, `diff`, `explain` and
`predict` are in `kaggle_hw4.verbs`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kaggle_hw4.recipe import Variant
    from kaggle_hw4.variants import register
    from kaggle_hw4.verbs import blend, export, get_board, get_data, identify, send, train
    from kaggle_hw4.workspace import Workspace

__all__ = [
    "Variant",
    "Workspace",
    "blend",
    "export",
    "get_board",
    "get_data",
    "identify",
    "register",
    "send",
    "train",
]

_HOMES = {"Variant": "recipe", "Workspace": "workspace", "register": "variants"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"kaggle_hw4.{_HOMES.get(name, 'verbs')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
