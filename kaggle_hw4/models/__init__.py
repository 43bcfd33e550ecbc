"""From log-mels to a logit per speaker, safe to batch."""
