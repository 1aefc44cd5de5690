"""Commands that operate a flow, and those that say how it is: pause, resume, recopy, groups, explain, check.

Read first: `pause` (the smallest one), then `recopy`; `group_report` and `checks` only look.
"""
