"""``rallypoint run``: run a program as the workers of this node.

Options are torchrun's, spelled with dashes or underscores; each can also be given by the environment variable
``PET_<NAME>``, read by the same rules. What follows the program belongs to the program.
"""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import click

from rallypoint.cli.preflight import check_endpoint, check_log_dir, check_program, check_script
from rallypoint.cli.seconds import SecondsRange
from rallypoint.cli.token import give_token
from rallypoint.cli.values import (
    Read,
    read_nodes,
    read_options,
    read_ranks,
    read_signals,
    read_streams,
    read_texts,
    read_workers,
)

__all__ = ["run"]

_Command: TypeAlias = Callable[..., None]

LOG_LINE_PREFIX_ENV = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"
"""The variable that holds the template of what stands before each line of tee'd output; torch has no option for it."""

MASTER_PORT = 29500
"""The store's port with the static backend, unless told otherwise."""

_NEEDED_LATER = (
    "rallypoint.rendezvous.registry",
    "rallypoint.rendezvous.c10d",
    "rallypoint.rendezvous.dynamic",
    "rallypoint.rendezvous.other_backend",
    "rallypoint.store.tcp",
    "rallypoint.server.daemon",
)

_HELP = """Start the workers of this node and keep them going.

Each worker runs PROGRAM, a Python script unless told otherwise, with the ARGUMENTS that follow it. One node needs
nothing else; several nodes meet at a store that `rallypoint serve`, or the first of them, serves:

\b
    rallypoint run --nproc-per-node 2 train.py --epochs 10
    rallypoint run --nnodes 2 --rdzv-backend rallypoint --rdzv-endpoint host-a:29400 train.py

The exit code is that of the first worker that failed on this node, 128 + n after signal n, 1 if the run failed
elsewhere, and 0 after success. A script that is not there gives 2; with --no-python, a program that is not there
gives 127, and one that is not executable 126.
"""


def _spell_out(name: str) -> str:
    """Give an option's full name for any of its spellings: with underscores, or cut short as far as it is clear."""
    name = name.replace("_", "-")
    names = {spelling.lstrip("-") for parameter in run.params for spelling in parameter.opts} | {"help"}
    longer = [known for known in names if known.startswith(name)]
    return longer[0] if name not in names and len(longer) == 1 else name


def _option(*names: str, **settings: Any) -> Callable[[_Command], _Command]:
    """Declare an option that its ``PET_`` variable sets too."""
    long = next(name for name in names if name.startswith("--"))
    variable = "PET_" + long.removeprefix("--").replace("-", "_").upper()
    settings.setdefault("show_default", not settings.get("is_flag") and bool(settings.get("default")))
    return click.option(*names, envvar=variable, **settings)


POSITIVE = SecondsRange(min=0, min_open=True)
NOT_NEGATIVE = SecondsRange(min=0)


