"""Commands that are run once before training: smaller videos, skeleton stores, generated videos."""
