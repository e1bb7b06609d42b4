"""Files written by tests and predictions: tables, confusion matrices, features."""