@click.command(
    "run",
    help=_HELP,
    context_settings={
        "allow_interspersed_args": False,
        "token_normalize_func": _spell_out,
        "help_option_names": ["-h", "--help"],
    },
    options_metavar="[OPTIONS]",
    short_help="Start the workers of this node and keep them going.",
)
@_option("--nnodes", type=Read(read_nodes), metavar="N|MIN:MAX", default="1:1", help="How many nodes make a round.")
@_option(
    "--nproc-per-node",
    type=Read(read_workers),
    metavar="N|auto|cpu|gpu",
    default="1",
    help="How many workers this node runs.",
)
@_option(
    "--rdzv-backend",
    metavar="NAME",
    default="static",
    help="How nodes meet: rallypoint, c10d, etcd, static, or a plug-in's name.",
)
@_option("--rdzv-endpoint", metavar="HOST[:PORT]", default="", help="Where nodes meet.")
@_option("--rdzv-id", metavar="NAME", help="The run's name; nodes that give the same one meet.  [default: none]")
@_option(
    "--rdzv-conf",
    type=Read(read_options),
    metavar="K=V,...",
    default="",
    help="The rendezvous backend's own options.",
)
@_option(
    "--auth", is_flag=True,
    help="Make a token for this run, unless RALLYPOINT_TOKEN or RALLYPOINT_TOKEN_FILE names one: its stores let in "
    "nobody else. Torch's own clients know no tokens: let them in with RALLYPOINT_ALLOW_PLAIN.",
)  # fmt: skip
@_option("--standalone", is_flag=True, help="One node on its own: meets at a free port of this host.")
@_option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many failures of workers start a new round: this node's, or those of the whole run (rallypoint, etcd).",
)
@_option(
    "--monitor-interval", type=POSITIVE, default=0.1, help="Seconds between looks at a rendezvous that cannot call."
)
@_option(
    "--node-rank", type=click.IntRange(min=0), default=0, show_default=True,
    help="This node's rank (static), or the one that it would like (rallypoint, etcd).",
)  # fmt: skip
@_option(
    "--label", multiple=True, metavar="NAME=VALUE",
    help="A word about this node, such as rack=a; may be given again (rallypoint, etcd).",
)  # fmt: skip
@_option("--master-addr", metavar="HOST", default="127.0.0.1", help="Node 0 as all nodes reach it (static).")
@_option(
    "--master-port",
    type=click.IntRange(0, 65535),
    help=f"The store's port on node 0 (static).  [default: {MASTER_PORT}]",
)
@_option("--local-addr", metavar="HOST", help="This node as other nodes reach it; found out if not given.")
@_option("--role", metavar="NAME", default="default", help="What the workers are, for ranks by role and log prefixes.")
@_option("-m", "--module", is_flag=True, help="The program is a Python module, as with python -m.")
@_option("--no-python", is_flag=True, help="The program is run as it is, not by Python.")
@_option("--run-path", is_flag=True, help="The program is a Python script that each worker runs as a function does.")
@_option(
    "--start-method", type=click.Choice(["spawn", "forkserver", "fork"]), default="spawn",
    help="How the workers of --run-path are made.",
)  # fmt: skip
@_option(
    "--virtual-local-rank", is_flag=True,
    help="Each worker sees one device only, as local rank 0.",
)  # fmt: skip
@_option("--log-dir", type=click.Path(path_type=Path), help="The folder for the workers' output and errors.")
@_option("--logs-specs", metavar="NAME", help="The installed plug-in that says where the workers' output goes.")
@_option(
    "-r", "--redirects", type=Read(read_streams), metavar="STREAMS", default="0",
    help="Streams that go to files: 0 none, 1 out, 2 err, 3 both; or by local rank: 0:3,4-7:1.",
)  # fmt: skip
@_option(
    "-t", "--tee", type=Read(read_streams), metavar="STREAMS", default="0",
    help="Streams that go to files and, with a prefix, to the console.",
)  # fmt: skip
@_option(
    "--local-ranks-filter", type=Read(read_ranks), metavar="RANKS", default="",
    help="The local ranks that the console shows, split by commas.",
)  # fmt: skip
@_option(
    "--duplicate-stdout-filters", type=Read(read_texts), metavar="TEXTS", default="",
    help="Tee'd lines that contain one of these are collected in filtered_stdout.log too.",
)  # fmt: skip
@_option(
    "--duplicate-stderr-filters", type=Read(read_texts), metavar="TEXTS", default="",
    help="As --duplicate-stdout-filters, for standard error.",
)  # fmt: skip
@_option("--event-log-handler", metavar="NAME", default="null", help="Where the records of the run go: null, console.")
@_option(
    "--signals-to-handle", type=Read(read_signals), metavar="NAMES", default="SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    help="The signals that end the run on this node.",
)  # fmt: skip
@_option(
    "--shutdown-timeout", type=NOT_NEGATIVE,
    help="Seconds that workers have to end before SIGKILL.  [default: 30]",
)  # fmt: skip
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, /, program: str, arguments: tuple[str, ...], **options: Any) -> None:
    """Run a program as the workers of this node; ``_HELP`` is what users read."""
    from rallypoint.agent.signals import DEFAULT_SIGNALS, taken_signals
    from rallypoint.launch.config import ConfigError
    from rallypoint.launch.launch import launch
    from rallypoint.observe.log import logged
    from rallypoint.twin import native

    # Below, a signal raises an exception, and an exception inside an import can be lost: so import all of it here.
    more = ["rallypoint.agent.functions"] if options["run_path"] else []
    if options["rdzv_backend"] not in ("c10d", "static"):
        more.append("rallypoint.rendezvous.coordinated_store")
    for module in (*_NEEDED_LATER, *more):
        importlib.import_module(module)
    native()
    if options["auth"]:
        give_token(ctx, options["nnodes"][1])
    with taken_signals(DEFAULT_SIGNALS, _exit_by_signal):
        command = _command(ctx, program, arguments, options)
        check_log_dir(options["log_dir"])
        with logged(os.environ):
            try:
                code = launch(_config(ctx, options), command)
            except ConfigError as error:
                raise click.UsageError(str(error), ctx) from error
    ctx.exit(code)


def _exit_by_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _command(ctx: click.Context, program: str, arguments: tuple[str, ...], options: dict[str, Any]) -> list[Any]:
    """Give what each worker runs."""
    if options["run_path"]:
        from rallypoint.launch.script import run_script_path

        check_script(program)
        return [run_script_path, program, *arguments]
    if options["no_python"]:
        if options["module"]:
            raise click.UsageError("--no-python and --module exclude each other: a module is run by Python", ctx)
        check_program(program)
        return [program, *arguments]
    python = os.environ.get("PYTHON_EXEC") or sys.executable
    check_program(python)
    if options["module"]:
        return [python, "-u", "-m", program, *arguments]
    check_script(program)
    return [python, "-u", program, *arguments]


