"""The remedies of the thread and the rules of the versions, as tables that people read."""

import textwrap
from collections.abc import Iterator

from emulator.completion import COMPLETIONS, NOT_OFFERED, SIGNALS, Signal
from emulator.report.words import spaced, unbroken
from emulator.rules import FEATURES, POLICIES, RULES, VERSIONS, Policy, rules_of
from emulator.units import duration_format

#: Where the second column begins.
INDENT = "    "
YES, NO = "x", "·"


def policy_lines(width: int) -> Iterator[str]:
    """Yield every policy: name, number, who, what it changes, what it sets, what was reported."""
    for policy in POLICIES.values():
        yield f"{policy.name}  ({policy.fix}, {policy.who})"
        yield from _wrapped(f"changes   {policy.changes}", width)
        yield from _wrapped(f"sets      {_sets(policy)}", width)
        yield from _wrapped(f"reported  {policy.outcome}", width)
        yield ""
    yield from _wrapped(
        "A box names them in `kernel: {policies: [NAME, …]}`, a command by "
        '--set "kernel.policies=[NAME, …]", a comparison by --vary kernel.policies=none,NAME. '
        "Fn is the number among the proposals.",
        width,
        "",
    )


def completion_lines(width: int) -> Iterator[str]:
    """Yield every completion policy, and the signals that one of them may ask."""
    for policy in COMPLETIONS.values():
        yield f"{policy.name}  ({policy.fix}, {policy.who})"
        yield from _wrapped(f"decides   {policy.changes}", width)
        yield from _wrapped(f"reported  {policy.outcome}", width)
        yield ""
    yield "signals of saturation, for unless-saturated and rescue:"
    for signal in SIGNALS.values():
        yield f"{signal.name}  (#{signal.number})"
        yield from _wrapped(f"says so   {signal.asserted}{_limit(signal)}", width)
        yield from _wrapped(f"costs     {signal.read_ns} ns; stale: {signal.stale}", width)
    yield ""
    yield "candidates that are no signals here:"
    for number, why in NOT_OFFERED.items():
        yield from _wrapped(f"#{number}  {why}", width)
    yield ""
    yield from _wrapped(
        "A box names one in `kernel: {completion: NAME}`, a command by --set "
        "kernel.completion=NAME, a comparison by --vary kernel.completion=NAME,NAME.",
        width,
        "",
    )


def _limit(signal: Signal) -> str:
    words = {"time": duration_format(signal.limit), "percent": f"{signal.limit} %"}
    return f" {words.get(signal.unit, signal.limit)}" if signal.unit else ""


def version_lines(width: int) -> Iterator[str]:
    """Yield which version goes by which rule, and how many sched features each has."""
    names = max(map(len, RULES))
    columns = "  ".join(VERSIONS)
    yield f"{'rule':<{names}}  {columns}"
    rules = {version: dict(rules_of(version)) for version in VERSIONS}
    for name, rule in RULES.items():
        marks = "  ".join(
            f"{YES if rules[version][name] else NO:^{len(version)}}" for version in VERSIONS
        )
        yield f"{name:<{names}}  {marks}"
        yield from _wrapped(rule.about, width)
    known = "  ".join(f"{len(FEATURES[version]):^{len(version)}}" for version in VERSIONS)
    yield f"{'sched features known':<{names}}  {known}"


def _sets(policy: Policy) -> str:
    return ", ".join(
        name if value == 1 else f"{name}={value}" for name, value in policy.sets.items()
    )


def _wrapped(text: str, width: int, indent: str = INDENT) -> Iterator[str]:
    word = text.partition("  ")[0] if "  " in text else ""
    hanging = indent + " " * (10 if word else 0)
    lines = textwrap.wrap(
        unbroken(text),
        width,
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from map(spaced, lines)
