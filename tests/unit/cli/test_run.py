from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from rallypoint.agent.logs import LogOptions, Std
from rallypoint.cli.run import run
from rallypoint.events import Event, subscribe, unsubscribe
from rallypoint.launch import devices
from rallypoint.launch import launch as launching
from rallypoint.launch.config import LaunchConfig


class Launched:
    """What the command would have launched."""

    def __init__(self) -> None:
        self.config: LaunchConfig | None = None
        self.command: list[str] = []
        self.exit_code = 0

    def __call__(self, config: LaunchConfig, command: list[str]) -> int:
        self.config, self.command = config, command
        return self.exit_code


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Launched:
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "train.sh", "python"):
        (tmp_path / name).touch(0o755)
    for name in [name for name in os.environ if name.startswith("PET_") or name == "PYTHON_EXEC"]:
        monkeypatch.delenv(name)
    record = Launched()
    monkeypatch.setattr(launching, "launch", record)
    return record


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(run, arguments, env=cast("dict[str, str | None]", environ))


def config_of(launched: Launched, *arguments: str, **environ: str) -> LaunchConfig:
    result = call(*arguments, "train.py", **environ)
    assert result.exit_code == 0, result.output
    assert launched.config is not None
    return launched.config


def test_the_plain_form_is_one_worker_on_a_node_of_its_own(launched: Launched) -> None:
    config = config_of(launched)

    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (1, 1, 1, 0)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.role) == ("c10d", "localhost:0", "default")
    assert config.run_id not in ("", "none")
    assert launched.command == [sys.executable, "-u", "train.py"]


def test_each_option_reaches_the_configuration(launched: Launched) -> None:
    config = config_of(
        launched,
        *("--nnodes=2:4", "--nproc-per-node=3", "--rdzv-backend=c10d", "--rdzv-endpoint=host-a:29400"),
        *("--rdzv-id=mine", "--rdzv-conf=is_host=0,join_timeout=7", "--max-restarts=5", "--monitor-interval=0.5"),
        *("--local-addr=10.0.0.7", "--role=trainer", "--log-dir=logs", "--redirects=1", "-t", "0:3,4-5:2"),
        *("--signals-to-handle=SIGTERM", "--shutdown-timeout=2.5"),
    )

    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 4, 3)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "host-a:29400", "mine")
    assert config.rdzv_configs == {"is_host": "0", "join_timeout": "7"}
    assert (config.max_restarts, config.monitor_interval, config.grace_s) == (5, 0.5, 2.5)
    assert (config.local_addr, config.role, config.signals_to_handle) == ("10.0.0.7", "trainer", "SIGTERM")
    assert config.logs == LogOptions(log_dir=Path("logs"), redirects=Std.OUT, tee={0: Std.ALL, 4: Std.ERR, 5: Std.ERR})


def test_both_spellings_mean_the_same(launched: Launched) -> None:
    assert config_of(launched, "--nproc_per_node", "2").nproc_per_node == 2
    assert config_of(launched, "--max_restarts=3").max_restarts == 3


def test_an_option_can_be_cut_short_as_far_as_it_is_clear(launched: Launched) -> None:
    config = config_of(launched, "--nproc", "2", "--redirect=3", "--max_r", "4", "--stand")

    assert (config.nproc_per_node, config.logs.redirects, config.max_restarts) == (2, Std.ALL, 4)
    assert config.rdzv_endpoint == "localhost:0"


def test_a_cut_that_is_not_clear_is_a_usage_error(launched: Launched) -> None:
    result = call("--rdzv=c10d", "train.py")

    assert result.exit_code == 2
    assert "--rdzv-backend" in result.output


