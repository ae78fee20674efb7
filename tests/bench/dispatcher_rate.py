"""What the judge budget costs: leases a second that one core grants and settles.

    .venv/bin/python tests/bench/dispatcher_rate.py [--leases 20000] [--runs 5]

Four clients keep 64 requests waiting each at four endpoints, under all limits. Each message
carries a batch: outcomes of the batch before, and all wishes. `state machine` is `Dispatch`
alone, on a simulated clock that lets 1,000 leases pass a second, so that the window of the
last minute is as full as it would be; `event loop` is `AsyncDispatcher` with the clients as
tasks. Neither has the network in it. Medians of the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.async_dispatcher import AsyncDispatcher
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.leases import Lease, LeaseRequest, Outcome

CLIENTS = tuple(f"worker {index}" for index in range(4))
ENDPOINTS = tuple(f"http://judge{index}:8000/v1" for index in range(4))
WAITING = 64
RATE = 1000.0
BUDGET = JudgeBudgetConfig(
    max_concurrency=400,
    requests_per_minute=10_000_000,
    tokens_per_minute=2_000_000_000,
    max_cost_usd=1e9,
)


class Client:
    """The wishes and reports of one worker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._ids = itertools.count()
        self.wanted = list(itertools.islice(self._wishes(), WAITING))

    def _wishes(self) -> Iterator[LeaseRequest]:
        for index in self._ids:
            yield LeaseRequest(request_id=index, tokens=1500, cost_usd=0.001)

    def took(self, leases: Sequence[Lease]) -> list[Outcome]:
        """What is reported of these leases; as many new wishes take their place."""
        granted = {lease.request_id for lease in leases}
        self.wanted = [wish for wish in self.wanted if wish.request_id not in granted]
        self.wanted += itertools.islice(self._wishes(), len(granted))
        return [
            Outcome(lease_id=lease.lease_id, kind="ok", latency_s=0.4, tokens=1400, cost_usd=0.001)
            for lease in leases
        ]


def join(dispatch: Dispatch | AsyncDispatcher) -> None:
    for name in CLIENTS:
        dispatch.join(
            name,
            budget=BUDGET,
            health=JudgeHealthConfig(),
            account="run",
            endpoints=ENDPOINTS,
            lease_timeout_s=150.0,
        )


def state_machine(num_leases: int, batch: int) -> float:
    """Seconds of CPU in `Dispatch.exchange` for so many leases, after a minute of the same."""
    clock = 0.0
    dispatch = Dispatch(now=lambda: clock)
    join(dispatch)
    clients = [Client(name) for name in CLIENTS]
    reports: dict[str, list[Outcome]] = {name: [] for name in CLIENTS}
    granted, seconds, warm_up = 0, 0.0, int(66 * RATE)
    for client in itertools.cycle(clients):
        wanted = client.wanted[:batch]
        began = time.process_time()
        grants = dispatch.exchange(client.name, reports[client.name], wanted)
        took = time.process_time() - began
        reports[client.name] = client.took(grants.leases)
        granted += len(grants.leases)
        clock += len(grants.leases) / RATE
        if granted > warm_up:
            seconds += took
        if granted >= warm_up + num_leases:
            return seconds
    raise AssertionError("clients never end")


def event_loop(num_leases: int, batch: int) -> float:
    """Seconds of CPU for so many leases, those of the clients' side included."""

    async def work(client: Client, dispatcher: AsyncDispatcher, left: list[int]) -> None:
        reports: list[Outcome] = []
        while left[0] > 0:
            wanted = client.wanted[:batch]
            leases = (await dispatcher.exchange(client.name, reports, wanted)).leases
            left[0] -= len(leases)
            reports = client.took(leases)
            await asyncio.sleep(0)

    async def all_clients() -> None:
        dispatcher = AsyncDispatcher(Dispatch(now=time.monotonic))
        join(dispatcher)
        left = [num_leases]
        await asyncio.gather(*(work(Client(name), dispatcher, left) for name in CLIENTS))

    began = time.process_time()
    asyncio.run(all_clients())
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    ways: dict[str, Callable[[int, int], float]] = {
        "state machine": state_machine,
        "event loop": event_loop,
    }
    print(f"{args.leases} leases a run, median of {args.runs} runs")
    print("                batch  leases/s  us/lease (least to most)  core at 1,000/s")
    for name, way in ways.items():
        for batch in (1, 16, 64):
            seconds = sorted(way(args.leases, batch) for _ in range(args.runs))
            each = [1e6 * value / args.leases for value in seconds]
            middle = statistics.median(each)
            print(
                f"{name:14s}  {batch:5d}  {1e6 / middle:8.0f}  "
                f"{middle:8.1f} ({each[0]:.1f} to {each[-1]:.1f})  {middle / 1e3:14.1%}"
            )


if __name__ == "__main__":
    main()
