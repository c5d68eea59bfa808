"""Every code block of the documents has a test; the table in README.md of this folder lists them."""

import re

import pytest
from conftest import shown_by
from documents import ROOT, blocks_of, documents, find, parse

TABLE = "tests/docs/README.md"
PROXIES = "tests/proxies/test_docs.py::test_each_shown_configuration_is_part_of_a_file"
RIGHTS = "tests/gateway/redis_only/least_rights.rs::the_documented_redis_user_has_enough_rights"
FURTHER = "tests/gateway/redis_only/least_rights.rs::presence_needs_the_further_rights_of_the_document"
BRIDGES = "tests/gateway/redis_only/least_rights.rs::the_bridges_need_the_further_rights_of_the_document"
TOGETHER = "tests/gateway/redis_only/least_rights.rs::one_line_of_the_document_is_enough_for_socket_io_events_and_presence"
WORKERS = "tests/python/test_worker.py::test_the_documented_redis_user_has_enough_rights"
HISTORY = "tests/gateway/redis_only/least_rights.rs::histories_need_the_further_rights_of_the_document"
RUNS = "tests/python/test_test_runs.py::test_the_tests_of_the_documentation_run"
EMITS = "tests/python/test_socketio.py::test_the_documented_calls_reach_the_clients"
NODE = "tests/socketio/test_publishers.py::test_the_documented_service_reaches_the_clients"
CHAT = "tests/channels/test_docs.py::test_each_block_is_part_of_the_site"
RECIPES = "tests/recipes/test_docs.py::test_each_block_of_the_recipes_is_in_the_project"
VERIFIED = "systemd verifies the unit that has it, and does not start it"
OTHER_SUITES = {
    ("README.md", "Install", (2,)): (PROXIES, VERIFIED),
    ("README.md", "Behind nginx", (1,)): (PROXIES, None),
    ("docs/channels.md", "The chat of another tutorial", (1, 2, 3, 4, 5, 6)): (CHAT, None),
    ("docs/channels.md", "The two layers", (1,)): (CHAT, None),
    ("docs/channels.md", "A cheaper `group_send`", (1,)): (CHAT, None),
    ("docs/channels.md", "Messages of pages", (1, 2)): (CHAT, None),
    ("docs/deploy.md", "nginx", (1, 2, 3, 4, 5)): (PROXIES, None),
    ("docs/deploy.md", "HAProxy", (1,)): (PROXIES, None),
    ("docs/deploy.md", "Caddy", (1,)): (PROXIES, None),
    ("docs/deploy.md", "Apache", (1, 2, 3)): (PROXIES, None),
    ("docs/deploy.md", "Several gateways", (1,)): (PROXIES, None),
    ("docs/deploy.md", "As a service", (1, 2, 3)): (PROXIES, VERIFIED),
    ("docs/django.md", "Testing what is published", (1, 2)): (RUNS, None),
    ("docs/recipes.md", "Recipes", (1,)): (RECIPES, None),
    ("docs/recipes.md", "Notifications", (1, 2, 3, 4, 5)): (RECIPES, None),
    ("docs/recipes.md", "A chat", (1, 2)): (RECIPES, None),
    ("docs/recipes.md", "The history of the gateway", (1, 2, 3)): (RECIPES, None),
    ("docs/recipes.md", "A progress bar", (1, 2, 3)): (RECIPES, None),
    ("docs/recipes.md", "A live table", (1, 2, 3)): (RECIPES, None),
    ("docs/recipes.md", "A channel for the staff", (1, 2, 3)): (RECIPES, None),
    ("docs/recipes.md", "htmx", (1, 2, 3, 4, 5, 6, 7, 8, 9)): (RECIPES, None),
    ("docs/recipes.md", "Turbo", (1, 2, 3)): (RECIPES, None),
    ("docs/recipes.md", "Alpine", (1,)): (RECIPES, None),
    ("docs/recipes.md", "Unpoly and Idiomorph", (1, 2)): (RECIPES, None),
    ("docs/recipes.md", "Datastar", (1, 2)): (RECIPES, None),
    ("docs/recipes.md", "React and Vue", (1, 2, 3, 4)): (RECIPES, None),
    ("docs/recipes.md", "Other WebSocket libraries", (1, 2, 3, 4, 5, 6, 7)): (RECIPES, None),
    ("docs/security.md", "The Redis user", (1, 2)): (RIGHTS, None),
    ("docs/security.md", "The Redis user", (3,)): (FURTHER, None),
    ("docs/security.md", "The Redis user", (4,)): (TOGETHER, None),
    ("docs/security.md", "The user of the workers", (1, 2)): (WORKERS, None),
    ("docs/security.md", "The bridges", (1, 2)): (BRIDGES, None),
    ("docs/security.md", "History", (1,)): (HISTORY, None),
    ("docs/socketio.md", "Publish from Django", (1,)): (EMITS, None),
    ("docs/socketio.md", "Publish from Node (redis-emitter)", (1, 2)): (NODE, None),
}
"""Blocks that tests of other suites cover; the proxy tests use files that contain the blocks of docs/deploy.md."""
FEW = 12


