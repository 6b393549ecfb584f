"""From a rendezvous endpoint to the store that a coordinated run stands on.

=====================================  ==========================================================================
``host[:port]``, ``unix:PATH``         as for ``c10d``: served by the first process of that machine, else reached
``host1[:port],host2[:port]``          several places where one server is to be found; only reached
``tcp://host:port``, ``tls://...``     only reached
``etcd://host:port[,host:port]``       an etcd cluster; so is any endpoint with the backends ``etcd`` and ``etcd-v2``
=====================================  ==========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rallypoint.errors import RendezvousConnectionError
from rallypoint.events import emit
from rallypoint.net.address import parse_endpoint
from rallypoint.net.url import refuse_user, split_url, without_secrets
from rallypoint.rendezvous.c10d_store import DEFAULT_PORT, open_tcp_store
from rallypoint.rendezvous.coordinated import SESSION_S, CoordinatedRendezvousHandler
from rallypoint.rendezvous.ground import Ground
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.other_backend import look_for_c10d, tell_of_other_backend
from rallypoint.rendezvous.patience import told_if_slow
from rallypoint.rendezvous.settings import COORDINATED_OPTIONS, CoordinatedSettings
from rallypoint.store.bootstrap import open_endpoint
from rallypoint.store.etcd_options import parse_url
from rallypoint.store.tcp import TCPStore
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["ETCD_OPTIONS", "create_coordinated_handler"]

ETCD_OPTIONS = frozenset(
    ("protocol", "ssl_cert", "ssl_cert_key", "ca_cert", "cert", "key", "cacert", "etcd_prefix", "user", "password")
)
"""Options of torch's etcd backends that are ours too."""

_ETCD_BACKENDS = ("etcd", "etcd-v2")

READ_TIMEOUT_S = 60.0
"""How long reaching the store may take, in seconds, unless told otherwise."""

ETCD_SESSION_S = 4.0
"""As ``SESSION_S``, on etcd, where a session is a lease. A node whose session was not renewed for so long takes itself
for cut off, so it must outlast the election of a new leader: 2 seconds, and the attempts between."""


def create_coordinated_handler(params: RendezvousParameters) -> CoordinatedRendezvousHandler:
    """Make a handler from parameters, as a registry does.

    Raises:
        ValueError: for an option that does not exist, bad values, and endpoints that cannot be read.
        RendezvousConnectionError: if the store cannot be reached, or be started, or keeps no sessions.
    """
    is_etcd = params.backend in _ETCD_BACKENDS or params.endpoint.startswith(("etcd://", "etcds://"))
    known = COORDINATED_OPTIONS | ETCD_OPTIONS if is_etcd else COORDINATED_OPTIONS
    settings = CoordinatedSettings.from_parameters(params, known)  # before a port is bound
    ground = _open_etcd(params) if is_etcd else _open_tcp(params)
    try:
        _refuse_without_sessions(ground, params.backend)
        emit(
            "rendezvous.connected",
            f"run {params.run_id!r} meets at {ground.where}" + (", which this node hosts" if ground.is_host else ""),
            backend=params.backend,
            run_id=params.run_id,
            endpoint=ground.where,
            is_host=ground.is_host,
        )
        handler = CoordinatedRendezvousHandler(settings, ground, backend=params.backend, local_addr=params.local_addr)
    except BaseException:
        ground.store.close()
        raise
    if not is_etcd:
        look = look_for_c10d(ground.store, params.run_id)
        tell_of_other_backend(ground.store, params.run_id, params.backend, "c10d", look)
    return handler


def _refuse_without_sessions(ground: Ground, backend: str) -> None:
    if not ground.store.has_sessions():
        raise RendezvousConnectionError(
            f"{ground.where} keeps no sessions: the backend {backend!r} needs a server of ours (rallypoint serve) "
            "or etcd; the backend 'c10d' runs on torch's own"
        )


def _open_tcp(params: RendezvousParameters) -> Ground:
    endpoint = params.endpoint
    if "://" in endpoint or ("," in endpoint and not endpoint.startswith("unix:")):
        store: TCPStore = _connect(params)
        return Ground(store, f"the store at {without_secrets(params.endpoint)}")
    try:
        store, where, is_host = open_tcp_store(params, session_timeout=SESSION_S, dialect="auto")
    except RendezvousConnectionError as error:  # its words are torch's, of a backend that this is not
        why = error.__cause__ or error
        raise _unreachable(params, why) from why
    return Ground(store, f"the store at {where}", is_host)


