"""Several tenants on one Django: users with the same primary key."""

import json
import logging

import pytest
from django.contrib import auth
from django.contrib.auth.models import User
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import transaction
from django.test import override_settings

from ws4redis import identity

TENANT = {"name": None}


def current():
    """Returns the current tenant, as a site's own function does."""
    return TENANT["name"]


@pytest.fixture
def tenant(people):
    """Returns a function that sets the current tenant."""

    def choose(name):
        TENANT["name"] = name

    with override_settings(WS4REDIS_IDENTITY_NAMESPACE=f"{__name__}.current"):
        yield choose
    TENANT["name"] = None


def keys(store):
    return sorted(key.decode() for key in store.keys("*ws4redis:identity:*"))


def test_each_tenant_has_its_own_keys_and_invalidations(people, store, invalidations, tenant):
    pk = people["john"].pk
    for name in ("acme", "other", None):
        tenant(name)
        identity.refresh(people["john"])
    assert keys(store) == sorted(
        [f"ws4redis:identity:acme:{pk}", f"ws4redis:identity:other:{pk}", f"ws4redis:identity:{pk}"]
    )
    users = [json.loads(invalidation)["user"] for invalidation in invalidations.received(3)]
    assert users == [f"acme:{pk}", f"other:{pk}", str(pk)]


def test_the_session_names_the_tenant_for_the_gateway(people, store, tenant):
    session = {}
    tenant("acme")
    identity.write_session_fields(session, people["john"])
    assert session["ws4redis:namespace"] == "acme"
    assert identity.is_fresh(session)
    tenant("other")
    assert not identity.is_fresh(session)
    tenant(None)
    identity.write_session_fields(session, people["john"])
    assert "ws4redis:namespace" not in session


def test_a_deletion_in_one_tenant_leaves_the_others_key(people, store, tenant):
    pk = people["john"].pk
    for name in ("acme", "other"):
        tenant(name)
        identity.refresh(people["john"])
    people["john"].delete()
    active = {key: json.loads(store.get(key))["active"] for key in keys(store)}
    assert active == {f"ws4redis:identity:acme:{pk}": True, f"ws4redis:identity:other:{pk}": False}


def test_refresh_all_writes_the_keys_of_its_tenant_only(people, store, tenant):
    tenant("acme")
    call_command("ws4redis_refresh", "--all", verbosity=0)
    assert keys(store) == sorted(f"ws4redis:identity:acme:{user.pk}" for user in User.objects.all())
    assert sorted(identity.pks_with_key()) == sorted(str(user.pk) for user in User.objects.all())


def test_refresh_all_without_a_tenant_leaves_the_keys_of_tenants(people, store, tenant):
    tenant("acme")
    identity.refresh(people["john"])
    store.set("ws4redis:identity:no-number", "?")
    tenant(None)
    call_command("ws4redis_refresh", "--all", verbosity=0)
    assert sorted(identity.pks_with_key()) == sorted(str(user.pk) for user in User.objects.all())
    assert store.get("ws4redis:identity:no-number") == b"?"


def test_a_change_that_is_committed_under_another_tenant_is_not_written_there(people, store, tenant, caplog):
    tenant("acme")
    with caplog.at_level(logging.ERROR, "ws4redis"), transaction.atomic():
        people["john"].save()
        tenant("other")
    assert keys(store) == []
    assert "ws4redis_refresh" in caplog.text


def test_a_logout_invalidates_the_user_of_the_tenant(people, store, invalidations, log_in, tenant):
    tenant("acme")
    browser = log_in("john")
    invalidations.received()
    browser.post("/accounts/logout/")
    users = [invalidation.get("user") for invalidation in map(json.loads, invalidations.received(2))]
    assert f"acme:{people['john'].pk}" in users
    assert auth.SESSION_KEY not in browser.session


@pytest.mark.parametrize("name", ["a:b", 5, "x" * 257])
def test_a_tenant_that_cannot_be_part_of_a_key_is_refused(people, tenant, name):
    tenant(name)
    with pytest.raises(ImproperlyConfigured, match="colons"):
        identity.key("1")


@pytest.mark.parametrize("setting", ["no.such.function", 5])
def test_a_setting_that_is_no_function_is_reported(setting):
    with override_settings(WS4REDIS_IDENTITY_NAMESPACE=setting):
        assert [m.id for m in checks.run_checks(tags=["ws4redis"])] == ["ws4redis.E014"]
