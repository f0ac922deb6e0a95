"""A pipeline of stages that run one forward and one backward in turns (1F1B), and what goes on in each."""

from __future__ import annotations

from random import Random

from tests.diagnosis.physics.program import MS, Collective, End, Kernel, Line, Plan, Sync, Transfers
from tests.diagnosis.physics.writing import Writing, mesh

_FORWARD, _BACKWARD = Line("send_forward", 40), Line("send_backward", 42)
_FROM_BEFORE, _FROM_AFTER = Line("recv_forward", 44), Line("recv_backward", 46)
_BOTH, _LAYER, _GRADIENTS = (
    Line("send_forward_recv_backward", 48),
    Line("layer_forward", 80),
    Line("reduce_gradients", 50),
)
_LOSS = Line("broadcast_loss", 61)


def pipeline(random: Random) -> Plan:
    """Stages side by side, each of `width` ranks that reduce their gradients, or their layers, with each other."""
    stages, width = random.choice([2, 3, 4, 4]), random.choice([1, 2, 2])
    write = Writing(random, stages * width)
    rows, columns = mesh(write, width, "stage", "pp")
    made = _Stages(write, random, stages, width, columns, rows)
    for _ in range(random.randint(2, 4)):
        made.step(random.randint(stages, stages + 4))
    plan = write.plan("pipeline")
    if not made.batched:  # a send that waits for its recv would be waited for by it
        plan.eager = max(plan.eager, made.elements)
    return plan


class _Stages:
    def __init__(
        self, write: Writing, random: Random, stages: int, width: int, columns: list[str], rows: list[str]
    ) -> None:
        self.write, self.random, self.stages, self.width = write, random, stages, width
        self.columns, self.rows = columns, rows
        self.batched = random.random() < 0.7
        self.tensor = width > 1 and random.random() < 0.5
        self.elements = random.choice([1 << 10, 1 << 15, 1 << 21]) if self.batched else 1 << 10

    def step(self, batches: int) -> None:
        """Write one training step of all ranks."""
        self.write.host(1 * MS)
        for rank in range(self.write.world):
            self._of(rank, rank // self.width, batches)
        if self.width > 1 and not self.tensor:
            self.write.each(Collective("", "all_reduce", 1 << 20, _GRADIENTS), self.rows)
        last = self.stages - 1
        self.write.all(lambda rank: [Collective(self.columns[rank], "broadcast", 1, _LOSS, root=last), Sync()])

    def _of(self, rank: int, stage: int, batches: int) -> None:
        warm = min(batches, self.stages - stage - 1)
        for _ in range(warm):
            self._receive(rank, True)
            self._compute(rank)
            self._send(rank, True)
        for _ in range(batches - warm):
            self._receive(rank, True)
            self._compute(rank)
            self._turn(rank, stage)
            self._compute(rank)
            self._send(rank, False)
        for _ in range(warm):
            self._receive(rank, False)
            self._compute(rank)
            self._send(rank, False)

    def _compute(self, rank: int) -> None:
        self.write.of(rank, Kernel(self.write.around(2 * MS)))
        if self.tensor:
            self.write.of(rank, Collective(self.rows[rank], "all_reduce", 65536, _LAYER, "BFloat16"))

    def _turn(self, rank: int, stage: int) -> None:
        """Send an activation on, and get the gradient of another: in one batch, where sends are batched."""
        after = rank + self.width
        if stage == self.stages - 1:
            return
        if self.batched:
            ends = (End(True, after, self.elements), End(False, after, self.elements))
            self.write.of(rank, Transfers(self.columns[rank], ends, _BOTH))
        else:
            self._send(rank, True)
            self._receive(rank, False)

    def _send(self, rank: int, forward: bool) -> None:
        self._transfer(
            rank, True, rank + self.width if forward else rank - self.width, _FORWARD if forward else _BACKWARD
        )

    def _receive(self, rank: int, forward: bool) -> None:
        peer = rank - self.width if forward else rank + self.width
        self._transfer(rank, False, peer, _FROM_BEFORE if forward else _FROM_AFTER)

    def _transfer(self, rank: int, is_send: bool, peer: int, line: Line) -> None:
        if 0 <= peer < self.write.world:
            ends = (End(is_send, peer, self.elements),)
            self.write.of(rank, Transfers(self.columns[rank], ends, line, self.batched))
