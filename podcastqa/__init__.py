"""Ask questions of your own podcasts, with every cent counted before it is spent.

The public names; importing this loads none of the heavy libraries, they come with the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from podcastqa.errors import PodcastQAError
from podcastqa.money import Usd

if TYPE_CHECKING:
    from podcastqa.cost_tracker import CostTracker

__version__ = "0.1.0"
__all__ = ["PodcastQAError", "Usd", "__version__", "get_cost_tracker"]


def get_cost_tracker(user: str | None = None) -> CostTracker:
    """The cost tracker of this machine's settings; with `user`, confined to that user."""
    from podcastqa.cost_tracker import get_cost_tracker as forward

    return forward(user)