def test_standalone_says_what_it_overrides(launched: Launched) -> None:
    seen: list[Event] = []
    subscribe(seen.append)
    try:
        config_of(launched, "--standalone")
        assert not seen
        config_of(launched, "--standalone", "--rdzv-endpoint=host-a:1", PET_RDZV_BACKEND="static")
    finally:
        unsubscribe(seen.append)

    (event,) = seen
    assert event.message.endswith("not used: --rdzv-backend, --rdzv-endpoint")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (["missing.py"], 2, "'missing.py' does not exist"),
        (["--no-python", "nosuchbinary"], 127, "cannot be found"),
        (["--no-python", "./plain"], 126, "not executable"),
        (["--log-dir=plain", "train.py"], 2, "is no folder"),
    ],
)
def test_what_could_never_start_is_said_before_the_launch(
    launched: Launched, arguments: list[str], exit_code: int, complaint: str
) -> None:
    Path("plain").touch(0o644)

    result = call(*arguments)

    assert result.exit_code == exit_code
    assert complaint in result.output
    assert "Errno" not in result.output
    assert launched.config is None


def test_the_environment_gives_what_the_command_line_does_not(launched: Launched) -> None:
    environ = {"PET_NPROC_PER_NODE": "2", "PET_ROLE": "reader", "PET_MODULE": "true", "PET_NNODES": "1:1"}

    config = config_of(launched, "--role=trainer", **environ)

    assert (config.nproc_per_node, config.role) == (2, "trainer")
    assert launched.command == [sys.executable, "-u", "-m", "train.py"]


@pytest.mark.parametrize(
    "environ",
    [{"PET_NNODES": "a"}, {"PET_STANDALONE": "perhaps"}, {"PET_MAX_RESTARTS": "-1"}, {"PET_TEE": "7"}],
    ids=str,
)
def test_the_environment_is_checked_as_the_command_line_is(launched: Launched, environ: dict[str, str]) -> None:
    result = call("train.py", **environ)

    assert result.exit_code == 2
    assert launched.config is None


def test_every_option_has_a_variable() -> None:
    options = [param for param in run.params if param.param_type_name == "option"]

    assert options
    for option in options:
        assert option.envvar == "PET_" + (option.name or "").upper()


def test_options_end_at_the_program(launched: Launched) -> None:
    arguments = ["--nnodes=3", "-m", "$HOME", "a$$b", "--", "--tee"]

    call("train.py", *arguments)

    assert launched.command == [sys.executable, "-u", "train.py", *arguments]


def test_modules_and_other_programs_are_run_as_such(launched: Launched) -> None:
    call("-m", "pkg.train", "x")
    assert launched.command == [sys.executable, "-u", "-m", "pkg.train", "x"]

    call("--no-python", "./train.sh", "x")
    assert launched.command == ["./train.sh", "x"]

    call("train.py", PYTHON_EXEC="./python")
    assert launched.command == ["./python", "-u", "train.py"]


def test_standalone_overrides_where_to_meet_but_not_the_runs_name(launched: Launched) -> None:
    config = config_of(launched, "--standalone", "--rdzv-id=mine", "--rdzv-endpoint=host-a:1", "--rdzv-backend=static")

    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "localhost:0", "mine")


