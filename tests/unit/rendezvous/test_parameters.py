from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rallypoint.rendezvous.parameters import RendezvousParameters


def parameters(**options: Any) -> RendezvousParameters:
    return RendezvousParameters("c10d", "localhost", "run", 1, 2, **options)


def test_parameters_keep_what_they_were_given() -> None:
    params = RendezvousParameters("c10d", "h:1", "run", 1, 3, "10.0.0.1", read_timeout="5")
    assert (params.backend, params.endpoint, params.run_id) == ("c10d", "h:1", "run")
    assert (params.min_nodes, params.max_nodes, params.local_addr) == (1, 3, "10.0.0.1")
    assert params.config == {"read_timeout": "5"}
    assert params.get("read_timeout") == "5"
    assert params.get("other") is None
    assert params.get("other", 4) == 4
    assert "run_id='run'" in repr(params)


def test_no_password_is_shown() -> None:
    params = RendezvousParameters("etcd", "etcd://me:hidden@h:1", "run", 1, 1, password="hidden", etcd_prefix="p")
    assert "hidden" not in repr(params)
    assert "endpoint='etcd://h:1'" in repr(params)
    assert "{'password': '...', 'etcd_prefix': 'p'}" in repr(params)


@pytest.mark.parametrize("backend", ["", None])
def test_a_backend_must_be_named(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous backend name must be a non-empty string\.$"):
        RendezvousParameters(backend, "h", "run", 1, 1)


def test_errors_about_node_counts_name_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"^The minimum number of rendezvous nodes \(0\) must be greater than zero\.$"):
        RendezvousParameters("b", "h", "run", 0, 1)
    sentence = (
        r"^The maximum number of rendezvous nodes \(2\) must be greater than or equal to the minimum number of "
        r"rendezvous nodes \(3\)\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        RendezvousParameters("b", "h", "run", 3, 2)


@pytest.mark.parametrize("value", [1, True, "1", "true", "True", "t", "T", "yes", "YES", "y"])
def test_values_that_mean_yes(value: object) -> None:
    assert parameters(x=value).get_as_bool("x") is True


@pytest.mark.parametrize("value", [0, False, "0", "false", "FALSE", "f", "no", "n", "N"])
def test_values_that_mean_no(value: object) -> None:
    assert parameters(x=value).get_as_bool("x") is False


@pytest.mark.parametrize("value", [2, -1, "01", "g", "", "on", "off", 1.0])
def test_other_values_mean_neither(value: object) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous configuration option 'x' does not represent a valid bool"):
        parameters(x=value).get_as_bool("x")


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("3", 3), (" -12 ", -12), ("1_000", 1000)])
def test_whole_numbers(value: object, number: int) -> None:
    assert parameters(x=value).get_as_int("x") == number


@pytest.mark.parametrize("value", ["", "1.5", "12x", "0x1", [1], float("inf")])
def test_other_values_are_no_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous configuration option 'x' does not represent a valid int"):
        parameters(x=value).get_as_int("x")


@pytest.mark.parametrize(
    ("value", "seconds"), [(3, 3.0), ("0.5", 0.5), (" 2 ", 2.0), (timedelta(milliseconds=20), 0.02), (0, 0.0)]
)
def test_durations_may_be_fractions(value: object, seconds: float) -> None:
    assert parameters(x=value).get_as_seconds("x") == seconds


@pytest.mark.parametrize("value", ["", "5s", "-1", "nan", "inf", [], timedelta(seconds=-1)])
def test_a_bad_duration_is_named_with_its_value(value: object) -> None:
    with pytest.raises(ValueError, match=r"option 'x' is .*it must be a number of seconds, at least 0\.$") as caught:
        parameters(x=value).get_as_seconds("x")
    assert repr(value) in str(caught.value)


def test_a_missing_option_gives_the_default() -> None:
    params = parameters(none=None)
    for key in ("missing", "none"):
        assert params.get_as_bool(key) is None
        assert params.get_as_bool(key, True) is True
        assert params.get_as_int(key, 4) == 4
        assert params.get_as_seconds(key, 0.5) == 0.5
