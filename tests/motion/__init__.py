"""Tests of the motion core."""
