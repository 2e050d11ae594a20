"""iWARP, sans-IO: MPA (RFC 5044, 6581), DDP (RFC 5041), RDMAP (RFC 5040, 7306), and the engine under a queue pair."""