@pytest.mark.parametrize(
    ("arguments", "endpoint", "rank"),
    [
        (["--nnodes=2", "--node-rank=1"], "127.0.0.1:29500", 1),
        (["--nnodes=2", "--master-addr=::1", "--master-port=7"], "[::1]:7", 0),
        (["--master-port=0"], "127.0.0.1:0", 0),
        (["--nnodes=2", "--rdzv-endpoint=host-a:7", "--master-addr=host-b"], "host-a:7", 0),
    ],
)
def test_static_nodes_meet_at_the_master(launched: Launched, arguments: list[str], endpoint: str, rank: int) -> None:
    config = config_of(launched, *arguments)

    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("static", endpoint, "none")
    assert config.rdzv_configs == {"rank": rank}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=host-a:0"], "cannot meet at port 0"),
        (["--nnodes=2", "--master-port=0"], "cannot meet at port 0"),
        (["--nnodes=2", "--rdzv-endpoint=::1"], "brackets"),
        (["--nnodes=2", "--standalone"], "--standalone means one node"),
        (["--nnodes=1:2"], "fixed ranks, so --nnodes=1:2 needs --rdzv-backend rallypoint, c10d or etcd"),
        (["--label=rack=a"], "--label is for nodes that meet by --rdzv-backend rallypoint or etcd"),
        (["--standalone", "--label=rack=a"], "with --standalone nobody asks"),
        (["--nnodes=2", "--rdzv-backend=c10d", "--label=rack=a"], "with --rdzv-backend c10d nobody asks"),
        (["--rdzv-backend=c10d", "--rdzv-endpoint=host-a:65536"], "from 0 to 65535"),
        (["--module", "--no-python"], "exclude each other"),
        (["--nproc-per-node=xpu"], "write a number, auto, cpu or gpu"),
        (["--shutdown-timeout=-1"], "x>=0"),
        (["--nproc-per-nodee=2"], "--nproc-per-node"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(launched: Launched, arguments: list[str], complaint: str) -> None:
    result = call(*arguments, "train.py")

    assert result.exit_code == 2
    assert complaint in result.output
    assert launched.config is None


def test_a_file_store_has_no_port_to_complain_about(launched: Launched) -> None:
    arguments = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-conf=store_type=file", "--rdzv-endpoint=/tmp/a:b:c"]

    assert config_of(launched, *arguments).rdzv_endpoint == "/tmp/a:b:c"


def test_a_script_can_be_run_as_a_function(launched: Launched) -> None:
    config = config_of(launched, "--run-path", "--start-method=fork")

    assert launched.command[0].__name__ == "run_script_path"
    assert config.start_method == "fork"
    assert "'thread' is not one of" in call("--start-method=thread", "train.py").output


def test_what_the_console_shows_and_what_is_collected_can_be_chosen(launched: Launched) -> None:
    config = config_of(
        launched,
        "--local-ranks-filter=0,2",
        "--duplicate-stdout-filters=loss,a,,b",
        "--duplicate-stderr-filters=warn",
        "--event-log-handler=console",
        "--virtual-local-rank",
    )

    assert config.logs.local_ranks_filter == {0, 2}
    assert (config.duplicate_stdout_filters, config.duplicate_stderr_filters) == (("loss", "a,b"), ("warn",))
    assert (config.event_log_handler, config.virtual_local_rank) == ("console", True)
    assert config_of(launched).logs.local_ranks_filter is None
    assert "is no list of local ranks" in call("--local-ranks-filter=a", "train.py").output


def test_a_plug_in_may_say_where_output_goes(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, LogOptions]] = []

    def make(name: str, options: LogOptions) -> LogOptions:
        made.append((name, options))
        return options

    monkeypatch.setattr("rallypoint.launch.logs_plugins.make_logs_specs", make)

    assert config_of(launched, "--logs-specs=mine", "--tee=3").logs_specs is made[0][1]
    assert made == [("mine", LogOptions(tee=Std.ALL))]


def test_an_unknown_plug_in_for_output_is_a_usage_error(launched: Launched) -> None:
    result = call("--logs_specs=bogus", "train.py")

    assert result.exit_code == 2
    assert "'bogus' is no entry point of torchrun.logs_specs" in result.output


def test_a_program_is_needed(launched: Launched) -> None:
    result = call("--nproc-per-node=2")

    assert result.exit_code == 2
    assert "PROGRAM" in result.output


@pytest.mark.parametrize(
    ("kind", "gpus", "expected"),
    [("cpu", 4, 3), ("CPU", 4, 3), ("gpu", 4, 4), ("auto", 4, 4), ("auto", 0, 3), ("auto", None, 3)],
)
def test_workers_can_be_as_many_as_the_devices(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, kind: str, gpus: int | None, expected: int
) -> None:
    monkeypatch.setattr(devices, "count_cpus", lambda: 3)
    monkeypatch.setattr(devices, "count_gpus", lambda environ: gpus)

    assert config_of(launched, f"--nproc-per-node={kind}").nproc_per_node == expected


