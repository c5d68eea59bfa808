"""The chat of the tutorial in a browser: one test for all forms of the site."""

import os
import subprocess
import sys

from conftest import HERE, SITE

SECONDS = 120


def test_the_chat_works_in_a_browser(form):
    announce = f"{sys.executable} {SITE / 'manage.py'} announce"
    done = subprocess.run(
        ["node", HERE / "tutorial.mjs", form.origin],
        env={**form.environment(), "ANNOUNCE": announce, "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{form.site.output()}"
