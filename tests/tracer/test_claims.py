"""Claims are fair whatever the clocks say: a worker that gives signs of life is never taken over, a dead one is."""

import json
import os
import signal

import pytest

from tests.builders.runs_by_hand import python
from tracer.store import ClaimError, claims

LEASE = 100.0
CENTURY = 36525 * 86400


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "claims").mkdir()
    return tmp_path / "claims"


@pytest.fixture
def clock(monkeypatch):
    """This process's own clock, in the hands of the test."""
    now = [1e6]
    monkeypatch.setattr(claims, "monotonic", lambda: now[0])
    return now


def elsewhere(folder, unit=0):
    """A claim that a process of another machine holds, and its token."""
    token = claims.claim(folder, unit, LEASE)
    file = folder / f"{unit:06d}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"machine": "another", "host": "node7"}) + "\n")
    return token


def taken(folder, unit=0):
    try:
        claims.claim(folder, unit, LEASE)
    except ClaimError:
        return False
    return True


@pytest.mark.parametrize("skew", [-CENTURY, 0, CENTURY])
def test_a_living_worker_of_another_machine_is_never_taken_over_and_a_dead_one_is_after_the_lease(folder, clock, skew):
    token = elsewhere(folder)
    for _ in range(20):
        os.utime(folder / "000000.json", (clock[0] + skew,) * 2)
        assert not taken(folder)
        clock[0] += LEASE * 0.9
        assert claims.renew(folder, 0, token)
    assert not taken(folder)  # the last heartbeat is seen now, so the lease begins now
    clock[0] += LEASE
    os.utime(folder / "000000.json", (clock[0] + skew,) * 2)
    assert not taken(folder)
    clock[0] += 1
    assert taken(folder)
    assert not claims.renew(folder, 0, token)


def test_who_comes_later_takes_nothing_over_that_he_has_not_watched_for_a_lease(folder, clock, monkeypatch):
    elsewhere(folder)
    clock[0] += 100 * LEASE
    assert not taken(folder)
    assert claims.live_claims(folder, LEASE) == [0]


def test_another_claim_on_the_same_unit_begins_another_lease(folder, clock):
    elsewhere(folder)
    assert not taken(folder)
    clock[0] += LEASE + 1
    (folder / "000000.json").unlink()  # given back, and taken by a third
    elsewhere(folder)
    assert not taken(folder)


def test_a_heartbeat_cannot_undo_a_take_over_that_happens_in_its_middle(folder, monkeypatch):
    token, original = elsewhere(folder), claims._parsed
    content = []

    def taken_over_meanwhile(read):
        if not content:
            content.append(None)
            (folder / "000000.json").unlink()
            elsewhere(folder)
            content[0] = (folder / "000000.json").read_bytes()
        return original(read)

    monkeypatch.setattr(claims, "_parsed", taken_over_meanwhile)
    claims.renew(folder, 0, token)
    assert (folder / "000000.json").read_bytes() == content[0]
    assert not claims.holds(folder, 0, token)


HOLDER = (
    "import sys, time, pathlib; from tracer.store import claims\n"
    "claims.claim(pathlib.Path(sys.argv[1]), 0, 1e9); print('held', flush=True); time.sleep(600)"
)


def test_on_the_same_machine_the_process_decides_and_no_lease(folder, clock):
    worker = python("-c", HOLDER, folder)
    assert worker.stdout.readline() == "held\n"
    assert not taken(folder)
    clock[0] += 100 * LEASE
    assert not taken(folder)  # no heartbeat at all, but it runs
    worker.send_signal(signal.SIGSTOP)
    os.waitpid(worker.pid, os.WUNTRACED)
    assert not taken(folder)  # stopped: it may come back within a lease
    clock[0] += LEASE + 1
    assert taken(folder)
    worker.kill()
    worker.wait()


def test_the_message_names_host_process_and_since(folder):
    elsewhere(folder)
    since = json.loads((folder / "000000.json").read_text())["since"]
    with pytest.raises(ClaimError, match=f"process {os.getpid()} on node7, since ") as refused:
        claims.claim(folder, 0, LEASE)
    assert refused.value.holder["since"] == since


@pytest.mark.parametrize("content", [b"", b"[]", b'{"token": "x"}', b"\xff"])
def test_a_file_that_is_no_claim_holds_nothing(folder, content):
    (folder / "000000.json").write_bytes(content)
    assert taken(folder)
