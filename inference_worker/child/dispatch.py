"""Which row goes to which replica next, so that every replica is kept busy and none holds up the rows of another.

Pure bookkeeping for one thread: it sends nothing (child/generate.py) and knows no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference_worker.child.replicas import Replica, Target
from inference_worker.child.spool import Spool
from shared.bulk import Row
from shared.sharing import drawn, fraction

#: A row beyond a replica's seats waits there already when one gets free: one in so many, and one at least.
SPARE = 8
#: In all; each has a thread.
MAX_AT_ONCE = 1024
#: A row that was with this many replicas when they died is asked alone, so that it takes no others along.
SUSPECT = 2


@dataclass(frozen=True, kw_only=True)
class Errand:
    """One row on its way to one replica."""

    row: Row
    replica: Replica
    #: The deployment's parameters for what the row does not say.
    defaults: Mapping[str, Any]
    #: Nothing else is asked of the replica meanwhile.
    is_alone: bool = False


class Dispatch:
    def __init__(self, spool: Spool, targets: Callable[[str], Sequence[Target]]):
        """`targets`: of a model, who can be asked now."""
        self._spool = spool
        self._targets = targets
        #: Rows to ask again, by model.
        self._again: defaultdict[str, deque[Row]] = defaultdict(deque)
        #: Rows of a route that were drawn for a deployment which had no seat free, by model and deployment.
        self._drawn: defaultdict[tuple[str, str], deque[Row]] = defaultdict(deque)
        self._suspects: deque[Row] = deque()
        self._flying: Counter[str] = Counter()
        #: Replicas that have a suspect, or are being emptied for one.
        self._alone: set[str] = set()
        #: How often a replica was lost with the row.
        self.losses: Counter[str] = Counter()

    @property
    def num_flying(self) -> int:
        return self._flying.total()

    def waiting(self) -> list[str]:
        """Models with rows that are not on their way."""
        drawn = {model for (model, _), rows in self._drawn.items() if rows}
        again = {model for model, rows in self._again.items() if rows}
        suspects = {row.model for row in self._suspects}
        return [name for name in self._spool.models if self._spool.left(name) or name in drawn | again | suspects]

    def errands(self) -> Iterator[Errand]:
        """Rows for all seats that are free now; who gets them must send them."""
        yield from self._of_suspects()
        is_any = True
        while is_any and self.num_flying < MAX_AT_ONCE:
            is_any = False
            for model in self.waiting():
                if (errand := self._next(model)) is not None:
                    is_any = True
                    yield self._begun(errand)

    def landed(self, errand: Errand) -> None:
        """It came back, whatever came of it."""
        self._flying[errand.replica.id] -= 1
        if errand.is_alone:
            self._alone.discard(errand.replica.id)

    def retry(self, row: Row) -> None:
        if self.losses[row.custom_id] >= SUSPECT:
            self._suspects.append(row)
        else:
            self._again[row.model].append(row)

    def give_up(self, model: str) -> Iterator[Row]:
        """All of its rows that are not on their way."""
        yield from self._again.pop(model, ())
        for key in [key for key in self._drawn if key[0] == model]:
            yield from self._drawn.pop(key)
        yield from [row for row in self._suspects if row.model == model]
        self._suspects = deque(row for row in self._suspects if row.model != model)
        while self._spool.left(model):
            yield self._spool.take(model)

    def _begun(self, errand: Errand) -> Errand:
        self._flying[errand.replica.id] += 1
        return errand

    def _next(self, model: str) -> Errand | None:
        targets = [target for target in self._targets(model) if target.weight > 0]
        free = {target.deployment_id: seat for target in targets if (seat := self._free(target)) is not None}
        if not free:
            return None
        for target in targets:
            if target.deployment_id in free and (rows := self._drawn.get((model, target.deployment_id))):
                return Errand(row=rows.popleft(), replica=free[target.deployment_id], defaults=target.defaults)
        self._draw_again(model, targets)
        while (row := self._take(model)) is not None:
            chosen = draw(row, targets)
            if chosen.deployment_id in free:
                return Errand(row=row, replica=free[chosen.deployment_id], defaults=chosen.defaults)
            self._drawn[model, chosen.deployment_id].append(row)
            if len(self._drawn[model, chosen.deployment_id]) >= MAX_AT_ONCE:
                return None  # the shares are kept: who is faster waits
        return None

    def _draw_again(self, model: str, targets: Sequence[Target]) -> None:
        """What was drawn for a deployment that cannot be asked any more goes to the others."""
        there = {target.deployment_id for target in targets}
        for key in [key for key in self._drawn if key[0] == model and key[1] not in there]:
            self._again[model] += self._drawn.pop(key)

    def _take(self, model: str) -> Row | None:
        if self._again[model]:
            return self._again[model].popleft()
        return self._spool.take(model) if self._spool.left(model) else None

    def _free(self, target: Target) -> Replica | None:
        """Its replica with the most room, relative to its seats."""
        free = [
            replica
            for replica in target.replicas
            if replica.id not in self._alone and self._flying[replica.id] < replica.seats + -(-replica.seats // SPARE)
        ]
        return min(free, key=lambda replica: self._flying[replica.id] / replica.seats, default=None)

    def _of_suspects(self) -> Iterator[Errand]:
        """Each goes to a replica that has nothing else; the least busy one is emptied for it."""
        if not self._suspects:
            self._alone -= {id for id in self._alone if not self._flying[id]}
        for _ in range(len(self._suspects)):
            row = self._suspects.popleft()
            replicas = [(one, target) for target in self._targets(row.model) for one in target.replicas]
            chosen, target = self._quiet(replicas)
            if chosen is None or target is None or self._flying[chosen.id]:
                if chosen is not None and not self._alone:
                    self._alone.add(chosen.id)
                self._suspects.append(row)
                continue
            self._alone.add(chosen.id)
            yield self._begun(Errand(row=row, replica=chosen, defaults=target.defaults, is_alone=True))

    def _quiet(self, replicas: Sequence[tuple[Replica, Target]]) -> tuple[Replica | None, Target | None]:
        """One that has been emptied, else the least busy one."""
        emptied = (pair for pair in replicas if pair[0].id in self._alone and not self._flying[pair[0].id])
        others = [pair for pair in replicas if pair[0].id not in self._alone]
        least = min(others, key=lambda pair: self._flying[pair[0].id], default=(None, None))
        return next(emptied, least)


def draw(row: Row, targets: Sequence[Target]) -> Target:
    """One of them by weight: by the row's `user` as requests are shared (gateway), else by its id, so that a job that
    is taken up again shares as it did."""
    point = fraction(row.model, str(row.body.get("user") or row.custom_id))
    return drawn([(target, target.weight) for target in targets], point) or targets[-1]
