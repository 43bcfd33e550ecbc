"""The commands, thin: each reads its options, calls its verb and prints. Heavy imports stay inside them."""
