"""A site with a custom user model: UUID keys, email addresses as usernames, no groups."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SERVER


@pytest.mark.parametrize("groups", [[], ["members.models.teams_of"]], ids=["none", "by a function"])
def test_custom_user_models_are_supported(store, groups):
    script = Path(__file__).with_name("custom_user.py")
    done = subprocess.run(
        [sys.executable, script, SERVER.path, *groups], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = ["blue", "red"] if groups else []
    session = found["session"]
    assert len(session["_auth_user_id"]) == 36
    assert session["ws4redis:username"] == "jo@example.com"
    assert session.get("ws4redis:memberof") == (names if groups else None)
    assert found["first"] == {
        "v": 1,
        "active": True,
        "username": "jo@example.com",
        "groups": names,
        "auth_hashes": [session["_auth_user_hash"]],
    }
    assert found["channels"] == [*(f"group:{name}:f" for name in names), "user:jo@example.com:f"]
    assert found["second"] == found["first"] | {"active": False}
    assert found["third"] == {"v": 1, "active": False}
