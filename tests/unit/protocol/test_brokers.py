"""The brokers of a cluster: bootstrap, leaders that move, backoff, renewed connections, and requests to any of them."""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from typing import Any

import pytest
from kafka.protocol.metadata import FindCoordinatorRequest, FindCoordinatorResponse

from replicator.deadline import Deadline
from replicator.errors import RetriableError
from replicator.protocol import broker_link, handshake
from replicator.protocol.brokers import CONTROL, Brokers
from replicator.protocol.connection import Connection, NoResponseError, Request
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.metadata import Leader
from tests.unit.protocol.fake_broker import METADATA, Asked, FakeBroker, Peer, cluster
from tests.unit.protocol.fake_sasl import Login, SlowLogin
from tests.unit.protocol.world import WAIT_S, World

FIND_COORDINATOR = 10


def hang(peer: Peer) -> None:
    peer.read(1_000_000)


def ask(connection: Connection, results: list[memoryview | NoResponseError]) -> None:
    connection.send(Request(0, 9, [b"?"], results.append))


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_leaders_are_found_from_any_bootstrap_server(world: World) -> None:
    """The connection to the bootstrap server goes on as the one to the broker behind it."""
    for node in (1, 2, 3):
        world.start(node)
    world.topics["orders"] = {0: (1, 5), 1: (3, 2), 2: (-1, 7)}
    brokers = world.brokers(2)
    assert brokers.topic_error("orders") == -1
    brokers.track_topics(["orders", "nothing"])
    world.until(lambda: brokers.leader("orders", 0))
    assert brokers.leader("orders", 0) == Leader(1, 5)
    assert brokers.leader("orders", 1) == Leader(3, 2)
    assert brokers.leader("orders", 2) is None
    assert (brokers.topic_error("orders"), brokers.topic_error("nothing")) == (0, 3)
    assert (brokers.partitions("orders"), brokers.partitions("nothing")) == (3, None)
    assert sorted(brokers.nodes) == [1, 2, 3]
    assert world.connected(brokers, 2, CONTROL).node == 2
    assert world.fakes[2].accepted == 1
    assert world.fakes[1].accepted == 0


def test_a_bootstrap_server_that_is_down_is_passed_over(world: World) -> None:
    for node in (1, 2):
        world.start(node)
    world.topics["t"] = {0: (2, 0)}
    brokers = world.brokers(1, 2)
    world.stop(1)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))


