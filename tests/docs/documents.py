"""The code blocks of the documents, and the mark that assigns them to tests."""

import pathlib
import re
import textwrap
from dataclasses import dataclass

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ELSEWHERE = {"target", "node_modules", ".cache", ".git", "corpus"}


@dataclass(frozen=True)
class Block:
    """A code block, fenced or indented, identified by its heading and its number below the heading."""

    document: str
    heading: str
    number: int
    language: str
    code: str

    @property
    def name(self):
        return f"{self.document}: {self.heading} {self.number}"


def documents():
    """Returns the paths of all documents, relative to the root of the repository."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(str(path) for path in found if not ELSEWHERE & set(path.parts))


def parse(document, text):
    """Returns the blocks in a document's text."""
    blocks, heading, before, fence, lines = [], "", "", None, []

    def add(language):
        number = 1 + sum(block.heading == heading for block in blocks)
        code = textwrap.dedent("\n".join(lines)).strip("\n") + "\n"
        blocks.append(Block(document, heading, number, language, code))
        lines.clear()

    for line in [*text.splitlines(), ""]:
        opening = re.match(r"( *)(```+|~~~+) *(\w*)", line)
        if fence:
            if opening and opening[2].startswith(fence[0]) and not opening[3]:
                add(fence[1])
                fence = None
            else:
                lines.append(line)
        elif opening:
            fence = opening[2], opening[3] or "text"
        elif line.startswith("    ") and (lines or not before):
            lines.append(line)
        elif lines and not line:
            # An empty line may separate two parts of an indented block.
            lines.append(line)
        else:
            if lines:
                add("indented")
            if found := re.match(r"#+ (.*)", line):
                heading = found[1]
        before = line
    assert fence is None, f"{document}: a fence is not closed"
    if any(lines):
        add("indented")
    return blocks


def blocks_of(document):
    return parse(document, (ROOT / document).read_text())


def shows(document, heading, *numbers, checked=None):
    """Assigns these blocks to a test, which gets them from the fixture `blocks` and has to read the code of each.

    `checked` is the reason why they are only checked, not run.
    """
    return pytest.mark.shows(document, heading, numbers or (1,), checked)


def find(document, heading, number):
    for block in blocks_of(document):
        if (block.heading, block.number) == (heading, number):
            return block
    raise AssertionError(f"{document} has no block {number} below {heading!r}")


class ShownBlock:
    """A block as a test gets it; records that its code was read."""

    def __init__(self, block):
        self.block = block
        self.was_read = False

    @property
    def code(self):
        self.was_read = True
        return self.block.code

    def filled(self, replacements):
        """Returns the code with these replacements; fails if one of the old texts is missing."""
        code = self.code
        missing = [old for old in replacements if old not in code]
        assert not missing, f"{self.block.name} does not have {missing}"
        longest_first = sorted(replacements, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda found: str(replacements[found[0]]), code)
