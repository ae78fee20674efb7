"""How learner ranks reach the engines; no heavy imports, so the driver can make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSpec:
    """One rank's place in the exchange."""

    transport: Literal["nccl", "ipc"]
    rank: int
    master_address: str
    master_port: int
    num_engine_processes: int
    """Over all engines: rollout workers times tensor parallel size."""


class FleetClient(Protocol):
    """Calls every rollout worker; each method returns when all have answered."""

    policy_version: int

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...
