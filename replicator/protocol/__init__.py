"""Our own client of Kafka's protocol: sockets, logins, brokers, requests.

One event loop drives all connections of its owner on the owner's thread: nothing is shared between threads, so
there are no locks. Requests that carry record batches are encoded by hand (`fetch`, `produce`), and those
about groups (`group_codecs`); all others use kafka-python's schemas, which stay inside this package.

Read first: `event_loop`, then `connection` (requests in flight), then `brokers` (one cluster: links, leaders,
requests).
"""
