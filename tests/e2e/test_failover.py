"""The source is gone: groups go on at the target, and nothing comes back to life behind their backs.

Invariants C, D, E, F, G.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from replicator.embedded import Clusters, EmbeddedCluster
from replicator.errors import TP
from tests.e2e.conftest import PARTITIONS, TASKS, Bench, MakeBench
from tests.support.brokers import on_killable_pair
from tests.support.commands import move, run
from tests.support.compare import read_syncs
from tests.support.eventually import eventually
from tests.support.groups import checkpoints, committed, offsets
from tests.support.members import Account, Members, account, numbers_in
from tests.support.pump import BEGIN_MS
from tests.support.records import admin_client, end_offsets, read_topic
from tests.support.worker_process import WorkerProcess

FLOW: dict[str, Any] = {"checkpoint_interval_s": 0.2}
UNREACHABLE = "127.0.0.1:1"


def group_of(bench: Bench) -> str:
    """A group whose name no other test uses."""
    return bench.topic.replace("orders", "billing")


def at_home(bench: Bench, **options: Any) -> Members:
    """The group at work on the source."""
    servers = bench.source.bootstrap_servers
    return Members(servers, group_of(bench), [bench.topic], **options).start(PARTITIONS)


def away(bench: Bench, **options: Any) -> Members:
    """The group at work on the target; a partition without an offset is an error."""
    servers, topics = bench.target.bootstrap_servers, [bench.remote(bench.topic)]
    return Members(servers, group_of(bench), topics, reset="error", **options).start(PARTITIONS)


def log_ends(bench: Bench) -> dict[str, dict[int, int]]:
    """Of the copy, the syncs and the checkpoints: whatever is written moves them, committed or not."""
    servers = bench.target.bootstrap_servers
    topics = (bench.remote(bench.topic), bench.syncs_topic, bench.checkpoints_topic)
    return {topic: end_offsets(servers, topic, isolation="read_uncommitted") for topic in topics}


def state_of_target(bench: Bench) -> tuple[Any, ...]:
    """All that a command could have changed there: the logs, the group's offsets, the topics."""
    topics = set(admin_client(bench.target.bootstrap_servers).list_topics(timeout=60).topics)
    return log_ends(bench), committed(bench.target.bootstrap_servers, group_of(bench)), topics


def await_halted(zombie: WorkerProcess) -> None:
    """Wait until every task of the worker says that it is halted, and its duties do."""

    def is_halted() -> bool:
        tasks = {event["task"] for event in zombie.events("task_halted")}
        assert tasks == set(range(TASKS)), f"only {tasks} say that they are halted:\n{zombie.log()[-5000:]}"
        return True

    eventually(is_halted, within_s=60)


def after_checkpoints(bench: Bench, home: Members) -> set[int]:
    """Numbers of the records that the group processed and that its checkpoints, or the copy, do not reach."""
    servers = bench.target.bootstrap_servers
    known = checkpoints(servers, bench.checkpoints_topic, group_of(bench))
    copied = read_syncs(servers, bench.syncs_topic)
    covered = {
        tp.partition: min(it.upstream_next, copied.position(TP(bench.topic, tp.partition))) for tp, it in known.items()
    }
    return {it.number for it in home.processed if it.offset >= covered.get(it.tp.partition, 0)}


