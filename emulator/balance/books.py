"""The balancer's counters as the results and the conservation check read them."""

from __future__ import annotations

from typing import Any

from emulator.balance.domain import (
    LB_ACTIVE_FAILED,
    LB_ACTIVE_KICKED,
    LB_ACTIVE_PUSHED,
    LB_BALANCED,
    LB_COLUMN_NAMES,
    LB_COUNT,
    LB_FAILED,
    LB_PULLED,
    SchedDomain,
)
from emulator.tracepoints import IDLE_TYPES

# Columns of results.json's "balance" figures.
BALANCE_FIGURES = {
    "calls": LB_COUNT,
    "balanced": LB_BALANCED,
    "failed": LB_FAILED,
    "pulled": LB_PULLED,
    "active_kicked": LB_ACTIVE_KICKED,
    "active_pushed": LB_ACTIVE_PUSHED,
    "active_failed": LB_ACTIVE_FAILED,
}


def add_rows(total: list[list[int]], rows: list[list[int]]) -> None:
    """Add counters per idle type, column by column."""
    for into, row in zip(total, rows, strict=True):
        for column, value in enumerate(row):
            into[column] += value


def domain_books(sd: SchedDomain) -> dict[str, Any]:
    """Return a domain's counters by name, per idle type."""
    book: dict[str, Any] = {"name": sd.name, "span": sd.span}
    for kind, row in zip(IDLE_TYPES, sd.lb, strict=True):
        book[kind] = dict(zip(LB_COLUMN_NAMES, row, strict=True))
    book["alb_count"] = sd.alb_count
    book["alb_failed"] = sd.alb_failed
    book["alb_pushed"] = sd.alb_pushed
    return book