def _config(ctx: click.Context, options: dict[str, Any]) -> Any:
    """Give the launch configuration that the options mean."""
    from rallypoint.agent.logs import LogOptions
    from rallypoint.launch.config import LaunchConfig
    from rallypoint.rendezvous.registry import COORDINATED_BACKENDS

    fewest, most = options["nnodes"]
    backend, endpoint, run_id = options["rdzv_backend"], options["rdzv_endpoint"], options["rdzv_id"]
    conf = dict(options["rdzv_conf"])
    is_plain = backend == "static" and not endpoint and options["master_port"] is None and most == 1
    if options["standalone"] or is_plain:
        if most > 1:
            raise click.UsageError(
                f"--standalone means one node, but --nnodes allows {most}; leave one of them out", ctx
            )
        _tell_what_standalone_overrides(ctx)
        backend, endpoint, run_id = "c10d", "localhost:0", run_id or uuid.uuid4().hex
    elif backend == "static":
        if fewest != most:
            raise click.UsageError(
                f"the static backend has fixed ranks, so --nnodes={fewest}:{most} needs --rdzv-backend rallypoint, "
                "c10d or etcd",
                ctx,
            )
        endpoint = endpoint or _static_endpoint(options)
        conf["rank"] = options["node_rank"]
    elif backend in COORDINATED_BACKENDS:
        if ctx.get_parameter_source("node_rank") is not click.core.ParameterSource.DEFAULT:
            conf.setdefault("rank", options["node_rank"])
        if conf.get("worker_store") == "gateway":
            _load_gateway()
    if options["label"] and backend not in COORDINATED_BACKENDS:
        given = "--standalone" if options["standalone"] else f"--rdzv-backend {options['rdzv_backend']}"
        raise click.UsageError(
            f"--label is for nodes that meet by --rdzv-backend rallypoint or etcd: with {given} nobody asks for it", ctx
        )
    check_endpoint(ctx, backend, endpoint, most, MASTER_PORT)
    logs = LogOptions(
        log_dir=options["log_dir"],
        redirects=options["redirects"],
        tee=options["tee"],
        local_ranks_filter=options["local_ranks_filter"],
    )
    return LaunchConfig(
        min_nodes=fewest,
        max_nodes=most,
        nproc_per_node=options["nproc_per_node"],
        logs_specs=_plug_in(ctx, options["logs_specs"], logs) if options["logs_specs"] else logs,
        run_id=run_id or "none",
        role=options["role"],
        rdzv_endpoint=endpoint,
        rdzv_backend=backend,
        rdzv_configs=conf,
        max_restarts=options["max_restarts"],
        monitor_interval=options["monitor_interval"],
        local_addr=options["local_addr"],
        start_method=options["start_method"],
        event_log_handler=options["event_log_handler"],
        duplicate_stdout_filters=options["duplicate_stdout_filters"],
        duplicate_stderr_filters=options["duplicate_stderr_filters"],
        virtual_local_rank=options["virtual_local_rank"],
        log_line_prefix_template=os.environ.get(LOG_LINE_PREFIX_ENV),
        signals_to_handle=options["signals_to_handle"],
        shutdown_timeout=options["shutdown_timeout"],
        labels=_labels(ctx, options["label"]),
    )


def _labels(ctx: click.Context, given: tuple[str, ...]) -> dict[str, str]:
    from rallypoint.rendezvous.settings import read_labels

    try:
        return read_labels(";".join(given))
    except ValueError as error:
        raise click.UsageError(f"--label: {error}", ctx) from error


def _load_gateway() -> None:
    """Let the rendezvous know what serves a store to this machine's workers: that is above it."""
    from rallypoint.gateway.local import LocalGateway
    from rallypoint.rendezvous.worker_store import use_gateway

    use_gateway(LocalGateway)


def _plug_in(ctx: click.Context, name: str, logs: Any) -> Any:
    from rallypoint.launch.logs_plugins import make_logs_specs

    try:
        return make_logs_specs(name, logs)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from error


def _static_endpoint(options: dict[str, Any]) -> str:
    from rallypoint.types import Endpoint

    port = MASTER_PORT if options["master_port"] is None else options["master_port"]
    return str(Endpoint(options["master_addr"].strip("[]"), port))


def _tell_what_standalone_overrides(ctx: click.Context) -> None:
    from rallypoint.events import emit

    given = [
        "--" + name.replace("_", "-")
        for name in ("rdzv_backend", "rdzv_endpoint")
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        emit("launch.overridden", f"--standalone meets at a free port of this host; not used: {', '.join(given)}")
