"""Counters in Prometheus's text format (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of latencies, in seconds."""
Values: TypeAlias = dict[str, tuple[str, int]]
"""Names, with what each means and its value now."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What has happened since the start. Belongs to the event loop."""

    def __init__(self) -> None:
        self.n_open = 0
        """Requests that are being answered."""
        self.n_accepted = 0
        """Those of them that came before the server began to drain, with their whole body."""
        self._requests: Counter[tuple[str, str]] = Counter()
        self._in_bucket = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def count(self, endpoint: str, status: str, seconds: float) -> None:
        """Count an answered request. status: the HTTP status; 499 if the client left before."""
        self._requests[endpoint, status] += 1
        self._in_bucket[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def text(self, gauges: Values, counters: Values) -> str:
        """Return the page that Prometheus reads."""
        return "\n".join([*self._lines(gauges, counters), ""])

    def _lines(self, gauges: Values, counters: Values) -> Iterator[str]:
        yield "# HELP gptfast_requests_total Requests by endpoint and status."
        yield "# TYPE gptfast_requests_total counter"
        for (endpoint, status), n in sorted(self._requests.items()):
            yield f'gptfast_requests_total{{endpoint="{endpoint}",status="{status}"}} {n}'
        for kind, values in (("counter", counters), ("gauge", gauges)):
            for name, (meaning, value) in values.items():
                yield f"# HELP gptfast_{name} {meaning}"
                yield f"# TYPE gptfast_{name} {kind}"
                yield f"gptfast_{name} {value}"
        yield "# HELP gptfast_request_seconds Time from a request to the end of its answer."
        yield "# TYPE gptfast_request_seconds histogram"
        n = 0
        for bound, here in zip((*map(str, BUCKETS), "+Inf"), self._in_bucket, strict=True):
            n += here
            yield f'gptfast_request_seconds_bucket{{le="{bound}"}} {n}'
        yield f"gptfast_request_seconds_sum {self._seconds:.6f}"
        yield f"gptfast_request_seconds_count {n}"
