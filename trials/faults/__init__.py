"""Faults on purpose: what a server, a wire or a disk may do to its users. `tamper.py` is the malicious server."""
