"""Deployments as they stand: their rows together with those of the replicas that answer for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, select

from shared.records import Deployment, Guest, Replica
from shared.store.columns import record
from shared.store.fleet_moves import replicas_query
from shared.store.tables import deployments, replicas


def with_replicas(connection: Connection, found: Sequence[Deployment]) -> list[Deployment]:
    """Each with its own replicas, and with those of the deployment that hosts its adapter."""
    hosts = {deployment.host_id for deployment in found if deployment.host_id is not None}
    ids = [*(deployment.id for deployment in found), *hosts]
    query = replicas_query().where(replicas.c.deployment_id.in_(ids))
    every = [record(Replica, row) for row in connection.execute(query.order_by(replicas.c.ordinal)).mappings()]
    query_hosts = select(deployments.c.id, deployments.c.name, deployments.c.num_wanted)
    rows = connection.execute(query_hosts.where(deployments.c.id.in_(hosts))) if hosts else ()
    known = {id: (name, num_wanted) for id, name, num_wanted in rows}
    return [
        replace(
            deployment,
            replicas=[replica for replica in every if replica.deployment_id == deployment.id],
            host_name=known.get(deployment.host_id or "", (None, None))[0],
            host_num_wanted=known.get(deployment.host_id or "", (None, None))[1],
            host_replicas=[replica for replica in every if replica.deployment_id == deployment.host_id],
        )
        for deployment in found
    ]


def guests(connection: Connection, host_id: str) -> list[Guest]:
    """Adapters that are wanted on the replicas of a deployment, oldest first."""
    query = select(deployments.c.id, deployments.c.name, deployments.c.model_name, deployments.c.hosting)
    query = query.where(deployments.c.host_id == host_id, deployments.c.wanted == "running")
    rows = connection.execute(query.order_by(deployments.c.created_at, deployments.c.id))
    return [
        Guest(
            deployment_id=id,
            name=name,
            model_name=model_name,
            previous=(hosting.get("previous") or {}).get("model_name"),
        )
        for id, name, model_name, hosting in rows
    ]
