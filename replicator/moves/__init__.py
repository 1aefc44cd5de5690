"""Moving consumer groups to the other cluster and home again: switchover, failover, failback, resync.

A move is planned again before each step from what the clusters say (`plan`, pure), so nothing is remembered and a
command that was killed is run again.

Promises: D, F and G.

Read first: `model` (order, rows, plan), then `plan`, then `executor` (the steps); `world` is what a move can see
and do.
"""
