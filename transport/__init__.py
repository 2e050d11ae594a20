"""Moving bytes: messages, framing, calls, the stream transport and the mapping of memory for devices."""
