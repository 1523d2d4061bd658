"""Drafting away from the target: on a device of its own, at the same time, beyond a link, in pools, on phones.

All of it rests on one picture of greedy text (``text``): of every token, whether a drafter that knows what came before
would have drafted it. Then every schedule emits the same text, and only the times differ: whoever waits for whom.
"""
