"""Tests of netfs."""
