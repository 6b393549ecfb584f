from __future__ import annotations

from collections.abc import Iterator

import pytest

from rallypoint.observe import metrics
from rallypoint.observe.metrics import (
    ConsoleMetricHandler,
    MetricData,
    MetricHandler,
    MetricsConfig,
    NullMetricHandler,
    check_metrics,
    configure,
    get_elapsed_time_ms,
    getStream,
    initialize_metrics,
    prof,
    profile,
    publish_metric,
    put_metric,
)


class Kept(MetricHandler):
    def __init__(self) -> None:
        self.data: list[MetricData] = []

    def emit(self, metric_data: MetricData) -> None:
        self.data.append(metric_data)

    @property
    def names(self) -> list[str]:
        return [data.name for data in self.data]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    handler = Kept()
    monkeypatch.setattr(metrics, "_HANDLERS", {None: handler})
    return handler


def test_a_number_has_a_group_a_name_and_a_time(kept: Kept) -> None:
    put_metric("a", 1)
    put_metric("b", 2.5, "mine")

    assert [data[1:] for data in kept.data] == [("torchelastic", "a", 1), ("mine", "b", 2.5)]
    assert all(data.timestamp > 0 for data in kept.data)


def test_a_group_may_have_a_handler_of_its_own(kept: Kept) -> None:
    stream = getStream("mine")
    configure(own := Kept(), "mine")

    put_metric("a", 1, "mine")
    stream.add_value("b", 2)

    assert (own.names, kept.names) == (["a"], ["b"])
    assert stream.group_name == "mine"


def test_calls_are_counted_and_timed_under_the_functions_name(kept: Kept) -> None:
    class Base:
        @prof
        def work(self) -> int:
            """Work."""
            return 3

    class Derived(Base):
        @prof(group="mine")
        def work(self) -> int:
            raise ValueError("no")

    assert Base().work() == 3
    with pytest.raises(ValueError, match="no"):
        Derived().work()

    place = "test_calls_are_counted_and_timed_under_the_functions_name.<locals>"
    assert kept.names == [
        f"{place}.Base.work.success",
        f"{place}.Base.work.duration.ms",
        f"{place}.Derived.work.failure",
        f"{place}.Derived.work.duration.ms",
    ]
    assert [data.group_name for data in kept.data] == ["torchelastic"] * 2 + ["mine"] * 2
    assert Base.work.__doc__ == "Work."


@prof
def outside() -> None:
    """Belongs to no class."""


def test_a_function_outside_of_classes_is_named_with_its_module(kept: Kept) -> None:
    outside()

    assert kept.names[0] == f"{__name__}.outside.success"


def test_torchs_older_names_warn_and_work(kept: Kept) -> None:
    with pytest.warns(FutureWarning, match="put_metric"):
        publish_metric("mine", "a", 1)
    with pytest.warns(FutureWarning, match="@prof"):
        decorated = profile("mine")(outside)
    decorated()

    assert kept.names[0] == "a"
    assert kept.names[-2:] == ["outside.success", "outside.duration.ms"]


def test_the_console_shows_a_line_for_each_number(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleMetricHandler().emit(MetricData(7.5, "g", "n", 3))
    NullMetricHandler().emit(MetricData(7.5, "g", "n", 3))

    assert capsys.readouterr().out == "[7.5][g]: n=3\n"


def test_a_configuration_may_name_the_handler(capsys: pytest.CaptureFixture[str], kept: Kept) -> None:
    initialize_metrics()
    initialize_metrics(MetricsConfig({"else": "ignored"}))
    put_metric("a", 1)
    initialize_metrics(MetricsConfig({"handler": "console"}))
    put_metric("b", 2)

    assert kept.names == ["a"]
    assert capsys.readouterr().out.endswith("[torchelastic]: b=2\n")
    with pytest.raises(ValueError, match="'bogus' is unknown; there are console, null"):
        check_metrics(MetricsConfig({"handler": "bogus"}))


def test_elapsed_time_is_in_whole_milliseconds() -> None:
    assert isinstance(get_elapsed_time_ms(0), int)
    assert get_elapsed_time_ms(0) > 1_000_000
