"""Where the nodes of one attempt meet: a folder that all see, an address, a port, a network interface.

Nodes need the storage to be a folder of all of them (of one machine, or a network file system): the attempt folder of
node 0 lies in it, every rank writes its shard of a checkpoint there, and the other nodes have theirs beside it with
their logs. Inputs and tokens are each machine's own: resolved, fetched and prepared on every node from the same spec,
which gives the same on each. With a storage elsewhere (S3) the door refuses `num_nodes` above 1.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.settings import Settings

if TYPE_CHECKING:
    from shared.artifact import ArtifactStore

#: This machine only.
LOOPBACK = "127.0.0.1"
#: <linux/sockios.h>: the IPv4 address of an interface.
SIOCGIFADDR = 0x8915
#: Somewhere else, to ask the routing table which of our addresses it would be reached from; nothing is sent.
ELSEWHERE = ("10.255.255.255", 9)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A worker's place among those that make one attempt together; alone, as most are, it is node 0 of 1."""

    rank: int = 0
    count: int = 1
    #: Where the processes meet: node 0 listens there.
    address: str = LOOPBACK
    #: 0: not known yet.
    port: int = 0
    #: Network interface towards the other nodes; "": nobody knows.
    interface: str = ""


def place(artifacts: ArtifactStore) -> Path | None:
    """Below it the attempt folders of nodes lie; None: nothing that others could see."""
    return artifacts.root / "work" if artifacts.root is not None else None


def address(settings: Settings) -> str:
    """Where other workers reach this one: as set, else the address from which it reaches the ledger's machine."""
    if settings.node_address:
        return settings.node_address
    host = urlsplit(settings.database_url).hostname
    if not host:  # SQLite, or a socket: everything is on one machine
        return LOOPBACK
    own = source_address((host, 9))
    return source_address(ELSEWHERE) if own.startswith("127.") else own


def source_address(target: tuple[str, int]) -> str:
    """Our own address on the way to the target; LOOPBACK where there is no way."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(target)
        return str(asking.getsockname()[0])
    return LOOPBACK


def interface(settings: Settings, own_address: str) -> str:
    """The interface that gloo shall use: as set, else the one that has this address; "" where none has."""
    if settings.node_interface:
        return settings.node_interface
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one without an IPv4 address
                found = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(found[20:24]) == own_address:
                    return name
    return ""


def free_port() -> int:
    """A port that nobody listens on now; the child takes it a moment later."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port
