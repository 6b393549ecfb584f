from __future__ import annotations

import pytest

from rallypoint.net.url import refuse_user, split_url, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("etcd://me:hidden@host:2379/p", "etcd://host:2379/p"),
        ("etcds://me:hidden@a:1,b:2/p?session_ttl=4", "etcds://a:1,b:2/p?session_ttl=4"),
        ("tcp://me:hidden@host:1", "tcp://host:1"),
        ("tls://hidden@host:1", "tls://host:1"),
        ("gopher+x://me:hidden@[::1]:1", "gopher+x://[::1]:1"),
        ("me:hidden@host:1", "host:1"),
        ("hidden@host", "host"),
        ("tcp://me:hid@den@host", "tcp://host"),
        ("tcp://me:hidden/hidden@host", "tcp://host"),
        ("tcp://me:hidden?hidden@host", "tcp://host"),
        ("tcp://me:hidden#hidden@host", "tcp://host"),
        ("tcp:/me:hidden@host", "tcp:/host"),
        ("tcp//hidden@host", "tcp//host"),
        ("://me:hidden@host", "://host"),
        ("tcp://me:hidden@", "tcp://"),
        ("tcp://:hidden@", "tcp://"),
        ("tcp://me:hidden@a:1,you:hidden@b:2", "tcp://b:2"),
        ("file://me:hidden@host/path", "file://host/path"),
        (" tcp://me:hidden@host", " tcp://host"),
        ("etcd://me:hidden", "etcd://me:..."),
        ("tcp://me:hidden/run", "tcp://me:.../run"),
        ("tcp://h:1?password=hidden&rank=0", "tcp://h:1?password=...&rank=0"),
        ("tcp://h:1?rank=0&my_token=hidden", "tcp://h:1?rank=0&my_token=..."),
    ],
)
def test_who_calls_and_by_which_password_is_left_out(text, shown):
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:29500",
        "[::1]:29500",
        "tcp://a:1,b:2",
        "etcd://host/p@q",
        "unix:/run/a:b@c",
        "/shared/a:b@c",
        "./a:b@c",
        "file:///shared/a:b@c",
        "rallypoint+file:///shared/a:b@c?run=r",
        "etcd://h?password_file=/run/secret",
    ],
)
def test_what_has_no_secret_stays_as_it_is(text):
    assert without_secrets(text) == text


def test_a_url_is_split():
    assert split_url("tls://h:1/p?q=1")[:4] == ("tls", "h:1", "/p", "q=1")


@pytest.mark.parametrize("url", ["tcp://[me:hidden@host", "tcp://me:hidden@host\u2100"])
def test_what_is_no_url_is_told_without_its_password(url):
    with pytest.raises(ValueError, match="is no URL") as caught:
        split_url(url)
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("text", ["tcp://me:hidden@h:1", "hidden@h", "me:hidden@h"])
def test_a_user_is_refused_where_nobody_asks_for_one(text):
    with pytest.raises(ValueError, match="RALLYPOINT_TOKEN_FILE") as caught:
        refuse_user(text)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("text", ["h:1", "unix:/a@b", "tcp://h:1"])
def test_an_endpoint_without_a_user_is_taken(text):
    refuse_user(text)
