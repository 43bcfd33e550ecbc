"""The pages for people, README and docs/*.md: their blocks of commands and code, and the commands in their text."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*", re.DOTALL)
_BEFORE = re.compile(r"<!-- run before: (.+?) -->\s*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, and why it is not run ("" for one that is)."""

    page: str
    line: int
    language: str
    content: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found if "_build" not in path.parts)


@cache
def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page.

    `<!-- not run: why -->` on the line before one says that it is only checked. `<!-- run before: COMMAND -->` is
    a block that readers do not see: what they have done before they come to this page.
    """
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))
    found = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "html_block" and token.map and (earlier := _BEFORE.fullmatch(token.content)):
            found.append(Block(page, token.map[0] + 1, "sh", f"{earlier[1]}\n", ""))
        if token.type == "fence" and token.map:
            marked = _NOT_RUN.fullmatch(before.content) if before and before.type == "html_block" else None
            language = token.info.split()[0] if token.info else ""
            found.append(Block(page, token.map[0] + 1, language, token.content, marked[1] if marked else ""))
    return found


def spans(page: str) -> list[str]:
    """What stands between backquotes in the text."""
    tokens = MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
    inline = [child for token in tokens for child in token.children or [] if child.type == "code_inline"]
    return [" ".join(child.content.split()) for child in inline]


def links(page: str) -> list[str]:
    """The addresses that a page links to."""
    tokens = MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
    children = [child for token in tokens for child in token.children or []]
    return [
        str(child.attrGet("href") or child.attrGet("src")) for child in children if child.type in ("link_open", "image")
    ]


def command_lines(block: Block) -> list[str]:
    """The lines of a block of commands, without what follows a `#`."""
    lines = [line.split(" #")[0].strip() for line in block.content.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]
