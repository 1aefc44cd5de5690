"""Record batches: reading their headers, stamping them, and opening those that can't pass unopened. Pure.

Read first: `header` (a batch's header, drawn), then `walk` (what a fetch brought, batch by batch), then `reencode`.
"""
