"""Record batches: checks and stamps headers, and re-encodes batches that can't pass unopened. Pure.

Read first: `header` (a batch's header, drawn), then `walk` (what a fetch brought, batch by batch), then `reencode`.
"""
