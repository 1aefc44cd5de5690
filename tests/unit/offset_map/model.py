"""A source partition and its copy, with every run and every record: what a map is checked against."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import strategies as st

from replicator.offset_map.runs import Placement, Run, RunBuilder, gaps_between
from replicator.offset_map.topic_id import TopicId

TOPIC_ID, OTHER_ID = TopicId(range(16)), TopicId(range(1, 17))


@dataclass
class Model:
    """A source partition, its copy, and every run, as a replicator that forgets nothing would know them."""

    pairs: list[tuple[int, int]] = field(default_factory=list)
    """(upstream, downstream) of every replicated record."""
    foreign: list[int] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    upstream_next: int = 0
    downstream_end: int = 0

    def transaction(self, rng: random.Random, density: float, foreigners: float, long_gaps: float) -> None:
        """One transaction of the replicator: records with gaps on the source, maybe cut by somebody else's records."""
        upstream = self.upstream_next + (rng.randrange(4) if rng.random() > density else 0)
        placements: list[Placement] = []
        for _ in range(rng.randrange(1, 4)):
            offsets = []
            for _ in range(rng.randrange(0, 5)):
                offsets.append(upstream)
                upstream += 1 if rng.random() < density else rng.randrange(1, 6)
            if rng.random() < foreigners:
                self.foreign += range(self.downstream_end, self.downstream_end + 2)
                self.downstream_end += 2
            if offsets:
                gaps = gaps_between(offsets)
                base = self.downstream_end
                placements.append(Placement(offsets[0], offsets[-1] + 1, len(offsets), gaps, base))
                self.pairs += [(offset, base + index) for index, offset in enumerate(offsets)]
                self.downstream_end += len(offsets)
        last = self.runs[-1] if self.runs else None
        builder = RunBuilder(last.seq if last else 0, last.ordinal_next if last else 0, TOPIC_ID)
        built = builder.build(placements, upstream, last.downstream_next if last else 0)
        for run in built:
            forgets = run.gaps and rng.random() < long_gaps
            fields = {name: getattr(run, name) for name in Run.__slots__}
            self.runs.append(Run(**{**fields, "gaps": None}) if forgets else run)
        self.upstream_next = upstream
        self.downstream_end += 1  # the marker

    def floor(self, upstream: int, downstream: int) -> None:
        self.upstream_next, self.downstream_end = upstream, downstream
        self.runs += RunBuilder(0, 0, TOPIC_ID).build((), upstream, downstream)

    def is_exact(self, upstream_next: int, downstream_next: int) -> bool:
        """Whether a group that goes on at `downstream_next` reads what it has not read, and nothing else of ours."""
        return all((up >= upstream_next) == (down >= downstream_next) for up, down in self.pairs)

    def skips(self, upstream_next: int, downstream_next: int) -> bool:
        """Whether a record that the group has not read lies before `downstream_next`."""
        return any(up >= upstream_next and down < downstream_next for up, down in self.pairs)


def a_model(seed: int, transactions: int, density: float, foreigners: float, long_gaps: float) -> Model:
    rng = random.Random(seed)
    model = Model()
    model.floor(rng.randrange(3), rng.randrange(3))
    for _ in range(transactions):
        model.transaction(rng, density, foreigners, long_gaps)
    return model


MODELS = st.builds(
    a_model,
    seed=st.integers(0, 2**32),
    transactions=st.sampled_from([1, 2, 5, 30, 150, 400]),
    density=st.sampled_from([1.0, 0.9, 0.5]),
    foreigners=st.sampled_from([0.0, 0.0, 0.2]),
    long_gaps=st.sampled_from([0.0, 0.3]),
)