def test_a_bootstrap_server_that_hangs_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel takes the connection, and nothing answers."""
    monkeypatch.setattr("replicator.protocol.brokers.STAGGER_S", 0.05)
    hung = FakeBroker(hang)
    world.start(2)
    world.nodes[1] = hung.endpoint
    world.topics["t"] = {0: (2, 0)}
    brokers = world.brokers(1, 2)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    hung.stop()


def test_a_leader_that_moves_is_followed_and_old_news_is_not(world: World) -> None:
    """An answer with a lower epoch comes from a broker that is behind (KIP-320)."""
    for node in (1, 2):
        world.start(node)
    world.topics["t"] = {0: (1, 5)}
    brokers = world.brokers(1, 2)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    world.topics["t"] = {0: (2, 6)}
    brokers.refresh("t")
    world.until(lambda: brokers.leader("t", 0) == Leader(2, 6))
    world.topics["t"] = {0: (1, 5)}
    before = len(world.asked)
    brokers.refresh()
    world.until(lambda: len(world.asked) > before and not brokers._refresher.is_in_flight)
    assert brokers.leader("t", 0) == Leader(2, 6)


def test_a_hint_is_taken_when_it_is_newer_and_its_broker_is_known(world: World) -> None:
    world.start(1)
    world.start(2)
    world.topics["t"] = {0: (1, 5)}
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    brokers.update_leader("t", 0, 2, 4)
    assert brokers.leader("t", 0) == Leader(1, 5)
    brokers.update_leader("t", 0, 9, 7)
    assert brokers.leader("t", 0) == Leader(1, 5)
    brokers.update_leader("t", 0, 2, 6)
    assert brokers.leader("t", 0) == Leader(2, 6)
    brokers.update_leader("unheard", 0, 2, 6)
    assert brokers.leader("unheard", 0) is None


def test_a_broker_that_moves_is_found_at_its_new_address(world: World) -> None:
    """What was in flight to the old address is lost; a broker that is gone is forgotten."""
    for node in (1, 2, 3):
        world.start(node)
    world.topics["t"] = {0: (2, 0)}
    world.other = lambda peer, asked: None
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    results: list[memoryview | NoResponseError] = []
    ask(world.connected(brokers, 2), results)
    ask(world.connected(brokers, 3), results)
    old = world.fakes.pop(2)
    world.start(2)
    del world.nodes[3]
    brokers.refresh()
    world.until(lambda: len(results) == 2)
    assert sorted(str(it).split("ended: ")[1].split(" to ")[0] for it in results) == [
        "the broker left the cluster",
        "the broker moved",
    ]
    assert world.connected(brokers, 2).address == str(world.nodes[2])
    assert brokers.connection(3) is None
    old.stop()


def test_questions_are_rate_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that asks in a loop for a leader that is not there: the first question at once, the next ones apart."""
    monkeypatch.setattr("replicator.protocol.metadata_refresher.FIRST_PAUSE_S", 0.02)
    world.start(1)
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    began_s = time.monotonic()

    def ask_again() -> bool:
        brokers.refresh()
        return brokers.leader("t", 0) is not None or len(world.asked) >= 4

    world.until(ask_again)
    assert time.monotonic() - began_s >= 0.04 + 0.08 + 0.16
    monkeypatch.setattr("replicator.protocol.metadata_refresher.QUIET_S", 0.0)
    world.topics["t"] = {0: (1, 0)}
    brokers.refresh()
    world.until(lambda: brokers.leader("t", 0))


