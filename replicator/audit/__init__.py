"""Who moved, paused or resumed what: every command that changes something claims the flow and writes down what it did.

Promises (G): a command that is refused changed nothing; one operator at a time works on a flow.

Read first: `audit` (the records), then `audited_command` (look, claim, look again, act, write down).
"""
