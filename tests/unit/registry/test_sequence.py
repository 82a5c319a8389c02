"""Logs: numbers without gaps, whoever appends, and one look at the disk when nothing is new."""

from __future__ import annotations

import threading

import pytest
from pydantic import BaseModel

from registry import sequence
from registry.errors import RecordDamaged
from registry.sequence import SequenceLog
from registry.store import Store
from tests.unit.registry.stores import CountingStore, MemoryStore, damage


class Entry(BaseModel):
    text: str


def log_in(store: Store, first: int = 0) -> SequenceLog[Entry]:
    return SequenceLog(store, "log", Entry, first)


@pytest.mark.parametrize("first", [0, 1])
def test_an_append_goes_only_directly_after_the_tip(store: Store, first: int) -> None:
    log = log_in(store, first)
    assert log.tip() == first - 1
    assert log.all() == []

    assert not log.append(first + 1, Entry(text="would leave a gap"))
    assert log.append(first, Entry(text="a"))
    assert not log.append(first, Entry(text="taken"))
    assert not log.append(first - 1, Entry(text="before the first"))
    assert log.append(first + 1, Entry(text="b"))

    assert log.tip() == first + 1
    assert [entry.text for entry in log.all()] == ["a", "b"]
    assert [entry.text for entry in log.all(after=first)] == ["b"]
    assert log.read(first - 1) is None
    assert log.read(first + 2) is None


def test_what_another_process_appended_is_seen(store: Store) -> None:
    mine, other = log_in(store), log_in(store)
    assert mine.append(0, Entry(text="mine"))
    assert other.append(1, Entry(text="other"))
    assert not mine.append(1, Entry(text="late"))
    assert [entry.text for entry in mine.all()] == ["mine", "other"]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 8, 9, 100, 1000])
def test_a_new_reader_finds_the_tip_in_few_looks(length: int) -> None:
    memory = MemoryStore()
    for number in range(length):
        memory.put_if_absent(f"log/{number}.json", b'{"text": ""}')
    counting = CountingStore(memory)
    log = SequenceLog(counting, "log", Entry)

    assert log.tip() == length - 1
    assert counting.looks <= 2 * length.bit_length() + 1

    counting.looks = 0
    assert log.tip() == length - 1
    assert counting.looks == 1


def test_each_record_is_read_once(store: Store) -> None:
    writer = log_in(store)
    for number in range(20):
        assert writer.append(number, Entry(text=str(number)))
    counting = CountingStore(store)
    log = SequenceLog(counting, "log", Entry)
    log.all()
    counting.looks = 0
    assert len(log.all()) == 20
    assert counting.looks == 1, "only the tip is looked for"


def test_a_truncated_record_is_named_and_not_served(store: Store) -> None:
    log_in(store).append(0, Entry(text="whole"))
    damage(store, "log/0.json", b'{"text":"who')
    with pytest.raises(RecordDamaged, match=r"log/0\.json is damaged: not a Entry"):
        log_in(store).read(0)


def test_of_many_threads_every_append_finds_a_place_of_its_own(store: Store) -> None:
    threads, each = 8, 5
    shared = log_in(store)

    def work(name: int) -> None:
        log = shared if name % 2 else log_in(store)  # some share an instance, some do not
        for number in range(each):
            while not log.append(log.tip() + 1, Entry(text=f"{name}-{number}")):
                pass

    running = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()

    texts = [entry.text for entry in log_in(store).all()]
    assert sorted(texts) == sorted(f"{name}-{n}" for name in range(threads) for n in range(each))
    for name in range(threads):
        own = [text for text in texts if text.startswith(f"{name}-")]
        assert own == [f"{name}-{n}" for n in range(each)], "each thread's own order is kept"


def test_a_log_that_grows_for_years_keeps_its_newest_records_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "RECORDS_KEPT", 10)
    counting = CountingStore(store)
    log = log_in(counting)
    for number in range(30):
        assert log.append(number, Entry(text=str(number)))
    assert [entry.text for entry in log.all()] == [str(number) for number in range(30)]
    counting.looks = 0
    assert [entry.text for entry in log.all(after=19)] == [str(number) for number in range(20, 30)]
    assert counting.looks == 1, "whether there is more"
    assert log.read(0) == Entry(text="0"), "read again"
    assert counting.looks == 2
