"""Decides for each batch of a Fetch response whether it passes unopened, is re-encoded, or is left out.

    control batch                        left out; an abort marker ends its producer's aborted transaction
    of an aborted transaction            left out
    no records (compacted away)          left out; the position moves over it
    tiny, and there are many             opened; a series of them is written as one
    compacted, partly consumed, with LogAppendTime or a delete horizon, of magic 0 or 1, or larger than the target takes
                                         opened, and written as one batch or several
    anything else                        passes

The cost per batch decides how `_Walk.over_batches` is written.

Pure. Source: clients `CompletedFetch` (aborted transactions), `EndTransactionMarker`, `ControlRecordType`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from struct import Struct
from typing import Final

from awscrt.checksums import crc32c

from replicator.protocol.record_format import legacy
from replicator.protocol.record_format.compression import LAST_CODEC
from replicator.protocol.record_format.header import (
    CHECKED_FROM,
    CODEC_BITS,
    CONTROL,
    DELETE_HORIZON,
    HEADER,
    HEADER_BYTES,
    LENGTH_FROM,
    LOG_APPEND_TIME,
    MAGIC,
    MAGIC_AT,
    TRANSACTIONAL,
    BadBatchError,
    RawBatch,
    stamp,
)
from replicator.protocol.record_format.records import NO_TIMESTAMP
from replicator.protocol.record_format.reencode import (
    decode_batch,
    decode_batches,
    decompressed,
    encode_batches,
    split_batches,
)

__all__ = ["BadBatchError", "RawBatch", "Walked", "stamp", "walk"]

MERGED_BYTES: Final = 256 * 1024
"""The largest batch that is made of tiny ones, before compression."""
FEWEST_MERGED: Final = 4
TINY_BYTES: Final = 2048
"""Batches that are smaller than this on average are merged: each costs a request of its own, or a place in one."""
LARGEST_IN_SERIES_BYTES: Final = 2 * TINY_BYTES

_SMALLEST_LENGTH = HEADER_BYTES - LENGTH_FROM
_LARGEST_OFFSET = (1 << 63) - 2
_FAR_OFFSET = 1 << 62
_NEVER_UNOPENED = LOG_APPEND_TIME | DELETE_HORIZON
_UNKNOWN_EPOCH = -1
_PLAIN = Struct(">qiibIhi30xi")
"""Of a header: base offset, length, leader epoch, magic, checksum, attributes, last offset delta, count."""
_OLD_LENGTH = Struct(">qi")
_MARKER = Struct(">hh")  # version, type
_ABORT = 0


@dataclass(slots=True)
class Walked:
    """The result of `walk`.

    Args:
        batches: ready to be stamped, in log order.
        next_offset: the position after everything that was walked over, up to `bad`.
        last_epoch: the leader epoch of the last batch walked over, or -1.
        bad: why the batch at `next_offset` can't be read; what came before it is in `batches`.
    """

    batches: list[RawBatch]
    next_offset: int
    last_epoch: int = _UNKNOWN_EPOCH
    bad: BadBatchError | None = None


def walk(
    records: memoryview,
    from_offset: int,
    aborted: Sequence[tuple[int, int]],
    *,
    max_batch_bytes: int,
    merge: bool = True,
) -> Walked:
    """Split what one fetch returned of one partition into batches.

    Args:
        records: whole batches, perhaps a part of one at the end, which is ignored; writable.
        from_offset: the position that was fetched from; records before it are left out.
        aborted: (producer id, first offset), from the same response.
        max_batch_bytes: the largest batch that the target accepts; a record that is larger gets a batch of its own.
        merge: whether series of tiny batches become one.
    """
    it = _Walk(records, from_offset, aborted, max_batch_bytes, merge=merge)
    walked = it.walked
    try:
        it.over_everything()
    except BadBatchError as error:
        walked.bad = error
    try:
        it.series.write()
    except BadBatchError as error:  # it lies before the other one
        walked.bad = error
    walked.next_offset = it.position if walked.bad is None else walked.bad.offset
    return walked


_Entry = tuple[memoryview, int, int, int, int, int, bool, int]
"""One batch, or several plain ones that lie side by side, in what was fetched.