def test_a_topic_of_which_nobody_asked_yet_does_not_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task begins with some topics, one after the other: only what is asked again waits, here for ever."""
    monkeypatch.setattr("replicator.protocol.metadata_refresher.FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr("replicator.protocol.metadata_refresher.MAX_PAUSE_S", 1000.0)
    world.start(1)
    brokers = world.brokers(1)
    for name in ("a", "b", "c"):
        world.topics[name] = {0: (1, 0)}
        brokers.track_topics([name])
        world.until(partial(brokers.leader, name, 0))
    assert world.asked == [["a"], ["b"], ["c"]]


def test_only_stale_topics_are_asked_for(world: World) -> None:
    """And untracked ones are not."""
    world.start(1)
    world.topics = {"a": {0: (1, 0)}, "b": {0: (1, 0)}, "c": {0: (1, 0)}}
    brokers = world.brokers(1)
    brokers.track_topics(["a", "b"])
    world.until(lambda: brokers.leader("b", 0))
    brokers.track_topics(["a", "c"])
    world.until(lambda: brokers.leader("c", 0))
    brokers.untrack_topics(["a"])
    brokers.refresh()
    world.until(lambda: len(world.asked) == 3 and not brokers._refresher.is_in_flight)
    assert world.asked == [["a", "b"], ["c"], ["b", "c"]]
    assert brokers.leader("a", 0) is None


def test_it_asks_by_itself_from_time_to_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.protocol.metadata_refresher.PERIOD_S", 0.02)
    monkeypatch.setattr("replicator.protocol.metadata_refresher.FIRST_PAUSE_S", 0.0)
    world.start(1)
    world.topics["t"] = {0: (1, 0)}
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    world.until(lambda: len(world.asked) >= 4)


def test_an_address_that_belongs_to_another_cluster_by_now_is_not_believed(world: World) -> None:
    """A port that is used anew: its topics have the same names, perhaps."""
    world.start(1)
    world.topics["t"] = {0: (1, 5)}
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    world.cluster_id = "another"
    world.topics["t"] = {0: (1, 9)}
    brokers.refresh()
    world.until(brokers.recent_error)
    assert "now belongs to cluster another" in str(brokers.recent_error())
    assert brokers.leader("t", 0) == Leader(1, 5)


def test_metadata_is_asked_for_in_a_version_that_both_know(world: World) -> None:
    seen: list[int] = []
    world.versions = {3: (0, 10), 18: (0, 3)}
    world.start(1)
    original = world._tell

    def tell(peer: Peer, asked: Asked) -> None:
        seen.append(asked.version)
        original(peer, asked)

    world._tell = tell  # type: ignore[method-assign]
    world.topics["t"] = {0: (1, 0)}
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    assert seen == [10]
    assert brokers.version(1, METADATA) == (0, 10)
    assert brokers.version(1, 0) is None
    assert brokers.version(5, METADATA) is None


# --- connections ------------------------------------------------------------------------------------------------------


def test_channels_are_connections_of_their_own(world: World) -> None:
    world.start(1)
    brokers = world.brokers(1)
    brokers.refresh()
    bulk = world.connected(brokers, 1)
    control = world.connected(brokers, 1, CONTROL)
    assert bulk is not control
    assert world.connected(brokers, 1) is bulk
    assert world.fakes[1].accepted == 2


def test_attempts_back_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses double to a limit, however often somebody asks; a success makes them short again."""
    attempts: list[float] = []
    original = broker_link.BrokerLink._connect_now

    def counted(link: broker_link.BrokerLink) -> None:
        if link is brokers._links.get((1, "bulk")):
            attempts.append(time.monotonic())
        original(link)

    monkeypatch.setattr(broker_link.BrokerLink, "_connect_now", counted)
    monkeypatch.setattr(broker_link, "MAX_BACKOFF_S", 0.2)
    fake = world.start(1)
    brokers = world.brokers(1)
    brokers.refresh()
    ask(world.connected(brokers, 1), [])
    world.stop(1)
    attempts.clear()
    world.until(lambda: brokers.connection(1) is None and len(attempts) >= 6)
    pauses = [b - a for a, b in itertools.pairwise(attempts)]
    for pause, expected_s in zip(pauses, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert pause >= expected_s * 0.79, pauses
    assert brokers.recent_error() is not None
    assert len(world.troubles) >= 5
    world.start(1, fake.port)
    results: list[memoryview | NoResponseError] = []
    ask(world.connected(brokers, 1), results)
    world.until(lambda: results)
    assert brokers.recent_error() is None


def test_a_broker_that_takes_connections_and_drops_them_is_not_hurried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_link, "MAX_BACKOFF_S", 10.0)
    monkeypatch.setattr(broker_link, "FIRST_BACKOFF_S", 10.0)
    hasty = FakeBroker(lambda peer: peer.introduce())
    world.start(1)
    world.nodes[2] = hasty.endpoint
    brokers = world.brokers(1)
    brokers.refresh()
    world.until(lambda: brokers.connection(2) is None and hasty.accepted == 1 and brokers._errors)
    deadline = Deadline(0.3)
    while not deadline.expired:
        brokers.connection(2)
        world.loop.run_once(0.01)
    assert hasty.accepted == 1
    hasty.stop()


