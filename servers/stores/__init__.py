"""Where a server keeps its files: one contract, several stores."""
