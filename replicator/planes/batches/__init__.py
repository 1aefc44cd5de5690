"""The `batches` plane: record batches of the source pass through unopened.

    plane.py         the plane: fetch, append, flush, commit, abort
    fetcher.py       what is read from where, and what may be held in memory
    producer.py      batches on their way to the target: order, sequences, retries
    coordinator.py   producer id and epoch, partitions taken into the transaction, its end
    record_batch.py  record batches: walked, judged, stamped
    reencode.py      record batches that have to be opened and written anew
    fetch_wire.py, produce_wire.py, wire.py    bytes of the two requests that carry data; bounded decoding
    brokers.py       the brokers of one cluster: connections, leaders, small requests
    connection.py, security.py, oauth.py       one connection: requests in flight, TLS, SASL
    reactor.py       the loop that drives every connection of one plane, on its task's thread
    support.py       which clusters this plane can serve

Of a batch that passes, these header fields are written: base offset, leader epoch, attributes (codec and the
transactional bit), producer id, epoch and sequence, and the checksum. Records, their codec and their order stay as they
are, byte for byte.

Opened and written anew are batches that a broker would not take as they are, or that are not wholly ours: compacted
ones (the broker wants an unbroken series of offsets), partly consumed ones, those with LogAppendTime or a delete
horizon, older formats, those larger than the target takes, and long series of tiny ones, because a request carries one
batch per partition. Control batches and those of aborted transactions are left out.

Source: KIP-98, KIP-227, KIP-320, KIP-360, KIP-392, KIP-712, KIP-951; clients `DefaultRecordBatch`.
"""
