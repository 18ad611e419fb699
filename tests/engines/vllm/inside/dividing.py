"""What alice, of weight 4, gets for one token of bob's, while both flood several engines.

Alice floods all engines and bob one of two. Four is fair of all together; engines that are each
fair by themselves give nine. It is measured over one phase, whatever happens in it.

How long it must be: the difference in service per weight between the two stays within some 2,000
here, however long they are served (a batch of eight long requests is admitted at once, and what
others charged is heard when a busy machine gets to it: that moved it by 1,000, and by 2,800 at
worst beside three busy processes). Over 20,000 tokens that is a quarter of what bob is owed, and
two of five such looks were not within 10 % of fair; over MEASURED it is a tenth. Engines that do
not share part by an eighth of all that is served, for as long as they serve.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.gateway.crowd import Crowd, all_until, asking

log = logging.getLogger(__name__)
WEIGHTS = {"alice": 4.0, "bob": 1.0}
WAITING = 32  # requests of each client at an engine, which takes eight
WARM_UP = 5_000  # tokens
MEASURED = 40_000
FAIR = pytest.approx(4.0, rel=0.2)
UNFAIR_MEASURED = 20_000  # is enough to tell nine from four
UNFAIR = 6.0  # more than this is what does not share


def longer(tokens: int) -> dict[str, Any]:
    """Long requests: those who ask must not be what is short of time."""
    return asking(3 * tokens)


def ratio(
    crowds: Sequence[Crowd], output: Callable[[], Mapping[str, int]], tokens: int = MEASURED
) -> float:
    """Alice's tokens for one of bob's, of the next so many. output: what each was given so far."""
    before = Counter(output())
    all_until(crowds, tokens)
    served = Counter(output()) - before
    found = served["alice"] / served["bob"]
    log.info("alice gets %.2f for one of bob's: %s", found, served)
    return found
