"""The code of docs/recipes.md is that of the example project, which the browser test runs."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
DOCUMENT = (HERE.parents[1] / "docs/recipes.md").read_text()
SUFFIXES = {
    "html": ".html",
    "js": ".js",
    "jsx": ".jsx",
    "python": ".py",
    "toml": ".toml",
    "vue": ".vue",
}


def blocks():
    for number, (language, code) in enumerate(re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", DOCUMENT)):
        yield pytest.param(language, code, id=f"{number}: {language}: {code.splitlines()[0]}")


def lines_of(text):
    """Returns the lines without their indentation, which depends on what surrounds them."""
    return "\n".join(line.strip() for line in text.strip("\n").splitlines())


def files(language):
    # The excerpts of components in Vue are scripts.
    suffixes = [SUFFIXES[language], ".vue"] if language == "js" else [SUFFIXES[language]]
    for folder in ("site", "web"):
        for path in (HERE / folder).rglob("*"):
            if path.suffix in suffixes and "node_modules" not in path.parts:
                yield path


def parts_of(code):
    """Yields the imports of a block, and the rest of it: other lines may be between them in the file."""
    for part in re.split(r"\n{3}", code.strip("\n")):
        yield from part.splitlines() if part.startswith("from ") else [lines_of(part)]


@pytest.mark.parametrize(("language", "code"), blocks())
def test_each_block_of_the_recipes_is_in_the_project(language, code):
    texts = [f"\n{lines_of(path.read_text())}\n" for path in files(language)]
    assert any(all(f"\n{part}\n" in text for part in parts_of(code)) for text in texts)


def test_each_page_of_the_project_is_opened_by_the_test():
    opened = (HERE / "recipes.mjs").read_text()
    tables = {path.stem for path in (HERE / "site/items/templates/items").glob("*.html")} - {"page", "table"}
    built = set(re.findall(r"'([a-z-]+)(?:\.jsx)?'", (HERE / "web/vite.config.js").read_text()))
    assert len(tables) > 10
    assert len(built) > 7
    assert [name for name in tables if not re.search(rf"^  '?{name}'?: ", opened, re.M)] == []
    assert [name for name in built if f"/web/{name}/`" not in opened] == []