def test_a_broker_whose_answers_make_no_sense_is_not_hurried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else asking it again and again would be all that a task does."""
    monkeypatch.setattr(broker_link, "MAX_BACKOFF_S", 10.0)
    monkeypatch.setattr(broker_link, "FIRST_BACKOFF_S", 10.0)
    world.start(1)
    brokers = world.brokers(1)
    brokers.refresh()
    results: list[memoryview | NoResponseError] = []
    first = world.connected(brokers, 1)
    ask(first, results)
    world.until(lambda: results)
    accepted = world.fakes[1].accepted
    first.close_after_invalid_response("its answer can't be read")
    deadline = Deadline(0.3)
    while not deadline.expired:
        brokers.connection(1)
        world.loop.run_once(0.01)
    assert world.fakes[1].accepted == accepted
    assert "its answer can't be read" in str(brokers.recent_error())


def test_a_connection_that_ends_while_idle_is_no_error(world: World) -> None:
    """Brokers close idle connections after ten minutes."""
    world.start(1)
    brokers = world.brokers(1)
    brokers.refresh()
    results: list[memoryview | NoResponseError] = []
    ask(world.connected(brokers, 1), results)
    world.until(lambda: results)
    first = world.connected(brokers, 1)
    assert not world.troubles
    world.fakes[1].drop()
    world.until(lambda: first.is_closed)
    assert world.connected(brokers, 1) is not first
    assert brokers.recent_error() is None
    assert world.troubles, "but a broker that crashed looks just so to whoever waits for nothing"


def test_a_lost_connection_asks_for_metadata(world: World) -> None:
    for node in (1, 2):
        world.start(node)
    world.topics["t"] = {0: (2, 0)}
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    world.other = lambda peer, asked: None
    results: list[memoryview | NoResponseError] = []
    ask(world.connected(brokers, 2), results)
    world.topics["t"] = {0: (1, 1)}
    world.stop(2)
    world.until(lambda: brokers.leader("t", 0) == Leader(1, 1))
    assert isinstance(results[0], NoResponseError)


def test_a_leader_that_hangs_is_asked_about(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to it takes ten seconds to fail: long before, another broker tells who leads now."""
    monkeypatch.setattr("replicator.protocol.brokers.STAGGER_S", 0.05)
    hung = FakeBroker(hang)
    world.start(1)
    world.nodes[2] = hung.endpoint
    world.topics["t"] = {0: (2, 0)}
    brokers = world.brokers(1)
    brokers.track_topics(["t"])
    world.until(lambda: brokers.leader("t", 0))
    assert brokers.connection(2) is None
    world.topics["t"] = {0: (1, 1)}
    world.until(lambda: brokers.connection(2) or brokers.leader("t", 0) == Leader(1, 1))
    hung.stop()


# --- renewal ----------------------------------------------------------------------------------------------------------


def test_a_connection_is_replaced_before_its_login_is_too_old(world: World) -> None:
    """Requests all the time, and no error: each swap happens while nothing is in flight."""
    world.login = Login("PLAIN", lifetime_ms=400)
    world.start(1)
    brokers = world.brokers(1, protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="me", password="secret")
    brokers.refresh()
    results: list[memoryview | NoResponseError] = []
    began_s = {world.connected(brokers, 1): time.monotonic()}
    while len(began_s) < 4:
        asked_s = time.monotonic()
        found = brokers.connection(1)
        if found is None:
            world.loop.run_once(0.01)
            continue
        began_s.setdefault(found, time.monotonic())
        assert asked_s - began_s[found] < 0.4, "used longer than its login is good for"
        results.clear()
        ask(found, results)
        world.until(lambda: results)
        assert not isinstance(results[0], NoResponseError)


def test_a_busy_connection_is_drained_before_it_is_replaced(world: World) -> None:
    """A pipeline that is never empty: near the end nothing more is handed out, until the last answer came."""
    held: list[tuple[Peer, Asked]] = []
    world.other = lambda peer, asked: held.append((peer, asked))
    world.login = Login("PLAIN", lifetime_ms=1000)
    world.start(1)
    brokers = world.brokers(1, protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="me", password="secret")
    brokers.refresh()
    results: list[memoryview | NoResponseError] = []
    old = world.connected(brokers, 1)
    ask(old, results)
    world.until(lambda: brokers.connection(1) is None)
    assert old.in_flight == 1
    assert brokers.connection(1) is None
    peer, asked = held[0]
    peer.say(asked, b"late")
    world.until(lambda: results)
    assert not isinstance(results[0], NoResponseError)
    fresh = world.connected(brokers, 1)
    assert fresh is not old
    assert old.is_closed
    assert brokers.recent_error() is None


