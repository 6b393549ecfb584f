"""A server's figures as Prometheus text over HTTP, by the package ``prometheus-client``.

That package is an extra (``rallypoint[metrics]``) and is imported when a server of metrics is made, not before. The
names stand in ``METRICS``; ``docs/reference/metrics.md`` explains them.

Each scrape asks for the figures anew, in the thread of its HTTP connection. While they cannot be had, the only metric
is ``rallypoint_up`` with the value 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from rallypoint.errors import DistError

__all__ = ["METRICS", "MISSING", "Figures", "Metric", "MetricsError", "served_metrics"]

Figures: TypeAlias = Mapping[str, "float | Mapping[str, float]"]
"""Metric -> its value, or for one with a label, the label's value -> value. What a server does not know is left out."""

MISSING: Final = "metrics need the package prometheus-client: pip install 'rallypoint[metrics]'"


class MetricsError(DistError):
    """Metrics cannot be served."""


class Metric(NamedTuple):
    """One metric.

    Attributes:
        kind: a gauge goes up and down, a counter rises from the start of the server on.
        help: one sentence.
        label: the name of its label, empty if it has none.
    """

    kind: Literal["gauge", "counter"]
    help: str
    label: str = ""


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "rallypoint_up": Metric("gauge", "1 if the server has answered, else 0."),
        "rallypoint_info": Metric("gauge", "1, with the package's version as label.", "version"),
        "rallypoint_uptime_seconds": Metric("gauge", "Seconds since the server began to serve."),
        "rallypoint_connections": Metric("gauge", "Connections at present."),
        "rallypoint_connections_validated": Metric("gauge", "Connections whose handshake is done."),
        "rallypoint_connections_paused": Metric("gauge", "Connections whose output is not sent yet."),
        "rallypoint_sessions": Metric("gauge", "Sessions, with or without a connection."),
        "rallypoint_waiting": Metric("gauge", "c10d connections and requests of sessions that wait."),
        "rallypoint_keys": Metric("gauge", "Keys in the store."),
        "rallypoint_queues": Metric("gauge", "Queues with an item in them."),
        "rallypoint_groups": Metric("gauge", "Barriers and exchanges, those included that are remembered."),
        "rallypoint_leases": Metric("gauge", "Leases."),
        "rallypoint_watches": Metric("gauge", "Watches."),
        "rallypoint_stored_bytes": Metric("gauge", "Bytes of all keys, values and queue items, overhead included."),
        "rallypoint_input_bytes": Metric("gauge", "Bytes held of begun or unparsed requests."),
        "rallypoint_answers_bytes": Metric("gauge", "Bytes of answers kept for sessions."),
        "rallypoint_limit": Metric("gauge", "The server's limits, by their names.", "name"),
        "rallypoint_requests_total": Metric("counter", "Requests taken, handshakes included."),
        "rallypoint_received_bytes_total": Metric("counter", "Bytes that came from clients."),
        "rallypoint_sent_bytes_total": Metric("counter", "Bytes of the answers that clients have caused."),
        "rallypoint_refused_connections_total": Metric(
            "counter", "Connections that the server has closed, by the reason's code.", "reason"
        ),
        "rallypoint_ended_connections_total": Metric(
            "counter", "Connections that ended otherwise, by the reason's code.", "reason"
        ),
    }
)
"""All metrics."""


class _Collector:
    """What ``prometheus-client`` asks at each scrape."""

    def __init__(self, look: Callable[[], Figures]) -> None:
        self._look = look

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        try:
            figures: Figures = {"rallypoint_up": 1, **self._look()}
        except DistError:
            figures = {"rallypoint_up": 0}
        for name, metric in METRICS.items():
            value = figures.get(name)
            if value is None:
                continue
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            if isinstance(value, Mapping):
                labelled = family(name, metric.help, labels=[metric.label])
                for label, number in value.items():
                    labelled.add_metric([label], number)
                yield labelled
            else:
                yield family(name, metric.help, value=value)


@contextmanager
def served_metrics(look: Callable[[], Figures], host: str, port: int) -> Iterator[int]:
    """Serve metrics as long as the context lasts.

    Args:
        look: gives the figures; called in threads of this context, raises a ``DistError`` if it cannot.
        host: the address to listen on.
        port: the port; 0 lets the system choose.

    Returns:
        The port.

    Raises:
        MetricsError: ``prometheus-client`` is not installed, or the address cannot be listened on.
    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
    except ImportError as error:
        raise MetricsError(MISSING) from error
    registry: Any = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collector(look))
    try:
        started: Any = start_http_server(port, host, registry)
    except OSError as error:
        raise MetricsError(f"metrics cannot be served on {host}:{port}: {error.strerror or error}") from error
    server, thread = started
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
