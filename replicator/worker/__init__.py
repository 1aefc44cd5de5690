"""One process: its membership in the workers' group, its tasks, its background jobs, its probes.

Read first: `worker` (assignments become tasks), then `process` (signals, several processes).
"""
