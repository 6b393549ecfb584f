from __future__ import annotations

import builtins
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rallypoint.errors import DistStoreError
from rallypoint.observe.prometheus import METRICS, MetricsError, served_metrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md"


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            samples[(name, *labels.values())] = value
    return samples


def test_figures_are_served_by_name_and_label():
    figures = {
        "rallypoint_keys": 7,
        "rallypoint_requests_total": 12,
        "rallypoint_refused_connections_total": {"bad_handshake": 3},
    }
    with served_metrics(lambda: figures, "127.0.0.1", 0) as port:
        samples = scrape(port)
        assert samples["rallypoint_up",] == 1
        assert samples["rallypoint_keys",] == 7
        assert samples["rallypoint_requests_total",] == 12
        assert samples["rallypoint_refused_connections_total", "bad_handshake"] == 3
        assert ("rallypoint_leases",) not in samples
        figures["rallypoint_keys"] = 8
        assert scrape(port)["rallypoint_keys",] == 8


def test_a_server_that_does_not_answer_is_down():
    def look():
        raise DistStoreError("the server has ended")

    with served_metrics(look, "127.0.0.1", 0) as port:
        samples = scrape(port)
    assert {name: value for (name, *_), value in samples.items() if name.startswith("rallypoint")} == {
        "rallypoint_up": 0
    }


def test_the_port_is_free_afterwards():
    with served_metrics(dict, "127.0.0.1", 0) as port:
        assert scrape(port)["rallypoint_up",] == 1
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_an_error_that_names_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(MetricsError, match=f"metrics cannot be served on 127.0.0.1:{port}: Address already in use"),
            served_metrics(dict, "127.0.0.1", port),
        ):
            pass


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments):
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MetricsError, match=r"pip install 'rallypoint\[metrics\]'"), served_metrics(dict, "", 0):
        pass


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_named_as_its_kind_wants_and_explained_on_its_page(name):
    metric = METRICS[name]
    assert name.endswith("_total") == (metric.kind == "counter")
    row = f"| `{name}` | {metric.kind} | {f'`{metric.label}`' if metric.label else ''} | {metric.help} |"
    assert row in PAGE.read_text()
