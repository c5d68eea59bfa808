"""The configurations in the documents are parts of the files that the other tests use."""

import re

import pytest
from reverse_proxies import DEPLOY

ROOT = DEPLOY.parents[1]
LANGUAGES = {"nginx", "haproxy", "caddy", "apache", "ini"}


def essence(text):
    """Returns the lines without indentation, comments and empty lines."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def blocks():
    for name in ("README.md", "docs/deploy.md"):
        for language, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", (ROOT / name).read_text()):
            if language in LANGUAGES:
                yield pytest.param(essence(text), id=f"{name}:{essence(text).splitlines()[0]}")


SHIPPED = [f"\n{essence(path.read_text())}\n" for path in sorted(DEPLOY.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("block", blocks())
def test_each_shown_configuration_is_part_of_a_file(block):
    assert any(f"\n{block}\n" in text for text in SHIPPED)


def test_every_file_is_named_and_nothing_else():
    text = (ROOT / "docs" / "deploy.md").read_text()
    linked = set(re.findall(r"\]\(deploy/([^)#]*)\)", text))
    assert linked == {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
