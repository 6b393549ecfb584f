"""Every exception of the package, on one page.

::

    DistError(RuntimeError)
    ├── DistBackendError
    ├── DistStoreError                          the store could not do what was asked
    │   ├── QueueEmptyError                     a queue had no item
    │   ├── NotANumberError (ValueError)        add() met a value that is no 64-bit number: .key
    │   ├── StoreTimeoutError (TimeoutError)    keys did not appear in time: .keys .missing .waited_s .endpoint
    │   ├── WorkersMissingError (TimeoutError)  too few clients joined a new store: .arrived .expected .waited_s
    │   ├── BarrierTimeoutError (TimeoutError)  members did not arrive in time: .missing .waiting .arrived .expected
    │   ├── BarrierBrokenError                  a member of a barrier is known to be gone: .gone .expected .waited_s
    │   ├── DuplicateMemberError                a rank arrived twice in one generation: .member
    │   ├── LeaseLostError                      a lease, and what was held by it, ended early: .lease
    │   ├── LockTimeoutError (TimeoutError)     others held a lock all the time: .name .holder .waited_s
    │   ├── AccessDeniedError (PermissionError) the server's rules do not let this identity: .endpoint
    │   ├── RefusedError                        the server refuses this request, and says why: .reason
    │   ├── CorruptStoreError                   the data behind a store is torn or foreign: .path .offset
    │   └── ForkedStoreError                    a store was used in a process that inherited it: .owner_pid
    ├── DistNetworkError                        the network, or the peer behind it, failed
    │   ├── BindError (OSError)                 an address could not be listened on: .endpoint .errno
    │   ├── ConnectTimeoutError (TimeoutError)  nobody answered in time: .endpoint .waited_s .attempts
    │   ├── ReplyTimeoutError (TimeoutError)    the server took a request and stayed silent: .endpoint .waited_s
    │   ├── ConnectionLostError (ConnectionError) the peer closed or reset the connection: .endpoint
    │   │   ├── SessionLostError                the server has forgotten the session, or lost its data
    │   │   └── UnreachableError (TimeoutError) no new connection could be made in time: .waited_s .unreachable_s
    │   ├── AuthenticationError                 who the peer is, or who we are, could not be proven: .endpoint
    │   └── RemoteProtocolError                 the peer broke the protocol: .endpoint
    ├── LocalProtocolError (ValueError)         the caller asked for what the protocol cannot carry
    ├── RendezvousError                         who takes part could not be agreed
    │   ├── RendezvousClosedError               the run has ended: .outcome
    │   ├── RendezvousTimeoutError (TimeoutError) too few nodes came in time: .waited_s .arrived .expected
    │   ├── RendezvousConnectionError (ConnectionError) the backend cannot be reached
    │   ├── RendezvousStateError                the backend's state is corrupt or foreign
    │   └── RendezvousGracefulExitError         not a failure: this node is no longer needed
    └── AgentError                              the workers of this node
        ├── ChildFailedError                    workers failed: .name .failures (in rallypoint.agent.failure)
        ├── WorkerStartError                    a worker could not be started: .local_rank .argv .errno
        └── SignalException                     a signal asked the launcher to stop: .sigval

Two axes: the layer, and whose fault. Every timeout is also a ``TimeoutError``, every lost connection also a
``ConnectionError``, and all of them are ``RuntimeError``, so that ``except RuntimeError`` and ``except
DistStoreError`` written for torch go on working. Each instance carries its data; ``str()`` is one sentence with
the numbers in it.

Source: names and bases of the Dist* and Rendezvous* classes as observed in torch 2.13.0.
"""

from __future__ import annotations

from rallypoint.errors.agent import (
    AgentError,
    SignalException,
    WorkerStartError,
)
from rallypoint.errors.network import (
    AuthenticationError,
    BindError,
    ConnectionLostError,
    ConnectTimeoutError,
    DistNetworkError,
    RemoteProtocolError,
    ReplyTimeoutError,
    SessionLostError,
    UnreachableError,
)
from rallypoint.errors.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from rallypoint.errors.root import (
    DistBackendError,
    DistError,
    LocalProtocolError,
)
from rallypoint.errors.store import (
    AccessDeniedError,
    BarrierBrokenError,
    BarrierTimeoutError,
    CorruptStoreError,
    DistStoreError,
    DuplicateMemberError,
    ForkedStoreError,
    LeaseLostError,
    LockTimeoutError,
    NotANumberError,
    QueueEmptyError,
    RefusedError,
    StoreTimeoutError,
    WorkersMissingError,
)

__all__ = [
    "AccessDeniedError",
    "AgentError",
    "AuthenticationError",
    "BarrierBrokenError",
    "BarrierTimeoutError",
    "BindError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "CorruptStoreError",
    "DistBackendError",
    "DistError",
    "DistNetworkError",
    "DistStoreError",
    "DuplicateMemberError",
    "ForkedStoreError",
    "LeaseLostError",
    "LocalProtocolError",
    "LockTimeoutError",
    "NotANumberError",
    "QueueEmptyError",
    "RefusedError",
    "RemoteProtocolError",
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousError",
    "RendezvousGracefulExitError",
    "RendezvousStateError",
    "RendezvousTimeoutError",
    "ReplyTimeoutError",
    "SessionLostError",
    "SignalException",
    "StoreTimeoutError",
    "UnreachableError",
    "WorkerStartError",
    "WorkersMissingError",
]

for _name in __all__:  # tracebacks and pickles name them by where they are had
    globals()[_name].__module__ = __name__
