"""The files that tests/release has built: the static program, the bill of materials and the checksums."""

import json
import re
import subprocess
import tarfile
import tomllib

from conftest import COMMAND_SECONDS, MACHINE, RELEASE, ROOT

VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
ARCHIVE = RELEASE / f"ws4redis-{VERSION}-linux-{MACHINE}.tar.gz"


def output(*words, **options):
    """Run a command that has to succeed, and return its output."""
    return subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True, **options).stdout


def test_the_program_of_the_archive_runs_and_names_no_folder_of_this_machine(tmp_path):
    with tarfile.open(ARCHIVE) as files:
        assert {(member.name, member.uname, member.uid) for member in files} == {
            (name, "", 0) for name in ("ws4redis", "LICENSE", "settings.toml")
        }
        files.extractall(tmp_path, filter="data")
    program = tmp_path / "ws4redis"
    assert output(program, "--version") == f"ws4redis {VERSION}\n"
    content = program.read_bytes()
    home = output("sh", "-c", "echo ${CARGO_HOME:-$HOME/.cargo}").strip()
    assert str(ROOT).encode() not in content and home.encode() not in content


def test_the_bill_of_materials_has_all_crates_of_the_program():
    bill = json.loads((RELEASE / f"ws4redis-{VERSION}.cdx.json").read_text())
    assert bill["metadata"]["component"]["name"] == "ws4redis"
    listed = {(part["name"], part["version"]) for part in bill["components"]}
    words = ["--edges", "normal", "--prefix", "none", "--target", "x86_64-unknown-linux-musl", "--format", "{p}"]
    tree = output("cargo", "tree", "--locked", *words, cwd=ROOT)
    used = set(re.findall(r"(?m)^(\S+) v(\S+)", tree)) - {("ws4redis", VERSION)}
    assert len(used) > 50
    assert used - listed == set()
    assert str(ROOT) not in json.dumps(bill)


def test_the_checksums_are_those_of_all_files():
    named = {line.split("  ")[1] for line in (RELEASE / "SHA256SUMS").read_text().splitlines()}
    assert named == {path.name for path in RELEASE.iterdir()} - {"SHA256SUMS"}
    output("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=RELEASE)
