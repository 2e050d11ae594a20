"""Content encryption over iterators: keys, blocks, tags and the file format; no input or output of its own."""
