"""The syncs topic on the target: one partition per task, the only place where positions live (B).

Read first: `state` (what its records add up to), then `reader`, then `control_records` (records that a command
writes as the task itself, with the interleavings drawn) and `halts`.
"""
