"""An objective for tests: any function of a plan, counted as the engine counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lwq.common.errors import LimitSpent
from lwq.contracts import Losses


@dataclass
class Made:
    """harm(plan) by a formula; a new plan costs a forward pass, or its share of the windows."""

    harm: Callable[[Mapping], float]
    limit: float = 1e9
    spent: float = 0.0
    log: list = field(default_factory=list)
    shares: list = field(default_factory=list)
    known: dict = field(default_factory=dict)

    @property
    def left(self):
        return max(0.0, self.limit - self.spent)

    def __call__(self, bits):
        return self.many([bits])[0]

    def many(self, plans, share=1.0):
        found = []
        for bits in plans:
            key = (share, frozenset(bits.items()))
            if key not in self.known:
                if self.left <= 0:
                    raise LimitSpent("spent")
                self.spent += share
                self.shares.append(share)
                value = np.array([self.harm(bits)])
                self.known[key] = Losses(value, value, None, 10)
                self.log.append((dict(bits), float(value[0]), self.spent))
            found.append(self.known[key])
        return found
