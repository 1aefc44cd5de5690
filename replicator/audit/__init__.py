"""The audit: every command that changes something claims the flow and records what it did, and who ran it.

Promises (G): a refused command changed nothing; one operator at a time works on a flow.

Read first: `audit` (the records), then `audited_command` (look, claim, look again, act, record).
"""
