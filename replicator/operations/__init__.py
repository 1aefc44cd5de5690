"""Commands that operate a flow (pause, resume, recopy), and those that report on it (groups, explain, check).

Read first: `pause` (the smallest one), then `recopy`; `group_report` and `checks` only look.
"""
