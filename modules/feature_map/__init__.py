"""Pictures and pages of a collection of features: where each recording lies among the others."""
