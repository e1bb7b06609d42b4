"""What tests and predictions write besides numbers: tables, matrices of classes, files of features."""