(data, position before them, first offset, next offset, records, max timestamp, whether they may pass unopened, number
of batches). First offset, records and max timestamp are set for a single batch only."""


class _Walk:
    """The state of one `walk`: `position` is the offset after what was walked over so far."""

    def __init__(
        self,
        records: memoryview,
        position: int,
        aborted: Sequence[tuple[int, int]],
        max_batch_bytes: int,
        *,
        merge: bool,
    ) -> None:
        self.position = position
        self.walked = Walked([], position)
        self.series = _Series(self.walked, max_batch_bytes, merge=merge)
        self._records = records
        self._aborted = _Aborted(aborted) if aborted else None
        self._max_batch_bytes = max_batch_bytes

    def over_everything(self) -> None:
        at = self.over_batches(0)
        while at < len(self._records):
            after = self._over_old_message(at)
            if after == at:
                return
            at = self.over_batches(after)

    def over_batches(self, at: int) -> int:
        """Walk over batches of magic 2; returns where something else begins, or a part of one."""
        records, aborted, add = self._records, self._aborted, self.series.add
        position, last_epoch, max_batch_bytes = self.position, self.walked.last_epoch, self._max_batch_bytes
        unpack, end = HEADER.unpack_from, len(records)
        while True:
            at, position, last_epoch = self.series.add_plain(records, at, position, last_epoch)
            if at + HEADER_BYTES > end:
                break
            first, length, epoch, magic, crc, attributes, delta, _, max_ms, producer, _, _, count = unpack(records, at)
            stop = at + LENGTH_FROM + length
            if magic != MAGIC or stop > end:
                break
            next_offset = first + delta + 1
            if length < _SMALLEST_LENGTH or delta < 0 or count < 0 or next_offset > _LARGEST_OFFSET:
                raise BadBatchError("the header of a batch makes no sense", position)
            if crc32c(records[at + CHECKED_FROM : stop]) != crc:
                raise BadBatchError("the checksum of a batch is wrong", position)
            data = records[at:stop]
            at = stop
            is_aborted = aborted is not None and aborted.has(data, position, producer, attributes, next_offset)
            if next_offset <= position:
                continue
            if count and not is_aborted and not attributes & CONTROL:
                is_unbroken = first >= position and delta + 1 == count
                fits = length + LENGTH_FROM <= max_batch_bytes or count == 1
                is_whole = is_unbroken and fits and not attributes & _NEVER_UNOPENED
                entry = (data, position, first, next_offset, count, max_ms, is_whole, 1)
                add(attributes & CODEC_BITS, entry)
            position, last_epoch = next_offset, epoch
        self.position, self.walked.last_epoch = position, last_epoch
        return at

    def _over_old_message(self, at: int) -> int:
        """Walk over one entry of magic 0 or 1; returns `at` when there is only a part of something."""
        records, position = self._records, self.position
        if at + MAGIC_AT >= len(records):
            return at
        offset, size = _OLD_LENGTH.unpack_from(records, at)
        stop: int = at + LENGTH_FROM + size
        if stop > len(records):
            return at
        magic = records[at + MAGIC_AT]
        if magic > MAGIC:
            raise BadBatchError(f"a batch of magic {magic}, which is unknown", position)
        if magic == MAGIC or stop < at + legacy.MESSAGE_BYTES or offset >= _LARGEST_OFFSET:
            raise BadBatchError("the header of a batch makes no sense", position)
        data = records[at:stop]
        if not legacy.is_intact(data):
            raise BadBatchError("the checksum of a message is wrong", position)
        if offset >= position:
            entry = (data, position, offset, offset + 1, 0, NO_TIMESTAMP, False, 1)
            self.series.add(legacy.codec_of(data), entry)
            self.position, self.walked.last_epoch = offset + 1, _UNKNOWN_EPOCH
        return stop


class _Series:
    """Consecutive batches of one codec, held back as long as they may be merged. Writes to `walked`."""

    def __init__(self, walked: Walked, max_batch_bytes: int, *, merge: bool) -> None:
        self._walked = walked
        self._max_batch_bytes = max_batch_bytes
        self._merged_bytes = min(max_batch_bytes, MERGED_BYTES)
        self._largest_bytes = LARGEST_IN_SERIES_BYTES if merge else 0
        self._codec = 0
        self._entries: list[_Entry] = []
        self._held = 0
        """Number of batches in them."""
        self._size_bytes = 0

    def add(self, codec: int, entry: _Entry) -> None:
        """The next batch. Raises: BadBatchError: this one or one held back can't be decoded."""
        if codec > LAST_CODEC:
            raise BadBatchError(f"a batch of codec {codec}, which is unknown", entry[1])
        size, held = len(entry[0]), self._held
        if held:
            is_tiny_no_more = held >= FEWEST_MERGED and self._size_bytes + size >= TINY_BYTES * (held + 1)
            if size > self._largest_bytes or codec != self._codec or is_tiny_no_more:
                self.write()
        self._codec = codec
        if size > self._largest_bytes:
            self._write_alone(entry)
        else:
            self._hold(entry)

    def _hold(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._held += entry[-1]
        self._size_bytes += len(entry[0])

    def add_plain(self, records: memoryview, at: int, position: int, last_epoch: int) -> tuple[int, int, int]:
        """The next batches, as long as they may be merged and nothing is special about them.

        As `_Walk.over_batches` and `add` do it with any batch, in less than half the time: a topic may have a batch for
        each of its records.

        Args:
            records: with one of them at `at`, perhaps.

        Returns:
            What it was given, after the last batch that was taken.
        """
        if self._codec and self._entries:
            return at, position, last_epoch
        self._codec = 0
        unpack, end = _PLAIN.unpack_from, len(records)
        limit = self._merged_bytes
        largest = min(self._largest_bytes, limit, TINY_BYTES) - LENGTH_FROM
        while True:
            begin, before, held = at, position, 0
            full = min(begin + limit, end)
            while at + HEADER_BYTES <= full:
                first, length, epoch, magic, crc, attributes, delta, count = unpack(records, at)
                stop = at + LENGTH_FROM + length
                if attributes or magic != MAGIC or not _SMALLEST_LENGTH <= length <= largest or stop > full:
                    break
                if not position <= first < _FAR_OFFSET or not 0 < count == delta + 1:
                    break
                if crc32c(records[at + CHECKED_FROM : stop]) != crc:
                    break
                held += 1
                at, position, last_epoch = stop, first + count, epoch
            if not held:
                return at, position, last_epoch
            entry = (records[begin:at], before, before, position, 0, NO_TIMESTAMP, True, held)
            self._hold(entry if held > 1 else next(_each(entry)))

    def write(self) -> None:
        """Write what is held back: merged, when that is worth it."""
        entries, size, held = self._entries, self._size_bytes, self._held
        self._entries, self._size_bytes, self._held = [], 0, 0
        if held >= FEWEST_MERGED and size < TINY_BYTES * held:
            self._write_merged(entries)
        else:
            for entry in chain.from_iterable(map(_one_by_one, entries)):
                self._write_alone(entry)

    def _write_alone(self, entry: _Entry) -> None:
        data, _, first, next_offset, count, max_ms, is_whole, _ = entry
        if is_whole:
            self._walked.batches.append(RawBatch(first, next_offset, count, (), max_ms, data))
        else:
            self._write_reencoded([entry], [_decompressed(entry)], self._max_batch_bytes)

    def _write_merged(self, entries: list[_Entry]) -> None:
        limit = self._merged_bytes
        begin = size = 0
        batches: list[memoryview] = []
        try:
            for index, entry in enumerate(entries):
                batch = _decompressed(entry) if self._codec else entry[0]
                size += len(batch)
                if size > limit:
                    full, decompressed_batches = entries[begin:index], batches
                    begin, size, batches = index, len(batch), []
                    self._write_reencoded(full, decompressed_batches, limit)
                batches.append(batch)
        finally:  # what came before a bad one is delivered
            self._write_reencoded(entries[begin : begin + len(batches)], batches, limit)

    def _write_reencoded(self, entries: list[_Entry], batches: list[memoryview], limit: int) -> None:
        """Write the records of all these as one batch, if they fit. Args: batches: `entries`, expanded."""
        if not entries:
            return
        position, last = entries[0][1], entries[-1]
        try:
            records = decode_batches(batches, position, last[3])
        except BadBatchError as error:
            if len(entries) == last[-1] == 1:
                raise BadBatchError(str(error), position) from None
            every = chain.from_iterable(map(_one_by_one, entries))
            for one, batch in zip(
                every, chain.from_iterable(map(split_batches, batches)), strict=True
            ):  # finds the bad one
                self._write_reencoded([one], [batch], limit)
            return
        self._walked.batches += encode_batches(records, self._codec, limit)


def _one_by_one(entry: _Entry) -> Iterator[_Entry]:
    """An entry for each of its batches."""
    return _each(entry) if entry[-1] > 1 else iter([entry])


def _each(entry: _Entry) -> Iterator[_Entry]:
    """As `_one_by_one`, of plain batches."""
    position = entry[1]
    for data in split_batches(entry[0]):
        first, _, _, _, _, _, _, _, max_ms, _, _, _, count = HEADER.unpack_from(data)
        yield data, position, first, first + count, count, max_ms, True, 1
        position = first + count


def _decompressed(entry: _Entry) -> memoryview:
    try:
        return decompressed(entry[0])
    except BadBatchError as error:
        raise BadBatchError(str(error), entry[1]) from None


class _Aborted:
    """Finds batches of aborted transactions.

    Args:
        aborted: (producer id, first offset), in any order.
    """

    def __init__(self, aborted: Sequence[tuple[int, int]]) -> None:
        self._coming = sorted(aborted, key=itemgetter(1), reverse=True)
        self._producers: set[int] = set()

    def has(self, data: memoryview, position: int, producer: int, attributes: int, next_offset: int) -> bool:
        """Whether a batch is in an aborted transaction; to be called for every batch, in log order.

        Raises:
            BadBatchError: a control batch that can't be read.
        """
        coming = self._coming
        while coming and coming[-1][1] < next_offset:
            self._producers.add(coming.pop()[0])
        if producer not in self._producers or not attributes & TRANSACTIONAL:
            return False
        if not attributes & CONTROL:
            return True
        if _is_abort_marker(data, position):
            self._producers.discard(producer)
        return False


def _is_abort_marker(data: memoryview, position: int) -> bool:
    try:
        records = decode_batch(data)
    except BadBatchError as error:
        raise BadBatchError(str(error), position) from None
    key = records[0][2] if records else None
    if key is None or len(key) < _MARKER.size:
        raise BadBatchError("a control batch without a type", position)
    kind: int = _MARKER.unpack_from(key)[1]
    return kind == _ABORT
