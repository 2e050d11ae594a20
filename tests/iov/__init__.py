"""Tests of iov."""
