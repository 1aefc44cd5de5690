"""What `lag` and `status` show, asked of the clusters, without a worker.

Read first: `lag` (pure: what the numbers mean), then `lag_reader` (where they come from).
"""