@on_killable_pair
def test_the_source_is_killed_and_comes_back(make_bench: MakeBench, killable_pair: Clusters) -> None:
    """A worker that was frozen before wakes up after, when the source is back, and writes nothing until `resume`."""
    source, target = killable_pair["source"], killable_pair["target"]
    bench = make_bench(source, target, flow=FLOW)
    group, servers = group_of(bench), target.bootstrap_servers
    pump = bench.pump(records_per_s=800)
    zombie = bench.start_worker()
    zombie.await_running(TASKS)
    home = at_home(bench)
    home.await_more(1500)
    await_checkpoints(bench)
    zombie.send(signal.SIGSTOP)
    home.await_more(300)
    pump.stop()
    home.kill()
    source.kill_broker(1)
    copied = {record.timestamp - BEGIN_MS for record in read_topic(servers, bench.remote(bench.topic))}
    uncovered = after_checkpoints(bench, home)

    before = state_of_target(bench)
    refused = move(bench.file, "failover", "--all", code=3)
    assert refused["state"] == "refused"
    assert state_of_target(bench) == before
    document = move(bench.file, "failover", "--all", "--accept-data-loss")
    assert (document["state"], {row["state"] for row in document["partitions"]}) == ("done", {"committed"})
    assert {row["at_risk_records"] for row in document["partitions"]} == {None}, "nobody can ask the source"
    halted_at = log_ends(bench)

    source.start_broker(1)
    zombie.send(signal.SIGCONT)
    await_halted(zombie)
    moved = {TP(row["target_topic"], row["partition"]): row["downstream_next"] for row in document["partitions"]}
    assert {tp: it for tp, (it, _) in committed(servers, group).items()} == moved
    abroad = away(bench)
    abroad.await_numbers(copied - {it.number for it in home.processed})
    abroad.stop()
    assert log_ends(bench) == halted_at, f"written while the flow was halted:\n{zombie.log()[-5000:]}"

    reread = {it.number for it in abroad.processed} & {it.number for it in home.processed}
    print(f"{len(copied)} records copied, {len(reread)} re-read, {len(uncovered)} processed after the last checkpoint")
    assert reread <= uncovered
    assert sum(row["reread_records"] for row in document["partitions"]) >= len(reread)
    found = account(copied, home, abroad)
    assert (found.twice, found.never) == (len(reread), 0)

    run(bench.file, "resume", "--yes")
    again = bench.pump(first=10_000_000, records_per_s=400)
    abroad_again = away(bench)
    abroad_again.await_more(500)
    abroad_again.stop()
    back = move(bench.file, "failback", group)
    assert {row["translation"] for row in back["partitions"]} == {"exact"}
    home_again = at_home(bench, reset="error")
    home_again.await_more(200)
    again.stop()
    written = numbers_in(source.bootstrap_servers, bench.topic)
    groups = (home, abroad, abroad_again, home_again)
    home_again.await_numbers(written - {it.number for group in groups[:-1] for it in group.processed})
    home_again.stop()
    assert bench.verify().records == len(written) == pump.acknowledged + again.acknowledged
    found = account(written, *groups)
    twice = twice_in(*groups)  # what was not replicated when the source failed comes to the target after `resume`
    assert reread <= twice <= uncovered
    assert found == Account(len(written), len(twice), 0, 0)


def twice_in(*groups: Members) -> set[int]:
    """Numbers of the records that were processed more than once."""
    counts = Counter(it.number for group in groups for it in group.processed)
    return {number for number, count in counts.items() if count > 1}


def test_one_group_fails_over_and_the_flow_goes_on(
    make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster, tmp_path: Path
) -> None:
    """By the target alone: the configuration of the command does not reach the source."""
    bench = make_bench(source, target, flow=FLOW)
    group = group_of(bench)
    pump = bench.pump(records_per_s=400)
    bench.start_worker().await_running(TASKS)
    home = at_home(bench)
    home.await_more(500)
    home.stop()
    pump.stop()
    bench.await_caught_up()
    copied = numbers_in(source.bootstrap_servers, bench.topic)
    content = json.loads(bench.file.read_text())
    content["clusters"][bench.alias]["bootstrap_servers"] = UNREACHABLE
    content["connect_timeout_s"] = 2
    alone = tmp_path / "alone.yaml"
    alone.write_text(json.dumps(content))
    await_checkpoints(bench)

    document = move(alone, "failover", group, "--accept-data-loss")
    assert {(row["state"], row["translation"]) for row in document["partitions"]} == {("committed", "exact")}
    abroad = away(bench)
    abroad.await_numbers(copied - {it.number for it in home.processed})
    again = bench.pump(first=10_000_000, records_per_s=400)
    abroad.await_more(200)
    again.stop()
    written = numbers_in(source.bootstrap_servers, bench.topic)
    abroad.await_numbers(written - {it.number for it in home.processed})
    abroad.stop()
    assert account(written, home, abroad) == Account(len(written), 0, 0, 0)


def await_checkpoints(bench: Bench) -> None:
    """Wait until the group has committed in all partitions, and the checkpoints know at least that."""

    def has_committed() -> dict[int, int]:
        found = {tp.partition: it for tp, it in offsets(bench.source.bootstrap_servers, group_of(bench)).items()}
        assert len(found) == PARTITIONS, found
        return found

    at_first = eventually(has_committed, within_s=60)

    def is_known() -> bool:
        known = checkpoints(bench.target.bootstrap_servers, bench.checkpoints_topic, group_of(bench))
        upstream = {tp.partition: it.upstream_next for tp, it in known.items()}
        late = {
            partition: upstream.get(partition) for partition, it in at_first.items() if upstream.get(partition, -1) < it
        }
        assert not late, f"committed {at_first}, known {late}"
        return True

    eventually(is_known, within_s=60)
