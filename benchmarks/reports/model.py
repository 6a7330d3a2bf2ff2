"""How long a file of any size takes, on this machine and on others: a model with the figures of a measured load. Pure.

A GB takes as long as what is busiest with it:
- the cores: CPU of loader and database, shared by all cores;
- a connection: one worker encodes while its backend stores, so the slower of the two, shared by the workers;
- the disk: what is stored, by how fast the disk writes;
- the network: by its rate.
The first two are multiplied by what the measured load took beyond them: waits, commits, the file's server.
"""

from __future__ import annotations

import msgspec


class Costs(msgspec.Struct, frozen=True):
    """What a measured load took for each GB of its file."""

    seconds: float
    client_cpu_seconds: float
    database_cpu_seconds: float
    stored_gb: float


class Machine(msgspec.Struct, frozen=True):
    """Where a file is loaded; cores are as fast as those that were measured on."""

    name: str
    cores: int
    workers: int
    disk_gb_per_second: float | None = (
        None  # None: as where it was measured, within what a load takes beyond CPU
    )
    network_gb_per_second: float | None = None


class Estimate(msgspec.Struct, frozen=True):
    """What a GB takes, by what is busy with it."""

    seconds_by_resource: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """What a GB waits for."""
        return max(self.seconds_by_resource, key=lambda name: self.seconds_by_resource[name])

    @property
    def seconds(self) -> float:
        """What a GB takes."""
        return self.seconds_by_resource[self.bottleneck]


def estimate(costs: Costs, measured_on: Machine, machine: Machine) -> Estimate:
    """Return what a GB takes on a machine, by what it cost on another one."""
    beyond = costs.seconds / max(_cpu_seconds(costs, measured_on).values())
    found = {name: seconds * beyond for name, seconds in _cpu_seconds(costs, machine).items()}
    if machine.disk_gb_per_second is not None:
        found["disk"] = costs.stored_gb / machine.disk_gb_per_second
    if machine.network_gb_per_second is not None:
        found["network"] = 1 / machine.network_gb_per_second
    return Estimate(found)


def _cpu_seconds(costs: Costs, machine: Machine) -> dict[str, float]:
    cpu_seconds = costs.client_cpu_seconds + costs.database_cpu_seconds
    return {
        "cores": cpu_seconds / machine.cores,
        "connections": max(costs.client_cpu_seconds, costs.database_cpu_seconds) / machine.workers,
    }
