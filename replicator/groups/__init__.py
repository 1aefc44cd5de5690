"""Consumer groups of a cluster: which there are, their states, what they committed, and commits in their name.

Promises: a group that a broker's list lacks is not taken for gone; a group whose coordinator gives no answer holds up
no other; an offset over which a transaction is open is not taken for known; a commit in a transaction never takes
effect over one that was made later.

Read first: `offsets` (what a group has, and who wrote it), then `client` (what can be asked), then `reader` and
`listing`. `wire` asks over connections of our own, `librdkafka` where only librdkafka can log in.
"""
