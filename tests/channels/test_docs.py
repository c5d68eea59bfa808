"""The code of docs/channels.md is that of the site, which the browser test runs.

tests/docs/test_django.py runs the section about Channels' own tutorial, which needs no part of this site.
"""

import re

import pytest
from conftest import HERE, SITE
from measure import FIGURES, FORMS

DOCUMENT = (HERE.parents[1] / "docs" / "channels.md").read_text()
OWN = re.search(r"(?ms)^## The chat of Channels' own tutorial$.*?(?=^## )", DOCUMENT)[0]
SUFFIXES = {"python": ".py", "js": ".js", "toml": ".toml"}


def blocks():
    for language, code in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", DOCUMENT.replace(OWN, "")):
        yield pytest.param(language, code, id=f"{language}: {code.splitlines()[0]}")


def parts(code):
    """Yields the imports of a block, and the rest of it: other lines may be between them in the file."""
    for part in re.split(r"\n{3}", code.strip("\n")):
        yield from part.splitlines() if part.startswith("from ") else [part]


@pytest.mark.parametrize(("language", "code"), blocks())
def test_each_block_is_part_of_the_site(language, code):
    files = [path.read_text() for path in SITE.rglob(f"*{SUFFIXES[language]}")]
    assert any(all(f"\n{part}\n" in f"\n{text}" for part in parts(code)) for text in files)


def test_the_table_has_the_figures_of_the_measurement():
    assert f"| | {' | '.join(FORMS)} |\n" in DOCUMENT
    for figure in FIGURES:
        assert f"\n| {figure} |" in DOCUMENT
    assert "`tests/channels/measure.py`" in DOCUMENT
