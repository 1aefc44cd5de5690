"""The `batches` plane: record batches of the source pass through unopened.

Read first: `plane` (fetch, append, flush, commit), then `fetcher` and `producer`.

Of a batch that passes, these header fields are written: base offset, leader epoch, attributes (codec and the
transactional bit), producer id, epoch and sequence, and the checksum. Records, their codec and their order stay as they
are, byte for byte.

Opened and written anew are batches that a broker would not take as they are, or that are not wholly ours: compacted
ones (the broker wants an unbroken series of offsets), partly consumed ones, those with LogAppendTime or a delete
horizon, older formats, those larger than the target takes, and long series of tiny ones, because a request carries one
batch per partition. Control batches and those of aborted transactions are left out.

Source: KIP-98, KIP-227, KIP-320, KIP-360, KIP-392, KIP-712, KIP-951; clients `DefaultRecordBatch`.
"""
