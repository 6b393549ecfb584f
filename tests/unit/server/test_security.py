from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.certificates import Authority

from rallypoint.net.tls import Tls
from rallypoint.protocol.session.auth import Token
from rallypoint.server.access import Rule
from rallypoint.server.security import Security, read_networks, read_rules, read_tokens
from rallypoint.server.vocabulary import Origin

TOKEN = "the-token-of-the-job"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\ntrainer the-token-of-trainers\n")
    return path


def test_nothing_said_is_nothing_wanted() -> None:
    assert read_tokens({}) == {}
    assert read_networks({}) == ()
    assert not Security().gate().wants_proof
    assert Security().server_tls([].append) is None
    assert not Security(plain_networks=("10.0.0.0/8",)).wants_anything
    assert Security({"": Token(TOKEN)}).wants_anything


def test_tokens_come_from_the_environment_or_a_file(token_file: Path) -> None:
    both = {"": Token(TOKEN), "trainer": Token("the-token-of-trainers")}
    assert read_tokens({"RALLYPOINT_TOKEN": TOKEN}) == {"": Token(TOKEN)}
    assert read_tokens({"RALLYPOINT_TOKEN": "trainer the-token-of-trainers"}) == {"trainer": both["trainer"]}
    assert read_tokens({"RALLYPOINT_TOKEN_FILE": str(token_file)}) == both
    assert read_tokens({}, str(token_file)) == both
    assert read_tokens({"RALLYPOINT_TOKEN": "another-token-of-a-job"}, str(token_file)) == both


def test_two_sources_are_one_too_many(token_file: Path) -> None:
    with pytest.raises(ValueError, match="RALLYPOINT_TOKEN and RALLYPOINT_TOKEN_FILE are both set"):
        read_tokens({"RALLYPOINT_TOKEN": TOKEN, "RALLYPOINT_TOKEN_FILE": str(token_file)})


def test_what_is_wrong_is_said_without_the_token(token_file: Path) -> None:
    with pytest.raises(ValueError, match="RALLYPOINT_TOKEN: line 1: the token is 6 bytes long") as caught:
        read_tokens({"RALLYPOINT_TOKEN": "secret"})
    assert "secret" not in str(caught.value)
    token_file.write_text("")
    with pytest.raises(ValueError, match=f"the token file {token_file}: there is no token in it"):
        read_tokens({}, str(token_file))
    token_file.chmod(0o644)
    with pytest.raises(ValueError, match=f"the file {token_file} holds a secret and has mode 0644"):
        read_tokens({}, str(token_file))
    token_file.unlink()
    with pytest.raises(ValueError, match=f"the file {token_file} cannot be used: No such file"):
        read_tokens({"RALLYPOINT_TOKEN_FILE": str(token_file)})


def test_rules_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"*": {"read": ["shared/"]}}')
    assert read_rules(str(path)) == {"*": Rule(read=("shared/",))}
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path}: the access rules are wrong: "):
        read_rules(str(path))
    path.unlink()
    with pytest.raises(ValueError, match=f"the file {path} cannot be used: No such file"):
        read_rules(str(path))


def test_networks_are_split_by_commas() -> None:
    assert read_networks({"RALLYPOINT_ALLOW_PLAIN": " 127.0.0.1, ::1 ,"}) == ("127.0.0.1", "::1")
    with pytest.raises(ValueError, match="'nonsense' is no network"):
        Security(plain_networks=("127.0.0.1", "nonsense"))


@pytest.mark.parametrize("wrong", [{}, {"tokens": {"": Token(TOKEN)}}, {"tls": Tls(cert="cert")}])
def test_rules_need_somebody_who_proves_who_it_is(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="access rules are by identity, and nothing proves one: give identities"):
        Security(rules={}, **wrong)  # type: ignore[arg-type]
    Security(rules={}, tokens={"trainer": Token(TOKEN)})
    Security(rules={}, tls=Tls(ca="ca", cert="cert"))


def test_it_arrives_in_another_process_as_it_was(tmp_path: Path) -> None:
    rules = {"trainer": Rule(read=("a", "b"), write=("c",)), "*": Rule()}
    for security in (
        Security(),
        Security({"": Token(TOKEN), "trainer": Token("the-token-of-trainers")}, rules, ("10.0.0.0/8",)),
        Security(tls=Tls(ca="ca", cert="cert")),
    ):
        assert Security.unpack(security.pack()) == security


def test_it_shows_no_token() -> None:
    assert TOKEN not in repr(Security({"": Token(TOKEN)}))


def test_its_gate_wants_all_of_it(tmp_path: Path) -> None:
    tls = Authority(tmp_path / "ours").issue("localhost")
    security = Security({"trainer": Token(TOKEN)}, {}, ("10.0.0.0/8",), tls)
    gate = security.gate()
    assert gate.wants_proof
    assert gate.has_rules
    assert gate.refusal(Origin("10.1.2.3"), is_session=False) is None
    assert "without TLS" in str(gate.refusal(Origin("11.1.2.3"), is_session=True))
    assert security.server_tls([].append) is not None
    with pytest.raises(ValueError, match=re.escape(f"the file {tmp_path}/no cannot be used")):
        Security(tls=tls._replace(key=f"{tmp_path}/no")).server_tls([].append)


def test_a_network_that_is_none_is_named_with_its_variable():
    with pytest.raises(ValueError, match=r"^RALLYPOINT_ALLOW_PLAIN: .*10\.0\.0"):
        read_networks({"RALLYPOINT_ALLOW_PLAIN": "10.0.0"})
