"""Parts of benchmarks/real_motion.py: what methods learn from the depth of UTD-MHAD."""