def test_a_connection_that_drains_is_replaced_by_one(world: World) -> None:
    """Whoever asks for a connection meanwhile; a request to any broker does."""
    may_answer = threading.Event()

    def answer(peer: Peer, asked: Asked) -> None:
        if asked.api_key == FIND_COORDINATOR:
            tell_coordinator(peer, asked)
        else:
            assert may_answer.wait(WAIT_S)
            peer.say(asked, b"late")

    world.other = answer
    world.login = Login("PLAIN", lifetime_ms=1000)
    world.start(1)
    brokers = world.brokers(1, protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="me", password="secret")
    brokers.refresh()
    results: list[memoryview | NoResponseError] = []
    old = world.connected(brokers, 1, CONTROL)
    ask(old, results)
    link = brokers._links[1, CONTROL]
    world.until(lambda: brokers.connection(1, CONTROL) is None and link._fresh)
    fresh = link._fresh
    answers: list[Any] = []
    brokers.send_async(None, question(), 3, answers.append)
    link.connect()
    world.until(lambda: answers and not link.is_connecting)
    assert answers[0].node_id == 7
    assert link._fresh is fresh
    may_answer.set()
    world.until(lambda: results)
    assert not isinstance(results[0], NoResponseError)
    assert world.connected(brokers, 1, CONTROL) is fresh


def test_a_fresh_connection_that_dies_unused_is_made_again(world: World) -> None:
    world.login = Login("PLAIN", lifetime_ms=800)
    world.start(1)
    brokers = world.brokers(1, protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="me", password="secret")
    brokers.refresh()
    held: list[tuple[Peer, Asked]] = []
    world.other = lambda peer, asked: held.append((peer, asked))
    old = world.connected(brokers, 1)
    results: list[memoryview | NoResponseError] = []
    ask(old, results)
    link = brokers._links[1, "bulk"]

    def has_another(than: Connection | None) -> bool:
        brokers.connection(1)
        return link._fresh not in (None, than)

    world.until(lambda: has_another(None))
    first = link._fresh
    assert first is not None
    first.close("bad luck")
    world.until(lambda: has_another(first))
    held[0][0].say(held[0][1], b"")
    world.until(lambda: results)
    assert world.connected(brokers, 1) is not old
    assert not isinstance(results[0], NoResponseError)


# --- requests ---------------------------------------------------------------------------------------------------------


def tell_coordinator(peer: Peer, asked: Asked) -> None:
    assert asked.api_key == FIND_COORDINATOR
    peer.say_message(asked, FindCoordinatorResponse(error_code=0, error_message="", node_id=7, host="h", port=1))


def question() -> Any:
    return FindCoordinatorRequest(key="id", key_type=1)


def test_a_call_waits_for_the_connection_and_the_answer(world: World) -> None:
    """To any broker, and to a certain one that Metadata has to tell of first."""
    world.start(1)
    world.other = tell_coordinator
    brokers = world.brokers(1)
    assert brokers.call(None, question(), 3, Deadline(WAIT_S)).node_id == 7
    assert brokers.call(1, question(), 3, Deadline(WAIT_S)).node_id == 7


def test_casts_are_answered_each_once(world: World) -> None:
    world.start(1)
    world.other = tell_coordinator
    brokers = world.brokers(1)
    answers: list[Any] = []
    for _ in range(20):
        brokers.send_async(None, question(), 3, answers.append)
    world.until(lambda: len(answers) == 20)
    world.loop.run_once(0)
    assert [it.node_id for it in answers] == [7] * 20


def test_no_connection_in_time_says_why(world: World) -> None:
    """The error has the cluster, its servers, the operating system's words, and what to check."""
    world.start(1)
    brokers = world.brokers(1)
    world.stop(1)
    answers: list[Any] = []
    brokers.send_async(None, question(), 3, answers.append, timeout_s=0.1)
    world.until(lambda: answers)
    assert isinstance(answers[0], NoResponseError)
    assert "no connection to any broker within 0.1 s: 127.0.0.1" in str(answers[0])
    with pytest.raises(RetriableError) as caught:
        brokers.call(None, question(), 3, Deadline(0.1), op="find it")
    text = str(caught.value)
    assert text.startswith(f"find it on east: no answer from east ({world.nodes[1]})")
    assert "Connection refused" in text
    assert "clusters.east.bootstrap_servers" in caught.value.hint
    assert caught.value.code == "_TRANSPORT"


