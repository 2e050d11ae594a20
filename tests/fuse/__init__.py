"""Tests of the mount."""
