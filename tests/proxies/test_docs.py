"""The configurations in the documents are parts of the files that the other tests use."""

import re
import shutil
import subprocess

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
    assert any(f"\n{block}\n" in text or is_whole_excerpt(block, text) for text in SHIPPED)


def is_whole_excerpt(block, text):
    """Return whether a block that ends all its sections only leaves out lines of a file."""
    lines = iter(text.splitlines())
    return block.count("{") == block.count("}") > 0 and all(line in lines for line in block.splitlines())


def test_the_nginx_block_of_the_readme_can_be_copied(tmp_path):
    [block] = re.findall(r"(?ms)^```nginx\n(.*?)^```$", (ROOT / "README.md").read_text())
    block = block.replace("server {\n    location", f"server {{\n    listen unix:{tmp_path}/socket;\n    location")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    config = tmp_path / "nginx.conf"
    http = f"access_log off;\n{paths}{block}"
    config.write_text(f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{http}}}\n")
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    subprocess.run([program, "-t", "-q", "-p", tmp_path, "-c", config], check=True)


def test_every_file_is_named_and_nothing_else():
    text = (ROOT / "docs" / "deploy.md").read_text()
    linked = set(re.findall(r"\]\(deploy/([^)#]*)\)", text))
    assert linked == {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
