"""The spool: in order, everything, whatever happens to the process and how little memory it has."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.ingest import entries
from fibflow.io.ingest.entries import Broken, Entry, Kind, frames_entry, frames_of, to_bytes
from fibflow.io.ingest.segments import Sent
from fibflow.io.ingest.spool import Spool, SpoolError

LIMIT = 1 << 30


def entry(number, size=20):
    return frames_entry([b"%d" % number, b"x" * size], number, number * 10)


def numbers(found):
    return [each.event for each in found]


def opened(folder, segment=300, cached=500, limit=LIMIT):
    return Spool(folder, limit, segment, cached)


def everything(spool, most=200):
    found = []
    while some := spool.take(most, 0.0):
        found += some
    return found


def test_entries_are_read_as_they_were_written():
    several = [entry(1), Entry(Kind.BEAT, b"", 0, 7, 8), Entry(Kind.HOLE, b"[1,2]", 0, 0, 9)]
    data = b"".join(part for each in several for part in to_bytes(each))
    assert list(entries.read_all(data)) == several
    assert list(entries.read_all(data[:-1])) == several[:-1]
    frames, lengths = frames_of([entry(1), entry(22, 3)])
    assert (frames, lengths.tolist()) == (b"1" + b"x" * 20 + b"22xxx", [1, 20, 2, 3])
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 0x10
        try:
            found = list(entries.read_all(bytes(wrong)))
        except Broken:
            continue
        # A length that reaches beyond the end looks like one that was cut short.
        assert found == several[: len(found)]
        assert len(found) < len(several)


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 400)),
            st.tuples(st.just("take"), st.integers(1, 600)),
            st.tuples(st.just("sent"), st.just(0)),
            st.tuples(st.just("killed"), st.integers(0, 60)),
            st.tuples(st.just("stopped"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_what_was_not_sent_comes_again_in_order(tmp_path_factory, steps):
    """Against a list: appended, taken, sent, and what a new process finds."""
    folder = tmp_path_factory.mktemp("spool")
    spool = opened(folder)
    log: list[int] = []
    taken = sent = 0
    for what, number in steps:
        if what == "append":
            log.append(len(log) + 1)
            spool.append(entry(log[-1], number))
        elif what == "take":
            found = numbers(spool.take(number, 0.0))
            assert found == log[taken : taken + len(found)]
            assert found or taken == len(log)
            taken += len(found)
        elif what == "sent":
            spool.sent()
            sent = taken
        else:
            spool.close()
            if what == "killed" and number:
                # A write that had begun.
                last = max(folder.glob("*.spool"), default=None)
                if last is not None:
                    with last.open("ab") as file:
                        file.write(b"".join(to_bytes(entry(0)))[:number])
            spool = opened(folder)
            taken = sent
        assert spool.waiting >= 0
        assert (spool.waiting == 0) == (sent == len(log))
    found = numbers(everything(spool))
    assert found == log[taken:]
    spool.sent()
    assert spool.waiting == 0
    assert len(list(folder.glob("*.spool"))) <= 1
    spool.close()
    shutil.rmtree(folder)


def test_a_write_that_never_ended_is_cut_off_and_told(tmp_path):
    spool = opened(tmp_path)
    spool.append(entry(1))
    spool.close()
    (file,) = tmp_path.glob("*.spool")
    whole = file.read_bytes()
    half = b"".join(to_bytes(entry(2)))
    for cut in range(1, len(half)):
        file.write_bytes(whole + half[:cut])
        spool = opened(tmp_path)
        assert spool.torn == cut
        spool.append(entry(3))
        assert numbers(everything(spool)) == [1, 3]
        spool.close()


def test_what_cannot_be_read_is_passed_over_told_and_kept_aside(tmp_path):
    spool = opened(tmp_path)
    for number in range(1, 31):
        spool.append(entry(number))
    spool.close()
    files = sorted(tmp_path.glob("*.spool"))
    assert len(files) > 4
    wrong = bytearray(files[1].read_bytes())
    wrong[len(wrong) // 2] ^= 1
    files[1].write_bytes(wrong)
    files[2].unlink()
    spool = opened(tmp_path)
    found = numbers(everything(spool))
    assert set(found) < set(range(1, 31))
    assert found == sorted(found)
    assert found[0] == 1
    assert found[-1] == 30
    size = entry(1).size
    assert spool.skipped >= (30 - len(found)) * size - 30
    (kept,) = tmp_path.glob(f"{files[1].stem}-*.broken")
    assert kept.read_bytes() in wrong
    spool.sent()
    assert spool.waiting == 0
    spool.close()


def test_a_mark_that_is_lost_sends_all_that_is_kept_again(tmp_path):
    spool = opened(tmp_path)
    for number in range(1, 9):
        spool.append(entry(number))
    everything(spool)
    spool.sent()
    spool.append(entry(9))
    spool.close()
    (tmp_path / "sent").write_bytes(b"rubbish")
    spool = opened(tmp_path)
    found = numbers(everything(spool))
    assert found[-1] == 9
    assert found == list(range(found[0], 10))
    spool.close()


def test_files_that_the_machine_lost_do_not_go_back_behind_what_was_sent(tmp_path):
    spool = opened(tmp_path)
    for number in range(1, 4):
        spool.append(entry(number))
    everything(spool)
    spool.sent()
    spool.close()
    for path in tmp_path.glob("*.spool"):
        path.unlink()
    spool = opened(tmp_path)
    assert spool.waiting == 0
    spool.append(entry(4))
    assert numbers(everything(spool)) == [4]
    spool.close()


def test_the_times_of_what_came_last_are_known_to_the_next_process(tmp_path):
    spool = opened(tmp_path)
    assert spool.before == Sent()
    spool.append(entry(5))
    spool.append(Entry(Kind.BEAT, b"", 0, 8, 90))
    everything(spool)
    spool.sent()
    spool.close()
    spool = opened(tmp_path)
    assert spool.before[1:] == (5, 8, 90)
    spool.append(entry(11))
    spool.close()
    spool = opened(tmp_path)
    assert spool.before[1:] == (11, 8, 110)
    spool.close()


def test_memory_holds_only_so_much_and_the_rest_is_read_from_the_disk(tmp_path):
    spool = opened(tmp_path, segment=1000, cached=400)
    for number in range(1, 101):
        spool.append(entry(number, 50))
    assert sum(each.size for each in spool._cache) <= 400
    assert numbers(everything(spool)) == list(range(1, 101))
    spool.append(entry(101))
    assert numbers(spool._cache) == [101]
    assert numbers(everything(spool)) == [101]
    spool.close()


def test_an_entry_larger_than_what_is_asked_for_comes_whole(tmp_path):
    spool = opened(tmp_path, segment=10_000, cached=0)
    spool.append(entry(1, 5_000))
    spool.append(entry(2, 5_000))
    assert numbers(spool.take(10, 0.0)) == [1]
    assert numbers(spool.take(10, 0.0)) == [2]
    spool.close()


def test_it_is_full_at_its_limit_until_whole_files_were_sent(tmp_path):
    spool = opened(tmp_path, segment=300, cached=100, limit=1200)
    number = 0
    while not spool.is_full:
        number += 1
        spool.append(entry(number))
    assert 1200 <= spool.waiting < 1200 + entry(1).size
    everything(spool)
    assert spool.is_full
    spool.sent()
    assert not spool.is_full
    spool.close()


def test_a_disk_that_refuses_keeps_nothing_of_an_entry(tmp_path, monkeypatch):
    spool = opened(tmp_path, segment=10_000)
    spool.append(entry(1))
    writev, write = os.writev, os.write

    def half(file, parts):
        return writev(file, [b"".join(parts)[:30]])

    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", half)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        spool.append(entry(2))
    monkeypatch.setattr(os, "write", write)
    spool.append(entry(3))  # in two goes
    monkeypatch.setattr(os, "writev", writev)
    spool.append(entry(4))
    assert numbers(everything(spool)) == [1, 3, 4]
    spool.close()
    spool = opened(tmp_path, segment=10_000)
    assert spool.torn == 0
    assert numbers(everything(spool)) == [1, 3, 4]
    spool.close()


@pytest.mark.parametrize("last", [False, True])
def test_one_entry_that_cannot_be_read_costs_none_behind_it(tmp_path, last):
    spool = opened(tmp_path)
    for number in range(1, 31):
        spool.append(entry(number))
    spool.close()
    files = sorted(tmp_path.glob("*.spool"))
    file = files[-1] if last else files[1]
    whole = file.read_bytes()
    assert len(whole) > 2 * entry(1).size
    wrong = bytearray(whole)
    wrong[40] ^= 1  # of its first entry
    file.write_bytes(wrong)
    spool = opened(tmp_path)
    assert spool.torn == 0
    spool.append(entry(31))
    found = numbers(everything(spool))
    assert len(found) == 30
    assert found[-1] == 31
    bad = entries.read(whole)
    assert bad is not None
    assert spool.skipped == bad.size
    spool.sent()
    for number in range(32, 60):
        spool.append(entry(number))
    everything(spool)
    spool.sent()
    assert not file.exists()
    (kept,) = tmp_path.glob("*.broken")
    assert kept.name == f"{file.stem}-{int(file.stem):020}.broken"
    assert kept.read_bytes() == wrong[: bad.size]
    spool.close()


def test_what_was_cut_off_does_not_take_what_was_put_aside(tmp_path):
    """Of one segment twice: what is aside is another file than the live one, and than the one before."""
    for number in (1, 2):
        spool = opened(tmp_path, segment=10_000)
        spool.append(entry(number))
        spool.append(entry(9))
        spool.close()
        (file,) = tmp_path.glob("*.spool")
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        opened(tmp_path, segment=10_000).close()
    aside = sorted(tmp_path.glob("*.broken"))
    assert [len(path.read_bytes()) for path in aside] == [entry(9).size] * 2
    assert all(path.stat().st_nlink == 1 for path in aside)
    spool = opened(tmp_path, segment=10_000)
    assert numbers(everything(spool)) == [1, 2]
    spool.close()


def test_what_a_disk_neither_takes_nor_gives_back_is_not_read(tmp_path, monkeypatch):
    spool = opened(tmp_path, segment=10_000)
    spool.append(entry(1))
    writev = os.writev

    def half(file, parts):
        writev(file, [b"".join(parts)[:30]])
        raise OSError(errno.EIO, "Input/output error")

    def refuse(file, size):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "writev", half)
    monkeypatch.setattr(os, "ftruncate", refuse)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            spool.append(entry(2))
    monkeypatch.undo()
    spool.append(entry(3))
    assert numbers(everything(spool)) == [1, 3]
    spool.close()
    spool = opened(tmp_path, segment=10_000)
    assert numbers(everything(spool)) == [1, 3]
    assert spool.skipped == 0
    spool.close()


def test_only_what_waits_is_synced(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    spool = opened(tmp_path)
    for number in range(1, 20):
        spool.append(entry(number))
    everything(spool)
    spool.sent()
    spool.sync()
    assert synced == []
    spool.append(entry(20))
    spool.sync()
    assert len(synced) >= 2  # the file and the folder
    count = len(synced)
    spool.sync()
    assert len(synced) == count
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(21, 60):
        spool.append(entry(number))
    spool.sync(force=True)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    spool.close()


def test_one_process_has_a_folder(tmp_path):
    spool = opened(tmp_path / "deep" / "down")
    with pytest.raises(SpoolError, match="is used by another ingest"):
        opened(tmp_path / "deep" / "down")
    spool.close()
    opened(tmp_path / "deep" / "down").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be written: "):
        opened(tmp_path / "file")


def test_two_threads_pass_everything_on_in_order(tmp_path):
    spool = opened(tmp_path, segment=4000, cached=1000)
    count = 3000

    def write():
        for number in range(1, count + 1):
            spool.append(entry(number))

    writer = threading.Thread(target=write)
    writer.start()
    found: list[int] = []
    while len(found) < count:
        found += numbers(spool.take(700, 1.0))
        if len(found) % 3 == 0:
            spool.sent()
    writer.join()
    assert found == list(range(1, count + 1))
    spool.sent()
    assert len(list(Path(tmp_path).glob("*.spool"))) == 1
    spool.close()
