"""The verbs device in software and the transport that runs over it."""
