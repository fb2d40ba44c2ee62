"""What could be protected: platforms and the machines on them, as they were seen last."""
