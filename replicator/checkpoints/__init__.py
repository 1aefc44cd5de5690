"""Offsets of the source's groups on the target: in MM2's checkpoints topic, and in the groups themselves.

The owner of task 0 does this beside its task, each job in a thread of its own (`worker.background_jobs`).

Promises: E (no checkpoint points past what is committed on the target) and F (no group's own offset is written
over).

Read first: `checkpoints`, then `group_sync`, then `freshness` (up to when a checkpoint is complete).
"""
