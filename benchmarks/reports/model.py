"""Estimates the time per GB on other machines from a measured load. Pure.

The busiest resource determines the time:
- the cores: CPU time of loader and database, divided by the cores;
- the connections: a worker encodes while its backend stores, so the slower of the two, divided by the workers;
- the disk: bytes stored, divided by its write rate;
- the network: bytes of the file, divided by its rate.
The first two are scaled by the ratio of the measured time to the larger of them: waits, commits, the file server.
"""

from __future__ import annotations

import msgspec


class Costs(msgspec.Struct, frozen=True):
    """What a measured load took per GB of its file."""

    seconds: float
    client_cpu_seconds: float
    database_cpu_seconds: float
    stored_gb: float


class Machine(msgspec.Struct, frozen=True):
    """A machine with cores as fast as those of the measured load."""

    name: str
    cores: int
    workers: int
    disk_gb_per_second: float | None = None  # None: as in the measured load, which includes it
    network_gb_per_second: float | None = None


class Estimate(msgspec.Struct, frozen=True):
    """The time per GB, by resource."""

    seconds_by_resource: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The resource that determines the time."""
        return max(self.seconds_by_resource, key=lambda name: self.seconds_by_resource[name])

    @property
    def seconds(self) -> float:
        """The seconds per GB."""
        return self.seconds_by_resource[self.bottleneck]


def estimate(costs: Costs, measured_on: Machine, machine: Machine) -> Estimate:
    """Return the time per GB on a machine, from the costs on another one."""
    overhead = costs.seconds / max(_cpu_seconds(costs, measured_on).values())
    found = {name: seconds * overhead for name, seconds in _cpu_seconds(costs, machine).items()}
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
