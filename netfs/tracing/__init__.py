"""Consumers of the events that layers report to `iov.probe.Probe`: text, Perfetto, statistics and the table of live requests."""

from netfs.tracing.live import LiveRequest, live_table
from netfs.tracing.output import TraceFile, open_trace
from netfs.tracing.stats import Stats

__all__ = ["LiveRequest", "Stats", "TraceFile", "live_table", "open_trace"]
