"""What step 1's answers look like: each answer of the tracker, handed to the figure that draws it."""

from __future__ import annotations

from podcastqa.clock import WindowKind
from podcastqa.spend.status import BudgetStatus
from podcastqa.spend.views import CostSummary, Variances
from podcastqa.users import SYSTEM_ID
from podcastqa.workbook.figures import Figure, estimate_against_actual, spend_against_limits, spend_per_user


def users(spend: CostSummary) -> Figure:
    """Who spent what."""
    return spend_per_user(
        [*((part.name, part.cost) for part in spend.parts), ("unattributed", spend.unattributed_cost)]
    )


def limits(status: BudgetStatus) -> Figure:
    """How full the whole system's windows are, and each user's day."""
    lines = [line for line in status.lines if line.user_id == SYSTEM_ID or line.window.kind is WindowKind.DAY]
    return spend_against_limits([(f"{line.name}, {line.window}", line.spent.total, line.limit) for line in lines])


def variances(found: Variances) -> Figure:
    """What operations were expected to cost, and what they did."""
    return estimate_against_actual([(f"{v.service} {v.operation}", v.estimate, v.actual) for v in found.rows])