def _unreachable(params: RendezvousParameters, why: BaseException) -> RendezvousConnectionError:
    place = without_secrets(params.endpoint) or str(Endpoint("localhost", DEFAULT_PORT))
    return RendezvousConnectionError(f"the store at {place} cannot be reached: {why}")


def _connect(params: RendezvousParameters) -> TCPStore:
    """Reach a server that somebody else runs."""
    timeout_s = params.get_as_seconds("read_timeout", READ_TIMEOUT_S) or READ_TIMEOUT_S
    parts = split_url(params.endpoint) if "://" in params.endpoint else None
    if parts is not None and parts.scheme not in ("tcp", "tls"):
        raise ValueError(
            f"the rendezvous endpoint {without_secrets(params.endpoint)!r} has the scheme {parts.scheme!r}; known are "
            "tcp, tls, etcd"
        )
    refuse_user(params.endpoint)
    places = params.endpoint if parts is None else parts.netloc
    endpoint = Endpoint(places, DEFAULT_PORT) if "," in places else parse_endpoint(places, DEFAULT_PORT)
    first = parse_endpoint(places.partition(",")[0], DEFAULT_PORT)
    try:
        with told_if_slow(first, timeout_s, params.run_id):
            return open_endpoint(
                endpoint,
                timeout=timeout_s,
                session_timeout=SESSION_S,
                dialect="auto",
                tls=True if parts is not None and parts.scheme == "tls" else None,
            )
    except (OSError, RuntimeError) as error:
        raise _unreachable(params, error) from error


def _open_etcd(params: RendezvousParameters) -> Ground:
    timeout_s = params.get_as_seconds("read_timeout", READ_TIMEOUT_S) or READ_TIMEOUT_S
    url, tls = _etcd_url(params), _etcd_tls(params)
    where = f"etcd at {without_secrets(params.endpoint)}"
    try:
        from rallypoint.store.etcd import EtcdStore

        with told_if_slow(parse_url(url).endpoints[0], timeout_s, params.run_id):
            store = EtcdStore(
                url,
                timeout=timeout_s,
                user=params.get("user"),
                password=params.get("password"),
                tls=tls,
                session_ttl=ETCD_SESSION_S,
            )
    except ImportError as error:
        raise RendezvousConnectionError(
            f"the rendezvous backend {params.backend!r} needs an extra that is not installed: pip install "
            f"'rallypoint[etcd]' ({error})"
        ) from error
    except ValueError:
        raise
    except (OSError, RuntimeError) as error:
        why = str(error)
        raise RendezvousConnectionError(why if "etcd at" in why else f"{where} cannot be reached: {why}") from error
    return Ground(store, where)


def _etcd_url(params: RendezvousParameters) -> str:
    """Give the URL of a cluster, from an endpoint as torch has it, or one that is a URL already."""
    endpoint = params.endpoint.strip()
    if not endpoint.partition("://")[2] and (not endpoint or "://" in endpoint):
        raise ValueError(
            f"the rendezvous backend {params.backend!r} has no endpoint: name the members of the cluster, as in "
            "--rdzv-endpoint=host:2379 or --rdzv-endpoint=host-a:2379,host-b:2379"
        )
    protocol = str(params.get("protocol", "http")).lower()
    if protocol not in ("http", "https"):
        raise ValueError(f"The rendezvous configuration option 'protocol' is {protocol!r}; it must be http or https.")
    if "://" not in endpoint:
        endpoint = f"etcd{'s' * (protocol == 'https')}://{endpoint}"
    prefix = str(params.get("etcd_prefix", "")).strip("/")
    if prefix and "/" not in endpoint.partition("://")[2]:
        endpoint = f"{endpoint}/{prefix}"
    return endpoint


def _etcd_tls(params: RendezvousParameters) -> Tls | None:
    """Give the files of TLS, under any of the names that torch's two backends have for them."""
    ca = params.get("ca_cert") or params.get("cacert")
    cert = params.get("ssl_cert") or params.get("cert")
    key = params.get("ssl_cert_key") or params.get("key")
    if not (ca or cert or key):
        return None
    from rallypoint.net.tls import Tls

    return Tls(ca, cert, key)
