"""A malicious server, and what clients make of it: one test for each attack."""
