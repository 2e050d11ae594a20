"""A trial as a page with a timeline, as a story in text, as Perfetto trace and as packets."""
