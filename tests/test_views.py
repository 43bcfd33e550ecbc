"""Tables in a terminal of any width."""

import io

import pytest
from rich.console import Console

from kaggle_hw4.views import table_of

NAME = "transformer-simple-s0"
FIGURES = {"CV": "0.6583", "loss": "1.104", "w/o": "-10.83", "interval": "0.6227 to 0.7318", "p": "0.0025"}


def rendered(width: int, min_width: int | None = None) -> list[str]:
    table = table_of("member", *FIGURES, right=tuple(FIGURES))
    if min_width:
        table.columns[4].no_wrap, table.columns[4].min_width = False, min_width
    table.add_row(NAME, *FIGURES.values())
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", range(20, 90))
def test_no_figure_breaks_and_no_line_is_too_long(width: int) -> None:
    lines = rendered(width)
    assert max(map(len, lines)) <= width
    head, row = lines[1], "  ".join(lines[3:])
    shown = [name for name in FIGURES if name in head.split()]
    assert shown == list(FIGURES)[: len(shown)]
    assert "CV" in shown
    assert all(FIGURES[name] in row for name in shown)
    assert (NAME in row) == (len(NAME) + sum(2 + max(len(k), len(FIGURES[k])) for k in shown) + 2 <= width)


def test_a_column_that_may_break_does_so_before_the_names_and_these_before_a_column_goes() -> None:
    widths = {"whole": 80, "column breaks": 67, "names break": 60, "columns go": 40}
    seen = {case: "\n".join(rendered(width, len("0.6227"))) for case, width in widths.items()}
    interval = FIGURES["interval"]
    assert {case: (interval in text, NAME in text, "0.0025" in text) for case, text in seen.items()} == {
        "whole": (True, True, True),
        "column breaks": (False, True, True),
        "names break": (False, False, True),
        "columns go": (False, False, False),
    }