@pytest.mark.parametrize(("gpus", "complaint"), [(0, "has none"), (None, "no NVIDIA driver")])
def test_gpus_that_are_not_there_are_a_usage_error(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, gpus: int | None, complaint: str
) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda environ: gpus)

    result = call("--nproc-per-node=gpu", "train.py")

    assert result.exit_code == 2
    assert complaint in result.output


def test_the_exit_code_is_the_launchers(launched: Launched) -> None:
    launched.exit_code = 42

    assert call("train.py").exit_code == 42


def test_a_signal_before_the_launch_ends_with_its_code(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: LaunchConfig, command: list[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not taken")

    monkeypatch.setattr(launching, "launch", interrupted)

    assert call("train.py").exit_code == 143


def test_the_first_sentence_of_the_help_is_the_groups_summary() -> None:
    from rallypoint.cli.commands import COMMANDS

    summary: Any = COMMANDS["run"].summary

    assert (run.help or "").startswith(summary)


def test_nothing_is_imported_once_signals_raise_exceptions(tmp_path: Path) -> None:
    (tmp_path / "work.py").touch()
    script = (
        "import sys\n"
        "from rallypoint.agent import signals\n"
        "from rallypoint.cli.commands import group\n"
        "taken, seen = signals.taken_signals, []\n"
        "def spy(*arguments):\n    seen.append(set(sys.modules))\n    return taken(*arguments)\n"
        "signals.taken_signals = spy\n"
        f"try:\n    group(['run', {str(tmp_path / 'work.py')!r}])\nexcept SystemExit:\n    pass\n"
        "print([name for name in set(sys.modules) - seen[0] if name.startswith(('rallypoint', 'msgspec'))])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "[]\n", done.stderr


def test_a_coordinated_node_may_wish_for_a_rank_and_carry_labels(launched: Launched) -> None:
    where = ("--nnodes=2", "--rdzv-backend=rallypoint", "--rdzv-endpoint=host-a")
    config = config_of(launched, *where, "--node-rank=1", "--label", "rack=a", "--label=zone=b")
    assert (config.rdzv_configs, config.labels) == ({"rank": 1}, {"rack": "a", "zone": "b"})
    assert config_of(launched, *where).rdzv_configs == {}


@pytest.mark.parametrize("endpoint", ["tcp://host-a:1", "host-a,host-b:2", "etcd://host-a"])
def test_a_coordinator_may_be_met_at_a_store_of_any_kind(launched: Launched, endpoint: str) -> None:
    config = config_of(launched, "--nnodes=2", "--rdzv-backend=rallypoint", f"--rdzv-endpoint={endpoint}")
    assert config.rdzv_endpoint == endpoint


def test_a_label_without_a_value_is_a_usage_error(launched: Launched) -> None:
    result = call("--rdzv-backend=rallypoint", "--label=rack", "train.py")
    assert result.exit_code == 2
    assert "NAME=VALUE" in result.output


def test_a_coordinated_run_of_several_nodes_cannot_meet_at_port_0(launched: Launched) -> None:
    result = call("--nnodes=2", "--rdzv-backend=rallypoint", "--rdzv-endpoint=localhost:0", "train.py")
    assert result.exit_code == 2
    assert "cannot meet at port 0" in result.output


def test_workers_of_a_coordinated_run_may_use_its_store(launched: Launched) -> None:
    from rallypoint.gateway.local import LocalGateway
    from rallypoint.rendezvous.worker_store import known_gateway

    config_of(launched, "--rdzv-backend=rallypoint", "--rdzv-endpoint=h", "--rdzv-conf=worker_store=gateway")
    assert known_gateway() is LocalGateway