def shown(items):
    """Maps each block (document, heading, number) to its tests, each with the reason if it only checks the block."""
    found = {}
    for item in items:
        for name, checked in shown_by(item):
            test = f"{item.path.relative_to(ROOT)}::{item.function.__name__}"
            found.setdefault(name, set()).add((test, checked))
    for (document, heading, numbers), (test, checked) in OTHER_SUITES.items():
        for number in numbers:
            found.setdefault((document, heading, number), set()).add((test, checked))
    return found


def rows(items):
    """Yields the table: a row for each block, in the order of the documents."""
    found = shown(items)
    yield "| document | below | | language | shown by | |"
    yield "|---|---|---|---|---|---|"
    for document in documents():
        for block in blocks_of(document):
            tests = sorted(found.get((document, block.heading, block.number), {("nothing", "no")}), key=str)
            names = ", ".join(dict.fromkeys(f"`{test.removeprefix('tests/')}`" for test, _ in tests))
            # One test may run a block that another one only checks.
            why = "run" if any(checked is None for _, checked in tests) else f"checked, not run: {tests[0][1]}"
            heading = block.heading.replace("|", "\\|")
            yield f"| {document} | {heading} | {block.number} | {block.language} | {names} | {why} |"


def test_every_block_is_shown_by_a_test(request):
    found = shown(request.session.items)
    there = {(block.document, block.heading, block.number) for name in documents() for block in blocks_of(name)}
    assert sorted(there - set(found)) == [], "blocks without a test"
    assert sorted(set(found) - there) == [], "tests of missing blocks"
    few = {name for name, tests in found.items() if all(checked for _, checked in tests)}
    assert len(few) <= FEW, f"too many blocks are only checked: {sorted(few)}"


def test_the_table_says_which_test_shows_a_block(request):
    wanted = "\n".join(rows(request.session.items))
    assert wanted in (ROOT / TABLE).read_text(), f"{TABLE} differs from this table:\n{wanted}"


@pytest.mark.parametrize("test", [PROXIES, RIGHTS, FURTHER, BRIDGES, TOGETHER, WORKERS, HISTORY, RUNS, EMITS, CHAT, RECIPES])
def test_tests_of_other_suites_are_there_and_read_the_document(test):
    path, name = test.split("::")
    source = (ROOT / path).read_text()
    assert re.search(rf"^(def|async fn|fn) {name}\(", source, re.M), f"{path} has no {name}"
    for (document, heading, numbers), (one, _) in OTHER_SUITES.items():
        if one == test:
            assert document in source, f"{path} does not read {document}"
            for number in numbers:
                block = find(document, heading, number)
                # Their tests select blocks by language or by the first words.
                picked = f'"{block.language}"' in source or " ".join(block.code.split()[:4]) in source
                assert picked, f"{path} does not select {block.name}"


def test_blocks_are_found_in_every_notation():
    text = """# One

    indented, the first line

      and the last

Text
    that goes on is none.

- an item

  ```sh
  in a list
  ```

      indented there

## Two
```json
{"# a": "comment"}
# no heading
```
~~~
```
~~~
"""
    found = [(block.heading, block.number, block.language, block.code) for block in parse("x.md", text)]
    assert found == [
        ("One", 1, "indented", "indented, the first line\n\n  and the last\n"),
        ("One", 2, "sh", "in a list\n"),
        ("One", 3, "indented", "indented there\n"),
        ("Two", 1, "json", '{"# a": "comment"}\n# no heading\n'),
        ("Two", 2, "text", "```\n"),
    ]
