"""The header of a record batch of magic 2, and the fields that are overwritten before it is sent.

    0 base offset (8)      8 length (4)        12 leader epoch (4)      16 magic (1)      17 checksum (4)
    21 attributes (2)     23 last offset delta (4)                      27 base timestamp (8)
    35 max timestamp (8)  43 producer id (8)   51 producer epoch (2)    53 base sequence (4)
    57 record count (4)   61 records, compressed or not

The length counts from byte 12 on. The checksum, CRC-32C, covers everything from byte 21 on, so that a broker can set
base offset and leader epoch without recomputing it.

Pure. Source: clients `DefaultRecordBatch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from awscrt.checksums import crc32c

from replicator.offset_map.runs import Gaps
from replicator.protocol.primitives import ProtocolError

HEADER: Final = Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = 61
LENGTH_FROM: Final = 12
"""Where counting starts for the length field, in every magic."""
MAGIC_AT: Final = 16
CHECKED_FROM: Final = 21
"""Where the bytes begin that the checksum covers."""
MAGIC: Final = 2

CODEC_BITS: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
"""All records of the batch have its max timestamp, whatever their own says."""
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20
DELETE_HORIZON: Final = 0x40
"""The base timestamp is the time at which tombstones may go (KIP-534)."""

_STAMP = Struct(">qiibIh")  # up to the attributes
_PRODUCER = Struct(">qhi")  # id, epoch, base sequence
_CHECKSUM = Struct(">I")
_CHECKSUM_AT, _ATTRIBUTES_LOW_AT, _PRODUCER_AT = 17, 22, 43


class BadBatchError(ProtocolError):
    """A record batch that can't be read. The text is the reason; the caller knows the partition.

    Args:
        offset: the records before it are valid.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


@dataclass(slots=True)
class RawBatch:
    """One record batch, ready to be stamped and sent.

    Args:
        first_offset: source offset of the first record.
        next_offset: source offset of the last record, plus one.
        gaps: source offsets in between without a record; none in a batch that passes unopened.
        max_timestamp_ms: the latest of its records, or -1.
        data: the whole batch, header included; writable.
    """

    first_offset: int
    next_offset: int
    records: int
    gaps: Gaps
    max_timestamp_ms: int
    data: memoryview | bytearray

    @property
    def size_bytes(self) -> int:
        return len(self.data)


def stamp(data: memoryview | bytearray, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
    """Overwrite a batch's header, in place, for our transaction. Of its attributes only the codec is kept.

    Args:
        data: one whole batch of magic 2.
        base_sequence: sequence number of its first record.
    """
    attributes = (data[_ATTRIBUTES_LOW_AT] & CODEC_BITS) | TRANSACTIONAL
    _STAMP.pack_into(data, 0, 0, len(data) - LENGTH_FROM, -1, MAGIC, 0, attributes)
    _PRODUCER.pack_into(data, _PRODUCER_AT, producer_id, producer_epoch, base_sequence)
    _CHECKSUM.pack_into(data, _CHECKSUM_AT, crc32c(memoryview(data)[CHECKED_FROM:]))
