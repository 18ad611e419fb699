"""Requests per minute: reject what a client sends beyond a rate, serve the rest in order.

Source: the rate limits of API providers, the paper's baseline "RPM" (section 5.1). Bounds: each
client's accepted requests; nothing about tokens. Not work-conserving: capacity is wasted when the
limit is low, and clients are not isolated when it is high.
"""

from fairlane.core.limits import RequestRate
from fairlane.core.options import Count, Positive
from fairlane.policies.fcfs import FirstComeFirstServed


def rpm(*, rate_limit: Count = 20, window_s: Positive = 60.0) -> FirstComeFirstServed:
    """At most `rate_limit` accepted requests per client in any `window_s` seconds, then FCFS.

    window_s: a minute, but for experiments in compressed time.
    """
    return FirstComeFirstServed(gates=[RequestRate(rate_limit, window_s)])