def test_a_wrong_password_has_its_own_code_and_hint(world: World) -> None:
    world.login = Login(password="another")
    world.start(1)
    security = {"protocol": "SASL_PLAINTEXT", "mechanism": "SCRAM-SHA-512", "username": "me", "password": "secret"}
    brokers = world.brokers(1, **security)
    brokers.refresh()
    world.until(brokers.recent_error)
    error = brokers.error("fetch")
    assert error.code == "SASL_AUTHENTICATION_FAILED"
    assert error.hint == "check clusters.east.security: username, password and mechanism"
    assert "secret" not in str(error)


def test_a_cluster_refuses_us_when_all_of_its_brokers_were_tried(world: World) -> None:
    """One that refuses says nothing of the cluster while another is being connected to, or is connected."""
    world.login = Login("PLAIN", password="another")
    world.logins[2] = slow = SlowLogin("PLAIN")
    for node in (1, 2):
        world.start(node)
    brokers = world.brokers(1, 2, protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="me", password="secret")
    brokers.connection(-1)
    brokers.connection(-2)
    world.until(brokers.recent_error)
    assert brokers.login_refusal() is None
    slow.may_answer.set()
    world.until(lambda: brokers.connection(-2))
    assert brokers.login_refusal() is None
    slow.password = "another"
    world.fakes[2].drop()
    world.until(lambda: brokers.connection(-2) or brokers.login_refusal())
    assert brokers.error("fetch").code == "SASL_AUTHENTICATION_FAILED"


def test_an_answer_that_can_not_be_decoded_is_lost(world: World) -> None:
    """And the connection with it: nobody knows what else is wrong."""
    world.start(1)
    bad = [b"", b"\xff" * 3000, b"\0" * 6 + b"\x7f"]
    world.other = lambda peer, asked: peer.say(asked, bad.pop() if bad else b"")
    brokers = world.brokers(1)
    answers: list[Any] = []
    for number in range(3):
        brokers.send_async(None, question(), 3, answers.append)
        world.until(lambda count=number: len(answers) > count)  # type: ignore[misc]
        assert isinstance(answers[number], NoResponseError)
        assert f"127.0.0.1:{world.fakes[1].port} does not speak Kafka's protocol" in str(answers[number])


def test_a_call_that_runs_out_of_time_leaves_the_connection_to_others(world: World) -> None:
    go = threading.Event()

    def late(peer: Peer, asked: Asked) -> None:
        assert go.wait(WAIT_S)
        tell_coordinator(peer, asked)

    world.other = late
    world.start(1)
    brokers = world.brokers(1)
    brokers.refresh()
    connection = world.connected(brokers, 1, CONTROL)
    with pytest.raises(RetriableError, match=r"no answer within 0\.05 s"):
        brokers.call(1, question(), 3, Deadline(0.05))
    answers: list[Any] = []
    brokers.send_async(1, question(), 3, answers.append)
    go.set()
    world.until(lambda: answers)
    assert answers[0].node_id == 7
    assert brokers.connection(1, CONTROL) is connection


def test_closing_loses_what_waits(world: World) -> None:
    world.start(1)
    brokers = world.brokers(1)
    world.stop(1)
    answers: list[Any] = []
    brokers.send_async(None, question(), 3, answers.append)
    brokers.close()
    world.loop.run_once(0)
    assert [str(it) for it in answers] == ["the replicator closes it"]


def test_an_attempt_that_nobody_waits_for_closes_its_socket(world: World) -> None:
    """The event loop closes while a thread connects."""
    go, ended = threading.Event(), threading.Event()

    def talk(peer: Peer) -> None:
        assert go.wait(WAIT_S)
        try:
            peer.introduce()
            peer.read(1)
        except (OSError, EOFError):
            ended.set()

    slow = FakeBroker(talk)
    loop = EventLoop()
    done: list[Any] = []
    attempt = handshake.ConnectAttempt(
        loop,
        slow.endpoint,
        Brokers(loop, cluster(str(slow.endpoint)), "me")._link_settings.security,
        "me",
        done.append,
    )
    attempt.abandon()
    loop.close()
    go.set()
    assert ended.wait(WAIT_S)
    assert not done
    slow.stop()
