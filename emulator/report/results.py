"""What a run leaves in ``results.json``: figures, checks, verdict, and what it was a run of.

The verdict is False if a check failed or a ring holds a BUG or a WARN; unknown (None) if a check
could not be made, if records of the window are lost, or if the run ended early; else True.  The
command's exit status is the verdict's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emulator.report.figures import Figures, lookup

EXIT_STATUS = {True: 0, False: 1, None: 2}

Check = dict[str, Any]


def check_expectations(
    figures: Mapping[str, Any], expectations: Iterable[Mapping[str, Any]]
) -> list[Check]:
    """Return one check per expectation ``{figure: PATH, min: …, max: …, equals: …}``.

    A check is ``{figure, expected, value, ok}``; ``ok`` is None where the run has no such figure.
    """
    return [_check(figures, expectation) for expectation in expectations]


def build_results(
    figures: Figures,
    checks: Sequence[Check],
    box: str,
    seed: int,
    versions: Mapping[str, Any],
    complete: bool = True,
) -> dict[str, Any]:
    """Return the whole of ``results.json`` as plain data."""
    return {
        "valid": run_verdict(figures, checks, complete),
        "box": box,
        "seed": seed,
        "complete": complete,
        "figures": figures,
        "checks": list(checks),
        "versions": dict(versions),
    }


def run_verdict(figures: Figures, checks: Sequence[Check], complete: bool = True) -> bool | None:
    """Return the verdict on a run: True, False, or None for unknown.

    What a box expects is said of the whole run: one that was ended early may not have come to it yet.
    """
    answers = [check["ok"] for check in checks]
    if figures.get("bugs") or figures.get("warnings") or (complete and False in answers):
        return False
    if None in answers or figures.get("records_lost") or not complete:
        return None
    return True


def exit_status(valid: bool | None) -> int:
    """Return the exit status of a verdict: 0 true, 1 false, 2 unknown."""
    return EXIT_STATUS[valid]


def _check(figures: Mapping[str, Any], expectation: Mapping[str, Any]) -> Check:
    path = str(expectation["figure"])
    value = lookup(figures, path)
    limits = [(word, expectation.get(word)) for word in ("min", "max", "equals")]
    set_limits = [(word, limit) for word, limit in limits if limit is not None]
    ok: bool | None = None
    if isinstance(value, int | float):
        ok = all(_holds(value, word, limit) for word, limit in set_limits)
    expected = ", ".join(f"{word} {limit}" for word, limit in set_limits)
    return {"figure": path, "expected": expected, "value": value, "ok": ok}


def _holds(value: float, word: str, limit: Any) -> bool:
    if word == "min":
        return bool(value >= limit)
    return bool(value <= limit if word == "max" else value == limit)
