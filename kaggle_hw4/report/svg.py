"""Pictures as SVG that take colours and font from the page: one drawing serves light and dark."""

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.4  # inches: so narrow that its text can be read on a phone
_TEXT = 9.5  # points
FRAMES_PER_SECOND = 100
_DPI = 160  # of what is a raster in a picture

# Colours to draw with. They stand for variables of the page's style, which has a value of each for light and for dark.
INK, MUTED, FAINT, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010105", "#010106", "#010107", "#010108")
_VARIABLES = {INK: "currentColor", MUTED: "var(--muted)", FAINT: "var(--faint)", PAPER: "var(--card)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}

# What can be told apart by everybody (Okabe and Ito's colours are in the page's style), also in grey.
SEQUENTIAL = "viridis"

STYLE: Any = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": _TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": _TEXT,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "font.size": _TEXT,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.fontsize": _TEXT,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "kaggle-hw4",
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollars
    "xtick.color": MUTED,
    "xtick.labelsize": _TEXT,
    "ytick.color": MUTED,
    "ytick.labelsize": _TEXT,
}

_REFERENCE = re.compile(r"(^#|url\(#)([\w-]+)(\)|$)")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # as in a file's name
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"  # names, not addresses


def panels(rows: int = 1, columns: int = 1, *, height: float, **options: Any) -> "tuple[Figure, list[Axes]]":
    """A figure of this height (inches) and its panels, row by row; `options` are those of `Figure.subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def bare(axes: "Axes") -> None:
    """No grid, ticks or frame: for images and labels."""
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def whole_numbers(axes: "Axes") -> None:
    """No half ticks on the axis below."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def scale_of(figure: "Figure", axes: "Any", image: Any, label: str) -> None:
    """A bar beside `axes` that tells what the colours of `image` mean."""
    bar = figure.colorbar(image, ax=axes, label=label, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.collections[0].set_rasterized(True)  # 256 shapes otherwise
    bar.ax.grid(False)


def show_mels(axes: "Axes", mels: np.ndarray) -> None:
    """A log-mel spectrogram (frames, 40), low bands at the bottom; the darkest and lightest 2 % are cut."""
    bare(axes)
    low, high = np.percentile(mels, [2, 98])
    axes.imshow(mels.T, origin="lower", aspect="auto", cmap="magma", interpolation="none", vmin=low, vmax=high)


def as_svg(figure: "Figure", key: str, text: str) -> Markup:
    """The figure as an element of an HTML page; `key` makes its ids unique there, `text` is what is read aloud."""
    file = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", dpi=_DPI, transparent=True, metadata=nothing)
    root = ElementTree.fromstring(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue().decode()))
    for parent in root.iter():
        for child in [child for child in parent if child.tag == f"{{{_SVG}}}style"]:
            parent.remove(child)  # it would hold for the whole page
    references = [_REFERENCE.search(value) for element in root.iter() for value in element.attrib.values()]
    used = {found[2] for found in references if found}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{key}-{value}")
            else:
                value = _REFERENCE.sub(rf"\1{key}-\2\3", value)
                element.set(name, _themed(value))
    for name in ("width", "height", "version"):
        del root.attrib[name]
    root.set("role", "img")
    root.set("aria-label", text)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _themed(value: str) -> str:
    """An attribute with the page's colours and font."""
    value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value)
    return re.sub(r"#01010[1-8]", lambda found: _VARIABLES[found[0]], value)
