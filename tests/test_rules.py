"""The table of rules: versions, policies, features."""

from dataclasses import fields

import pytest

from emulator.rules import (
    FEATURES,
    POLICIES,
    RULES,
    VERSIONS,
    Rules,
    changed,
    missing_needs,
    policy_switches,
    rules_of,
)


def test_all_off_is_5_4() -> None:
    assert rules_of("5.4") == Rules()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_what_its_rules_need(version: str) -> None:
    assert missing_needs(rules_of(version)) == {}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_goes_with_every_version(version: str, policy: str) -> None:
    rules = changed(rules_of(version), policy_switches(policy))
    assert missing_needs(rules) == {}
    assert all(getattr(rules, name) == value for name, value in POLICIES[policy].sets.items())


def test_needs_and_policies_name_rules() -> None:
    names = {one.name for one in fields(Rules)}
    assert set(RULES) == names
    assert {need for rule in RULES.values() for need in rule.needs} <= names
    assert {name for policy in POLICIES.values() for name in policy.sets} <= names


def test_rules_of_a_tree_that_stable_changed() -> None:
    # 5.15.135 has what 6.1-rc7 had not got yet.
    assert rules_of("5.15").wake_affine_this_only
    assert not rules_of("6.1").wake_affine_this_only
    assert rules_of("6.6").wake_affine_this_only


def test_features_of_the_versions() -> None:
    assert FEATURES["5.4"]["SIS_PROP"]
    assert "SIS_UTIL" not in FEATURES["5.10"]
    assert FEATURES["5.15"]["SIS_UTIL"]
    assert not FEATURES["5.15"]["SIS_PROP"]
    assert "SIS_PROP" not in FEATURES["6.12"]
    assert FEATURES["5.4"]["RT_RUNTIME_SHARE"]
    assert not FEATURES["5.10"]["RT_RUNTIME_SHARE"]
    assert "LAST_BUDDY" not in FEATURES["6.6"]
    assert FEATURES["6.12"]["DELAY_DEQUEUE"]


def test_a_policy_with_a_value() -> None:
    assert policy_switches("renice-kworkers=-20") == {"kworker_nice": -20}
    with pytest.raises(ValueError, match="takes no value"):
        policy_switches("kthread-stack=1")
