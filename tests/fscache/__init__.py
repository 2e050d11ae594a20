"""Tests of the local cache."""
